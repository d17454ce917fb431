// CUDA C++. The kernels' parameters and launch come from fast/cuda_kernel.h.

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "kernel/emit_body.h"

namespace zmlx::kernel {

namespace {

class Cuda : public Gpu {
 public:
  /// @param brief  whether functions may take fewer digits, see src/cuda/kernel_formula.cuh.
  explicit Cuda(bool brief) : brief_(brief) {}

  const char* type(Type type) const override {
    constexpr const char* kTypes[] = {"bool", "int", "unsigned int", "float"};
    return kTypes[static_cast<int>(type)];
  }

  std::string number(double value, Type type) const override {
    if (type == Type::boolean) return value != 0 ? "true" : "false";
    if (type == Type::int32) {
      return value == -2147483648.0 ? "(-2147483647 - 1)"
                                    : "(" + std::to_string(static_cast<int64_t>(value)) + ")";
    }
    if (type == Type::uint32) return std::to_string(static_cast<int64_t>(value)) + "u";
    if (std::isnan(value)) return "__int_as_float(0x7fffffff)";
    if (std::isinf(value)) {
      return value > 0 ? "__int_as_float(0x7f800000)" : "__int_as_float(0xff800000)";
    }
    char text[48];
    std::snprintf(text, sizeof(text), "%.9e", value);
    return (std::signbit(value) ? "(" : "") + std::string(text) + "f" +
           (std::signbit(value) ? ")" : "");
  }

  std::string function(Op op, Type argument) const override {
    if (argument == Type::int32 || argument == Type::uint32) return of_integers(op, argument);
    if (argument == Type::boolean) return "";
    switch (op) {
      case Op::divide:
        return brief_ ? "zmlx::h_divide" : "";
      case Op::exp:
      case Op::exp2:
      case Op::tanh:
        return brief_ ? std::string("zmlx::h_") + op_name(op) : std::string(op_name(op)) + "f";
      case Op::sigmoid:
      case Op::softplus:
        return std::string(brief_ ? "zmlx::h_" : "zmlx::f_") + op_name(op);
      case Op::add:
      case Op::subtract:
      case Op::multiply:
      case Op::negate:
      case Op::equal:
      case Op::not_equal:
      case Op::less:
      case Op::less_equal:
        return "";
      case Op::minimum:
        return "fminf";
      case Op::maximum:
        return "fmaxf";
      case Op::absolute:
        return "fabsf";
      case Op::remainder:
        return "fmodf";
      case Op::is_nan:
      case Op::is_inf:
      case Op::is_finite:
        return op_name(op);
      case Op::sign:
      case Op::load_exponent:
      case Op::exponent:
      case Op::to_float16:
      case Op::to_bfloat16:
        return std::string("zmlx::f_") + op_name(op);
      default:
        return std::string(op_name(op)) + "f";
    }
  }

  std::string to_int() const override { return "zmlx::f_int"; }
  std::string to_uint() const override { return "zmlx::f_uint"; }

  std::string function_prefix(bool inlined) const override {
    return inlined ? "__device__ __forceinline__ " : "__device__ __noinline__ ";
  }
  std::string reference(Type of) const override { return std::string(type(of)) + "&"; }

  std::string loaded(Storage storage, Type type, const std::string& place) const override {
    const bool as_it_is = type != Type::float32 || storage == Storage::f32;
    return as_it_is ? place : "zmlx::to_float(" + place + ")";
  }
  std::string stored(Storage storage, const std::string& value) const override {
    if (storage != Storage::f16 && storage != Storage::bf16) return value;
    return std::string("zmlx::round_to<") + memory_type(storage) + ">(" + value + ")";
  }

  std::string thread() const override { return "int(threadIdx.x)"; }
  std::string group() const override { return "int(blockIdx.x)"; }
  std::string groups() const override { return "int(gridDim.x)"; }

  std::string wide_int() const override { return "long long"; }
  std::string unroll() const override { return "#pragma unroll\n"; }
  std::string shared_memory() const override { return "__shared__ "; }
  std::string barrier() const override { return "__syncthreads();"; }
  std::string divisor_type() const override { return "zmlx::Divisor"; }
  std::string divisor(const std::string& value) const override {
    return "zmlx::f_divisor(" + value + ")";
  }
  std::string quotient() const override { return "zmlx::f_quotient"; }
  std::string reduce(const std::string& value, const std::string& shared, int lanes,
                     const std::string& combine, const std::string& indent) const override {
    // NVRTC takes no lambda that does not say where it runs.
    return indent + value + " = zmlx::reduce_lanes<" + std::to_string(lanes) + ", " + combine +
           ">(" + value + ", " + (lanes > 32 ? shared : "&" + value) + ");\n";
  }

 protected:
  std::string memory_type(Storage storage) const override {
    static constexpr const char* kTypes[] = {"float", "zmlx::f16", "zmlx::bf16", "int",
                                             "zmlx::u32"};
    return kTypes[static_cast<int>(storage)];
  }
  std::string vector_type(const std::string& element, int width) const override {
    return "zmlx::Vector<" + element + ", " + std::to_string(width) + ">";
  }
  std::string address_space() const override { return ""; }
  std::string lane_of(const std::string& vector, const std::string& index) const override {
    return vector + ".at[" + index + "]";
  }

 private:
  static std::string of_integers(Op op, Type argument) {
    const bool is_signed = argument == Type::int32;
    switch (op) {
      case Op::add:
        return is_signed ? "zmlx::i_add" : "";
      case Op::subtract:
        return is_signed ? "zmlx::i_sub" : "";
      case Op::multiply:
        return is_signed ? "zmlx::i_mul" : "";
      case Op::negate:
        return is_signed ? "zmlx::i_neg" : "";
      case Op::divide:
        return is_signed ? "zmlx::i_div" : "zmlx::u_div";
      case Op::remainder:
        return is_signed ? "zmlx::i_rem" : "zmlx::u_rem";
      case Op::absolute:
        return is_signed ? "zmlx::i_abs" : "";
      case Op::minimum:
        return "min";
      case Op::maximum:
        return "max";
      default:
        return "";
    }
  }

  const bool brief_;
};

/// Whether results are rounded to 16 bits, so that the last digits do not matter. Where a formula
/// itself rounds they do: other backends round the same digits.
const Gpu& cuda_gpu(const Tree& tree, const std::vector<Storage>& outputs) {
  static const Cuda exact(false), brief(true);
  for (size_t id = 0; id < tree.size(); ++id) {
    const Op op = tree[static_cast<NodeId>(id)].op;
    if (op == Op::to_float16 || op == Op::to_bfloat16) return exact;
  }
  const bool halves = std::all_of(outputs.begin(), outputs.end(), [](Storage storage) {
    return storage == Storage::f16 || storage == Storage::bf16;
  });
  return halves ? brief : exact;
}

}  // namespace

KernelText cuda_elementwise(const ElementwiseFormula& formula, const ElementwiseForm& form) {
  return elementwise_text(formula, form, cuda_gpu(formula.tree, form.outputs));
}
KernelText cuda_rows(const RowFormula& formula, const RowForm& form) {
  return rows_text(formula, form, cuda_gpu(formula.tree, form.outputs));
}

}  // namespace zmlx::kernel

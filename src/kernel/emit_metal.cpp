// Metal's shading language. Parameters, and the names of a thread's place, come from MLX's
// fast::metal_kernel.

#include <cmath>
#include <cstdio>

#include "fast/kernel_source.h"
#include "kernel/emit_body.h"

namespace zmlx::kernel {

namespace {

class Metal : public Gpu {
 public:
  const char* type(Type type) const override {
    constexpr const char* kTypes[] = {"bool", "int", "uint", "float"};
    return kTypes[static_cast<int>(type)];
  }

  std::string number(double value, Type type) const override {
    if (type == Type::boolean) return value != 0 ? "true" : "false";
    if (type == Type::int32) {
      return value == -2147483648.0 ? "(-2147483647 - 1)"
                                    : "(" + std::to_string(static_cast<int64_t>(value)) + ")";
    }
    if (type == Type::uint32) return std::to_string(static_cast<int64_t>(value)) + "u";
    if (std::isnan(value)) return "NAN";
    if (std::isinf(value)) return value > 0 ? "INFINITY" : "(-INFINITY)";
    char text[48];
    std::snprintf(text, sizeof(text), "%.9e", value);
    return (std::signbit(value) ? "(" : "") + std::string(text) + "f" +
           (std::signbit(value) ? ")" : "");
  }

  std::string function(Op op, Type argument) const override {
    if (argument == Type::int32 || argument == Type::uint32) return of_integers(op, argument);
    if (argument == Type::boolean) return "";
    switch (op) {
      case Op::add:
      case Op::subtract:
      case Op::multiply:
      case Op::divide:
      case Op::negate:
      case Op::equal:
      case Op::not_equal:
      case Op::less:
      case Op::less_equal:
        return "";
      case Op::minimum:
        return "metal::fmin";
      case Op::maximum:
        return "metal::fmax";
      case Op::absolute:
        return "metal::fabs";
      case Op::remainder:
        return "metal::precise::fmod";
      case Op::expm1:
      case Op::log1p:
      case Op::cbrt:
      case Op::erf:
      case Op::erfc:
      case Op::sigmoid:
      case Op::softplus:
      case Op::sign:
      case Op::load_exponent:
      case Op::next_after:
      case Op::exponent:
      case Op::to_float16:
      case Op::to_bfloat16:
        return std::string("f_") + op_name(op);
      case Op::is_nan:
      case Op::is_inf:
      case Op::is_finite:
      case Op::fused_multiply_add:
      case Op::copy_sign:
        return std::string("metal::") + op_name(op);
      default:
        return std::string("metal::precise::") + op_name(op);
    }
  }

  std::string to_int() const override { return "f_int"; }
  std::string to_uint() const override { return "f_uint"; }

  std::string function_prefix(bool) const override { return "inline "; }
  std::string reference(Type of) const override { return std::string("thread ") + type(of) + "&"; }

  std::string loaded(Storage storage, Type type, const std::string& place) const override {
    const bool as_it_is = type != Type::float32 || storage == Storage::f32;
    return as_it_is ? place : "float(" + place + ")";
  }
  std::string stored(Storage storage, const std::string& value) const override {
    if (storage != Storage::f16 && storage != Storage::bf16) return value;
    return std::string(memory_type(storage)) + "(" + value + ")";
  }

  std::string thread() const override { return "int(thread_position_in_threadgroup.x)"; }
  std::string group() const override { return "int(threadgroup_position_in_grid.x)"; }
  std::string groups() const override { return "int(threadgroups_per_grid.x)"; }

  std::string wide_int() const override { return "int64_t"; }
  std::string unroll() const override { return "#pragma clang loop unroll(full)\n"; }
  std::string shared_memory() const override { return "threadgroup "; }
  std::string barrier() const override {
    return "threadgroup_barrier(mem_flags::mem_threadgroup);";
  }
  std::string divisor_type() const override { return "Divisor"; }
  std::string divisor(const std::string& value) const override {
    return "f_divisor(" + value + ")";
  }
  std::string quotient() const override { return "f_quotient"; }

  /// Within simdgroups of 32 by shuffles, then among them through threadgroup memory.
  std::string reduce(const std::string& value, const std::string& shared, int lanes,
                     const std::string& combine, const std::string& indent) const override {
    const auto butterfly = [&](int width) {
      return indent + "for (ushort d = " + std::to_string(width / 2) + "; d > 0; d /= 2) {\n" +
             indent + "  " + value + " = " + combine + "(" + value + ", simd_shuffle_xor(" + value +
             ", d));\n" + indent + "}\n";
    };
    if (lanes == 32) return butterfly(32);
    const int simdgroups = lanes / 32;
    return butterfly(32) + indent + "if (thread_index_in_simdgroup == 0) " + shared +
           "[simdgroup_index_in_threadgroup] = " + value + ";\n" + indent + barrier() + "\n" +
           indent + value + " = " + shared + "[thread_index_in_simdgroup % " +
           std::to_string(simdgroups) + "];\n" + butterfly(simdgroups);
  }

 protected:
  std::string memory_type(Storage storage) const override {
    constexpr const char* kTypes[] = {"float", "half", "bfloat16_t", "int", "uint"};
    return kTypes[static_cast<int>(storage)];
  }
  std::string vector_type(const std::string& element, int width) const override {
    return "metal::vec<" + element + ", " + std::to_string(width) + ">";
  }
  std::string address_space() const override { return "device "; }
  std::string lane_of(const std::string& vector, const std::string& index) const override {
    return vector + "[" + index + "]";
  }

 private:
  static std::string of_integers(Op op, Type argument) {
    const bool is_signed = argument == Type::int32;
    switch (op) {
      case Op::add:
        return is_signed ? "i_add" : "";
      case Op::subtract:
        return is_signed ? "i_sub" : "";
      case Op::multiply:
        return is_signed ? "i_mul" : "";
      case Op::negate:
        return is_signed ? "i_neg" : "";
      case Op::divide:
        return is_signed ? "i_div" : "u_div";
      case Op::remainder:
        return is_signed ? "i_rem" : "u_rem";
      case Op::absolute:
        return is_signed ? "i_abs" : "";
      case Op::minimum:
        return "metal::min";
      case Op::maximum:
        return "metal::max";
      default:
        return "";
    }
  }
};

const Gpu& metal_gpu() {
  static const Metal gpu;
  return gpu;
}

}  // namespace

KernelText metal_elementwise(const ElementwiseFormula& formula, const ElementwiseForm& form) {
  return elementwise_text(formula, form, metal_gpu());
}
KernelText metal_rows(const RowFormula& formula, const RowForm& form) {
  return rows_text(formula, form, metal_gpu());
}

std::string metal_header(const KernelText& text) {
  return fast::source_text(fast::kMetalSources, "kernel_formula.h") + text.functions;
}

}  // namespace zmlx::kernel

// Evaluation on the CPU: arrays become pointers and strides, and the kernels of src/cpu run as
// tasks of MLX's CPU stream. MLX keeps inputs and outputs alive until the stream has passed a task.

#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "cpu/add_rms_norm.h"
#include "cpu/gather_qmm_combine.h"
#include "cpu/gather_qmm_swiglu.h"
#include "cpu/quantized_matmul.h"
#include "cpu/scalar.h"
#include "fast/aligned_output.h"
#include "fast/inputs.h"
#include "fast/primitives.h"
#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"

namespace zmlx::fast {

namespace {

using Encoder = mx::cpu::CommandEncoder;

cpu::Scalar scalar_of(mx::Dtype type) {
  if (type == mx::float32) return cpu::Scalar::f32;
  return type == mx::float16 ? cpu::Scalar::f16 : cpu::Scalar::bf16;
}

cpu::Format format_of(const Quantization& q) {
  if (!q.affine()) return q.bits == 4 ? cpu::Format::fp4 : cpu::Format::fp8;
  constexpr cpu::Format kFormats[] = {cpu::Format::affine1, cpu::Format::affine2,
                                      cpu::Format::affine3, cpu::Format::affine4,
                                      cpu::Format::affine5, cpu::Format::affine6};
  return q.bits == 8 ? cpu::Format::affine8 : kFormats[q.bits - 1];
}

/// Kernels' working memory, from MLX's allocator: its peak counts it.
class MlxScratch : public cpu::Scratch {
 public:
  float* floats(size_t count) override {
    size_t space = count * sizeof(float) + kOutputAlignment;
    buffers_.push_back(mx::allocator::malloc(space));
    void* p = buffers_.back().buffer().raw_ptr();
    return static_cast<float*>(std::align(kOutputAlignment, count * sizeof(float), p, space));
  }

 private:
  std::vector<mx::allocator::Data> buffers_;
};

/// Offsets in elements of every index of `shape` (the trailing axes left out belong to one item)
/// into an array of the given leading shape and strides, which broadcasts to `shape`.
std::vector<int64_t> offsets_of(const mx::Shape& shape, const mx::Shape& from,
                                const mx::Strides& strides, size_t from_ndim) {
  std::vector<int64_t> offsets{0};
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    const size_t missing = shape.size() - from_ndim;
    const bool present = axis >= missing && from[axis - missing] != 1;
    const int64_t stride = present ? strides[axis - missing] : 0;
    std::vector<int64_t> next;
    next.reserve(offsets.size() * shape[axis]);
    for (int64_t base : offsets) {
      for (int i = 0; i < shape[axis]; ++i) next.push_back(base + i * stride);
    }
    offsets = std::move(next);
  }
  return offsets;
}

/// The array itself if its last axis is contiguous, else a copy, made when the stream gets there.
mx::array with_contiguous_rows(const mx::array& a, Encoder& encoder) {
  if (a.ndim() == 0 || a.shape(-1) == 1 || a.strides(-1) == 1 || a.size() == 0) return a;
  mx::array copy(a.shape(), a.dtype(), nullptr, {});
  allocate(copy);
  encoder.add_temporary(copy);
  const auto* from = a.data<char>();
  auto* to = copy.data<char>();
  encoder.dispatch([from, to, shape = a.shape(), strides = a.strides(), size = a.itemsize()] {
    auto* next = to;
    for (int64_t offset : offsets_of(shape, shape, strides, shape.size())) {
      std::memcpy(next, from + offset * static_cast<int64_t>(size), size);
      next += size;
    }
  });
  return copy;
}

/// Reads the weights of one projection off the inputs: w, scales, [biases], [bias].
cpu::Experts experts_of(InputReader& in, const Quantization& q, bool has_bias, Encoder& encoder) {
  // The strides of a stack's two leading axes; a single matrix has no expert axis.
  const auto leading = [](const mx::array& a) {
    return std::pair(a.ndim() == 3 ? a.strides(0) : int64_t{0}, a.strides(-2));
  };
  const auto table = [&](const mx::array& a, cpu::Scalar type) {
    auto [expert, row] = leading(a);
    return cpu::Table{a.data<char>(), type, expert, row};
  };
  cpu::Experts experts;
  auto w = with_contiguous_rows(in.next(), encoder);
  auto scales = with_contiguous_rows(in.next(), encoder);
  experts.format = format_of(q);
  experts.group_size = q.group_size;
  experts.num_experts = w.ndim() == 3 ? w.shape(0) : 1;
  experts.N = w.shape(-2);
  experts.K = static_cast<size_t>(w.shape(-1)) * 32 / q.bits;
  experts.w = w.data<uint8_t>();
  std::tie(experts.w_expert_stride, experts.w_row_stride) = leading(w);
  experts.w_expert_stride *= 4;
  experts.w_row_stride *= 4;
  const auto fp_scale = q.group_size == 16 ? cpu::Scalar::e4m3 : cpu::Scalar::e8m0;
  experts.scales = table(scales, q.affine() ? scalar_of(scales.dtype()) : fp_scale);
  if (q.affine()) {
    auto biases = with_contiguous_rows(in.next(), encoder);
    experts.biases = table(biases, scalar_of(biases.dtype()));
  }
  if (has_bias) {
    auto bias = with_contiguous_rows(in.next(), encoder);
    experts.bias = {bias.data<char>(), scalar_of(bias.dtype()), bias.strides(0), 1};
  }
  return experts;
}

std::vector<uint32_t> gather(const uint32_t* from, const std::vector<int64_t>& offsets) {
  std::vector<uint32_t> values;
  values.reserve(offsets.size());
  for (int64_t offset : offsets) values.push_back(from[offset]);
  return values;
}

mx::Shape leading_axes(const mx::Shape& shape, size_t trailing) {
  return mx::Shape(shape.begin(), shape.end() - trailing);
}

}  // namespace

void GatherQmmSwiglu::eval_cpu(const std::vector<mx::array>& inputs,
                               std::vector<mx::array>& outputs) {
  auto& out = outputs[0];
  allocate(out);
  if (out.size() == 0) return;
  auto& encoder = mx::cpu::get_command_encoder(stream());
  InputReader in(inputs);
  auto x = with_contiguous_rows(in.next(), encoder);
  cpu::GatherQmmSwigluArgs args;
  args.gate = experts_of(in, options_.quantization, options_.has_gate_bias, encoder);
  args.up = experts_of(in, options_.quantization, options_.has_up_bias, encoder);
  const auto& rhs = in.next();
  const auto* lhs = in.pointer_if(options_.has_lhs_indices);

  const auto pair_shape = leading_axes(out.shape(), 2);
  const auto x_shape = leading_axes(x.shape(), 2);
  args.activation = static_cast<cpu::Activation>(options_.activation);
  args.alpha = options_.alpha;
  args.limit = options_.limit;
  args.out = out.data<char>();
  args.out_type = scalar_of(out.dtype());
  args.x = {x.data<uint8_t>(), scalar_of(x.dtype()), nullptr};
  auto rhs_offsets = offsets_of(pair_shape, rhs.shape(), rhs.strides(), rhs.ndim());
  // Without lhs_indices x's rows broadcast to the pairs; with them they index its rows in order.
  auto row_offsets = offsets_of(lhs ? x_shape : pair_shape, x_shape, x.strides(), x_shape.size());
  auto lhs_offsets = lhs ? offsets_of(pair_shape, lhs->shape(), lhs->strides(), lhs->ndim())
                         : std::vector<int64_t>{};
  const auto* lhs_data = lhs ? lhs->data<uint32_t>() : nullptr;
  encoder.dispatch([args, rhs_data = rhs.data<uint32_t>(), lhs_data,
                    rhs_offsets = std::move(rhs_offsets), lhs_offsets = std::move(lhs_offsets),
                    row_offsets = std::move(row_offsets)]() mutable {
    auto experts = gather(rhs_data, rhs_offsets);
    if (lhs_data) {
      std::vector<int64_t> rows;
      for (size_t p = 0; p < lhs_offsets.size(); ++p) {
        const uint32_t row = lhs_data[lhs_offsets[p]];
        const bool valid = row < row_offsets.size();
        rows.push_back(valid ? row_offsets[row] : 0);
        if (!valid) experts[p] = std::numeric_limits<uint32_t>::max();
      }
      row_offsets = std::move(rows);
    }
    args.experts = experts.data();
    args.pairs = experts.size();
    args.x.offsets = row_offsets.data();
    MlxScratch scratch;
    cpu::gather_qmm_swiglu(args, scratch);
  });
}

void GatherQmmCombine::eval_cpu(const std::vector<mx::array>& inputs,
                                std::vector<mx::array>& outputs) {
  auto& out = outputs[0];
  allocate(out);
  if (out.size() == 0) return;
  auto& encoder = mx::cpu::get_command_encoder(stream());
  InputReader in(inputs);
  auto x = with_contiguous_rows(in.next(), encoder);
  cpu::GatherQmmCombineArgs args;
  args.down = experts_of(in, options_.quantization, options_.has_bias, encoder);
  const auto& rhs = in.next();
  const auto& weights = in.next();

  const auto pair_shape = leading_axes(x.shape(), 2);
  args.top_k = pair_shape.back();
  args.out = out.data<char>();
  args.out_type = scalar_of(out.dtype());
  args.x = {x.data<uint8_t>(), scalar_of(x.dtype()), nullptr};
  encoder.dispatch(
      [args, rhs_data = rhs.data<uint32_t>(), weights_data = weights.data<uint8_t>(),
       weight_type = scalar_of(weights.dtype()),
       rhs_offsets = offsets_of(pair_shape, rhs.shape(), rhs.strides(), rhs.ndim()),
       weight_offsets = offsets_of(pair_shape, weights.shape(), weights.strides(), weights.ndim()),
       row_offsets = offsets_of(pair_shape, pair_shape, x.strides(), pair_shape.size())]() mutable {
        const auto experts = gather(rhs_data, rhs_offsets);
        std::vector<float> pair_weights;
        for (int64_t offset : weight_offsets) {
          const auto* weight = weights_data + offset * static_cast<int64_t>(size_of(weight_type));
          pair_weights.push_back(cpu::float_from(weight, weight_type));
        }
        args.experts = experts.data();
        args.weights = pair_weights.data();
        args.tokens = experts.size() / args.top_k;
        args.x.offsets = row_offsets.data();
        MlxScratch scratch;
        cpu::gather_qmm_combine(args, scratch);
      });
}

void QuantizedMatmul::eval_cpu(const std::vector<mx::array>& inputs,
                               std::vector<mx::array>& outputs) {
  auto& out = outputs[0];
  allocate(out);
  if (out.size() == 0) return;
  auto& encoder = mx::cpu::get_command_encoder(stream());
  InputReader in(inputs);
  auto x = with_contiguous_rows(in.next(), encoder);
  cpu::QuantizedMatmulArgs args;
  args.matrix = experts_of(in, quantization_, false, encoder);
  const auto rows = leading_axes(x.shape(), 1);
  args.out = out.data<char>();
  args.out_type = scalar_of(out.dtype());
  args.x = {x.data<uint8_t>(), scalar_of(x.dtype()), nullptr};
  args.rows = out.size() / args.matrix.N;
  std::vector<int64_t> offsets;
  if (!x.flags().row_contiguous) offsets = offsets_of(rows, rows, x.strides(), rows.size());
  encoder.dispatch([args, offsets = std::move(offsets)]() mutable {
    if (!offsets.empty()) args.x.offsets = offsets.data();
    MlxScratch scratch;
    cpu::quantized_matmul(args, scratch);
  });
}

namespace {

/// The array as one contiguous block of `type`, converted or copied if it is not that already.
mx::array contiguous_as(const mx::array& a, mx::Dtype type, Encoder& encoder) {
  if (a.flags().row_contiguous && a.dtype() == type) return a;
  mx::array copy(a.shape(), type, nullptr, {});
  allocate(copy);
  encoder.add_temporary(copy);
  encoder.dispatch([from = a.data<char>(), to = copy.data<char>(), shape = a.shape(),
                    strides = a.strides(), from_type = scalar_of(a.dtype()),
                    to_type = scalar_of(type)] {
    auto* next = to;
    for (int64_t offset : offsets_of(shape, shape, strides, shape.size())) {
      const float value =
          cpu::float_from(from + offset * static_cast<int64_t>(size_of(from_type)), from_type);
      cpu::floats_to(&value, 1, to_type, next);
      next += size_of(to_type);
    }
  });
  return copy;
}

}  // namespace

void AddRmsNorm::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  for (auto& out : outputs) allocate(out);
  if (outputs[0].size() == 0) return;
  auto& encoder = mx::cpu::get_command_encoder(stream());
  InputReader in(inputs);
  auto x = contiguous_as(in.next(), options_.sum_type, encoder);
  cpu::AddRmsNormArgs args{};
  args.x = x.data<char>();
  args.type = scalar_of(options_.sum_type);
  if (options_.has_residual) {
    args.residual = contiguous_as(in.next(), options_.sum_type, encoder).data<char>();
    args.sum = outputs[1].data<char>();
  }
  if (options_.has_weight) {
    const auto& weight = in.next();
    args.weight_type = scalar_of(weight.dtype());
    args.weight = contiguous_as(weight, weight.dtype(), encoder).data<char>();
  }
  args.D = x.shape(-1);
  args.rows = x.size() / args.D;
  args.eps = options_.eps;
  args.normed = outputs[0].data<char>();
  args.normed_type = scalar_of(options_.normed_type);
  encoder.dispatch([args] { cpu::add_rms_norm(args); });
}

}  // namespace zmlx::fast

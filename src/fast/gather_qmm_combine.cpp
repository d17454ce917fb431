#include <sstream>
#include <stdexcept>

#include "fast/cuda_path.h"
#include "fast/inputs.h"
#include "fast/metal_path.h"
#include "fast/numerics.h"
#include "fast/primitives.h"
#include "fast/vmap.h"
#include "mlx/ops.h"
#include "zmlx/explain.h"
#include "zmlx/fast.h"

namespace zmlx::fast {

namespace {

constexpr const char* kOp = "gather_qmm_combine";

/// (..., K): what the leading axes of x, the indices and the weights broadcast to.
mx::Shape pair_shape(const mx::array& x, const mx::array& rhs, const mx::array& weights) {
  mx::Shape rows(x.shape().begin(), x.shape().end() - 2);
  return mx::broadcast_shapes(mx::broadcast_shapes(rows, rhs.shape()), weights.shape());
}

mx::Shape output_shape(const mx::array& x, const mx::array& w, const mx::array& rhs,
                       const mx::array& weights, bool transpose) {
  auto shape = pair_shape(x, rhs, weights);
  shape.back() = transpose ? w.shape(-2) : w.shape(-1);
  return shape;
}

mx::array compose(const std::vector<mx::array>& inputs, const GatherQmmCombine::Options& options,
                  mx::StreamOrDevice s) {
  InputReader in(inputs);
  const auto& q = options.quantization;
  const auto& x = in.next();
  const auto& w = in.next();
  const auto& scales = in.next();
  auto biases = in.next_if(q.affine());
  auto bias = in.next_if(options.has_bias);
  auto rhs = mx::astype(in.next(), mx::uint32, s);
  const auto& weights = in.next();
  auto lhs = indices_or_default(std::nullopt, x, s);
  auto y = gather_product(x, w, scales, biases, bias, lhs, rhs, q, options.transpose, false, s);
  int num_experts = 1;
  for (size_t i = 0; i + 2 < w.ndim(); ++i) num_experts *= w.shape(i);
  y = nan_where_out_of_range(y, mx::broadcast_arrays({lhs, rhs}, s)[1], num_experts, s);
  y = mx::multiply(mx::squeeze(y, -2, s), mx::expand_dims(weights, -1, s), s);
  return mx::astype(mx::sum(y, -2, false, s), options.type, s);
}

void check(const mx::array& x, const QuantizedWeights& weights_in, const mx::array& rhs,
           const mx::array& weights, const Quantization& q, bool transpose, int max_rows) {
  if (x.ndim() < 3 || x.shape(-2) != 1) {
    std::ostringstream msg;
    msg << "[gather_qmm_combine] x must have shape (..., K, 1, H), but has shape " << x.shape()
        << ".";
    throw std::invalid_argument(msg.str());
  }
  check_weights(kOp, x, weights_in, q, transpose);
  check_indices(kOp, "rhs_indices", rhs);
  if (!mx::issubdtype(weights.dtype(), mx::floating)) {
    std::ostringstream msg;
    msg << "[gather_qmm_combine] weights must be a float array, but have type " << weights.dtype()
        << ".";
    throw std::invalid_argument(msg.str());
  }
  mx::Shape rows(x.shape().begin(), x.shape().end() - 2);
  if (rhs.shape() != rows || weights.shape() != rows) {
    std::ostringstream msg;
    msg << "[gather_qmm_combine] rhs_indices and weights must have the shape of x's leading axes, "
        << rows << " for x of shape " << x.shape() << ", but have shapes " << rhs.shape() << " and "
        << weights.shape() << ".";
    throw std::invalid_argument(msg.str());
  }
  check_max_rows(kOp, max_rows);
}

/// Why no CUDA kernel takes the call although it reads the arrays; empty if one does.
std::string cuda_call_obstacle(const CombineArguments& a,
                               const GatherQmmCombine::Options& options) {
  const auto call = cuda_call(a.x, a.experts.w, a.rhs, options.quantization, options.exact);
  const auto sum = options.exact ? options.type : mx::float32;
  // MLX adds up to 32 experts one after the other, in vectors of 16 bytes.
  if (options.exact && (call.top_k > 32 || call.N % (16 / mx::size_of(sum)) != 0)) {
    return "MLX's sum over experts is not followed for this size";
  }
  return plan_combine(call, static_cast<int>(mx::size_of(sum))).obstacle;
}

std::string metal_call_obstacle(const CombineArguments& a,
                                const GatherQmmCombine::Options& options) {
  return plan_metal_combine(
             metal_call(a.x, a.experts.w, a.rhs, options.quantization, options.exact, false))
      .obstacle;
}

/// What all GPUs' kernels leave to MLX.
std::string gpu_call_obstacle(const CombineArguments& a, const GatherQmmCombine::Options& options,
                              Backend backend) {
  if (a.x.size() == 0) return "nothing to multiply";
  if (static_cast<int>(a.rhs.size()) / a.rhs.shape(-1) > options.max_rows) {
    return "more tokens than max_rows";
  }
  return backend == Backend::metal ? metal_call_obstacle(a, options)
                                   : cuda_call_obstacle(a, options);
}

std::vector<mx::array> pack(const CombineArguments& a) {
  std::vector<mx::array> inputs;
  inputs.reserve(7);
  inputs.insert(inputs.end(), {a.x, a.experts.w, a.experts.scales});
  if (a.experts.biases) inputs.push_back(*a.experts.biases);
  if (a.experts.bias) inputs.push_back(*a.experts.bias);
  inputs.insert(inputs.end(), {a.rhs, a.weights});
  return inputs;
}

}  // namespace

std::string obstacle(const CombineArguments& a, const GatherQmmCombine::Options& options,
                     const mx::Stream& s) {
  auto found = kernel_obstacle(s, a.x, a.experts, options.quantization, options.transpose);
  if (!found.empty()) return found;
  if (!kernel_float(a.weights.dtype())) return "the type of weights";
  const auto backend = backend_of(s);
  return backend == Backend::cpu ? "" : gpu_call_obstacle(a, options, backend);
}

mx::array fused(const CombineArguments& a, GatherQmmCombine::Options options, const mx::Stream& s) {
  detail::note_path({kOp, name_of(backend_of(s)), ""});
  auto shape = output_shape(a.x, a.experts.w, a.rhs, a.weights, options.transpose);
  const auto type = options.type;
  return mx::array(std::move(shape), type,
                   std::make_shared<GatherQmmCombine>(s, std::move(options)), pack(a));
}

mx::array gather_qmm_combine(const mx::array& x, const mx::array& w, const mx::array& scales,
                             const std::optional<mx::array>& biases, const mx::array& rhs_indices,
                             const mx::array& weights, bool transpose,
                             std::optional<int> group_size, std::optional<int> bits,
                             const std::string& mode, const std::optional<mx::array>& bias,
                             const std::string& numerics, int max_rows, mx::StreamOrDevice s_) {
  auto q = resolve_quantization(kOp, mode, group_size, bits);
  QuantizedWeights experts{"", w, scales, biases, bias};
  check(x, experts, rhs_indices, weights, q, transpose, max_rows);
  const bool exact = resolve_numerics(kOp, numerics) == "exact";

  auto s = mx::to_stream(s_);
  auto type = mx::promote_types(product_type(x, experts, q), weights.dtype());
  GatherQmmCombine::Options options{q, bias.has_value(), transpose, type, exact, max_rows};
  const auto rhs = mx::astype(rhs_indices, mx::uint32, s);
  const CombineArguments arguments{x, experts, rhs, weights};
  if (const auto reason = obstacle(arguments, options, s); !reason.empty()) {
    detail::note_path({kOp, "fallback", reason});
    return compose(pack(arguments), options, s);
  }
  return fused(arguments, std::move(options), s);
}

std::vector<mx::array> GatherQmmCombine::fallback(const std::vector<mx::array>& inputs) const {
  return {compose(inputs, options_, const_cast<GatherQmmCombine*>(this)->stream())};
}

std::vector<mx::Shape> GatherQmmCombine::output_shapes(const std::vector<mx::array>& inputs) {
  size_t rhs = inputs.size() - 2;
  return {output_shape(inputs[0], inputs[1], inputs[rhs], inputs[rhs + 1], options_.transpose)};
}

std::pair<std::vector<mx::array>, std::vector<int>> GatherQmmCombine::vmap(
    const std::vector<mx::array>& inputs, const std::vector<int>& axes) {
  const auto& s = stream();
  size_t rhs = inputs.size() - 2;
  for (size_t i = 1; i < rhs; ++i) reject_mapped_weights(kOp, axes[i]);
  // The public function wants one shape for the three, so unmapped ones are broadcast.
  int size = 0;
  for (size_t i : {size_t{0}, rhs, rhs + 1}) {
    if (axes[i] >= 0) size = inputs[i].shape(axes[i]);
  }
  auto folded = [&](size_t i) {
    if (axes[i] >= 0) return mx::moveaxis(inputs[i], axes[i], 0, s);
    auto shape = inputs[i].shape();
    shape.insert(shape.begin(), size);
    return mx::broadcast_to(inputs[i], shape, s);
  };
  InputReader in(inputs);
  in.next();
  auto w = in.next();
  auto scales = in.next();
  auto biases = in.next_if(options_.quantization.affine());
  auto bias = in.next_if(options_.has_bias);
  const auto& q = options_.quantization;
  auto y = gather_qmm_combine(folded(0), w, scales, biases, folded(rhs), folded(rhs + 1),
                              options_.transpose, q.group_size, q.bits, q.mode, bias,
                              options_.exact ? "exact" : "fp32", options_.max_rows, s);
  return {{y}, {0}};
}

}  // namespace zmlx::fast

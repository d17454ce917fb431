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

constexpr const char* kOp = "gather_qmm_swiglu";

std::string activation_name(Activation activation) {
  switch (activation) {
    case Activation::swiglu:
      return "swiglu";
    case Activation::geglu:
      return "geglu";
    case Activation::swiglu_clamped:
      return "swiglu_clamped";
  }
  return "";
}

/// The activation in the order of operations that mlx-lm's models use.
mx::array activate(const mx::array& g, const mx::array& u, const GatherQmmSwiglu::Options& options,
                   mx::StreamOrDevice s) {
  auto constant = [](float value, const mx::array& like) { return mx::array(value, like.dtype()); };
  switch (options.activation) {
    case Activation::swiglu:
      return mx::multiply(mx::multiply(g, mx::sigmoid(g, s), s), u, s);
    case Activation::geglu: {
      auto cubed = mx::multiply(constant(0.044715f, g), mx::power(g, constant(3, g), s), s);
      auto inner = mx::multiply(constant(0.7978845608028654f, g), mx::add(g, cubed, s), s);
      auto one_plus = mx::add(constant(1, g), mx::tanh(inner, s), s);
      auto gelu = mx::multiply(mx::multiply(constant(0.5f, g), g, s), one_plus, s);
      return mx::multiply(gelu, u, s);
    }
    case Activation::swiglu_clamped: {
      auto clamped = mx::minimum(g, constant(options.limit, g), s);
      auto linear = mx::clip(u, constant(-options.limit, u), constant(options.limit, u), s);
      auto sigmoid = mx::sigmoid(mx::multiply(constant(options.alpha, g), clamped, s), s);
      return mx::multiply(mx::add(linear, constant(1, u), s), mx::multiply(clamped, sigmoid, s), s);
    }
  }
  throw std::logic_error("[gather_qmm_swiglu] unknown activation.");
}

mx::array compose(const std::vector<mx::array>& inputs, const GatherQmmSwiglu::Options& options,
                  mx::StreamOrDevice s) {
  InputReader in(inputs);
  const auto& q = options.quantization;
  const auto& x_in = in.next();
  const auto x = options.x_is_tokens ? mx::expand_dims(x_in, {-2, -3}, s) : x_in;
  const auto& gate_w = in.next();
  const auto& gate_scales = in.next();
  auto gate_biases = in.next_if(q.affine());
  auto gate_bias = in.next_if(options.has_gate_bias);
  const auto& up_w = in.next();
  const auto& up_scales = in.next();
  auto up_biases = in.next_if(q.affine());
  auto up_bias = in.next_if(options.has_up_bias);
  auto rhs = mx::astype(in.next(), mx::uint32, s);
  auto lhs = indices_or_default(in.next_if(options.has_lhs_indices), x, s);
  auto product = [&](auto& w, auto& scales, auto& biases, auto& bias) {
    return gather_product(x, w, scales, biases, bias, lhs, rhs, q, options.transpose,
                          options.sorted_indices && !options.has_lhs_indices, s);
  };
  // mlx-lm computes up before gate; the order does not change the result.
  auto u = product(up_w, up_scales, up_biases, up_bias);
  auto g = product(gate_w, gate_scales, gate_biases, gate_bias);
  auto y = mx::astype(activate(g, u, options, s), options.type, s);
  int num_experts = 1;
  for (size_t i = 0; i + 2 < gate_w.ndim(); ++i) num_experts *= gate_w.shape(i);
  return nan_where_out_of_range(y, mx::broadcast_arrays({lhs, rhs}, s)[1], num_experts, s);
}

mx::Shape output_shape(const mx::array& x, const mx::array& gate_w, const mx::array& rhs,
                       const mx::array* lhs, const GatherQmmSwiglu::Options& options) {
  const int width = options.transpose ? gate_w.shape(-2) : gate_w.shape(-1);
  auto shape = rhs.shape();
  if (!options.x_is_tokens) {
    mx::Shape rows(x.shape().begin(), x.shape().end() - 2);
    shape = mx::broadcast_shapes(lhs ? lhs->shape() : rows, shape);
  }
  shape.push_back(options.x_is_tokens ? 1 : x.shape(-2));
  shape.push_back(width);
  return shape;
}

void check(const mx::array& x, const QuantizedWeights& gate, const QuantizedWeights& up,
           const std::optional<mx::array>& lhs, const std::optional<mx::array>& rhs,
           const Quantization& q, bool transpose, int max_rows) {
  if (x.ndim() < 2) {
    std::ostringstream msg;
    msg << "[gather_qmm_swiglu] x must have shape (..., 1, D), but has shape " << x.shape() << ".";
    throw std::invalid_argument(msg.str());
  }
  check_weights(kOp, x, gate, q, transpose);
  check_weights(kOp, x, up, q, transpose);
  if (gate.w.shape() != up.w.shape()) {
    std::ostringstream msg;
    msg << "[gather_qmm_swiglu] gate_w of shape " << gate.w.shape() << " and up_w of shape "
        << up.w.shape() << " must have one shape.";
    throw std::invalid_argument(msg.str());
  }
  check_indices(kOp, "lhs_indices", lhs);
  check_indices(kOp, "rhs_indices", rhs);
  check_max_rows(kOp, max_rows);
}

/// Whether x has one row a token or one a pair, which is what the GPUs' kernels read.
bool rows_fit(const SwigluArguments& a, const GatherQmmSwiglu::Options& options) {
  auto per_token = a.rhs.shape();
  if (options.x_is_tokens) {
    per_token.pop_back();
    return mx::Shape(a.x.shape().begin(), a.x.shape().end() - 1) == per_token;
  }
  if (a.lhs) return a.lhs->shape() == a.rhs.shape();
  mx::Shape rows(a.x.shape().begin(), a.x.shape().end() - 2);
  if (!per_token.empty()) per_token.back() = 1;
  return rows == a.rhs.shape() || rows == per_token;
}

/// Why no kernel of a GPU takes the call although it reads the arrays; empty if one does.
std::string gpu_call_obstacle(const SwigluArguments& a, const GatherQmmSwiglu::Options& options,
                              Backend backend) {
  // Its compiled kernel fuses products and sums on CUDA.
  if (options.activation == Activation::geglu && backend == Backend::cuda) {
    return "the activation geglu";
  }
  if (a.rhs.size() == 0 || a.x.size() == 0) return "nothing to multiply";
  if (!rows_fit(a, options)) return "x's rows are neither one a token nor one a pair";
  const int top_k = a.rhs.ndim() == 0 ? 1 : a.rhs.shape(-1);
  if (static_cast<int>(a.rhs.size()) / top_k > options.max_rows) return "more tokens than max_rows";
  const auto& q = options.quantization;
  if (backend == Backend::metal) {
    const bool sorted = options.sorted_indices && !a.lhs;
    return plan_metal_swiglu(metal_call(a.x, a.gate.w, a.rhs, q, options.exact, sorted)).obstacle;
  }
  return plan_swiglu(cuda_call(a.x, a.gate.w, a.rhs, q, options.exact)).obstacle;
}

std::vector<mx::array> pack(const SwigluArguments& a) {
  std::vector<mx::array> inputs;
  inputs.reserve(11);
  inputs.push_back(a.x);
  for (const auto* weights : {&a.gate, &a.up}) {
    inputs.push_back(weights->w);
    inputs.push_back(weights->scales);
    if (weights->biases) inputs.push_back(*weights->biases);
    if (weights->bias) inputs.push_back(*weights->bias);
  }
  inputs.push_back(a.rhs);
  if (a.lhs) inputs.push_back(*a.lhs);
  return inputs;
}

}  // namespace

Activation parse_activation(const std::string& name) {
  if (name == "swiglu") return Activation::swiglu;
  if (name == "geglu") return Activation::geglu;
  if (name == "swiglu_clamped") return Activation::swiglu_clamped;
  throw std::invalid_argument(
      "[gather_qmm_swiglu] activation must be 'swiglu', 'geglu' or "
      "'swiglu_clamped', but is '" +
      name + "'.");
}

std::string obstacle(const SwigluArguments& a, const GatherQmmSwiglu::Options& options,
                     const mx::Stream& s) {
  for (const auto* weights : {&a.gate, &a.up}) {
    auto found = kernel_obstacle(s, a.x, *weights, options.quantization, options.transpose);
    if (!found.empty()) return found;
  }
  if (!options.x_is_tokens && a.x.shape(-2) != 1) return "x has more than one row per index";
  const auto backend = backend_of(s);
  return backend == Backend::cpu ? "" : gpu_call_obstacle(a, options, backend);
}

mx::array fused(const SwigluArguments& a, GatherQmmSwiglu::Options options, const mx::Stream& s) {
  detail::note_path({kOp, name_of(backend_of(s)), ""});
  auto shape = output_shape(a.x, a.gate.w, a.rhs, a.lhs, options);
  const auto type = options.type;
  return mx::array(std::move(shape), type, std::make_shared<GatherQmmSwiglu>(s, std::move(options)),
                   pack(a));
}

mx::array gather_qmm_swiglu(
    const mx::array& x, const mx::array& gate_w, const mx::array& gate_scales,
    const std::optional<mx::array>& gate_biases, const mx::array& up_w, const mx::array& up_scales,
    const std::optional<mx::array>& up_biases, const std::optional<mx::array>& lhs_indices,
    const std::optional<mx::array>& rhs_indices, bool transpose, std::optional<int> group_size,
    std::optional<int> bits, const std::string& mode, const std::string& activation, float alpha,
    float limit, const std::optional<mx::array>& gate_bias, const std::optional<mx::array>& up_bias,
    bool sorted_indices, const std::string& numerics, int max_rows, mx::StreamOrDevice s_) {
  auto q = resolve_quantization(kOp, mode, group_size, bits);
  QuantizedWeights gate{"gate_", gate_w, gate_scales, gate_biases, gate_bias};
  QuantizedWeights up{"up_", up_w, up_scales, up_biases, up_bias};
  check(x, gate, up, lhs_indices, rhs_indices, q, transpose, max_rows);
  const bool exact = resolve_numerics(kOp, numerics) == "exact";

  auto s = mx::to_stream(s_);
  auto type = mx::promote_types(product_type(x, gate, q), product_type(x, up, q));
  GatherQmmSwiglu::Options options{q,
                                   parse_activation(activation),
                                   alpha,
                                   limit,
                                   gate_bias.has_value(),
                                   up_bias.has_value(),
                                   lhs_indices.has_value(),
                                   sorted_indices,
                                   transpose,
                                   type,
                                   exact,
                                   max_rows,
                                   false};
  const auto rhs = indices_or_default(rhs_indices, gate_w, s);
  std::optional<mx::array> lhs;
  if (lhs_indices) lhs = mx::astype(*lhs_indices, mx::uint32, s);
  const SwigluArguments arguments{x, gate, up, rhs, lhs ? &*lhs : nullptr};
  if (const auto reason = obstacle(arguments, options, s); !reason.empty()) {
    detail::note_path({kOp, "fallback", reason});
    return compose(pack(arguments), options, s);
  }
  return fused(arguments, std::move(options), s);
}

std::vector<mx::array> GatherQmmSwiglu::fallback(const std::vector<mx::array>& inputs) const {
  return {compose(inputs, options_, const_cast<GatherQmmSwiglu*>(this)->stream())};
}

std::vector<mx::Shape> GatherQmmSwiglu::output_shapes(const std::vector<mx::array>& inputs) {
  int rhs = static_cast<int>(inputs.size()) - 1 - options_.has_lhs_indices;
  return {output_shape(inputs[0], inputs[1], inputs[rhs],
                       options_.has_lhs_indices ? &inputs.back() : nullptr, options_)};
}

std::pair<std::vector<mx::array>, std::vector<int>> GatherQmmSwiglu::vmap(
    const std::vector<mx::array>& inputs, const std::vector<int>& axes) {
  const auto& s = stream();
  int rhs = static_cast<int>(inputs.size()) - 1 - options_.has_lhs_indices;
  for (int i = 1; i < rhs; ++i) reject_mapped_weights(kOp, axes[i]);

  // Two axes before the last change nothing about an axis before them.
  auto x = options_.x_is_tokens ? mx::expand_dims(inputs[0], {-2, -3}, s) : inputs[0];
  auto experts = inputs[rhs];
  auto rows = options_.has_lhs_indices ? std::optional(inputs.back()) : std::nullopt;
  if (rows) {
    fold_rows(x, axes[0], *rows, axes.back(), experts, axes[rhs], s);
  } else {
    int batch = static_cast<int>(x.ndim()) - 2 - (axes[0] >= 0);
    int index = static_cast<int>(experts.ndim()) - (axes[rhs] >= 0);
    int ndim = std::max(batch, index);
    x = fold_axis(x, axes[0], ndim + 2, s);
    experts = fold_axis(experts, axes[rhs], ndim, s);
  }
  InputReader in(inputs);
  in.next();
  bool affine = options_.quantization.affine();
  auto gate_w = in.next();
  auto gate_scales = in.next();
  auto gate_biases = in.next_if(affine);
  auto gate_bias = in.next_if(options_.has_gate_bias);
  auto up_w = in.next();
  auto up_scales = in.next();
  auto up_biases = in.next_if(affine);
  auto up_bias = in.next_if(options_.has_up_bias);
  const auto& q = options_.quantization;
  auto y = gather_qmm_swiglu(x, gate_w, gate_scales, gate_biases, up_w, up_scales, up_biases, rows,
                             experts, options_.transpose, q.group_size, q.bits, q.mode,
                             activation_name(options_.activation), options_.alpha, options_.limit,
                             gate_bias, up_bias, false, options_.exact ? "exact" : "fp32",
                             options_.max_rows, s);
  return {{y}, {0}};
}

}  // namespace zmlx::fast

#include "zmlx/moe_block.h"

#include <utility>

#include "fast/numerics.h"
#include "fast/primitives.h"
#include "mlx/ops.h"
#include "zmlx/decode_step.h"
#include "zmlx/fast.h"

namespace zmlx::fast {

namespace {

/// As `nn.Linear` and `nn.QuantizedLinear` compute it, with this library's product on the CPU.
mx::array linear(const mx::array& x, const Linear& layer, const mx::Stream& s) {
  if (!layer.scales) {
    auto w = mx::transpose(layer.weight, s);
    return layer.bias ? mx::addmm(*layer.bias, x, w, 1.0f, 1.0f, s) : mx::matmul(x, w, s);
  }
  const bool on_cpu = s.device == mx::Device::cpu;
  auto y = on_cpu ? zmlx::fast::quantized_matmul(x, layer.weight, *layer.scales, layer.biases, true,
                                                 layer.group_size, layer.bits, layer.mode, s)
                  : mx::quantized_matmul(x, layer.weight, *layer.scales, layer.biases, true,
                                         layer.group_size, layer.bits, layer.mode, s);
  return layer.bias ? mx::add(y, *layer.bias, s) : y;
}

QuantizedWeights weights_of(const char* name, const Linear& layer) {
  return {name, layer.weight, *layer.scales, layer.biases, layer.bias};
}

Quantization quantization_of(const char* op, const Linear& layer) {
  return resolve_quantization(op, layer.mode, layer.group_size, layer.bits);
}

std::pair<mx::array, mx::array> route(const mx::array& logits, const MoeBlock& block, int max_rows,
                                      const mx::Stream& s) {
  const auto& o = block.route;
  return moe_route(logits, o.k, o.score, block.select_bias, o.n_group, o.topk_group, o.renormalize,
                   o.scale, o.eps, o.order, o.group_score, o.group_fill, o.precise, o.score_dtype,
                   o.weights_dtype, "", max_rows, s);
}

/// Hidden activations (..., K, 1, H) of the chosen experts.
std::optional<mx::array> hidden_of(const mx::array& x, const mx::array& indices,
                                   const MoeBlock& block, int max_rows, const mx::Stream& s) {
  constexpr const char* kOp = "gather_qmm_swiglu";
  const auto q = quantization_of(kOp, block.gate);
  const auto gate = weights_of("gate_", block.gate), up = weights_of("up_", block.up);
  check_weights(kOp, x, gate, q, true);
  check_weights(kOp, x, up, q, true);
  const bool on_cpu = s.device == mx::Device::cpu;
  const auto rows = on_cpu ? mx::expand_dims(x, {-2, -3}, s) : x;
  GatherQmmSwiglu::Options options{
      q,
      parse_activation(block.activation),
      block.alpha,
      block.limit,
      gate.bias.has_value(),
      up.bias.has_value(),
      false,
      false,
      true,
      mx::promote_types(product_type(x, gate, q), product_type(x, up, q)),
      resolve_numerics(kOp, "") == "exact",
      max_rows,
      !on_cpu};
  const SwigluArguments arguments{rows, gate, up, indices, nullptr};
  if (!obstacle(arguments, options, s).empty()) return std::nullopt;
  return fused(arguments, std::move(options), s);
}

/// The weighted sum of the experts' products (..., D).
std::optional<mx::array> sum_of(const mx::array& hidden, const mx::array& indices,
                                const mx::array& weights, const MoeBlock& block, int max_rows,
                                const mx::Stream& s) {
  constexpr const char* kOp = "gather_qmm_combine";
  const auto q = quantization_of(kOp, block.down);
  const auto experts = weights_of("", block.down);
  check_weights(kOp, hidden, experts, q, true);
  const auto product = product_type(hidden, experts, q);
  GatherQmmCombine::Options options{q,
                                    experts.bias.has_value(),
                                    true,
                                    mx::promote_types(product, weights.dtype()),
                                    resolve_numerics(kOp, "") == "exact",
                                    max_rows};
  const CombineArguments arguments{hidden, experts, indices, weights};
  if (!obstacle(arguments, options, s).empty()) return std::nullopt;
  auto y = fused(arguments, std::move(options), s);
  return block.result_as_experts ? mx::astype(y, product, s) : y;
}

/// The block's output, once experts are chosen.
std::optional<mx::array> experts_of(const mx::array& x, const mx::array& indices, mx::array weights,
                                    const MoeBlock& block, int max_rows, const mx::Stream& s) {
  if (block.weights_as_input) weights = mx::astype(weights, x.dtype(), s);
  const auto hidden = hidden_of(x, indices, block, max_rows, s);
  if (!hidden) return std::nullopt;
  return sum_of(*hidden, indices, weights, block, max_rows, s);
}

}  // namespace

std::optional<mx::array> moe_block(const mx::array& x, const MoeBlock& block, int max_rows,
                                   mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_);
  if (x.ndim() < 2 || x.size() == 0 || !kernel_float(x.dtype())) return std::nullopt;
  const bool on_cpu = s.device == mx::Device::cpu;
  if (!on_cpu && static_cast<int>(x.size() / x.shape(-1)) > max_rows) return std::nullopt;
  auto [indices, weights] = route(linear(x, block.router, s), block, max_rows, s);
  return experts_of(x, indices, std::move(weights), block, max_rows, s);
}

std::optional<std::pair<mx::array, mx::array>> moe_block_after_sum(const mx::array& x,
                                                                   const AddNorm& norm,
                                                                   const MoeBlock& block,
                                                                   mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_);
  if (s.device == mx::Device::cpu) return std::nullopt;
  auto routed = norm_route(x, norm, block.router, block.select_bias, block.route, s);
  if (!routed) return std::nullopt;
  auto y = experts_of(routed->normed, routed->indices, std::move(routed->weights), block, 1, s);
  if (!y) return std::nullopt;
  return std::pair{std::move(*y), std::move(routed->sum)};
}

}  // namespace zmlx::fast

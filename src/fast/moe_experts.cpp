#include "fast/moe_experts.h"

#include <utility>

#include "fast/backend.h"
#include "fast/numerics.h"
#include "fast/primitives.h"
#include "mlx/ops.h"

namespace zmlx::fast {

namespace {

QuantizedWeights weights_of(const char* name, const Linear& layer) {
  return {name, layer.weight, *layer.scales, layer.biases, layer.bias};
}

Quantization quantization_of(const char* op, const Linear& layer) {
  return resolve_quantization(op, layer.mode, layer.group_size, layer.bits);
}

/// Hidden activations (..., K, 1, H) of the chosen experts.
std::optional<mx::array> hidden_of(const mx::array& x, const mx::array& indices,
                                   const MoeExperts& experts, int max_rows, const mx::Stream& s) {
  constexpr const char* kOp = "gather_qmm_swiglu";
  const auto q = quantization_of(kOp, experts.gate);
  const auto gate = weights_of("gate_", experts.gate), up = weights_of("up_", experts.up);
  check_weights(kOp, x, gate, q, true);
  check_weights(kOp, x, up, q, true);
  const bool on_cpu = s.device == mx::Device::cpu;
  const auto rows = on_cpu ? mx::expand_dims(x, {-2, -3}, s) : x;
  GatherQmmSwiglu::Options options{
      q,
      parse_activation(experts.activation),
      experts.alpha,
      experts.limit,
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
                                const mx::array& weights, const MoeExperts& experts, int max_rows,
                                const mx::Stream& s) {
  constexpr const char* kOp = "gather_qmm_combine";
  const auto q = quantization_of(kOp, experts.down);
  const auto down = weights_of("", experts.down);
  check_weights(kOp, hidden, down, q, true);
  const auto product = product_type(hidden, down, q);
  GatherQmmCombine::Options options{q,
                                    down.bias.has_value(),
                                    true,
                                    mx::promote_types(product, weights.dtype()),
                                    resolve_numerics(kOp, "") == "exact",
                                    max_rows};
  const CombineArguments arguments{hidden, down, indices, weights};
  if (!obstacle(arguments, options, s).empty()) return std::nullopt;
  auto y = fused(arguments, std::move(options), s);
  return experts.result_as_experts ? mx::astype(y, product, s) : y;
}

}  // namespace

std::optional<mx::array> moe_experts(const mx::array& x, const MoeExperts& experts,
                                     const mx::array& indices, const mx::array& weights_in,
                                     int max_rows, mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_);
  const auto weights = experts.weights_as_input ? mx::astype(weights_in, x.dtype(), s) : weights_in;
  if (backend_of(s) == Backend::cuda) {
    if (auto y = one_kernel(x, experts, indices, weights, max_rows, s)) return y;
  }
  const auto hidden = hidden_of(x, indices, experts, max_rows, s);
  if (!hidden) return std::nullopt;
  return sum_of(*hidden, indices, weights, experts, max_rows, s);
}

}  // namespace zmlx::fast

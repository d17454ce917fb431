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

std::pair<mx::array, mx::array> route(const mx::array& logits, const MoeBlock& block, int max_rows,
                                      const mx::Stream& s) {
  const auto& o = block.route;
  return moe_route(logits, o.k, o.score, block.select_bias, o.n_group, o.topk_group, o.renormalize,
                   o.scale, o.eps, o.order, o.group_score, o.group_fill, o.precise, o.score_dtype,
                   o.weights_dtype, "", max_rows, s);
}

}  // namespace

std::optional<mx::array> moe_block(const mx::array& x, const MoeBlock& block, int max_rows,
                                   mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_);
  if (x.ndim() < 2 || x.size() == 0 || !kernel_float(x.dtype())) return std::nullopt;
  const bool on_cpu = s.device == mx::Device::cpu;
  if (!on_cpu && static_cast<int>(x.size() / x.shape(-1)) > max_rows) return std::nullopt;
  auto [indices, weights] = route(linear(x, block.router, s), block, max_rows, s);
  return moe_experts(x, block.experts, indices, weights, max_rows, s);
}

std::optional<std::pair<mx::array, mx::array>> moe_block_after_sum(const mx::array& x,
                                                                   const AddNorm& norm,
                                                                   const MoeBlock& block,
                                                                   mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_);
  if (s.device == mx::Device::cpu) return std::nullopt;
  auto routed = norm_route(x, norm, block.router, block.select_bias, block.route, s);
  if (!routed) return std::nullopt;
  auto y = moe_experts(routed->normed, block.experts, routed->indices, routed->weights, 1, s);
  if (!y) return std::nullopt;
  return std::pair{std::move(*y), std::move(routed->sum)};
}

}  // namespace zmlx::fast

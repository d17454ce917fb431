#include <sstream>
#include <stdexcept>

#include "fast/inputs.h"
#include "fast/primitives.h"
#include "mlx/ops.h"
#include "zmlx/explain.h"
#include "zmlx/fast.h"

namespace zmlx::fast {

namespace {

constexpr const char* kOp = "quantized_matmul";

mx::Shape output_shape(const mx::array& x, const mx::array& w) {
  auto shape = x.shape();
  shape.back() = w.shape(-2);
  return shape;
}

}  // namespace

mx::array quantized_matmul(const mx::array& x, const mx::array& w, const mx::array& scales,
                           const std::optional<mx::array>& biases, bool transpose,
                           std::optional<int> group_size, std::optional<int> bits,
                           const std::string& mode, mx::StreamOrDevice s_) {
  auto q = resolve_quantization(kOp, mode, group_size, bits);
  std::optional<mx::array> no_bias;
  QuantizedWeights weights{"", w, scales, biases, no_bias};
  if (x.ndim() == 0)
    throw std::invalid_argument("[quantized_matmul] x must have at least one axis.");
  check_weights(kOp, x, weights, q, transpose);

  auto s = mx::to_stream(s_);
  std::string obstacle;
  if (s.device != mx::Device::cpu) {
    obstacle = "no kernel for this device";
  } else if (!transpose || w.ndim() != 2) {
    obstacle = "transpose=False or a stack of matrices";
  } else if (!kernel_float(x.dtype()) ||
             (q.affine() && (!kernel_float(scales.dtype()) || scales.dtype() != biases->dtype()))) {
    obstacle = "a type other than float32, float16 and bfloat16";
  }
  detail::note_path({kOp, obstacle.empty() ? "cpu" : "fallback", obstacle});
  if (!obstacle.empty()) {
    return mx::quantized_matmul(x, w, scales, biases, transpose, q.group_size, q.bits, q.mode, s);
  }
  std::vector<mx::array> inputs{x, w, scales};
  if (biases) inputs.push_back(*biases);
  auto type = product_type(x, weights, q);
  return mx::array(output_shape(x, w), type, std::make_shared<QuantizedMatmul>(s, std::move(q)),
                   std::move(inputs));
}

std::vector<mx::array> QuantizedMatmul::fallback(const std::vector<mx::array>& inputs) const {
  InputReader in(inputs);
  const auto& x = in.next();
  const auto& w = in.next();
  const auto& scales = in.next();
  auto biases = in.next_if(quantization_.affine());
  return {mx::quantized_matmul(x, w, scales, biases, true, quantization_.group_size,
                               quantization_.bits, quantization_.mode,
                               const_cast<QuantizedMatmul*>(this)->stream())};
}

std::vector<mx::Shape> QuantizedMatmul::output_shapes(const std::vector<mx::array>& inputs) {
  return {output_shape(inputs[0], inputs[1])};
}

std::pair<std::vector<mx::array>, std::vector<int>> QuantizedMatmul::vmap(
    const std::vector<mx::array>& inputs, const std::vector<int>& axes) {
  for (size_t i = 1; i < inputs.size(); ++i) {
    if (axes[i] >= 0) {
      throw std::invalid_argument("[quantized_matmul] vmap over the weights is not supported.");
    }
  }
  const auto& q = quantization_;
  auto biases = q.affine() ? std::optional(inputs[3]) : std::nullopt;
  auto y = fast::quantized_matmul(mx::moveaxis(inputs[0], axes[0], 0, stream()), inputs[1],
                                  inputs[2], biases, true, q.group_size, q.bits, q.mode, stream());
  return {{y}, {0}};
}

}  // namespace zmlx::fast

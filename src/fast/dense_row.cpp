#include "fast/dense_row.h"

#include <algorithm>
#include <stdexcept>

#include "fast/cuda_path.h"
#include "fast/numerics.h"

namespace zmlx::fast {

namespace {

/// Elements of a lane, of which a half warp has 32; see LaneLayout in src/cuda.
int lane_elements(int bits) { return bits <= 4 ? 16 : 8; }

}  // namespace

std::string row_obstacle(const mx::array& x, const Linear& layer, const mx::Stream& s) {
  if (auto obstacle = cuda_device_obstacle(s); !obstacle.empty()) return obstacle;
  if (resolve_numerics("quantized_matmul", "") != "exact") return "numerics other than exact";
  if (x.is_tracer()) return "a call that is traced";
  if (x.dtype() != mx::bfloat16 && x.dtype() != mx::float16) return "the type of x";
  const int width = x.shape(-1);
  if (x.ndim() != 3 || static_cast<int>(x.size()) != width) return "more than one token";
  if (!layer.scales || !layer.biases || layer.mode != "affine")
    return "weights that are not affine";
  if (layer.bits == 1) return "1 bit";
  if (layer.bias) return "a layer with a bias";
  if (layer.weight.is_tracer() || layer.scales->is_tracer() || layer.biases->is_tracer()) {
    return "weights that are traced";
  }
  if (layer.scales->dtype() != x.dtype() || layer.biases->dtype() != x.dtype()) {
    return "scales and biases of another type than x";
  }
  // From there on MLX multiplies with another kernel on compute capability 9.0.
  if (layer.group_size >= width) return "rows of one group";
  if (layer.weight.ndim() != 2 || layer.weight.dtype() != mx::uint32 ||
      static_cast<int64_t>(layer.weight.shape(-1)) * 32 !=
          static_cast<int64_t>(width) * layer.bits) {
    return "weights of another width than x";
  }
  return "";
}

std::string row_obstacle(const mx::array& x, const AddNorm& norm) {
  if (norm.residual.is_tracer() || norm.weight.is_tracer()) return "a norm that is traced";
  if (norm.residual.dtype() != x.dtype() || norm.weight.dtype() != x.dtype()) {
    return "arrays of several types";
  }
  if (norm.residual.shape() != x.shape() || norm.weight.ndim() != 1 ||
      norm.weight.shape(0) != x.shape(-1)) {
    return "arrays of several shapes";
  }
  if (x.shape(-1) % 8 != 0 || rms_norm_threads(x.shape(-1), 2) > 128) {
    return "a width that the norm does not take";
  }
  return "";
}

void append_layer(const Linear& layer, std::vector<mx::array>& inputs) {
  inputs.push_back(layer.weight);
  inputs.push_back(*layer.scales);
  inputs.push_back(*layer.biases);
}

void append_layer_names(const std::string& prefix, std::vector<std::string>& names) {
  for (const char* part : {"_w", "_scales", "_biases"}) names.push_back(prefix + part);
}

std::string layer_text(const std::string& prefix) {
  return "zmlx::layer(" + prefix + "_w, " + prefix + "_scales, " + prefix + "_biases)";
}

void RowProduct::add_to(KeyBuilder& key) const {
  key.add(type_code(type), quantization.bits, quantization.group_size, width, norm_eps.has_value());
  key.add(norm_eps.value_or(0.0f));
}

void RowProduct::add_to(Config& config, int threads, int ring) const {
  config.type("T", type_name(type));
  config.number("kBits", quantization.bits);
  config.number("kGroup", quantization.group_size);
  config.number("K", width);
  config.number("kThreads", threads);
  config.number("kRing", ring);
  config.number("kNormThreads", rms_norm_threads(width, 2));
  config.flag("kExact", true);
  config.flag("kAddNorm", norm_eps.has_value());
  config.real("kNormEps", norm_eps.value_or(0.0f));
}

int RowProduct::shared_memory(int threads, int rows, int ring) const {
  const int step = 32 * lane_elements(quantization.bits);
  const int steps = (width + step - 1) / step;
  const int bytes = 2 * lane_elements(quantization.bits) * quantization.bits / 8;
  const int codes = bytes % 4 == 0 ? threads * rows * std::min(ring, steps) * bytes : 0;
  return steps * step * 2 + codes;
}

std::vector<std::string> RowProduct::input_names() const {
  if (norm_eps) return {"x", "residual", "norm_weight"};
  return {"x"};
}

std::string RowProduct::input_text() const {
  return norm_eps ? "{x, residual, norm_weight}" : "{x, nullptr, nullptr}";
}

bool needs_copies(const std::vector<mx::array>& arrays) {
  return std::ranges::any_of(
      arrays, [](const mx::array& a) { return !a.flags().row_contiguous || a.offset() % 16 != 0; });
}

}  // namespace zmlx::fast

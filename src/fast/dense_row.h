#pragma once

#include <optional>
#include <string>
#include <vector>

#include "fast/cuda_config.h"
#include "fast/quantization.h"
#include "zmlx/decode_step.h"

/// What the operations on one token's row have in common: src/cuda/dense_row.cuh.
namespace zmlx::fast {

namespace mx = mlx::core;

/// Why the kernels do not apply a layer to the row `x`; empty if they do.
std::string row_obstacle(const mx::array& x, const Linear& layer, const mx::Stream& s);
/// The same for the residual sum and norm before it.
std::string row_obstacle(const mx::array& x, const AddNorm& norm);

/// Appends a layer's arrays to a primitive's inputs.
void append_layer(const Linear& layer, std::vector<mx::array>& inputs);
/// Names of those arrays among a kernel's parameters.
void append_layer_names(const std::string& prefix, std::vector<std::string>& names);
/// The layer as kernels take it.
std::string layer_text(const std::string& prefix);

/// The product of one row of a primitive's first input, and the norm before it.
struct RowProduct {
  static constexpr int kRing = 4;
  Quantization quantization;
  mx::Dtype type;
  int width;
  std::optional<float> norm_eps;  ///< if the row is the norm of a sum

  void add_to(KeyBuilder& key) const;
  /// `ring` steps of the inner dimension have their codes on the way.
  void add_to(Config& config, int threads, int ring = kRing) const;
  /// Bytes of shared memory for the row and for the codes on their way to `rows` rows a half warp.
  int shared_memory(int threads, int rows, int ring = kRing) const;
  /// Inputs before the layers: x, and with a norm the residual and the norm's weight.
  std::vector<std::string> input_names() const;
  /// The row as kernels take it.
  std::string input_text() const;
};
/// Whether kernels cannot read these arrays in place.
bool needs_copies(const std::vector<mx::array>& arrays);

}  // namespace zmlx::fast

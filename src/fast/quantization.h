#pragma once

#include <optional>
#include <string>

#include "mlx/array.h"
#include "mlx/utils.h"

/// What the quantized operations share before any arithmetic: formats, argument checks, indices.
namespace zmlx::fast {

namespace mx = mlx::core;

/// A quantization as MLX names it.
struct Quantization {
  std::string mode;  ///< "affine", "mxfp4", "mxfp8" or "nvfp4"
  int group_size;
  int bits;

  bool affine() const { return mode == "affine"; }
  bool operator==(const Quantization&) const = default;
};

/// One stack of quantized expert weights, as passed by the caller.
struct QuantizedWeights {
  const char* name;  ///< the argument's prefix in messages: "gate_" for gate_w, gate_scales, ...
  const mx::array& w;
  const mx::array& scales;
  const std::optional<mx::array>& biases;
  const std::optional<mx::array>& bias;
};

/// The mode with its defaults filled in, as `mlx::core::quantize` fills them.
/// @throws std::invalid_argument if the mode is unknown or does not have that group size or width.
Quantization resolve_quantization(const char* op, const std::string& mode,
                                  std::optional<int> group_size, std::optional<int> bits);

/// Checks the shapes and types of `x`'s rows (..., D) against the weights.
/// @return the number of outputs N.
/// @throws std::invalid_argument naming the operation, the argument and the shapes.
int check_weights(const char* op, const mx::array& x, const QuantizedWeights& weights,
                  const Quantization& quantization, bool transpose);

/// @throws std::invalid_argument unless `indices` is absent or holds integers.
void check_indices(const char* op, const char* name, const std::optional<mx::array>& indices);

/// The type that `gather_qmm(x, ...) + bias` has in MLX.
mx::Dtype product_type(const mx::array& x, const QuantizedWeights& weights,
                       const Quantization& quantization);

/// Whether this library's kernels read the type: float32, float16 or bfloat16.
bool kernel_float(mx::Dtype type);

/// Why the kernels of the stream's device cannot take these weights; empty if they can.
std::string kernel_obstacle(const mx::Stream& s, const mx::array& x,
                            const QuantizedWeights& weights, const Quantization& quantization,
                            bool transpose);

/// The part of it that GPUs share: why no kernel reads these arrays in place, where `readable`
/// tells of a stack of matrices whether one does; empty if one does.
std::string stack_obstacle(const mx::array& x, const QuantizedWeights& weights,
                           const Quantization& quantization, bool transpose,
                           bool (*readable)(const mx::array&));

/// The indices as given, or those of `a`'s leading axes (all but two) in order: what `gather_qmm`
/// takes where none are given.
mx::array indices_or_default(const std::optional<mx::array>& indices, const mx::array& a,
                             mx::StreamOrDevice s);

/// `gather_qmm(x, ...) + bias` as MLX composes it, with indices clamped to the experts that exist.
mx::array gather_product(const mx::array& x, const mx::array& w, const mx::array& scales,
                         const std::optional<mx::array>& biases,
                         const std::optional<mx::array>& bias, const mx::array& lhs_indices,
                         const mx::array& rhs_indices, const Quantization& quantization,
                         bool transpose, bool sorted_indices, mx::StreamOrDevice s);

/// `y` with the rows (last two axes) of experts that do not exist set to NaN.
mx::array nan_where_out_of_range(const mx::array& y, const mx::array& rhs_indices, int num_experts,
                                 mx::StreamOrDevice s);

}  // namespace zmlx::fast

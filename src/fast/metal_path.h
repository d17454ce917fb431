#pragma once

#include <string>

#include "fast/quantization.h"

/// Whether a kernel of src/metal takes a call, and with what launch. In numerics "exact" it follows
/// the order of sums of MLX's own kernel for that call; docs/metal.md has the table.
namespace zmlx::fast {

/// One product of (token, expert) pairs with their experts' matrices (N, K).
struct MetalCall {
  Quantization quantization;
  mx::Dtype type;  ///< of x and of the product
  int N, K, experts;
  int tokens, top_k;
  bool exact;
  bool sorted;  ///< whether MLX would be told that the pairs are sorted by expert

  int pairs() const { return tokens * top_k; }
};

/// A kernel's constants that depend on the launch, or why there is none.
struct MetalPlan {
  std::string obstacle;
  int packs = 1;       ///< that a lane takes at a time: 2 follows MLX's "fast" kernel, 1 the other
  int rows = 1;        ///< of a matrix that a simdgroup makes at a time
  int simdgroups = 1;  ///< of a threadgroup; in the combine of one of its tiles
  int tiles = 1;       ///< of `rows` elements that a threadgroup of the combine makes
};

/// For gate and up with the activation.
MetalPlan plan_metal_swiglu(const MetalCall& call);

/// For the down projection with the weighted sum.
MetalPlan plan_metal_combine(const MetalCall& call);

/// The product of x's rows with experts (E, N, K) that `indices` (..., K experts a token) select.
/// mlx-lm sorts from 64 pairs on; `sorted` says so of fewer.
MetalCall metal_call(const mx::array& x, const mx::array& w, const mx::array& indices,
                     const Quantization& quantization, bool exact, bool sorted);

/// Why no Metal kernel adds and normalises rows of this width; empty if one does.
std::string metal_norm_obstacle(int width);

/// Simdgroups of a threadgroup that normalises a row.
int metal_norm_simdgroups(int width);

/// A router's call, as far as it decides whether the kernel takes it.
struct MetalRoute {
  int experts, top_k;
  int groups;        ///< that are chosen among; 1 if all experts are
  bool both_halves;  ///< whether it has float16 and bfloat16
};

/// Why the router's kernel does not take a call; empty if it does.
std::string metal_route_obstacle(const MetalRoute& route);

/// Why no Metal kernel runs on a stream; empty if they do.
std::string metal_device_obstacle(const mx::Stream& s);

/// Why no Metal kernel reads these arrays, whatever the stream; empty if one does.
std::string metal_obstacle(const mx::array& x, const QuantizedWeights& weights,
                           const Quantization& quantization, bool transpose);

/// Whether a stack of matrices can be read in place: rows without gaps.
bool metal_readable(const mx::array& a);

}  // namespace zmlx::fast

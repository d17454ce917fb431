#pragma once

#include "add_rms_norm.cuh"
#include "lane_product.cuh"

/// Quantized layers that are applied to one row, in the order of MLX's `qmv`, which is that of
/// `gather_qmv`. Where a residual sum and its norm come first, each block computes them for itself:
/// that takes less time than another kernel.
namespace zmlx {

/// The row that is multiplied. With C::kAddNorm it is the RMS norm of x + residual, by
/// C::kNormThreads threads as MLX's norm has them; else it is x.
template <typename T>
struct RowInput {
  const T* x;
  const T* residual;
  const T* norm_weight;
};

/// Puts the row into shared memory for LaneProduct; a barrier has to follow. `sum` and `normed` are
/// written by the blocks for which they are not null.
template <class C>
__device__ __forceinline__ void stage_row(const RowInput<typename C::T>& input, typename C::T* sum,
                                          typename C::T* normed, uint4* shared) {
  static_assert(!C::kAddNorm || C::kThreads >= C::kNormThreads);
  if constexpr (C::kAddNorm) {
    using V = Vector<typename C::T, 16 / sizeof(typename C::T)>;
    normalise_sum<typename C::T, C::K, C::kNormThreads>(
        input.x, input.residual, input.norm_weight, C::kNormEps,
        [&](int at, const V& v) {
          if (sum) reinterpret_cast<V*>(sum)[at] = v;
        },
        [&](int at, const V& v) {
          if (normed) reinterpret_cast<V*>(normed)[at] = v;
          stage_chunk<C>(at, *reinterpret_cast<const uint4*>(&v), shared);
        });
  } else {
    stage_lanes<C>(input.x, shared);
  }
}

/// A layer's weights as LaneProduct takes them.
template <typename T>
__device__ __forceinline__ Experts<T, T> layer(const u32* w, const T* scales, const T* biases) {
  return {w, scales, biases, nullptr, 0, 0, 0, 0};
}

}  // namespace zmlx

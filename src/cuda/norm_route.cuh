#pragma once

#include "dense_row.cuh"
#include "moe_route.cuh"

namespace zmlx {

/// A residual sum, its norm, the router's product and the router, of one token. C has the constants
/// of the product, of E rows, and `Route` those of the router. A half warp multiplies one row; the
/// last block to be done runs the router. (One block for all rows was measured: it reads 256 KB in
/// 16 us.)
template <class C, class Route>
struct NormRoute {
  using T = typename C::T;
  static constexpr int kRows = C::kThreads / 16, kBlocks = (Route::E + kRows - 1) / kRows;
  using Product = LaneProduct<C, 1>;
  static constexpr int kStaged = LaneLayout<C>::kShared;
  static constexpr int kShared =
      kStaged + C::kThreads * Product::kShared + (Route::E + 7) / 8 * 8 * int(sizeof(T));
  static_assert(same<T, typename Route::Logit>);

  /// Whether this block is the last of the grid to come here, with what the others wrote visible.
  static __device__ __forceinline__ bool last_block(u32* counter) {
    __shared__ bool last;
    if (kBlocks == 1) {
      __syncthreads();
      return true;
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      last = atomicAdd(counter, 1u) == kBlocks - 1;
      if (last) *counter = 0;  // for the next launch
    }
    __syncthreads();
    __threadfence();
    return last;
  }

  /// `scratch` is a counter, zero between launches, and from 256 bytes on room for the logits.
  static __device__ __forceinline__ void run(const RowInput<T>& input, const Experts<T, T>& router,
                                             const typename Route::Bias* bias, T* normed, T* sum,
                                             u32* indices, typename Route::Weight* weights,
                                             u32* scratch) {
    extern __shared__ uint4 shared[];
    const int row = blockIdx.x * kRows + threadIdx.x / 16;
    Product product(shared + kStaged / 16);
    product.set_row(0, router, 0, min(row, Route::E - 1));
    product.start();
    const bool first = blockIdx.x == 0;
    stage_row<C>(input, first ? sum : nullptr, first ? normed : nullptr, shared);
    __syncthreads();
    float dots[1];
    product.run(shared, dots);
    volatile u16* all = reinterpret_cast<volatile u16*>(scratch + 64);
    if (threadIdx.x % 16 == 0 && row < Route::E) {
      const T logit = round_to<T>(dots[0]);
      all[row] = *reinterpret_cast<const u16*>(&logit);
    }
    if (!last_block(scratch) || threadIdx.x >= 32) return;
    u16* logits = reinterpret_cast<u16*>(shared + (kStaged + C::kThreads * Product::kShared) / 16);
    for (int i = threadIdx.x; i < Route::E; i += 32) logits[i] = all[i];
    __syncwarp();
    MoeRoute<Route>::run_row(reinterpret_cast<const T*>(logits), bias, indices, weights);
  }
};

}  // namespace zmlx

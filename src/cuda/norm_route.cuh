#pragma once

#include "dense_row.cuh"
#include "moe_route.cuh"

namespace zmlx {

/// A residual sum, its norm, the router's product and the router, of one token in one block. C has
/// the constants of the product, of E rows, and `Route` those of the router.
template <class C, class Route>
struct NormRoute {
  using T = typename C::T;
  static constexpr int kUnits = C::kThreads / 16, kRows = C::kRows;
  static constexpr int kPass = kUnits * kRows;
  using Product = LaneProduct<C, kRows>;
  static constexpr int kStaged = LaneLayout<C>::kShared;
  static constexpr int kCopied = C::kThreads * Product::kShared;
  static constexpr int kShared = kStaged + kCopied + Route::E * int(sizeof(T));
  static_assert(same<T, typename Route::Logit>);

  static __device__ __forceinline__ void run(const RowInput<T>& input, const Experts<T, T>& router,
                                             const typename Route::Bias* bias, T* normed, T* sum,
                                             u32* indices, typename Route::Weight* weights) {
    extern __shared__ uint4 shared[];
    T* logits = reinterpret_cast<T*>(shared + (kStaged + kCopied) / 16);
#pragma unroll 1
    for (int first = 0; first < Route::E; first += kPass) {
      const int row = first + static_cast<int>(threadIdx.x) / 16 * kRows;
      Product product(shared + kStaged / 16);
#pragma unroll
      for (int r = 0; r < kRows; ++r) product.set_row(r, router, 0, min(row + r, Route::E - 1));
      product.start();
      if (first == 0) {
        stage_row<C>(input, sum, normed, shared);
        __syncthreads();
      }
      float dots[kRows];
      product.run(shared, dots);
      if (threadIdx.x % 16 == 0) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (row + r < Route::E) logits[row + r] = round_to<T>(dots[r]);
        }
      }
    }
    __syncthreads();
    if (threadIdx.x < 32) MoeRoute<Route>::run(logits, bias, indices, weights);
  }
};

}  // namespace zmlx

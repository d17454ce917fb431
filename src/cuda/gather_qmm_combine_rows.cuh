#pragma once

#include "row_products.cuh"

namespace zmlx {

/// Down projection and weighted sum of one token, row by row. Grid: tokens, tiles of rows. Each of
/// the token's experts has `C::kThreads / C::kTopK` threads.
template <class C>
__device__ __forceinline__ void gather_qmm_combine_rows(
    const typename C::T* x, const typename RowProducts<C, C::kFp>::Weights& down,
    const u32* indices, const typename C::Weight* weights, typename C::Out* out) {
  using P = RowProducts<C, C::kFp>;
  using Sum = typename C::Sum;
  constexpr int kTile = C::kThreads / C::kTopK / P::kUnit * P::kRows;
  extern __shared__ uint4 shared[];
  auto* staged = reinterpret_cast<typename P::Chunk*>(shared);
  constexpr int kStaged = P::kShared / 16;

  const int token = blockIdx.x;
  const int unit = threadIdx.x / P::kUnit;
  const int k = unit / (kTile / P::kRows);
  const int first = unit % (kTile / P::kRows) * P::kRows;  // within the tile
  const int pair = token * C::kTopK + k;
  const u32 asked = expert_of<C>(indices, pair);
  const u32 expert = asked < C::E ? asked : 0;

  using Product = typename P::template Product<P::kRows>;
  Product product(staged + C::kTopK * kStaged);
  auto* products =
      reinterpret_cast<Sum*>(staged + C::kTopK * kStaged + C::kThreads * Product::kShared / 16);
#pragma unroll
  for (int r = 0; r < P::kRows; ++r) {
    product.set_row(r, down, expert,
                    min(static_cast<int>(blockIdx.y) * kTile + first + r, C::N - 1));
  }
  product.start();
  // Early, because MLX keeps arrays of 8 bytes in memory that the host shares, far from here.
  const auto weight = weights[token * C::kWeightTokenStride + k * C::kWeightSlotStride];
  stage_rows<C>(x + static_cast<long long>(token) * C::kTopK * C::K, C::kTopK, staged);
  __syncthreads();
  float dots[P::kRows];
  product.run(staged + k * kStaged, dots);
  if (threadIdx.x % P::kUnit == 0) {
#pragma unroll
    for (int r = 0; r < P::kRows; ++r) {
      const int n = min(static_cast<int>(blockIdx.y) * kTile + first + r, C::N - 1);
      const auto y = with_bias<C>(dots[r], down, expert, n);
      products[k * kTile + first + r] =
          asked < C::E ? weighted<Sum>(y, weight) : not_a_number<Sum>();
    }
  }
  __syncthreads();
  const int n = blockIdx.y * kTile + threadIdx.x;
  if (threadIdx.x < kTile && n < C::N) {
    const Sum sum = sum_in_order<C::kTopK>(products + threadIdx.x, kTile);
    out[static_cast<long long>(token) * C::N + n] = round_to<typename C::Out>(to_float(sum));
  }
}

}  // namespace zmlx

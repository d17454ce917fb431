#pragma once

#include "activation.cuh"
#include "row_products.cuh"

namespace zmlx {

/// Gate, up and activation of one (token, expert) pair, row by row. Grid: pairs, tiles of rows.
template <class C>
__device__ __forceinline__ void gather_qmm_swiglu_rows(
    const typename C::T* x, const typename RowProducts<C, C::kFp>::Weights& gate,
    const typename RowProducts<C, C::kFp>::Weights& up, const u32* indices, const u32* rows,
    typename C::T* out) {
  using P = RowProducts<C, C::kFp>;
  using T = typename C::T;
  constexpr int kHidden = P::kRows / 2;  // columns of the result that a unit makes
  constexpr int kTile = C::kThreads / P::kUnit * kHidden;
  extern __shared__ uint4 shared[];
  auto* staged = reinterpret_cast<typename P::Chunk*>(shared);

  const int pair = blockIdx.x;
  const int first = blockIdx.y * kTile + threadIdx.x / P::kUnit * kHidden;
  const u32 expert = expert_of<C>(indices, pair);
  const int row = row_of<C>(rows, pair);
  T* result = out + static_cast<long long>(pair) * C::N;
  if (expert >= C::E || row < 0) {
    for (int i = threadIdx.x; i < kTile; i += C::kThreads) {
      const int n = blockIdx.y * kTile + i;
      if (n < C::N) result[n] = not_a_number<T>();
    }
    return;
  }
  typename P::template Product<P::kRows> product(shared + P::kShared / 16);
#pragma unroll
  for (int i = 0; i < kHidden; ++i) {
    const int n = min(first + i, C::N - 1);
    product.set_row(2 * i, gate, expert, n);
    product.set_row(2 * i + 1, up, expert, n);
  }
  product.start();
  stage_rows<C>(x + static_cast<long long>(row) * C::K, 1, staged);
  __syncthreads();
  float products[P::kRows];
  product.run(staged, products);
#pragma unroll
  for (int i = 0; i < kHidden; ++i) {
    const int n = first + i;
    if (threadIdx.x % P::kUnit == 0 && n < C::N) {
      const auto g = with_bias<C>(products[2 * i], gate, expert, n);
      const auto u = with_bias<C>(products[2 * i + 1], up, expert, n);
      result[n] = round_to<T>(to_float(activate<C>(g, u)));
    }
  }
}

}  // namespace zmlx

#pragma once

#include "activation.h"
#include "product.h"

namespace zmlx {

/// Gate, up and activation of one (token, expert) pair: a simdgroup makes C::kRows elements of the
/// result, from as many rows of either matrix. Grid: pairs, tiles of rows; so the pairs of one
/// expert read a tile at about the same time, and all but one from a cache.
template <class C>
METAL_FUNC void gather_qmm_swiglu(const device typename C::T* x, typename Product<C>::Weights gate,
                                  typename Product<C>::Weights up, const device uint32_t* indices,
                                  const device uint32_t* rows, device typename C::T* out,
                                  uint3 group, uint simdgroup, uint lane) {
  using T = typename C::T;
  using Y = typename C::Intermediate;
  constexpr int kRows = C::kRows;
  const int pair = group.x;
  const int first = (group.y * C::kSimdgroups + simdgroup) * kRows;
  if (first >= C::N) return;
  device T* result = out + pair * long(C::N) + first;
  const int mine = static_cast<int>(lane);
  const bool writes = mine < kRows && first + mine < C::N;

  const uint32_t expert = expert_of<C>(indices, pair);
  const int row = row_of<C>(rows, pair);
  if (expert >= static_cast<uint32_t>(C::E) || row < 0) {
    if (writes) result[mine] = not_a_number<T>();
    return;
  }
  const typename Product<C>::Weights stacks[2] = {gate, up};
  RowStart starts[2 * kRows];
  float sums[2 * kRows];
#pragma unroll
  for (int r = 0; r < 2 * kRows; ++r) {
    const int n = row_or_last<C>(first + r / 2);
    starts[r] = row_start<C>(stacks[r % 2], expert, n, lane);
    sums[r] = 0;
  }
  multiply_rows<C, 2 * kRows, 2>(x + row * long(C::K), stacks, starts, lane, sums);

  float gate_product = 0, up_product = 0;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float g = simd_sum(sums[2 * r]), u = simd_sum(sums[2 * r + 1]);
    if (mine == r) gate_product = g, up_product = u;
  }
  if (!writes) return;
  const Y g = with_bias<C>(gate_product, gate, expert, first + mine);
  const Y u = with_bias<C>(up_product, up, expert, first + mine);
  result[mine] = static_cast<T>(activate<C, Y>(g, u));
}

}  // namespace zmlx

#pragma once

#include "product.h"

namespace zmlx {

/// The sum of one token's weighted products in the order of MLX's `col_reduce_small`: eight sums of
/// every eighth expert, which are added in order. A single product is not added to anything.
template <int Count, typename Sum>
METAL_FUNC Sum sum_over_experts(const threadgroup Sum* products, int stride) {
  if (Count == 1) return products[0];
  constexpr int kSums = Count < 8 ? Count : 8;
  Sum sums[kSums];
#pragma unroll
  for (int k = 0; k < kSums; ++k) sums[k] = static_cast<Sum>(0.0f);
#pragma unroll
  for (int k = 0; k < Count; ++k) sums[k % 8] = products[k * stride] + sums[k % 8];
  Sum total = sums[0];
#pragma unroll
  for (int k = 1; k < kSums; ++k) total = sums[k] + total;
  return total;
}

/// Down projection and weighted sum of one token. A threadgroup makes C::kTiles tiles of C::kRows
/// elements; each tile has C::kSimdgroups simdgroups, which share the experts. Products pass
/// through threadgroup memory, so no compiler fuses them with the sum. Grid: tokens,
/// threadgroups of tiles.
///
/// @param products  C::kTopK * C::kTiles * C::kRows elements.
template <class C>
METAL_FUNC void gather_qmm_combine(const device typename C::T* x, typename Product<C>::Weights down,
                                   const device uint32_t* indices,
                                   const device typename C::Weight* weights,
                                   device typename C::Out* out,
                                   threadgroup typename C::Sum* products, uint3 group,
                                   uint simdgroup, uint lane) {
  using Sum = typename C::Sum;
  constexpr int kRows = C::kRows, kWidth = C::kTiles * kRows;
  const int token = group.x, mine = static_cast<int>(lane);
  const int tile = simdgroup / C::kSimdgroups;
  const int first = group.y * kWidth + tile * kRows;
  for (int k = simdgroup % C::kSimdgroups; first < C::N && k < C::kTopK; k += C::kSimdgroups) {
    const int pair = token * C::kTopK + k;
    const uint32_t expert = expert_of<C>(indices, pair);
    threadgroup Sum* slot = products + k * kWidth + tile * kRows;
    if (expert >= static_cast<uint32_t>(C::E)) {
      if (mine < kRows) slot[mine] = not_a_number<Sum>();
      continue;
    }
    RowStart starts[kRows];
    float sums[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      starts[r] = row_start<C>(down, expert, row_or_last<C>(first + r), lane);
      sums[r] = 0;
    }
    multiply_rows<C, kRows, 1>(x + pair * long(C::K), &down, starts, lane, sums);
    float product = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float sum = simd_sum(sums[r]);
      if (mine == r) product = sum;
    }
    if (mine < kRows) {
      const auto y = with_bias<C>(product, down, expert, metal::min(first + mine, C::N - 1));
      const auto weight =
          weights[token * long(C::kWeightTokenStride) + k * long(C::kWeightSlotStride)];
      slot[mine] = static_cast<Sum>(y) * static_cast<Sum>(weight);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const int column = simdgroup * 32 + lane, n = group.y * kWidth + column;
  if (column >= kWidth || n >= C::N) return;
  const Sum sum = sum_over_experts<C::kTopK>(products + column, kWidth);
  out[token * long(C::N) + n] = static_cast<typename C::Out>(sum);
}

}  // namespace zmlx

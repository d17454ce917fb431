#pragma once

#include "scalar.h"

namespace zmlx {

/// sum = x + residual, rounded; normed = rms_norm(sum) as MLX's `rms_single_row` computes it: four
/// elements a thread, `simd_sum` in the simdgroups and then over their sums. MLX has a thread for
/// every four elements; here a threadgroup of C::kSimdgroups simdgroups takes the parts of MLX's
/// simdgroups in turn, which changes no sum. One threadgroup a row.
///
/// @param shared  33 elements.
template <class C>
METAL_FUNC void add_rms_norm(const device typename C::T* x, const device typename C::T* residual,
                             const device typename C::T* weight, device typename C::T* normed,
                             device typename C::T* sum, threadgroup float* shared, uint3 group,
                             uint simdgroup, uint lane) {
  using T = typename C::T;
  constexpr int kParts = (C::D + 127) / 128;
  constexpr int kMine = (kParts + C::kSimdgroups - 1) / C::kSimdgroups;
  const long row = group.x * long(C::D);
  x += row, residual += row, normed += row, sum += row;
  if (simdgroup == 0) shared[lane] = 0;
  threadgroup_barrier(mem_flags::mem_threadgroup);

  float kept[4 * kMine];
#pragma unroll
  for (int part = 0; part < kMine; ++part) {
    const int mlx_simdgroup = part * C::kSimdgroups + simdgroup;
    if (mlx_simdgroup >= kParts) break;
    const int first = (mlx_simdgroup * 32 + lane) * 4;
    float acc = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float value = 0;
      if (first + i < C::D) {
        const T added = x[first + i] + residual[first + i];
        sum[first + i] = added;
        value = added;
      }
      kept[4 * part + i] = value;
      acc += value * value;
    }
    acc = simd_sum(acc);
    if (lane == 0) shared[mlx_simdgroup] = acc;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (simdgroup == 0) {
    const float acc = simd_sum(shared[lane]);
    if (lane == 0) {
      const uint width = C::D;
      shared[32] = metal::precise::rsqrt(acc / width + as_type<float>(C::kEpsBits));
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
  for (int part = 0; part < kMine; ++part) {
    const int first = ((part * C::kSimdgroups + simdgroup) * 32 + lane) * 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (first + i >= C::D) continue;
      const T scaled = static_cast<T>(kept[4 * part + i] * shared[32]);
      if constexpr (C::kHasWeight) {
        normed[first + i] = weight[first + i] * scaled;
      } else {
        normed[first + i] = scaled;
      }
    }
  }
}

}  // namespace zmlx

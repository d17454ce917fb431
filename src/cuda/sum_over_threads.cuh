#pragma once

#include "scalar.cuh"

namespace zmlx {

/// Adds `Count` values over `Threads` threads that lie side by side, in pairs of distance
/// Threads / 2, Threads / 4 and so on to 1; every thread gets all sums, and every thread of the
/// warp has to call. As long as there are several values, two threads share out the values of both,
/// so that 4 values of 16 threads take 10 exchanges instead of 16.
template <int Threads, int Count>
__device__ __forceinline__ void sum_over_threads(float (&v)[Count]) {
  constexpr u32 kAll = 0xffffffffu;
  constexpr bool kShared = Count == 2 || Count == 4;
  int values = Count;
#pragma unroll
  for (int distance = Threads / 2; distance > 0; distance /= 2) {
    if (kShared && values > 1) {
      values /= 2;
      const bool upper = threadIdx.x & distance;
#pragma unroll
      for (int i = 0; i < values; ++i) {
        const float mine = upper ? v[values + i] : v[i], other = upper ? v[i] : v[values + i];
        v[i] = __fadd_rn(mine, __shfl_xor_sync(kAll, other, distance));
      }
    } else {
#pragma unroll
      for (int i = 0; i < values; ++i) {
        v[i] = __fadd_rn(v[i], __shfl_xor_sync(kAll, v[i], distance));
      }
    }
  }
  if (kShared) {
    const float sum = v[0];
#pragma unroll
    for (int i = 0; i < Count; ++i) v[i] = __shfl_sync(kAll, sum, i * (Threads / Count), Threads);
  }
}

}  // namespace zmlx

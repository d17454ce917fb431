#pragma once

#include "scalar.cuh"

namespace zmlx {

/// The sum over a block's threads, in every thread: butterflies in the warps, then over the warps.
template <int Threads>
__device__ __forceinline__ float block_sum(float value, float* shared) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = __fadd_rn(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x % 32 < Threads / 32 ? shared[threadIdx.x % 32] : 0.0f;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = __fadd_rn(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

/// sum = x + residual, rounded; normed = rms_norm(sum) as MLX's `rms_norm` computes it. One block a
/// row; D is a multiple of the elements in 16 bytes. `weight` is null if there is none.
template <typename T, int D, int Threads>
__device__ __forceinline__ void add_rms_norm(const T* x, const T* residual, const T* weight,
                                             float eps, T* normed, T* sum) {
  constexpr int kVector = 16 / sizeof(T), kVectors = D / kVector;
  constexpr int kMine = (kVectors + Threads - 1) / Threads;
  constexpr bool kKeep = kMine <= 8;  // in registers; else it is read again
  using V = Vector<T, kVector>;
  __shared__ float shared[32];
  const long long row = static_cast<long long>(blockIdx.x) * kVectors;
  const V* xs = reinterpret_cast<const V*>(x) + row;
  const V* rs = reinterpret_cast<const V*>(residual) + row;
  V* sums = reinterpret_cast<V*>(sum) + row;
  V* out = reinterpret_cast<V*>(normed) + row;

  V kept[kKeep ? kMine : 1];
  float squares = 0;
#pragma unroll(kKeep ? kMine : 1)
  for (int i = 0; i < kMine; ++i) {
    const int at = i * Threads + threadIdx.x;
    if (at >= kVectors) break;
    const V a = xs[at], b = rs[at];
    V s;
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      s.at[j] = add(a.at[j], b.at[j]);
      const float value = to_float(s.at[j]);
      squares = __fmaf_rn(value, value, squares);
    }
    sums[at] = s;
    if (kKeep) kept[kKeep ? i : 0] = s;
  }
  const float mean = __fdiv_rn(block_sum<Threads>(squares, shared), static_cast<float>(D));
  const float scale = rsqrtf(__fadd_rn(mean, eps));
#pragma unroll(kKeep ? kMine : 1)
  for (int i = 0; i < kMine; ++i) {
    const int at = i * Threads + threadIdx.x;
    if (at >= kVectors) break;
    V s = kKeep ? kept[kKeep ? i : 0] : sums[at];
    V w;
    if (weight) w = reinterpret_cast<const V*>(weight)[at];
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      s.at[j] = round_to<T>(__fmul_rn(to_float(s.at[j]), scale));
      if (weight) s.at[j] = mul(w.at[j], s.at[j]);
    }
    out[at] = s;
  }
}

}  // namespace zmlx

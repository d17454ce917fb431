#pragma once

#include "scalar.cuh"

namespace zmlx {

/// The sum over a block's first threads, in every thread: butterflies in the warps, then over the
/// warps.
template <int Threads>
__device__ __forceinline__ float block_sum(float value, float* shared) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = __fadd_rn(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  if (threadIdx.x % 32 == 0 && threadIdx.x < Threads) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x % 32 < Threads / 32 ? shared[threadIdx.x % 32] : 0.0f;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = __fadd_rn(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

/// One row of D elements: `store_sum(i, v)` gets x + residual, rounded, and `store_normed(i, v)`
/// its RMS norm as MLX's `rms_norm` computes it, vector by vector. The first `Threads` threads of a
/// block do it; the others have to call it too. D is a multiple of the elements in 16 bytes.
/// `weight` is null if there is none.
template <typename T, int D, int Threads, typename StoreSum, typename StoreNormed>
__device__ __forceinline__ void normalise_sum(const T* x, const T* residual, const T* weight,
                                              float eps, StoreSum store_sum,
                                              StoreNormed store_normed) {
  constexpr int kVector = 16 / sizeof(T), kVectors = D / kVector;
  constexpr int kMine = (kVectors + Threads - 1) / Threads;
  constexpr bool kKeep = kMine <= 8;  // in registers; else it is summed again
  using V = Vector<T, kVector>;
  __shared__ float shared[32];
  const V* xs = reinterpret_cast<const V*>(x);
  const V* rs = reinterpret_cast<const V*>(residual);
  const auto sum_at = [&](int at) {
    const V a = xs[at], b = rs[at];
    V s;
#pragma unroll
    for (int j = 0; j < kVector; ++j) s.at[j] = add(a.at[j], b.at[j]);
    return s;
  };
  const auto vector = [&](int i) {
    return threadIdx.x < Threads ? i * Threads + static_cast<int>(threadIdx.x) : kVectors;
  };

  V kept[kKeep ? kMine : 1];
  float squares = 0;
#pragma unroll(kKeep ? kMine : 1)
  for (int i = 0; i < kMine; ++i) {
    const int at = vector(i);
    if (at >= kVectors) break;
    const V s = sum_at(at);
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const float value = to_float(s.at[j]);
      squares = __fmaf_rn(value, value, squares);
    }
    store_sum(at, s);
    if (kKeep) kept[kKeep ? i : 0] = s;
  }
  const float mean = __fdiv_rn(block_sum<Threads>(squares, shared), static_cast<float>(D));
  const float scale = rsqrtf(__fadd_rn(mean, eps));
#pragma unroll(kKeep ? kMine : 1)
  for (int i = 0; i < kMine; ++i) {
    const int at = vector(i);
    if (at >= kVectors) break;
    V s = kKeep ? kept[kKeep ? i : 0] : sum_at(at);
    V w;
    if (weight) w = reinterpret_cast<const V*>(weight)[at];
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      s.at[j] = round_to<T>(__fmul_rn(to_float(s.at[j]), scale));
      if (weight) s.at[j] = mul(w.at[j], s.at[j]);
    }
    store_normed(at, s);
  }
}

/// Rows of D elements, one a block.
template <typename T, int D, int Threads>
__device__ __forceinline__ void add_rms_norm(const T* x, const T* residual, const T* weight,
                                             float eps, T* normed, T* sum) {
  using V = Vector<T, 16 / sizeof(T)>;
  const long long row = static_cast<long long>(blockIdx.x) * D;
  normalise_sum<T, D, Threads>(
      x + row, residual + row, weight, eps,
      [&](int at, const V& v) { reinterpret_cast<V*>(sum + row)[at] = v; },
      [&](int at, const V& v) { reinterpret_cast<V*>(normed + row)[at] = v; });
}

}  // namespace zmlx

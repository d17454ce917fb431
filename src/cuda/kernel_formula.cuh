#pragma once

#include "scalar.cuh"

/// What formulas of kernels call; src/kernel/emit_cuda.cpp writes the calls. Names are those of
/// src/metal/kernel_formula.h.
namespace zmlx {

__device__ __forceinline__ float to_float(int x) { return static_cast<float>(x); }
__device__ __forceinline__ float to_float(u32 x) { return static_cast<float>(x); }

__device__ __forceinline__ float f_sigmoid(float x) {
  const float z = expf(-fabsf(x));
  const float s = 1.0f / (1.0f + z);
  return x < 0.0f ? z * s : s;
}
__device__ __forceinline__ float f_softplus(float x) {
  return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))) + (x != x ? x : 0.0f);
}
__device__ __forceinline__ float f_sign(float x) {
  return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x;
}
__device__ __forceinline__ int f_int(float x) { return __float2int_rz(x); }
__device__ __forceinline__ u32 f_uint(float x) { return __float2uint_rz(x); }

// Integers wrap around, and dividing by zero gives zero.
__device__ __forceinline__ int i_add(int a, int b) { return static_cast<int>(u32(a) + u32(b)); }
__device__ __forceinline__ int i_sub(int a, int b) { return static_cast<int>(u32(a) - u32(b)); }
__device__ __forceinline__ int i_mul(int a, int b) { return static_cast<int>(u32(a) * u32(b)); }
__device__ __forceinline__ int i_div(int a, int b) {
  return b == 0 ? 0 : b == -1 ? i_sub(0, a) : a / b;
}
__device__ __forceinline__ int i_rem(int a, int b) { return b == 0 || b == -1 ? 0 : a % b; }
__device__ __forceinline__ int i_neg(int a) { return i_sub(0, a); }
__device__ __forceinline__ int i_abs(int a) { return a < 0 ? i_sub(0, a) : a; }
__device__ __forceinline__ u32 u_div(u32 a, u32 b) { return b == 0 ? 0 : a / b; }
__device__ __forceinline__ u32 u_rem(u32 a, u32 b) { return b == 0 ? 0 : a % b; }

/// Elements that a thread moves at once: 16 bytes of float32.
inline constexpr int kVector = 4;

/// One value of all of a block's threads by an associative operation; every thread gets it. `shared`
/// holds a value for each of at most 32 warps.
template <typename T, typename Op>
__device__ __forceinline__ T block_reduce(T value, T identity, T* shared, const Op& op) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = op(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
  if (warps == 1) return value;
  __syncthreads();  // the values of the reduction before have been read
  if (lane == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = lane < warps ? shared[lane] : identity;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = op(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

}  // namespace zmlx

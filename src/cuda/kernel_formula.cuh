#pragma once

#include "scalar.cuh"

/// What formulas of kernels call; src/kernel/emit_cuda.cpp writes the calls. Names are those of
/// src/metal/kernel_formula.h.
namespace zmlx {

__device__ __forceinline__ float to_float(int x) { return static_cast<float>(x); }
__device__ __forceinline__ float to_float(u32 x) { return static_cast<float>(x); }

/// 1 / x to a unit in the last place for normal x and inverse; in one instruction, unlike the exact
/// one.
__device__ __forceinline__ float f_inverse(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float f_sigmoid(float x) {
  const float z = expf(-fabsf(x));
  const float s = f_inverse(1.0f + z);
  return x < 0.0f ? z * s : s;
}
/// log(1 + t) for t from 0 to 1, to 1.1 units in the last place: a polynomial, since log1pf branches.
__device__ __forceinline__ float f_log1p_of_unit(float t) {
  float p = -3.244025866e-03f;
  p = fmaf(p, t, 1.985146478e-02f);
  p = fmaf(p, t, -5.695953965e-02f);
  p = fmaf(p, t, 1.060365513e-01f);
  p = fmaf(p, t, -1.530559361e-01f);
  p = fmaf(p, t, 1.967593879e-01f);
  p = fmaf(p, t, -2.495413423e-01f);
  p = fmaf(p, t, 3.332996368e-01f);
  p = fmaf(p, t, -4.999990165e-01f);
  p = fmaf(p, t, 1.0f);
  return p * t;
}
__device__ __forceinline__ float f_softplus(float x) {
  return fmaxf(x, 0.0f) + f_log1p_of_unit(expf(-fabsf(x)));
}

/// x * 2^power of whole powers.
__device__ __forceinline__ float f_ldexp(float x, float power) {
  return ldexpf(x, static_cast<int>(fminf(fmaxf(power, -300.0f), 300.0f)));
}
/// floor(log2(|x|)); minus infinity of 0 and NaN.
__device__ __forceinline__ float f_ilogb(float x) {
  if (!(fabsf(x) > 0.0f)) return __int_as_float(0xff800000);
  return isinf(x) ? fabsf(x) : static_cast<float>(ilogbf(x));
}

// Where all results are of 16 bits, these stand in for the functions above: relative errors of 2^-15
// and less, and what is below float32's normal numbers becomes 0. A GPU moves a 16-bit element in
// the time of some 30 instructions, and a formula with three of the exact functions takes 60.

__device__ __forceinline__ float h_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float h_exp(float x) { return h_exp2(x * 1.44269504f); }
__device__ __forceinline__ float h_sigmoid(float x) {
  return f_inverse(1.0f + h_exp2(x * -1.44269504f));
}
__device__ __forceinline__ float h_softplus(float x) {
  const float t = h_exp2(fabsf(x) * -1.44269504f);
  float p = -2.386915684e-02f;
  p = fmaf(p, t, 1.012222990e-01f);
  p = fmaf(p, t, -2.100487053e-01f);
  p = fmaf(p, t, 3.252066970e-01f);
  p = fmaf(p, t, -4.993613660e-01f);
  p = fmaf(p, t, 9.999915957e-01f);
  return fmaf(p, t, fmaxf(x, 0.0f));
}
/// Where digits cancel, tanh(x) is x to 2^-15.6.
__device__ __forceinline__ float h_tanh(float x) {
  const float y = fmaf(-2.0f, f_inverse(1.0f + h_exp2(x * 2.88539008f)), 1.0f);
  return fabsf(x) < 0x1p-7f ? x : y;
}
__device__ __forceinline__ float h_divide(float a, float b) {
  float y;
  asm("div.full.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

__device__ __forceinline__ float f_sign(float x) {
  return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x;
}
__device__ __forceinline__ float f_half(float x) { return to_float(round_to<f16>(x)); }
__device__ __forceinline__ float f_bfloat(float x) { return to_float(round_to<bf16>(x)); }
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

/// A number that all elements of a row are divided by: multiplying by its inverse costs a fifth of a
/// division. The scale, a power of two, keeps the inverse within float32's normal numbers.
struct Divisor {
  float scale, inverse;
};
__device__ __forceinline__ Divisor f_divisor(float x) {
  const float a = fabsf(x);
  const float scale = a < 0x1p-100f ? 0x1p64f : a > 0x1p100f ? 0x1p-64f : 1.0f;
  return {scale, 1.0f / (x * scale)};
}
__device__ __forceinline__ float f_quotient(float a, Divisor by) {
  return a * by.scale * by.inverse;
}

/// One value of a row's threads by an associative operation; every thread gets it. Beyond a warp,
/// `shared` holds a value for each, and must not be written again before all have read it.
template <int Lanes, auto Op, typename T>
__device__ __forceinline__ T reduce_lanes(T value, T* shared) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = Op(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  if constexpr (Lanes > 32) {
    constexpr int kWarps = Lanes / 32;
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    value = shared[threadIdx.x % kWarps];
#pragma unroll
    for (int distance = kWarps / 2; distance > 0; distance /= 2) {
      value = Op(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
  }
  return value;
}

}  // namespace zmlx

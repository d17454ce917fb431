#pragma once

#include "scalar.cuh"

/// Activations with the roundings of MLX's compiled element-wise kernels: every operation rounds to
/// T, where T is float32 in numerics "fp32".
namespace zmlx {

template <typename T>
__device__ __forceinline__ T exponential(T x) {
  if constexpr (same<T, float>) {
    return expf(x);
  } else {
    return hexp(x);
  }
}

template <typename T>
__device__ __forceinline__ T sigmoid(T x) {
  const T e = exponential<T>(round_to<T>(fabsf(to_float(x))));
  const T sum = round_to<T>(__fadd_rn(1.0f, to_float(e)));
  const T y = round_to<T>(__fdiv_rn(1.0f, to_float(sum)));
  return to_float(x) < 0 ? y : round_to<T>(__fsub_rn(1.0f, to_float(y)));
}

/// MLX's minimum and maximum: NaN stays.
template <typename T>
__device__ __forceinline__ T at_most(T x, T limit) {
  return to_float(x) != to_float(x) || to_float(x) < to_float(limit) ? x : limit;
}
template <typename T>
__device__ __forceinline__ T at_least(T x, T limit) {
  return to_float(x) != to_float(x) || to_float(x) > to_float(limit) ? x : limit;
}

template <typename T>
__device__ __forceinline__ T swiglu(T gate, T up) {
  return mul(mul(gate, sigmoid(gate)), up);
}

template <typename T>
__device__ __forceinline__ T swiglu_clamped(T gate, T up, float alpha, float limit) {
  const T top = round_to<T>(limit), bottom = round_to<T>(-limit);
  const T g = at_most(gate, top);
  const T u = at_most(at_least(up, bottom), top);
  const T s = sigmoid(mul(round_to<T>(alpha), g));
  return mul(mul(g, s), add(u, round_to<T>(1.0f)));
}

/// The result type's activation of C::kActivation.
template <typename C, typename T>
__device__ __forceinline__ T activate(T gate, T up) {
  if constexpr (C::kClamped) {
    return swiglu_clamped(gate, up, C::kAlpha, C::kLimit);
  } else {
    return swiglu(gate, up);
  }
}

}  // namespace zmlx

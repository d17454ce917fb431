#pragma once

#include "scalar.h"

/// Activations as MLX's compiled element-wise kernels compute them: every operation rounds to T,
/// which is float32 in numerics "fp32".
namespace zmlx {

template <typename T>
METAL_FUNC T sigmoid(T x) {
  auto y = 1 / (1 + metal::precise::exp(metal::abs(x)));
  return (x < 0) ? y : 1 - y;
}

/// MLX's minimum and maximum: NaN stays.
template <typename T>
METAL_FUNC T at_most(T x, T limit) {
  return metal::isnan(x) || x < limit ? x : limit;
}
template <typename T>
METAL_FUNC T at_least(T x, T limit) {
  return metal::isnan(x) || x > limit ? x : limit;
}

template <typename T>
METAL_FUNC T swiglu(T gate, T up) {
  const T s = sigmoid(gate);
  const T silu = gate * s;
  return silu * up;
}

template <typename T>
METAL_FUNC T swiglu_clamped(T gate, T up, float alpha, float limit) {
  const T top = static_cast<T>(limit), bottom = static_cast<T>(-limit);
  const T g = at_most(gate, top);
  const T u = at_most(at_least(up, bottom), top);
  const T scaled = static_cast<T>(alpha) * g;
  const T s = sigmoid(scaled);
  const T linear = u + static_cast<T>(1.0f);
  const T glu = g * s;
  return linear * glu;
}

/// gelu's approximation by tanh, times `up`.
template <typename T>
METAL_FUNC T geglu(T gate, T up) {
  const T power = metal::pow(gate, static_cast<T>(3.0f));
  const T cubed = static_cast<T>(0.044715f) * power;
  const T added = gate + cubed;
  const T inner = static_cast<T>(0.7978845608028654f) * added;
  const T tanh = metal::precise::tanh(inner);
  const T one_plus = static_cast<T>(1.0f) + tanh;
  const T half_gate = static_cast<T>(0.5f) * gate;
  const T gelu = half_gate * one_plus;
  return gelu * up;
}

template <class C, typename T>
METAL_FUNC T activate(T gate, T up) {
  if constexpr (C::kGeglu) {
    return geglu(gate, up);
  } else if constexpr (C::kClamped) {
    return swiglu_clamped(gate, up, as_type<float>(C::kAlphaBits), as_type<float>(C::kLimitBits));
  } else {
    return swiglu(gate, up);
  }
}

}  // namespace zmlx

// Copyright © 2026 Apple Inc.

#pragma once

#include "mlx/backend/cpu/lanes.h"

namespace mlx::core::cpu {

// exp(x) for x <= 0, to about one unit in the last place: simd::exp loses
// digits as |x| grows. Cody and Waite's reduction by ln(2) in two parts, then
// a polynomial over [-ln(2) / 2, ln(2) / 2].
template <int N>
simd::Simd<float, N> exp_of_negative(simd::Simd<float, N> x) {
  using Floats = simd::Simd<float, N>;
  using Ints = simd::Simd<int, N>;
  const Floats smallest(-104.0f); // below, the result rounds to 0
  const auto in_range = simd::select(x >= smallest, x, smallest);
  const Ints n(mul_add(in_range, Floats(1.44269504088896341f), Floats(-0.5f)));
  auto r = mul_add(Floats(n), Floats(-0.693145751953125f), in_range);
  r = mul_add(Floats(n), Floats(-1.428606765330187045e-6f), r);
  const auto r2 = r * r;
  const auto p01 =
      mul_add(Floats(0.166666671633720397949219f), r, Floats(0.5f));
  const auto p23 = mul_add(
      Floats(0.00833336077630519866943359f),
      r,
      Floats(0.0416664853692054748535156f));
  const auto p45 = mul_add(
      Floats(0.000198527617612853646278381f),
      r,
      Floats(0.00139304355252534151077271f));
  const auto p = mul_add(r2 * r2, p45, mul_add(r2, p23, p01));
  const auto y = mul_add(p, r2, r) + Floats(1.0f);
  // 2^n in two steps, as it may be subnormal.
  Ints half = n >> 1;
  Ints first = (half + 127) << 23, second = (n - half + 127) << 23;
  const auto scaled = y * *(Floats*)&first * *(Floats*)&second;
  return simd::select(x >= smallest, scaled, Floats(0.0f));
}

template <int N>
simd::Simd<float, N> stable_sigmoid(simd::Simd<float, N> x) {
  using Floats = simd::Simd<float, N>;
  const auto e = exp_of_negative<N>(-simd::abs(x));
  const auto numerator = simd::select(x >= Floats(0.0f), Floats(1.0f), e);
  const Floats y = numerator / (Floats(1.0f) + e);
  return simd::select(simd::isnan(x), x, y);
}

template <int N>
simd::Simd<float, N> swiglu(simd::Simd<float, N> g, simd::Simd<float, N> u) {
  return g * stable_sigmoid<N>(g) * u;
}

// By the tanh approximation: 0.5 * (1 + tanh(z)) is sigmoid(2 * z).
template <int N>
simd::Simd<float, N> geglu(simd::Simd<float, N> g, simd::Simd<float, N> u) {
  using Floats = simd::Simd<float, N>;
  const auto inner = mul_add(Floats(0.044715f), g * g * g, g);
  return g * stable_sigmoid<N>(inner * Floats(2 * 0.7978845608028654f)) * u;
}

template <int N>
simd::Simd<float, N> swiglu_clamped(
    simd::Simd<float, N> g,
    simd::Simd<float, N> u,
    float alpha,
    float limit) {
  using Floats = simd::Simd<float, N>;
  const Floats top(limit), bottom(-limit);
  g = simd::select(g > top, top, g);
  u = simd::select(u > top, top, u);
  u = simd::select(u < bottom, bottom, u);
  return (u + Floats(1.0f)) * (g * stable_sigmoid<N>(Floats(alpha) * g));
}

} // namespace mlx::core::cpu

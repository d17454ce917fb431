// Copyright © 2026 Apple Inc.

#pragma once

#include "mlx/backend/cpu/simd/simd.h"

namespace mlx::core::cpu {

// Partial sums of a product: as many as a vector register holds. They fix the
// order of sums, so a build for wider registers rounds differently.
#if defined(__AVX512F__)
inline constexpr int num_lanes = 16;
#elif defined(__AVX2__) && defined(__FMA__)
inline constexpr int num_lanes = 8;
#else
inline constexpr int num_lanes = 4;
#endif

template <typename T, int N>
simd::Simd<T, N>
mul_add(simd::Simd<T, N> a, simd::Simd<T, N> b, simd::Simd<T, N> c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return simd::fma(a, b, c);
#else
  return a * b + c; // simd::fma would call a function for each element
#endif
}

// num_lanes floats.
struct Lanes {
  static constexpr int width =
      simd::max_size<float> < num_lanes ? simd::max_size<float> : num_lanes;
  static constexpr int count = num_lanes / width;
  using Vector = simd::Simd<float, width>;

  Vector at[count];

  static Lanes zero() {
    Lanes out;
    for (auto& v : out.at) {
      v = Vector(0.0f);
    }
    return out;
  }
  static Lanes load(const float* from) {
    Lanes out;
    for (int i = 0; i < count; ++i) {
      out.at[i] = simd::load<float, width>(from + i * width);
    }
    return out;
  }
  void store(float* to) const {
    for (int i = 0; i < count; ++i) {
      simd::store<float, width>(to + i * width, at[i]);
    }
  }
  Lanes operator+(const Lanes& other) const {
    Lanes out;
    for (int i = 0; i < count; ++i) {
      out.at[i] = at[i] + other.at[i];
    }
    return out;
  }
  Lanes operator*(const Lanes& other) const {
    Lanes out;
    for (int i = 0; i < count; ++i) {
      out.at[i] = at[i] * other.at[i];
    }
    return out;
  }
  // The sum of all lanes, halving their number each time.
  float sum() const {
    float values[num_lanes];
    store(values);
    for (int n = num_lanes / 2; n > 0; n /= 2) {
      for (int i = 0; i < n; ++i) {
        values[i] += values[i + n];
      }
    }
    return values[0];
  }
};

inline Lanes mul_add(const Lanes& a, const Lanes& b, const Lanes& c) {
  Lanes out;
  for (int i = 0; i < Lanes::count; ++i) {
    out.at[i] = mul_add(a.at[i], b.at[i], c.at[i]);
  }
  return out;
}

} // namespace mlx::core::cpu

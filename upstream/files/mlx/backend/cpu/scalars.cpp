// Copyright © 2026 Apple Inc.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "mlx/backend/cpu/scalars.h"
#include "mlx/types/half_types.h"

namespace mlx::core::cpu {

namespace {

float from_e4m3(uint8_t code) {
  const int magnitude = code & 127, mantissa = code & 7;
  if (magnitude == 127) {
    return std::numeric_limits<float>::quiet_NaN();
  }
  const float value = magnitude < 8
      ? std::ldexp(static_cast<float>(mantissa), -9)
      : std::ldexp(static_cast<float>(8 + mantissa), (magnitude >> 3) - 10);
  return code & 128 ? -value : value;
}

float from_e8m0(uint8_t code) {
  const uint32_t bits = code == 0 ? 0x00400000u : uint32_t{code} << 23;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

} // namespace

float float_from(const void* from, Scalar type) {
  switch (type) {
    case Scalar::f32:
      return *static_cast<const float*>(from);
    case Scalar::f16:
      return static_cast<float>(*static_cast<const float16_t*>(from));
    case Scalar::bf16:
      return static_cast<float>(*static_cast<const bfloat16_t*>(from));
    case Scalar::e8m0:
      return from_e8m0(*static_cast<const uint8_t*>(from));
    default:
      return from_e4m3(*static_cast<const uint8_t*>(from));
  }
}

void floats_to(const float* from, size_t count, Scalar type, void* to) {
  if (type == Scalar::f32) {
    std::copy_n(from, count, static_cast<float*>(to));
  } else if (type == Scalar::f16) {
    std::copy_n(from, count, static_cast<float16_t*>(to));
  } else {
    std::copy_n(from, count, static_cast<bfloat16_t*>(to));
  }
}

void fill_nan(size_t count, Scalar type, void* to) {
  const std::vector<float> nan(count, std::numeric_limits<float>::quiet_NaN());
  floats_to(nan.data(), count, type, to);
}

} // namespace mlx::core::cpu

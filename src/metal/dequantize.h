#pragma once

#include "scalar.h"

/// Codes in memory, and what they stand for.
namespace zmlx {

/// Reads `Bytes` bytes, which lie at a multiple of their largest power of two (at most 4, or 8 if
/// `Wide`), into words.
template <int Bytes, bool Wide>
METAL_FUNC void load_codes(const device uint8_t* from, thread uint32_t* words) {
  if constexpr (Wide && Bytes % 8 == 0) {
#pragma unroll
    for (int i = 0; i < Bytes / 8; ++i) {
      const uint2 two = reinterpret_cast<const device uint2*>(from)[i];
      words[2 * i] = two.x, words[2 * i + 1] = two.y;
    }
  } else if constexpr (Bytes % 4 == 0) {
#pragma unroll
    for (int i = 0; i < Bytes / 4; ++i) {
      words[i] = reinterpret_cast<const device uint32_t*>(from)[i];
    }
  } else {
#pragma unroll
    for (int i = 0; i < (Bytes + 3) / 4; ++i) words[i] = 0;
    if constexpr (Bytes % 2 == 0) {
#pragma unroll
      for (int i = 0; i < Bytes / 2; ++i) {
        const uint32_t half_word = reinterpret_cast<const device uint16_t*>(from)[i];
        words[i / 2] |= half_word << 16 * (i % 2);
      }
    } else {
#pragma unroll
      for (int i = 0; i < Bytes; ++i) {
        words[i / 4] |= static_cast<uint32_t>(from[i]) << 8 * (i % 4);
      }
    }
  }
}

METAL_FUNC uint32_t byte_of(const thread uint32_t* words, int i) {
  return words[i / 4] >> 8 * (i % 4) & 0xff;
}

/// Sign, 2 bits exponent, 1 bit mantissa: those of a float16 whose exponent is 14 lower, subnormal
/// numbers included.
METAL_FUNC float fp4_to_float(uint32_t code) {
  const half magnitude = as_type<half>(static_cast<uint16_t>((code & 7) << 9)) * half(16384.0f);
  return static_cast<float>(code & 8 ? -magnitude : magnitude);
}

/// Sign, 4 bits exponent, 3 bits mantissa: those of a float16 whose exponent is 8 lower, but for
/// NaN, all whose bits are set.
METAL_FUNC float e4m3_to_float(uint32_t code) {
  const uint32_t magnitude = code & 127;
  const uint32_t not_a_number = magnitude == 127 ? 0x4000 : 0;
  const uint16_t bits = static_cast<uint16_t>(magnitude << 7 | not_a_number | (code & 128) << 8);
  return static_cast<float>(as_type<half>(bits) * half(256.0f));
}

/// A power of two. Code 255 becomes infinity, as in MLX's kernels for Metal.
METAL_FUNC float e8m0_to_float(uint32_t code) {
  return as_type<float>(code == 0 ? 0x00400000u : code << 23);
}

}  // namespace zmlx

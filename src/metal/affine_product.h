#pragma once

#include "dequantize.h"

/// A lane's share of a row's product in mode affine, in the order of MLX's `qdot`: codes stay where
/// they are in their byte (4 bits: half word), and x is divided by the power of two that this
/// multiplies them by.
namespace zmlx {

template <class C, bool Affine>
struct LaneProduct;

template <class C>
struct LaneProduct<C, true> {
  using Scale = typename C::T;
  static constant constexpr const int kBits = C::kBits;
  static constant constexpr const int kOdd = (kBits & (kBits - 1)) != 0;  // 3, 5 and 6 bits
  /// Codes that MLX takes as a unit.
  static constant constexpr const int kPack = !kOdd ? 32 / kBits : kBits == 6 ? 4 : 8;
  static constant constexpr const int kValues = kPack * C::kPacks;  // of a lane, in a step
  static constant constexpr const int kBytes = kValues * kBits / 8;

  struct Row {
    uint32_t words[(kBytes + 3) / 4];
    float scale, bias;
  };
  struct X {
    float at[kValues];
    float sum;
  };

  /// The low bit of code i in its byte or half word.
  static METAL_FUNC constexpr int shift(int i) { return kBits == 4 ? 4 * (i % 4) : kBits * i % 8; }

  static METAL_FUNC void load_x(const device typename C::T* x, thread X& out) {
    typename C::T values[kValues];
    load_values<kValues, C::kWideX>(x, values);
    out.sum = 0;
    if constexpr (kBits == 1) {
      // MLX adds eight in the type of x.
#pragma unroll
      for (int i = 0; i < kValues; i += 8) {
        out.sum += values[i] + values[i + 1] + values[i + 2] + values[i + 3] + values[i + 4] +
                   values[i + 5] + values[i + 6] + values[i + 7];
      }
    } else if constexpr (kBits == 8) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) out.sum += static_cast<float>(values[i]);
    } else if constexpr (kPack == 8 && kOdd) {
#pragma unroll
      for (int i = 0; i < kValues; i += 8) {
        out.sum += float(values[i]) + float(values[i + 1]) + float(values[i + 2]) +
                   float(values[i + 3]) + float(values[i + 4]) + float(values[i + 5]) +
                   float(values[i + 6]) + float(values[i + 7]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kValues; i += 4) {
        out.sum +=
            float(values[i]) + float(values[i + 1]) + float(values[i + 2]) + float(values[i + 3]);
      }
    }
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const bool scaled = kBits != 1 && kBits != 8 && shift(i) != 0;
      out.at[i] = scaled ? values[i] / static_cast<float>(1 << shift(i)) : float(values[i]);
    }
  }

  template <typename W>
  static METAL_FUNC void load_row(const thread W& experts, const device uint8_t* codes, long group,
                                  thread Row& row) {
    load_codes<kBytes, C::kWide>(codes, row.words);
    row.scale = experts.scales[group];
    row.bias = experts.biases[group];
  }

  static METAL_FUNC float dot(const thread X& x, const thread Row& row) {
    float accum = 0;
    if constexpr (kBits == 1) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        accum += metal::select(0.0f, x.at[i], bool(row.words[i / 32] >> i % 32 & 1));
      }
    } else if constexpr (kBits == 8) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) accum += x.at[i] * byte_of(row.words, i);
    } else if constexpr (!kOdd) {
      constexpr int kUnit = 4 * kBits, kMask = (1 << kBits) - 1;
#pragma unroll
      for (int i = 0; i < kValues / 4; ++i) {
        const uint32_t unit = row.words[i * kUnit / 32] >> i * kUnit % 32;
        accum += (x.at[4 * i] * (unit & kMask) + x.at[4 * i + 1] * (unit & kMask << kBits) +
                  x.at[4 * i + 2] * (unit & kMask << 2 * kBits) +
                  x.at[4 * i + 3] * (unit & kMask << 3 * kBits));
      }
    } else {
      constexpr int kMask = (1 << kBits) - 1;
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        const int byte = i * kBits / 8, mask = kMask << shift(i);
        accum += (byte_of(row.words, byte) & mask & 0xff) * x.at[i];
        if (mask > 0xff) {
          accum += (byte_of(row.words, byte + 1) & mask >> 8) * (x.at[i] * 256.0f);
        }
      }
    }
    return row.scale * accum + x.sum * row.bias;
  }
};

}  // namespace zmlx

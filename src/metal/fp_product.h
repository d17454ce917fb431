#pragma once

#include "affine_product.h"

/// A lane's share of a row's product in the modes mxfp4, mxfp8 and nvfp4, in the order of MLX's
/// `qdot` for them.
namespace zmlx {

template <class C>
struct LaneProduct<C, false> {
  using Scale = uint8_t;
  static constant constexpr const int kPack = 32 / C::kBits;
  static constant constexpr const int kValues = kPack * C::kPacks;
  static constant constexpr const int kBytes = kValues * C::kBits / 8;

  struct Row {
    uint32_t words[kBytes / 4];
    float scale;
  };
  struct X {
    float at[kValues];
  };

  static METAL_FUNC void load_x(const device typename C::T* x, thread X& out) {
    typename C::T values[kValues];
    load_values<kValues, C::kWideX>(x, values);
#pragma unroll
    for (int i = 0; i < kValues; ++i) out.at[i] = values[i];
  }

  template <typename W>
  static METAL_FUNC void load_row(const thread W& experts, const device uint8_t* codes, long group,
                                  thread Row& row) {
    load_codes<kBytes, C::kWide>(codes, row.words);
    const uint32_t scale = experts.scales[group];
    row.scale = C::kGroup == 16 ? e4m3_to_float(scale) : e8m0_to_float(scale);
  }

  static METAL_FUNC float dot(const thread X& x, const thread Row& row) {
    float accum = 0;
    if constexpr (C::kBits == 4) {
#pragma unroll
      for (int i = 0; i < kValues / 4; ++i) {
        const uint32_t unit = row.words[i / 2] >> 16 * (i % 2);
        accum += (x.at[4 * i] * fp4_to_float(unit) + x.at[4 * i + 1] * fp4_to_float(unit >> 4) +
                  x.at[4 * i + 2] * fp4_to_float(unit >> 8) +
                  x.at[4 * i + 3] * fp4_to_float(unit >> 12));
      }
    } else {
#pragma unroll
      for (int i = 0; i < kValues; ++i) accum += x.at[i] * e4m3_to_float(byte_of(row.words, i));
    }
    return row.scale * accum;
  }
};

}  // namespace zmlx

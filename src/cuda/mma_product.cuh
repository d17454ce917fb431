#pragma once

#include "dequantize.cuh"
#include "experts.cuh"

/// Products in the order of MLX's `qmm_sm80`: tensor-core products of 16 elements of the inner
/// dimension (m16n8k16, float32 accumulators), blocks ascending from zero.
///
/// Here weights are the operand with 16 rows, and up to 8 activation rows that share an expert the
/// other one; an element's result depends neither on its place in the tile nor on which operand is
/// which. A warp makes 16 rows. Codes pass through shared memory, which a warp fills for itself
/// some stages ahead.
///
/// Of a block's 16 elements a thread holds t, t + 4, t + 8 and t + 12 (t: its place among the four
/// threads of a row), which in packed codes are one shift apart; activations are staged to match.
/// The halves of a block stay apart, because before sm_90 they are added one after the other.
namespace zmlx {

template <typename T>
__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  if constexpr (same<T, bf16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

template <class C>
struct MmaLayout {
  static constexpr int kRows = 16;   // of a warp
  static constexpr int kTokens = 8;  // of a tile
  static constexpr int kStaged = C::kMaxTokens < kTokens ? C::kMaxTokens : kTokens;
  static constexpr int kRowBytes = C::K / 8 * C::kBits;
  static constexpr int kStageBytes = 128;  // of one row
  static constexpr int kStageK = kStageBytes * 8 / C::kBits;
  static constexpr int kStages = (C::K + kStageK - 1) / kStageK;
  static constexpr int kGroups = C::K / C::kGroup;     // of a row
  static constexpr int kCodes = kRows * kStageBytes;   // bytes of one stage
  static constexpr int kScales = kRows * kGroups * 2;  // bytes of a tile's scales
  static constexpr int kUnits = C::K / 8;              // 16 bytes of one activation row
};

/// Where, in units of 16 bytes, a staged row keeps what thread t needs of blocks 2 * pair and
/// 2 * pair + 1. Swizzled: neither the copying in nor the reading has bank conflicts.
__device__ __forceinline__ int activation_unit(int token, int pair, int t) {
  return (pair * 4 + (t ^ (pair >> 1 & 3))) ^ (token & 1) << 2;
}

/// Stages 8 activations (half a block), element 8 * `half` and on, of one row.
__device__ __forceinline__ void store_activations(u32* row, int token, int half, uint4 x) {
  const uint4 v = pair_by_four(x);
  const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    row[activation_unit(token, half >> 2, t) * 4 + (half & 3)] = words[t];
  }
}

/// 16 rows of one expert's matrix, read by a warp in stages.
template <class C>
struct WeightTile {
  using T = typename C::T;
  using L = MmaLayout<C>;
  const u8* codes = nullptr;
  const T* scales = nullptr;
  const T* biases = nullptr;

  WeightTile() = default;
  /// The same place in memory, of a product with other constants.
  template <class Other>
  __device__ __forceinline__ explicit WeightTile(const WeightTile<Other>& other)
      : codes(other.codes), scales(other.scales), biases(other.biases) {}
  __device__ __forceinline__ WeightTile(const Experts<T, T>& experts, u32 expert, int n)
      : codes(reinterpret_cast<const u8*>(experts.w + expert * experts.w_stride) +
              static_cast<long long>(n) * L::kRowBytes),
        scales(experts.scales + expert * experts.scales_stride + n * L::kGroups),
        biases(experts.biases + expert * experts.biases_stride + n * L::kGroups) {}

  __device__ __forceinline__ void copy_stage(u8* shared, int stage) const {
    const int lane = threadIdx.x % 32, chunk = lane % 8;
    const int at = stage * L::kStageBytes + chunk * 16;
    if (L::kRowBytes % L::kStageBytes != 0 && at >= L::kRowBytes) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = i * 4 + lane / 8;
      copy_async16(shared + row * L::kStageBytes + ((chunk ^ (row & 7)) << 4),
                   codes + static_cast<long long>(row) * L::kRowBytes + at);
    }
  }

  /// Scales, then biases, of all 16 rows: each one run of memory.
  __device__ __forceinline__ void copy_scales(u8* shared) const {
    for (int i = threadIdx.x % 32; i < L::kScales / 16; i += 32) {
      copy_async16(shared + i * 16, reinterpret_cast<const u8*>(scales) + i * 16);
      copy_async16(shared + L::kScales + i * 16, reinterpret_cast<const u8*>(biases) + i * 16);
    }
  }
};

/// Whether codes of a tile need no conversion: see `is_linear`. If so, the scales are made what that
/// takes, once for all who read them. For a whole warp.
template <class C>
__device__ __forceinline__ bool make_linear(u8* scales) {
  if constexpr (kHasLinear<typename C::T, C::kBits>) {
    constexpr int kUnits = MmaLayout<C>::kScales / 16;
    uint4* all = reinterpret_cast<uint4*>(scales);
    bool linear = true;
    for (int i = threadIdx.x % 32; i < kUnits; i += 32) {
      const uint4 v = all[i];
      for (const u32 pair : {v.x, v.y, v.z, v.w}) {
        linear &= is_linear(static_cast<u16>(pair)) && is_linear(static_cast<u16>(pair >> 16));
      }
    }
    if (!__all_sync(0xffffffffu, linear)) return false;
    for (int i = threadIdx.x % 32; i < kUnits; i += 32) {
      const uint4 v = all[i];
      all[i] = {linear_scale(v.x), linear_scale(v.y), linear_scale(v.z), linear_scale(v.w)};
    }
    __syncwarp();
    return true;
  } else {
    return false;
  }
}

/// Multiplies one stage of a weight tile with staged activations.
template <class C>
class MmaStage {
  using T = typename C::T;
  using L = MmaLayout<C>;
  static constexpr int kPairs = L::kStageK / 32;  // pairs of blocks
  // Whether scales of two groups can be read as one word.
  static constexpr bool kPacked = L::kStageK / C::kGroup % 2 == 0 && L::kGroups % 2 == 0 &&
                                  L::kStageK > C::kGroup;

 public:
  /// @param linear       what `make_linear` said of the tile.
  /// @param codes        the stage, as `WeightTile::copy_stage` left it.
  /// @param scales       of the tile, as `WeightTile::copy_scales` and `make_linear` left them.
  /// @param row          activations of the token in this thread's column, staged.
  /// @param token        what the row was staged for.
  /// @param pair_offset  pairs of blocks in the row before this stage.
  __device__ __forceinline__ static void run(bool linear, const u8* codes, const u8* scales,
                                             int stage, const u32* row, int token, int pair_offset,
                                             float (&sums)[4]) {
    if (kHasLinear<T, C::kBits> && linear) {
      run_as<kHasLinear<T, C::kBits>>(codes, scales, stage, row, token, pair_offset, sums);
    } else {
      run_as<false>(codes, scales, stage, row, token, pair_offset, sums);
    }
  }

 private:
  template <bool Linear>
  __device__ __forceinline__ static void run_as(const u8* codes, const u8* scales, int stage,
                                                const u32* row, int token, int pair_offset,
                                                float (&sums)[4]) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint4* x = reinterpret_cast<const uint4*>(row);
    const u8* first = codes + g * L::kStageBytes;
    const u16* s = reinterpret_cast<const u16*>(scales) + g * L::kGroups +
                   stage * L::kStageK / C::kGroup;
    u32 scale_words[2], bias_words[2];
    Group<T, C::kBits, Linear> groups[2];
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      const int k = stage * L::kStageK + p * 32;
      if (C::K % L::kStageK != 0 && k >= C::K) return;
      if (p == 0 || p * 32 % C::kGroup == 0) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int at = p * 32 / C::kGroup;
          const u16* of_row = s + r * 8 * L::kGroups + at;
          if (!kPacked || at % 2 == 0) {
            scale_words[r] = load_scales(of_row);
            bias_words[r] = load_scales(of_row + L::kRows * L::kGroups);
          }
          const u32 select = kPacked && at % 2 ? 0x3232 : 0x1010;
          groups[r] = {__byte_perm(scale_words[r], 0, select),
                       __byte_perm(bias_words[r], 0, select)};
        }
      }
      const uint4 v = x[activation_unit(token, pair_offset + p, t)];
      u32 a[2][4];
      dequantize(first, p, g, t, groups, a);
      mma<T>(sums, a[0], v.x, v.y);
      mma<T>(sums, a[1], v.z, v.w);
    }
  }

  /// Of one group, or of two if they are packed.
  static __device__ __forceinline__ u32 load_scales(const u16* s) {
    return kPacked ? *reinterpret_cast<const u32*>(s) : *s;
  }

  static __device__ __forceinline__ uint4 chunk_of(const u8* row, int chunk, int g) {
    return *reinterpret_cast<const uint4*>(row + ((chunk ^ g) << 4));
  }

  /// The operands of blocks 2 * p and 2 * p + 1.
  template <bool Linear>
  static __device__ __forceinline__ void dequantize(const u8* first, int p, int g, int t,
                                                    const Group<T, C::kBits, Linear> (&groups)[2],
                                                    u32 (&a)[2][4]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const u8* row = first + r * 8 * L::kStageBytes;
      if constexpr (C::kBits == 4) {
        const uint4 v = chunk_of(row, p, g);
        const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int half = 0; half < 4; ++half) {
          a[half / 2][half % 2 * 2 + r] = groups[r].by_four(words[half], 4 * t);
        }
      } else {
        const u32 select = t * 0x11u | (t + 4) * 0x1100u;
#pragma unroll
        for (int block = 0; block < 2; ++block) {
          const uint4 v = chunk_of(row, 2 * p + block, g);
          a[block][r] = groups[r].bytes(__byte_perm(v.x, v.y, select) & 0x00ff00ffu);
          a[block][2 + r] = groups[r].bytes(__byte_perm(v.z, v.w, select) & 0x00ff00ffu);
        }
      }
    }
  }
};

}  // namespace zmlx

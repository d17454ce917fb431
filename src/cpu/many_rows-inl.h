// Many rows of activations times rows of quantized weights: a block of weights is dequantized into
// the first-level cache, then multiplied like any float32 matrix, by tiles of dot products held in
// registers.

#if defined(ZMLX_CPU_MANY_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_CPU_MANY_ROWS_INL_H_
#undef ZMLX_CPU_MANY_ROWS_INL_H_
#else
#define ZMLX_CPU_MANY_ROWS_INL_H_
#endif

#include <algorithm>

#include "cpu/block_product.h"
#include "cpu/few_rows-inl.h"
#include "cpu/unpack-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// A block of weights: 8 rows by up to 512 columns of float32, 16 KiB. With a tile's activations it
/// stays in a first-level cache of 32 KiB, and each activation read from beyond it is used 8 times.
constexpr size_t kBlockRows = 8;
constexpr size_t kBlockColumns = 512;
/// Sums run over a block's columns before they are added up. MLX sums the products of each group
/// apart in the fp modes; to be no less accurate than that, blocks are shorter there. Half as long
/// where a row would be one block, or lanes are few: sums as long as MLX's have its error, 0.95 to
/// 1.01 times; half as long, 0.78 to 0.84. Halving them always costs AVX2 a tenth of the speed.
template <Format kFormat>
HWY_INLINE size_t SumColumns(size_t group_size, size_t K) {
  if (is_affine(kFormat)) return kBlockColumns;
  const size_t columns = HWY_MIN(kBlockColumns, group_size * kLanes);
  return kLanes == 4 || K <= columns ? columns / 2 : columns;
}
constexpr size_t kTileRows = 4;
/// Tokens of a tile: kTileRows * kTileTokens sums leave room for the operands among 16 registers,
/// or among the 32 of AVX-512 and NEON.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr size_t kTileTokens = 6;
#else
constexpr size_t kTileTokens = 3;
#endif
/// Tokens whose sums are kept at a time.
constexpr size_t kChunkTokens = 48;

template <Format kFormat, int kPosition = 0>
HWY_INLINE void DequantizeUnit(typename Unpack<kFormat>::Raw raw, VF scale, VF bias, float* to) {
  using U = Unpack<kFormat>;
  const auto q = U::template Plain<kPosition>(raw);
  const auto w = is_affine(kFormat) ? hn::MulAdd(q, scale, bias) : hn::Mul(q, scale);
  hn::Store(w, DF(), to + kPosition * kLanes);
  if constexpr (kPosition + 1 < U::kPositions) {
    DequantizeUnit<kFormat, kPosition + 1>(raw, scale, bias, to);
  }
}

/// Scales and biases of a block's rows, for one chunk of groups.
template <Format kFormat>
struct BlockGroups {
  HWY_ALIGN GroupBuffer scales[kBlockRows];
  HWY_ALIGN GroupBuffer biases[is_affine(kFormat) ? kBlockRows : 1];

  HWY_INLINE void Load(const Experts& experts, size_t expert, size_t n, size_t rows, size_t g) {
    const size_t count = HWY_MIN(kChunkGroups, experts.groups() - g);
    for (size_t r = 0; r < rows; ++r) {
      LoadGroups(experts.scales, expert, n + r, g, count, scales[r]);
      if (is_affine(kFormat)) LoadGroups(experts.biases, expert, n + r, g, count, biases[r]);
    }
  }
};

/// Units [u0, u1) of one row of weights to float32, in the order of unpacking.
/// @param chunk_u0  the first unit whose groups `scales` and `biases` hold.
template <Format kFormat, bool kBroadcast>
HWY_NOINLINE void DequantizeRow(const Experts& experts, const uint8_t* from, size_t u0, size_t u1,
                                const PerLane<kFormat, kBroadcast>& per_lane, const float* scales,
                                const float* biases, size_t chunk_u0, float* to) {
  using U = Unpack<kFormat>;
  constexpr size_t kColumns = UnitColumns<kFormat>();
  const size_t row_bytes = experts.row_bytes();
  const size_t safe = SafeUnits<kFormat>(row_bytes);
  const size_t ahead = BytesAhead(experts, kBlockRows);
  HWY_ALIGN uint8_t copy[kTailBytes<kFormat>];
  size_t u = u0;
  for (size_t end : {HWY_MIN(u1, safe), u1}) {
    for (; u < end; ++u, to += kColumns) {
      const auto scale = hn::Mul(per_lane(scales, u - chunk_u0), hn::Set(DF(), U::kUniform));
      const auto bias = is_affine(kFormat) ? per_lane(biases, u - chunk_u0) : hn::Zero(DF());
      hwy::Prefetch(from + u * U::kBytes + ahead);
      DequantizeUnit<kFormat>(U::Load(from + u * U::kBytes), scale, bias, to);
    }
    if (u < u1) from = CopyTail<kFormat>(from, row_bytes, safe, Units<kFormat>(experts.K), copy);
  }
}

/// sums[r][t] += w[r] . x[t] over `columns` columns, lane by lane.
template <size_t kRows, size_t kTokens>
HWY_INLINE void MultiplyTile(const float* HWY_RESTRICT w, const float* HWY_RESTRICT x,
                             size_t x_stride, size_t columns, float* HWY_RESTRICT sums) {
  const DF df;
  VF acc[kRows][kTokens];
  for (auto& row : acc) {
    for (auto& sum : row) sum = hn::Zero(df);
  }
  for (size_t k = 0; k < columns; k += kLanes) {
    VF v[kTokens];
    for (size_t t = 0; t < kTokens; ++t) v[t] = hn::LoadU(df, x + t * x_stride + k);
    for (size_t r = 0; r < kRows; ++r) {
      const auto weight = hn::Load(df, w + r * kBlockColumns + k);
      for (size_t t = 0; t < kTokens; ++t) acc[r][t] = hn::MulAdd(weight, v[t], acc[r][t]);
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t t = 0; t < kTokens; ++t) {
      float* sum = sums + (t * kBlockRows + r) * kLanes;
      hn::Store(hn::Add(hn::Load(df, sum), acc[r][t]), df, sum);
    }
  }
}

/// The same for all rows of a block and kTokens tokens.
template <size_t kTokens>
HWY_NOINLINE void MultiplyRows(const float* w, size_t rows, const float* x, size_t x_stride,
                               size_t columns, float* sums) {
  size_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    MultiplyTile<kTileRows, kTokens>(w + r * kBlockColumns, x, x_stride, columns,
                                     sums + r * kLanes);
  }
  for (; r < rows; ++r) {
    MultiplyTile<1, kTokens>(w + r * kBlockColumns, x, x_stride, columns, sums + r * kLanes);
  }
}

/// The same for `tokens` tokens, at most kTokens.
template <size_t kTokens = kTileTokens>
HWY_INLINE void MultiplyTokens(const float* w, size_t rows, const float* x, size_t x_stride,
                               size_t tokens, size_t columns, float* sums) {
  if constexpr (kTokens > 1) {
    if (tokens < kTokens) {
      return MultiplyTokens<kTokens - 1>(w, rows, x, x_stride, tokens, columns, sums);
    }
  }
  MultiplyRows<kTokens>(w, rows, x, x_stride, columns, sums);
}

/// The same for any number of tokens, by the largest tiles. A token is not left alone: its four
/// sums would wait for one another.
HWY_INLINE void MultiplyBlock(const float* w, size_t rows, const float* x, size_t x_stride,
                              size_t tokens, size_t columns, float* sums) {
  for (size_t t = 0; t < tokens;) {
    size_t count = HWY_MIN(kTileTokens, tokens - t);
    if (count == kTileTokens && tokens - t == kTileTokens + 1) --count;
    MultiplyTokens(w, rows, x + t * x_stride, x_stride, count, columns,
                   sums + t * kBlockRows * kLanes);
    t += count;
  }
}

/// Rows [n, n + rows) of weights, at most a block, times all rows of activations.
template <Format kFormat, bool kBroadcast>
HWY_NOINLINE void ManyRowsBlock(const Experts& experts, size_t expert, const PreparedRows& x,
                                size_t n, size_t rows, float* y, size_t y_stride) {
  constexpr size_t kColumns = UnitColumns<kFormat>();
  static_assert(kBlockColumns % kColumns == 0);
  const size_t block_units = SumColumns<kFormat>(experts.group_size, experts.K) / kColumns;
  const size_t chunk_units = kChunkGroups * experts.group_size / kColumns;
  const size_t units = Units<kFormat>(experts.K);
  const PerLane<kFormat, kBroadcast> per_lane(experts.group_size);
  HWY_ALIGN float w[kBlockRows * kBlockColumns];
  HWY_ALIGN float sums[kChunkTokens * kBlockRows * kLanes];
  BlockGroups<kFormat> groups;
  for (size_t t0 = 0; t0 < x.rows; t0 += kChunkTokens) {
    const size_t tokens = HWY_MIN(kChunkTokens, x.rows - t0);
    std::fill(sums, sums + tokens * kBlockRows * kLanes, 0.0f);
    for (size_t u = 0, chunk_u0 = 0; u < units; u += block_units) {
      if (u % chunk_units == 0) {
        chunk_u0 = u;
        groups.Load(experts, expert, n, rows, u * kColumns / experts.group_size);
      }
      const size_t count = HWY_MIN(block_units, units - u);
      for (size_t r = 0; r < rows; ++r) {
        DequantizeRow<kFormat, kBroadcast>(
            experts, experts.row(expert, n + r), u, u + count, per_lane, groups.scales[r],
            groups.biases[is_affine(kFormat) ? r : 0], chunk_u0, w + r * kBlockColumns);
      }
      MultiplyBlock(w, rows, x.values + t0 * x.stride + u * kColumns, x.stride, tokens,
                    count * kColumns, sums);
    }
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t r = 0; r < rows; ++r) {
        const auto sum = hn::Load(DF(), sums + (t * kBlockRows + r) * kLanes);
        y[(t0 + t) * y_stride + r] = hn::GetLane(hn::SumOfLanes(DF(), sum));
      }
    }
  }
}

template <Format kFormat, bool kBroadcast>
HWY_INLINE void ManyRowsOf(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0,
                           size_t n1, float* y, size_t y_stride) {
  for (size_t n = n0; n < n1; n += kBlockRows) {
    ManyRowsBlock<kFormat, kBroadcast>(experts, expert, x, n, HWY_MIN(kBlockRows, n1 - n),
                                       y + n - n0, y_stride);
  }
}

template <Format kFormat>
HWY_INLINE void ManyRows(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0,
                         size_t n1, float* y, size_t y_stride) {
  if (UnitInOneGroup<kFormat>(experts.group_size)) {
    if constexpr (UnitInOneGroup<kFormat>(kMaxGroupSize)) {
      ManyRowsOf<kFormat, true>(experts, expert, x, n0, n1, y, y_stride);
    }
  } else {
    if constexpr (!UnitInOneGroup<kFormat>(kMinGroupSize<kFormat>)) {
      ManyRowsOf<kFormat, false>(experts, expert, x, n0, n1, y, y_stride);
    }
  }
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

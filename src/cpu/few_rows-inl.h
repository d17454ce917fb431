// Up to four rows of activations times rows of quantized weights, which are read once and
// multiplied as they are unpacked.
//
//   y[t][n] = sum over units u and lanes:  scale * (sum over positions i: q[i] * x[i])
//                                        + bias  * (sum over positions i: x[i])
//
// so scale and bias cost one multiply-add each per unit, not per weight, and the two parts cancel
// lane by lane, before they grow. Against a float64 oracle this has 0.3 to 0.5 times the error of
// MLX's float32 path at 2,048 columns, but up to 4 times at 128, where its sums are as short as
// ours: there weights are dequantized one by one (kFactored = false). On Zen 3 a vector of 4-bit
// weights costs three instructions (and, convert, multiply-add), of which it does some three a
// cycle, though each alone can be had two to four times a cycle.

#if defined(ZMLX_CPU_FEW_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_CPU_FEW_ROWS_INL_H_
#undef ZMLX_CPU_FEW_ROWS_INL_H_
#else
#define ZMLX_CPU_FEW_ROWS_INL_H_
#endif

#include <cstring>

#include "cpu/block_product.h"
#include "cpu/unpack-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Scales and biases are converted for so many groups at a time.
constexpr size_t kChunkGroups = 256;
/// float32 scales or biases of one row of weights; a vector may be read past the last.
using GroupBuffer = float[kChunkGroups + 2 * kLanes];

/// The group sizes that formats have; they say which of two kernels can occur at all.
constexpr size_t kMaxGroupSize = 128;
template <Format kFormat>
constexpr size_t kMinGroupSize = kFormat == Format::fp4 ? 16 : 32;
template <Format kFormat>
constexpr bool UnitInOneGroup(size_t group_size) {
  return group_size / Unpack<kFormat>::kPositions >= kLanes;
}

/// Gives each lane of a unit the value of its group. A unit lies within one group if kBroadcast;
/// else it spans several, lane by lane.
template <Format kFormat, bool kBroadcast>
class PerLane {
 public:
  explicit HWY_INLINE PerLane(size_t group_size)
      : shift_(Log2(kBroadcast ? group_size / UnitColumns<kFormat>()
                               : UnitColumns<kFormat>() / group_size)),
        group_of_lane_(GroupOfLane(group_size / Unpack<kFormat>::kPositions)) {}

  HWY_INLINE VF operator()(const float* groups, size_t u) const {
    if constexpr (kBroadcast) {
      return hn::Set(DF(), groups[u >> shift_]);
    } else {
      const auto several = hn::LoadU(DF(), groups + (u << shift_));
      return hn::TableLookupLanes(several, group_of_lane_);
    }
  }

 private:
  using Indices = decltype(hn::IndicesFromVec(DF(), hn::Zero(DI())));
  static constexpr int Log2(size_t power) { return power > 1 ? 1 + Log2(power / 2) : 0; }
  static HWY_INLINE Indices GroupOfLane(size_t lanes_per_group) {
    HWY_ALIGN int32_t group[kLanes];
    for (size_t lane = 0; lane < kLanes; ++lane) {
      group[lane] = kBroadcast ? 0 : static_cast<int32_t>(lane / lanes_per_group);
    }
    return hn::SetTableIndices(DF(), group);
  }

  int shift_;  ///< log2 of units per group, or of groups per unit
  Indices group_of_lane_;
};

/// products[r][t] = sum over positions from kPosition on: weight[r] * x[t].
template <Format kFormat, int kRows, int kTokens, int kPosition = 0>
HWY_INLINE void MultiplyUnit(const typename Unpack<kFormat>::Raw (&raw)[kRows], const float* x,
                             size_t x_stride, VF (&products)[kRows][kTokens]) {
  using U = Unpack<kFormat>;
  VF v[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    v[t] = hn::LoadU(DF(), x + t * x_stride + kPosition * kLanes);
  }
  for (int r = 0; r < kRows; ++r) {
    const auto q = U::template Get<kPosition>(raw[r]);
    for (int t = 0; t < kTokens; ++t) {
      products[r][t] = kPosition == 0 ? hn::Mul(q, v[t]) : hn::MulAdd(q, v[t], products[r][t]);
    }
  }
  if constexpr (kPosition + 1 < U::kPositions) {
    MultiplyUnit<kFormat, kRows, kTokens, kPosition + 1>(raw, x, x_stride, products);
  }
}

/// Groups [g, g + count) of one row of scales or biases, to float32.
HWY_INLINE void LoadGroups(const Table& table, size_t expert, size_t n, size_t g, size_t count,
                           float* to) {
  const auto* row = static_cast<const uint8_t*>(table.row(expert, n));
  FloatsFrom(row + g * size_of(table.type), table.type, count, to);
}

/// How far ahead of a row its weights are fetched, when `rows` rows are multiplied at a time: some
/// tiles on, and at least 8 KiB: half as much was 10 % slower on Zen 5. The hardware's prefetcher
/// stops at each page.
HWY_INLINE size_t BytesAhead(const Experts& experts, size_t rows) {
  const auto stride = static_cast<size_t>(HWY_MAX(experts.w_row_stride, int64_t{1}));
  const size_t tile = rows * stride;
  return HWY_MAX(size_t{1}, 8192 / tile) * tile;
}

/// Room for the units at a row's end that cannot be read in place.
template <Format kFormat>
constexpr size_t kTailBytes = 2 * Unpack<kFormat>::kBytes + Unpack<kFormat>::kReads;

/// Copies units from `safe` on, zero behind the row's end.
/// @return what takes the row's place for them: unit u is at the result + u * kBytes.
template <Format kFormat>
HWY_INLINE const uint8_t* CopyTail(const uint8_t* row, size_t row_bytes, size_t safe, size_t units,
                                   uint8_t* copy) {
  if (safe >= units) return row;
  const size_t begin = safe * Unpack<kFormat>::kBytes;
  memset(copy, 0, kTailBytes<kFormat>);
  memcpy(copy, row + begin, row_bytes - begin);
  return copy - begin;
}

/// sums[r][t] += (weight[r] * scale[r] + bias[r]) * x[t] over the positions from kPosition on.
template <Format kFormat, int kRows, int kTokens, int kPosition = 0>
HWY_INLINE void MultiplyWeights(const typename Unpack<kFormat>::Raw (&raw)[kRows],
                                const VF (&scale)[kRows], const VF (&bias)[kRows], const float* x,
                                size_t x_stride, VF (&sums)[kRows][kTokens]) {
  using U = Unpack<kFormat>;
  VF v[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    v[t] = hn::LoadU(DF(), x + t * x_stride + kPosition * kLanes);
  }
  for (int r = 0; r < kRows; ++r) {
    const auto q = U::template Plain<kPosition>(raw[r]);
    const auto w = is_affine(kFormat) ? hn::MulAdd(q, scale[r], bias[r]) : hn::Mul(q, scale[r]);
    for (int t = 0; t < kTokens; ++t) sums[r][t] = hn::MulAdd(w, v[t], sums[r][t]);
  }
  if constexpr (kPosition + 1 < U::kPositions) {
    MultiplyWeights<kFormat, kRows, kTokens, kPosition + 1>(raw, scale, bias, x, x_stride, sums);
  }
}

/// One tile of kRows rows of weights by kTokens rows of activations.
template <Format kFormat, bool kBroadcast, bool kFactored, int kRows, int kTokens>
class FewRowsTile {
  using U = Unpack<kFormat>;

 public:
  using Lanes = PerLane<kFormat, kBroadcast>;

  HWY_INLINE FewRowsTile(const Experts& experts, size_t expert, size_t n, const PreparedRows& x,
                         size_t t, const Lanes& per_lane)
      : experts_(experts),
        expert_(expert),
        n_(n),
        per_lane_(per_lane),
        x_(x.values + t * x.stride),
        x_stride_(x.stride),
        sums_(x.sums ? x.sums + t * x.sums_stride : nullptr),
        sums_stride_(x.sums_stride) {
    for (int r = 0; r < kRows; ++r) {
      w_[r] = experts.row(expert, n + r);
      for (int t = 0; t < kTokens; ++t) {
        for (auto& chain : acc_) chain[r][t] = hn::Zero(DF());
      }
    }
  }

  HWY_INLINE void Run() {
    const size_t groups = experts_.groups();
    const size_t units = Units<kFormat>(experts_.K);
    const size_t safe = SafeUnits<kFormat>(experts_.row_bytes());
    const size_t ahead = BytesAhead(experts_, kRows);
    HWY_ALIGN uint8_t tails[kRows][kTailBytes<kFormat>];
    const uint8_t* tail[kRows];
    for (int r = 0; r < kRows; ++r) {
      tail[r] = CopyTail<kFormat>(w_[r], experts_.row_bytes(), safe, units, tails[r]);
    }
    for (size_t g = 0; g < groups; g += kChunkGroups) {
      const size_t count = HWY_MIN(kChunkGroups, groups - g);
      for (int r = 0; r < kRows; ++r) {
        LoadGroups(experts_.scales, expert_, n_ + r, g, count, scales_[r]);
        if (is_affine(kFormat)) LoadGroups(experts_.biases, expert_, n_ + r, g, count, biases_[r]);
      }
      const size_t u0 = g * experts_.group_size / UnitColumns<kFormat>();
      const size_t u1 =
          HWY_MIN(units, (g + kChunkGroups) * experts_.group_size / UnitColumns<kFormat>());
      // First from the row itself, then what would read past its end from the copy.
      size_t u = u0;
      const uint8_t* const* from = w_;
      for (size_t end : {HWY_MIN(u1, safe), u1}) {
        for (; u < end; ++u) {
          typename U::Raw raw[kRows];
          for (int r = 0; r < kRows; ++r) {
            const uint8_t* p = from[r] + u * U::kBytes;
            hwy::Prefetch(p + ahead);
            raw[r] = U::Load(p);
          }
          Step(raw, u, u - u0);
        }
        from = tail;
      }
    }
  }

  /// Adds up the lanes and undoes what was divided out of the activations.
  HWY_INLINE void Store(const float* factors, float* y, size_t y_stride) const {
    for (int t = 0; t < kTokens; ++t) {
      for (int r = 0; r < kRows; ++r) {
        auto sum = acc_[0][r][t];
        if constexpr (kChains == 2) sum = hn::Add(sum, acc_[1][r][t]);
        y[t * y_stride + r] = hn::GetLane(hn::SumOfLanes(DF(), sum)) * factors[t];
      }
    }
  }

 private:
  HWY_INLINE void Step(const typename U::Raw (&raw)[kRows], size_t u, size_t chunk_u) {
    const float* x = x_ + u * UnitColumns<kFormat>();
    auto& acc = acc_[u % kChains];
    if constexpr (!kFactored) {
      VF scale[kRows], bias[kRows];
      for (int r = 0; r < kRows; ++r) {
        scale[r] = hn::Mul(per_lane_(scales_[r], chunk_u), hn::Set(DF(), U::kUniform));
        bias[r] = is_affine(kFormat) ? per_lane_(biases_[r], chunk_u) : hn::Zero(DF());
      }
      // A sum of its own for each unit keeps sums short.
      VF sums[kRows][kTokens];
      for (auto& row : sums) {
        for (auto& sum : row) sum = hn::Zero(DF());
      }
      MultiplyWeights<kFormat, kRows, kTokens>(raw, scale, bias, x, x_stride_, sums);
      for (int r = 0; r < kRows; ++r) {
        for (int t = 0; t < kTokens; ++t) acc[r][t] = hn::Add(acc[r][t], sums[r][t]);
      }
      return;
    }
    VF products[kRows][kTokens];
    MultiplyUnit<kFormat, kRows, kTokens>(raw, x, x_stride_, products);
    for (int r = 0; r < kRows; ++r) {
      const auto scale = per_lane_(scales_[r], chunk_u);
      for (int t = 0; t < kTokens; ++t) {
        acc[r][t] = hn::MulAdd(scale, products[r][t], acc[r][t]);
      }
      if constexpr (is_affine(kFormat)) {
        const auto bias = per_lane_(biases_[r], chunk_u);
        for (int t = 0; t < kTokens; ++t) {
          const auto sum = hn::LoadU(DF(), sums_ + t * sums_stride_ + u * kLanes);
          acc[r][t] = hn::MulAdd(bias, sum, acc[r][t]);
        }
      }
    }
  }

  const Experts& experts_;
  size_t expert_, n_;
  const Lanes& per_lane_;
  const float* x_;
  size_t x_stride_;
  const float* sums_;
  size_t sums_stride_;
  const uint8_t* w_[kRows];
  /// Four lanes alone make sums as long as those of MLX's fp modes; every other unit apart halves
  /// them.
  static constexpr size_t kChains = kLanes == 4 ? 2 : 1;
  VF acc_[kChains][kRows][kTokens];
  HWY_ALIGN GroupBuffer scales_[kRows];
  HWY_ALIGN GroupBuffer biases_[is_affine(kFormat) ? kRows : 1];
};

template <Format kFormat, bool kBroadcast, bool kFactored, int kRows, int kTokens>
HWY_NOINLINE void FewRowsOfTokens(const Experts& experts, size_t expert, const PreparedRows& x,
                                  size_t t, size_t n0, size_t n1, float* y, size_t y_stride) {
  using Tile = FewRowsTile<kFormat, kBroadcast, kFactored, kRows, kTokens>;
  const typename Tile::Lanes per_lane(experts.group_size);
  size_t n = n0;
  for (; n + kRows <= n1; n += kRows) {
    Tile tile(experts, expert, n, x, t, per_lane);
    tile.Run();
    tile.Store(x.factors + t, y + n - n0, y_stride);
  }
  if constexpr (kRows > 1) {
    if (n < n1) {
      FewRowsOfTokens<kFormat, kBroadcast, kFactored, 1, kTokens>(experts, expert, x, t, n, n1,
                                                                  y + n - n0, y_stride);
    }
  }
}

template <Format kFormat, bool kBroadcast, bool kFactored>
HWY_INLINE void FewRowsBy(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0,
                          size_t n1, float* y, size_t y_stride) {
  // Sixteen vector registers hold four sums, the unpacked weights and a mask.
  size_t t = 0;
  for (; t + 4 <= x.rows; t += 4) {
    FewRowsOfTokens<kFormat, kBroadcast, kFactored, 1, 4>(experts, expert, x, t, n0, n1,
                                                          y + t * y_stride, y_stride);
  }
  for (; t + 2 <= x.rows; t += 2) {
    FewRowsOfTokens<kFormat, kBroadcast, kFactored, 2, 2>(experts, expert, x, t, n0, n1,
                                                          y + t * y_stride, y_stride);
  }
  for (; t < x.rows; ++t) {
    FewRowsOfTokens<kFormat, kBroadcast, kFactored, 4, 1>(experts, expert, x, t, n0, n1,
                                                          y + t * y_stride, y_stride);
  }
}

template <Format kFormat, bool kBroadcast>
HWY_INLINE void FewRowsOf(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0,
                          size_t n1, float* y, size_t y_stride) {
  if (x.kernel == RowKernel::factored) {
    FewRowsBy<kFormat, kBroadcast, true>(experts, expert, x, n0, n1, y, y_stride);
  } else {
    FewRowsBy<kFormat, kBroadcast, false>(experts, expert, x, n0, n1, y, y_stride);
  }
}

template <Format kFormat>
HWY_INLINE void FewRows(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0,
                        size_t n1, float* y, size_t y_stride) {
  if (UnitInOneGroup<kFormat>(experts.group_size)) {
    if constexpr (UnitInOneGroup<kFormat>(kMaxGroupSize)) {
      FewRowsOf<kFormat, true>(experts, expert, x, n0, n1, y, y_stride);
    }
  } else {
    if constexpr (!UnitInOneGroup<kFormat>(kMinGroupSize<kFormat>)) {
      FewRowsOf<kFormat, false>(experts, expert, x, n0, n1, y, y_stride);
    }
  }
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

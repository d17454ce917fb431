// One row of 16-bit activations times rows of 4-bit weights, in exact integer arithmetic.
//
// bfloat16 and float16 activations of one unit of columns are taken as integers of 15 or 23 bits
// and a sign, times a power of two. Cut into two or three signed bytes ("planes") they meet the
// weights, unsigned bytes, in vpmaddubsw, 32 products an instruction, and all sums of a unit are
// exact:
//
//   sum over columns: q * x  =  2^e * (65536 * sum q * x2  +  256 * sum q * x1  +  sum q * x0)
//
// Two planes where that loses nothing; three lose at most 2^-24 of the unit's largest activation,
// as adding to it in float32 would. Against a float64 oracle the result has 0.15 to 0.4 times the
// error of MLX's float32 path. Two planes throughout would be faster, but lose 2^-16 of the
// largest. Weights are centred (4-bit integers by 8, fp4 codes by their zero) by subtracting a
// multiple of the lane's sum of activations, still in integers, so that large sums do not have to
// cancel in float32.

#if defined(ZMLX_CPU_FIXED_POINT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_CPU_FIXED_POINT_INL_H_
#undef ZMLX_CPU_FIXED_POINT_INL_H_
#else
#define ZMLX_CPU_FIXED_POINT_INL_H_
#endif

#include "cpu/block_product.h"
#include "cpu/few_rows-inl.h"
#include "cpu/fixed_point_rows-inl.h"
#include "cpu/unpack-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_ARCH_X86

using D8 = hn::Repartition<uint8_t, DU>;
using DI16 = hn::Repartition<int16_t, DU>;
using VI = hn::Vec<DI>;
using VI16 = hn::Vec<DI16>;

/// Sums of two neighbouring products of unsigned and signed bytes. At most 2 * 24 * 128, so it does
/// not saturate.
HWY_INLINE VI16 MultiplyBytes(VU weights, VU x) {
#if HWY_MAX_BYTES == 64
  return VI16{_mm512_maddubs_epi16(weights.raw, x.raw)};
#elif HWY_MAX_BYTES == 32
  return VI16{_mm256_maddubs_epi16(weights.raw, x.raw)};
#else
  return VI16{_mm_maddubs_epi16(weights.raw, x.raw)};
#endif
}

/// factor * the sum of two neighbouring 16-bit numbers.
HWY_INLINE VI AddNeighbours(VI16 v, int16_t factor) {
  const auto factors = hn::Set(DI16(), factor);
#if HWY_MAX_BYTES == 64
  return VI{_mm512_madd_epi16(v.raw, factors.raw)};
#elif HWY_MAX_BYTES == 32
  return VI{_mm256_madd_epi16(v.raw, factors.raw)};
#else
  return VI{_mm_madd_epi16(v.raw, factors.raw)};
#endif
}

/// The weights of a unit as unsigned bytes: weights 0, 2, 4, 6 of each word, and 1, 3, 5, 7.
struct WeightBytes {
  VU even, odd;
};

template <Format kFormat>
HWY_INLINE WeightBytes LoadWeightBytes(const uint8_t* p) {
  const auto low = hn::Set(DU(), 0x0F0F0F0Fu);
  const auto words = hn::BitCast(DU(), hn::LoadU(D8(), p));
  const auto even = hn::And(words, low);
  const auto odd = hn::And(hn::ShiftRight<4>(words), low);
  if constexpr (kFormat == Format::affine4) {
    return {even, odd};
  } else {
    HWY_ALIGN static constexpr uint8_t kValues[16] = {12, 13, 14, 15, 16, 18, 20, 24,
                                                      12, 11, 10, 9,  8,  6,  4,  0};
    const auto table = RepeatBlock(D8(), kValues);
    const auto look_up = [&](VU codes) HWY_ATTR {
      return hn::BitCast(DU(), hn::TableLookupBytes(table, hn::BitCast(D8(), codes)));
    };
    return {look_up(even), look_up(odd)};
  }
}

/// Each lane's sum of weight * digit over one plane (its even and its odd columns), pairs apart.
HWY_INLINE VI16 MultiplyPlane(const WeightBytes& w, VU even, VU odd) {
  return hn::Add(MultiplyBytes(w.even, even), MultiplyBytes(w.odd, odd));
}

/// How units lie in groups: several groups a unit, one, or several units a group.
enum class Spread { groups, same, units };

/// Scales of the rows of one tile, and what is common to their products with one row.
template <Format kFormat, Spread kSpread, int kRows>
struct TileScales {
  PerLane<kFormat, kSpread != Spread::groups> per_lane;
  VI excess_mask;  ///< zero where weights are not centred
  /// Per group; where a unit is a group, times the unit's scale.
  HWY_ALIGN GroupBuffer scales[kRows];

  explicit HWY_INLINE TileScales(size_t group_size) : per_lane(group_size) {}

  HWY_INLINE VF operator()(int r, size_t chunk_u, float unit_scale) const {
    const auto scale = per_lane(scales[r], chunk_u);
    return kSpread == Spread::same ? scale : hn::Mul(scale, hn::Set(DF(), unit_scale));
  }
};

/// sums[r] += units of kPlanes planes, headers [begin, end), for kRows rows of weights.
///
/// Counted in vector instructions, a unit of two planes takes 15 and one of three 22 for each row
/// of weights. Zen 3 does three of them a cycle, here as in the float kernels, though each of the
/// instructions can be had two or four times a cycle.
/// @param u0     the chunk's first unit.
/// @param ahead  bytes from a row's weights to those that will be needed some microseconds later.
template <Format kFormat, Spread kSpread, int kPlanes, int kRows>
HWY_INLINE void MultiplyUnits(const float* begin, const float* end, size_t u0,
                              const uint8_t* const (&row)[kRows], size_t ahead, const float* values,
                              const float* excess,
                              const TileScales<kFormat, kSpread, kRows>& scales,
                              VF (&sums)[kRows]) {
  VF acc[kRows];
  const uint8_t* from[kRows];
  for (int r = 0; r < kRows; ++r) {
    acc[r] = sums[r];
    from[r] = row[r];
  }
  const auto mask = scales.excess_mask;
  for (const float* h = begin; h != end; h += 2) {
    UnitHeader header;
    memcpy(&header, h, sizeof(header));
    const size_t u = header.unit;
    const auto* planes = reinterpret_cast<const uint8_t*>(values + u * UnitColumns<kFormat>());
    VU even[kPlanes], odd[kPlanes];
    for (int p = 0; p < kPlanes; ++p) {
      even[p] = hn::BitCast(DU(), hn::Load(D8(), planes + p * kPlaneBytes));
      odd[p] = hn::BitCast(DU(), hn::Load(D8(), planes + p * kPlaneBytes + kLanes * 4));
    }
    const auto unit_excess = hn::And(mask, hn::BitCast(DI(), hn::LoadU(DF(), excess + u * kLanes)));
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* p = from[r] + u * Unpack<kFormat>::kBytes;
      hwy::Prefetch(p + ahead);
      const auto w = LoadWeightBytes<kFormat>(p);
      const auto x0 = AddNeighbours(MultiplyPlane(w, even[0], odd[0]), 1);
      auto sum = AddNeighbours(MultiplyPlane(w, even[kPlanes - 1], odd[kPlanes - 1]), 256);
      if constexpr (kPlanes == 3) {
        sum = hn::Add(sum, AddNeighbours(MultiplyPlane(w, even[1], odd[1]), 1));
        sum = hn::ShiftLeft<8>(sum);
      }
      sum = hn::Sub(hn::Add(sum, x0), unit_excess);
      acc[r] = hn::MulAdd(scales(r, u - u0, header.scale), hn::ConvertTo(DF(), sum), acc[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) sums[r] = acc[r];
}

/// What converting one row's scales and biases needs besides them.
struct GroupContext {
  const float* group_sums;   ///< sum of activations of each group
  const float* unit_scales;  ///< of each unit, where a unit is a group
};

/// `count` groups of one row: scales to `scales`, and for biases their part of the result. Reads
/// whole vectors.
template <Format kFormat, Scalar kType, bool kTimesUnitScale>
HWY_INLINE void ConvertGroups(const void* scale_row, const void* bias_row, size_t count,
                              const GroupContext& context, float* HWY_RESTRICT scales, VF& bias_sum,
                              VF& any_bias) {
  const DF df;
  const auto excess = hn::Set(df, kExcess<kFormat>);
  for (size_t i = 0; i < count; i += kLanes) {
    const auto scale = LoadFloats<kType>(scale_row, i);
    if constexpr (kTimesUnitScale) {
      hn::StoreU(hn::Mul(scale, hn::LoadU(df, context.unit_scales + i)), df, scales + i);
    } else {
      hn::StoreU(scale, df, scales + i);
    }
    if constexpr (is_affine(kFormat)) {
      const auto valid = hn::FirstN(df, count - i);
      const auto bias = hn::IfThenElseZero(valid, LoadFloats<kType>(bias_row, i));
      any_bias = hn::Or(any_bias, hn::Abs(bias));
      // The bias of the centred weight.
      const auto centred = hn::IfThenElseZero(valid, hn::MulAdd(excess, scale, bias));
      const auto x = hn::IfThenElseZero(valid, hn::LoadU(df, context.group_sums + i));
      bias_sum = hn::MulAdd(centred, x, bias_sum);
    }
  }
}

/// The same for whichever type the scales have.
template <Format kFormat, bool kTimesUnitScale>
HWY_INLINE void ConvertGroupsOf(Scalar type, const void* scale_row, const void* bias_row,
                                size_t count, const GroupContext& context, float* scales,
                                VF& bias_sum, VF& any_bias) {
#define ZMLX_CONVERT(t)                                                                           \
  ConvertGroups<kFormat, Scalar::t, kTimesUnitScale>(scale_row, bias_row, count, context, scales, \
                                                     bias_sum, any_bias)
  if constexpr (is_affine(kFormat)) {
    if (type == Scalar::bf16) {
      ZMLX_CONVERT(bf16);
    } else if (type == Scalar::f16) {
      ZMLX_CONVERT(f16);
    } else {
      ZMLX_CONVERT(f32);
    }
  } else {
    if (type == Scalar::e8m0) {
      ZMLX_CONVERT(e8m0);
    } else {
      ZMLX_CONVERT(e4m3);
    }
  }
#undef ZMLX_CONVERT
}

/// Groups [g, g + count) of row n. A vector read past the row's last group falls into the next row;
/// the table's last row is read from a padded copy.
template <Format kFormat, bool kTimesUnitScale>
HWY_INLINE void ConvertRow(const Experts& experts, size_t expert, size_t n, size_t g, size_t count,
                           const GroupContext& context, float* scales, VF& bias_sum, VF& any_bias) {
  const auto at = [&](const Table& table) {
    return static_cast<const uint8_t*>(table.row(expert, n)) + g * size_of(table.type);
  };
  const auto has_next = [&](const Table& table) {
    return n + 1 < experts.N && table.row_stride >= static_cast<int64_t>(experts.groups());
  };
  const auto& biases = is_affine(kFormat) ? experts.biases : experts.scales;
  const bool in_place = count % kLanes == 0 || (experts.groups() >= kLanes &&
                                                has_next(experts.scales) && has_next(biases));
  if (in_place) {
    ConvertGroupsOf<kFormat, kTimesUnitScale>(experts.scales.type, at(experts.scales), at(biases),
                                              count, context, scales, bias_sum, any_bias);
    return;
  }
  HWY_ALIGN uint8_t copy[2][sizeof(GroupBuffer)] = {};
  memcpy(copy[0], at(experts.scales), count * size_of(experts.scales.type));
  memcpy(copy[1], at(biases), count * size_of(biases.type));
  ConvertGroupsOf<kFormat, kTimesUnitScale>(experts.scales.type, copy[0], copy[1], count, context,
                                            scales, bias_sum, any_bias);
}

/// The row's last unit, where it is not whole: from copies that are.
template <Format kFormat, Spread kSpread, int kRows>
HWY_NOINLINE void MultiplyPartialUnit(size_t planes, const float* header, size_t u0,
                                      const Experts& experts, const uint8_t* const (&row)[kRows],
                                      const float* values, const float* excess,
                                      const TileScales<kFormat, kSpread, kRows>& scales,
                                      VF (&sums)[kRows]) {
  const size_t units = Units<kFormat>(experts.K);
  HWY_ALIGN uint8_t tails[kRows][kTailBytes<kFormat>];
  const uint8_t* tail[kRows];
  for (int r = 0; r < kRows; ++r) {
    tail[r] = CopyTail<kFormat>(row[r], experts.row_bytes(), units - 1, units, tails[r]);
  }
  if (planes == 2) {
    MultiplyUnits<kFormat, kSpread, 2, kRows>(header, header + 2, u0, tail, 0, values, excess,
                                              scales, sums);
  } else {
    MultiplyUnits<kFormat, kSpread, 3, kRows>(header, header + 2, u0, tail, 0, values, excess,
                                              scales, sums);
  }
}

/// Fetches the scales and biases of as many rows, some way ahead of row n: each tile begins with
/// them, and from memory they cost it a twentieth to a tenth of its time.
template <Format kFormat>
HWY_INLINE void FetchGroups(const Experts& experts, size_t expert, size_t n, size_t rows) {
  constexpr size_t kRowsAhead = 16;
  const auto fetch = [&](const Table& table) HWY_ATTR {
    const size_t bytes = experts.groups() * size_of(table.type);
    const auto* from = static_cast<const uint8_t*>(table.row(expert, n + kRowsAhead));
    for (size_t i = 0; i < rows * bytes; i += 64) hwy::Prefetch(from + i);
  };
  fetch(experts.scales);
  if (is_affine(kFormat)) fetch(experts.biases);
}

/// kRows rows of weights times one row of activations.
template <Format kFormat, Spread kSpread, int kRows>
HWY_NOINLINE void FixedPointTile(const Experts& experts, size_t expert, size_t n,
                                 const PreparedRows& x, size_t t, float* y) {
  const size_t groups = experts.groups();
  const FixedPointLayout<kFormat> layout(experts.K, experts.group_size);
  const float* values = x.values + t * x.stride;
  const float* row_sums = x.sums + t * x.sums_stride;
  const float* headers = x.headers + t * x.headers_stride;
  const size_t ahead = BytesAhead(experts, kRows);
  TileScales<kFormat, kSpread, kRows> scales(experts.group_size);
  const uint8_t* row[kRows];
  VF sums[kRows];
  for (int r = 0; r < kRows; ++r) {
    row[r] = experts.row(expert, n + r);
    sums[r] = hn::Zero(DF());
  }
  for (size_t chunk = 0; chunk < layout.chunks; ++chunk) {
    const size_t g = chunk * kChunkGroups, u0 = chunk * layout.chunk_units;
    const size_t count = HWY_MIN(kChunkGroups, groups - g);
    FetchGroups<kFormat>(experts, expert, n, kRows);
    const GroupContext context{row_sums + layout.group_sums() + g,
                               headers + layout.unit_scales() + u0};
    VF bias_sum[kRows];
    auto any_bias = hn::Zero(DF());
    for (int r = 0; r < kRows; ++r) {
      bias_sum[r] = hn::Zero(DF());
      ConvertRow<kFormat, kSpread == Spread::same>(experts, expert, n + r, g, count, context,
                                                   scales.scales[r], bias_sum[r], any_bias);
    }
    // Rows of nothing but zeros have no biases: centring would add and subtract what cancels.
    const bool centred =
        !is_affine(kFormat) || !hn::AllTrue(DF(), hn::Eq(any_bias, hn::Zero(DF())));
    for (int r = 0; r < kRows && is_affine(kFormat) && centred; ++r) {
      sums[r] = hn::Add(sums[r], bias_sum[r]);
    }
    scales.excess_mask = hn::Set(DI(), centred ? -1 : 0);
    ChunkHeader header;
    memcpy(&header, headers + layout.chunk_header(chunk), sizeof(header));
    const float* units = headers + layout.unit_header(u0);
    const float* three = units + 2 * header.two_end;
    const float* partial = units + 2 * header.three_end;
    MultiplyUnits<kFormat, kSpread, 2, kRows>(units, three, u0, row, ahead, values, row_sums,
                                              scales, sums);
    MultiplyUnits<kFormat, kSpread, 3, kRows>(three, partial, u0, row, ahead, values, row_sums,
                                              scales, sums);
    if (HWY_LIKELY(header.partial_planes == 0)) continue;
    MultiplyPartialUnit<kFormat, kSpread, kRows>(header.partial_planes, partial, u0, experts, row,
                                                 values, row_sums, scales, sums);
  }
  for (int r = 0; r < kRows; ++r) y[r] = hn::GetLane(hn::SumOfLanes(DF(), sums[r]));
}

template <Format kFormat, Spread kSpread>
HWY_INLINE void FixedPointOf(const Experts& experts, size_t expert, const PreparedRows& x,
                             size_t n0, size_t n1, float* y, size_t y_stride) {
  // Two to four rows of activations one after the other: the rows of weights stay in the
  // first-level cache meanwhile, and what they would share is a fifth of the work. Four rows of
  // weights at a time are 8 % faster from a cache, but from memory two are 20 % faster: the
  // processor's prefetcher follows fewer streams further.
  size_t n = n0;
  for (; n + 2 <= n1; n += 2) {
    for (size_t t = 0; t < x.rows; ++t) {
      FixedPointTile<kFormat, kSpread, 2>(experts, expert, n, x, t, y + t * y_stride + n - n0);
    }
  }
  for (; n < n1; ++n) {
    for (size_t t = 0; t < x.rows; ++t) {
      FixedPointTile<kFormat, kSpread, 1>(experts, expert, n, x, t, y + t * y_stride + n - n0);
    }
  }
}

template <Format kFormat>
HWY_INLINE void FixedPoint(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0,
                           size_t n1, float* y, size_t y_stride) {
  const auto columns = static_cast<int>(UnitColumns<kFormat>());
  if (experts.group_size < columns) {
    FixedPointOf<kFormat, Spread::groups>(experts, expert, x, n0, n1, y, y_stride);
  } else if (experts.group_size == columns) {
    FixedPointOf<kFormat, Spread::same>(experts, expert, x, n0, n1, y, y_stride);
  } else {
    FixedPointOf<kFormat, Spread::units>(experts, expert, x, n0, n1, y, y_stride);
  }
}

#endif  // HWY_ARCH_X86

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

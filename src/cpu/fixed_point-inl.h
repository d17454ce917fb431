// One row of 16-bit activations times rows of 4-bit weights, in exact integer arithmetic.
//
// bfloat16 and float16 activations of one unit of columns are taken as integers of 15 or 23 bits
// and a sign, times a power of two. Cut into two or three signed bytes ("planes") they meet the
// weights, unsigned bytes, in vpmaddubsw or, where there is VNNI, vpdpbusd, and all sums of a unit
// are exact:
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

#if HWY_MAX_BYTES == 64
/// Adds to each sum four products of unsigned and signed bytes. By its name, because no Highway
/// target in use says that the compiler may.
HWY_INLINE VI AddProducts(VI sum, VU weights, VU x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum.raw) : "v"(weights.raw), "v"(x.raw));
  return sum;
}
#else
HWY_INLINE VI AddProducts(VI sum, VU, VU) { return sum; }
#endif

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

/// Each lane's sum of weight * activation over a unit, in units of the unit's power of two.
template <ByteDot kDot, int kPlanes>
HWY_INLINE VI UnitSum(const WeightBytes& w, const VU (&even)[kPlanes], const VU (&odd)[kPlanes]) {
  if constexpr (kDot == ByteDot::quads) {
    auto sum = hn::Zero(DI());
    for (int p = kPlanes; p-- > 0;) {
      if (p + 1 < kPlanes) sum = hn::ShiftLeft<8>(sum);
      sum = AddProducts(AddProducts(sum, w.even, even[p]), w.odd, odd[p]);
    }
    return sum;
  } else {
    auto sum = AddNeighbours(MultiplyPlane(w, even[kPlanes - 1], odd[kPlanes - 1]), 256);
    if constexpr (kPlanes == 3) {
      sum = hn::Add(sum, AddNeighbours(MultiplyPlane(w, even[1], odd[1]), 1));
      sum = hn::ShiftLeft<8>(sum);
    }
    return hn::Add(sum, AddNeighbours(MultiplyPlane(w, even[0], odd[0]), 1));
  }
}

/// How units lie in groups: several groups a unit, one, or several units a group.
enum class Spread { groups, same, units };

/// Scales of the rows of one tile, and what is common to their products with one row.
template <Format kFormat, Spread kSpread, int kRows>
struct TileScales {
  PerLane<kFormat, kSpread != Spread::groups> per_lane;
  VI excess_mask;  ///< zero where weights are not centred
  /// Per group; unless groups span several units, times the scale of the group's unit.
  HWY_ALIGN GroupBuffer scales[kRows];

  using Lanes = PerLane<kFormat, kSpread != Spread::groups>;
  explicit HWY_INLINE TileScales(const Lanes& lanes) : per_lane(lanes) {}

  HWY_INLINE VF operator()(int r, size_t chunk_u, float unit_scale) const {
    const auto scale = per_lane(scales[r], chunk_u);
    return kSpread != Spread::units ? scale : hn::Mul(scale, hn::Set(DF(), unit_scale));
  }
};

/// Copies that compilers keep in registers.
template <int kRows>
struct LocalTile {
  const uint8_t* row[kRows];
  VF sums[kRows];

  HWY_INLINE LocalTile(const uint8_t* const (&from)[kRows], const VF (&start)[kRows]) {
    for (int r = 0; r < kRows; ++r) {
      row[r] = from[r];
      sums[r] = start[r];
    }
  }
  HWY_INLINE void Store(VF (&to)[kRows]) const {
    for (int r = 0; r < kRows; ++r) to[r] = sums[r];
  }
};

/// One unit of kRows rows of weights, kPlanes planes.
/// @param u      the unit.
/// @param u0     the chunk's first unit.
/// @param ahead  bytes from a row's weights to those that will be needed some microseconds later.
template <ByteDot kDot, int kPlanes, Format kFormat, Spread kSpread, int kRows>
HWY_INLINE void MultiplyUnit(size_t u, size_t u0, float unit_scale,
                             const uint8_t* const (&row)[kRows], size_t ahead, const float* values,
                             const float* excess, const TileScales<kFormat, kSpread, kRows>& scales,
                             VF (&acc)[kRows]) {
  const auto* planes = reinterpret_cast<const uint8_t*>(values + u * UnitColumns<kFormat>());
  VU even[kPlanes], odd[kPlanes];
  for (int p = 0; p < kPlanes; ++p) {
    even[p] = hn::BitCast(DU(), hn::Load(D8(), planes + p * kPlaneBytes));
    odd[p] = hn::BitCast(DU(), hn::Load(D8(), planes + p * kPlaneBytes + kLanes * 4));
  }
  const auto unit_excess =
      hn::And(scales.excess_mask, hn::BitCast(DI(), hn::LoadU(DF(), excess + u * kLanes)));
  for (int r = 0; r < kRows; ++r) {
    const uint8_t* p = row[r] + u * Unpack<kFormat>::kBytes;
    hwy::Prefetch(p + ahead);
    const auto w = LoadWeightBytes<kFormat>(p);
    const auto sum = hn::Sub(UnitSum<kDot>(w, even, odd), unit_excess);
    acc[r] = hn::MulAdd(scales(r, u - u0, unit_scale), hn::ConvertTo(DF(), sum), acc[r]);
  }
}

/// sums[r] += units of kPlanes planes, headers [begin, end), for kRows rows of weights.
///
/// Counted in vector instructions, a unit of two planes takes 15 and one of three 22 for each row
/// of weights. Zen 3 does three of them a cycle, here as in the float kernels, though each of the
/// instructions can be had two or four times a cycle.
template <int kPlanes, Format kFormat, Spread kSpread, int kRows>
HWY_INLINE void MultiplyUnits(const float* begin, const float* end, size_t u0,
                              const uint8_t* const (&row)[kRows], size_t ahead, const float* values,
                              const float* excess,
                              const TileScales<kFormat, kSpread, kRows>& scales,
                              VF (&sums)[kRows]) {
  LocalTile<kRows> tile(row, sums);
  for (const float* h = begin; h != end; h += 2) {
    const UnitHeader header = UnitHeader::At(h);
    MultiplyUnit<ByteDot::pairs, kPlanes>(header.unit, u0, header.scale, tile.row, ahead, values,
                                          excess, scales, tile.sums);
  }
  tile.Store(sums);
}

/// sums[r] += units [u0, u1), all of three planes: 16 instructions each, in the weights' order.
template <Format kFormat, Spread kSpread, int kRows>
HWY_INLINE void MultiplyUnitsInOrder(size_t u0, size_t u1, const uint8_t* const (&row)[kRows],
                                     size_t ahead, const float* values, const float* excess,
                                     const TileScales<kFormat, kSpread, kRows>& scales,
                                     VF (&sums)[kRows]) {
  static_assert(kSpread != Spread::units, "scales must hold the units' own");
  LocalTile<kRows> tile(row, sums);
  for (size_t u = u0; u < u1; ++u) {
    MultiplyUnit<ByteDot::quads, 3>(u, u0, 1.0f, tile.row, ahead, values, excess, scales,
                                    tile.sums);
  }
  tile.Store(sums);
}

/// What converting one row's scales and biases needs besides them.
struct GroupContext {
  const float* group_sums;   ///< sum of activations of each group
  const float* unit_scales;  ///< of each group's unit, unless groups span several
};

/// kLanes groups of one row from group i on, of which the first `count` are the row's.
template <Format kFormat, Scalar kType, bool kTimesUnitScale, bool kAll>
HWY_INLINE void ConvertVector(const void* scale_row, const void* bias_row, size_t i, size_t count,
                              const GroupContext& context, float* HWY_RESTRICT scales, VF& bias_sum,
                              VF& any_bias) {
  const DF df;
  const auto scale = LoadFloats<kType>(scale_row, i);
  if constexpr (kTimesUnitScale) {
    hn::StoreU(hn::Mul(scale, hn::LoadU(df, context.unit_scales + i)), df, scales + i);
  } else {
    hn::StoreU(scale, df, scales + i);
  }
  if constexpr (is_affine(kFormat)) {
    auto bias = LoadFloats<kType>(bias_row, i);
    auto x = hn::LoadU(df, context.group_sums + i);
    // The bias of the centred weight.
    auto centred = hn::MulAdd(hn::Set(df, kExcess<kFormat>), scale, bias);
    if constexpr (!kAll) {
      const auto valid = hn::FirstN(df, count);
      bias = hn::IfThenElseZero(valid, bias);
      centred = hn::IfThenElseZero(valid, centred);
      x = hn::IfThenElseZero(valid, x);
    }
    any_bias = hn::Or(any_bias, hn::Abs(bias));
    bias_sum = hn::MulAdd(centred, x, bias_sum);
  }
}

/// `count` groups of one row: scales to `scales`, and for biases their part of the result. Reads
/// whole vectors.
template <Format kFormat, Scalar kType, bool kTimesUnitScale>
HWY_INLINE void ConvertGroups(const void* scale_row, const void* bias_row, size_t count,
                              const GroupContext& context, float* HWY_RESTRICT scales, VF& bias_sum,
                              VF& any_bias) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    ConvertVector<kFormat, kType, kTimesUnitScale, true>(scale_row, bias_row, i, kLanes, context,
                                                         scales, bias_sum, any_bias);
  }
  if (i == count) return;
  ConvertVector<kFormat, kType, kTimesUnitScale, false>(scale_row, bias_row, i, count - i, context,
                                                        scales, bias_sum, any_bias);
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

/// Groups [g, g + count) of row n. A vector read past the row's last group falls into the rows
/// behind it; where too little of the table is left, groups are read from a padded copy.
template <Format kFormat, bool kTimesUnitScale>
HWY_INLINE void ConvertRow(const Experts& experts, size_t expert, size_t n, size_t g, size_t count,
                           const GroupContext& context, float* scales, VF& bias_sum, VF& any_bias) {
  const auto at = [&](const Table& table) {
    return static_cast<const uint8_t*>(table.row(expert, n)) + g * size_of(table.type);
  };
  const auto groups = static_cast<int64_t>(experts.groups());
  const auto end = static_cast<int64_t>(g + hwy::RoundUpTo(count, kLanes));
  const auto has_room = [&](const Table& table) {
    const auto rows_behind = static_cast<int64_t>(experts.N - 1 - n);
    return end <= groups ||
           (table.row_stride >= groups && end <= rows_behind * table.row_stride + groups);
  };
  const auto& biases = is_affine(kFormat) ? experts.biases : experts.scales;
  const bool in_place = has_room(experts.scales) && has_room(biases);
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
template <ByteDot kDot, Format kFormat, Spread kSpread, int kRows>
HWY_NOINLINE void MultiplyPartialUnit(size_t planes, const float* header_at, size_t u0,
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
  const UnitHeader header = UnitHeader::At(header_at);
  if (planes == 2) {
    MultiplyUnit<kDot, 2>(header.unit, u0, header.scale, tail, 0, values, excess, scales, sums);
  } else {
    MultiplyUnit<kDot, 3>(header.unit, u0, header.scale, tail, 0, values, excess, scales, sums);
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

/// Rows of one expert's weights times one row of activations.
template <ByteDot kDot, Format kFormat, Spread kSpread>
class FixedPointRow {
 public:
  HWY_INLINE FixedPointRow(const Experts& experts, size_t expert, const PreparedRows& x, size_t t)
      : experts_(experts),
        expert_(expert),
        layout_(experts.K, experts.group_size),
        values_(x.values + t * x.stride),
        sums_(x.sums + t * x.sums_stride),
        headers_(x.headers + t * x.headers_stride),
        per_lane_(experts.group_size) {}

  /// Rows [n, n + kRows) of the weights.
  template <int kRows>
  HWY_INLINE void Multiply(size_t n, float* y) const {
    const size_t ahead = BytesAhead(experts_, kRows);
    TileScales<kFormat, kSpread, kRows> scales(per_lane_);
    const uint8_t* row[kRows];
    VF sums[kRows];
    for (int r = 0; r < kRows; ++r) {
      row[r] = experts_.row(expert_, n + r);
      sums[r] = hn::Zero(DF());
    }
    for (size_t chunk = 0; chunk < layout_.chunks; ++chunk) {
      const size_t u0 = chunk * layout_.chunk_units;
      FetchGroups<kFormat>(experts_, expert_, n, kRows);
      Convert<kRows>(n, chunk, scales, sums);
      ChunkHeader header;
      memcpy(&header, headers_ + layout_.chunk_header(chunk), sizeof(header));
      const float* units = headers_ + layout_.unit_header(u0);
      const float* three = units + 2 * header.two_end;
      const float* partial = units + 2 * header.three_end;
      if constexpr (kDot == ByteDot::quads) {
        MultiplyUnitsInOrder(u0, u0 + header.three_end, row, ahead, values_, sums_, scales, sums);
      } else {
        MultiplyUnits<2>(units, three, u0, row, ahead, values_, sums_, scales, sums);
        MultiplyUnits<3>(three, partial, u0, row, ahead, values_, sums_, scales, sums);
      }
      if (HWY_LIKELY(header.partial_planes == 0)) continue;
      MultiplyPartialUnit<kDot>(header.partial_planes, partial, u0, experts_, row, values_, sums_,
                                scales, sums);
    }
    for (int r = 0; r < kRows; ++r) y[r] = hn::GetLane(hn::SumOfLanes(DF(), sums[r]));
  }

 private:
  /// Scales of one chunk of units to `scales`, and to `sums` what biases add.
  template <int kRows>
  HWY_INLINE void Convert(size_t n, size_t chunk, TileScales<kFormat, kSpread, kRows>& scales,
                          VF (&sums)[kRows]) const {
    const size_t g = chunk * kChunkGroups;
    const size_t count = HWY_MIN(kChunkGroups, experts_.groups() - g);
    const GroupContext context{sums_ + layout_.group_sums() + g,
                               headers_ + layout_.unit_scale(chunk * layout_.chunk_units)};
    VF bias_sum[kRows];
    auto any_bias = hn::Zero(DF());
    for (int r = 0; r < kRows; ++r) {
      bias_sum[r] = hn::Zero(DF());
      ConvertRow<kFormat, kSpread != Spread::units>(experts_, expert_, n + r, g, count, context,
                                                    scales.scales[r], bias_sum[r], any_bias);
    }
    // Rows of nothing but zeros have no biases: centring would add and subtract what cancels.
    const bool centred =
        !is_affine(kFormat) || !hn::AllTrue(DF(), hn::Eq(any_bias, hn::Zero(DF())));
    for (int r = 0; r < kRows && is_affine(kFormat) && centred; ++r) {
      sums[r] = hn::Add(sums[r], bias_sum[r]);
    }
    scales.excess_mask = hn::Set(DI(), centred ? -1 : 0);
  }

  const Experts& experts_;
  size_t expert_;
  FixedPointLayout<kFormat> layout_;
  const float* values_;
  const float* sums_;
  const float* headers_;
  PerLane<kFormat, kSpread != Spread::groups> per_lane_;
};

template <ByteDot kDot, Format kFormat, Spread kSpread>
HWY_NOINLINE void FixedPointOf(const Experts& experts, size_t expert, const PreparedRows& x,
                               size_t n0, size_t n1, float* y, size_t y_stride) {
  // Rows of weights at a time. In pairs, on Zen 3, four are 8 % faster from a cache, but from
  // memory two are 20 % faster: the processor's prefetcher follows fewer streams further. In quads,
  // on Zen 5, four are a sixth faster than two from memory.
  constexpr int kRows = kDot == ByteDot::quads ? 4 : 2;
  // Several rows of activations one after the other: what they would share is a fifth of the work.
  for (size_t t = 0; t < x.rows; ++t) {
    const FixedPointRow<kDot, kFormat, kSpread> row(experts, expert, x, t);
    float* to = y + t * y_stride;
    size_t n = n0;
    for (; n + kRows <= n1; n += kRows) row.template Multiply<kRows>(n, to + n - n0);
    for (; n < n1; ++n) row.template Multiply<1>(n, to + n - n0);
  }
}

template <Format kFormat, Spread kSpread>
HWY_INLINE void FixedPointBy(const Experts& experts, size_t expert, const PreparedRows& x,
                             size_t n0, size_t n1, float* y, size_t y_stride) {
  if constexpr (kMayHaveQuads && kSpread != Spread::units) {
    if (FixedPointDot() == ByteDot::quads) {
      return FixedPointOf<ByteDot::quads, kFormat, kSpread>(experts, expert, x, n0, n1, y,
                                                            y_stride);
    }
  }
  FixedPointOf<ByteDot::pairs, kFormat, kSpread>(experts, expert, x, n0, n1, y, y_stride);
}

template <Format kFormat>
HWY_INLINE void FixedPoint(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0,
                           size_t n1, float* y, size_t y_stride) {
  constexpr auto kColumns = static_cast<int>(UnitColumns<kFormat>());
  if (experts.group_size < kColumns) {
    FixedPointBy<kFormat, Spread::groups>(experts, expert, x, n0, n1, y, y_stride);
  } else if (experts.group_size == kColumns) {
    FixedPointBy<kFormat, Spread::same>(experts, expert, x, n0, n1, y, y_stride);
  } else if constexpr (kColumns < static_cast<int>(kMaxGroupSize)) {
    FixedPointBy<kFormat, Spread::units>(experts, expert, x, n0, n1, y, y_stride);
  }
}

#endif  // HWY_ARCH_X86

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

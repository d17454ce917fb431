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

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/block_product.h"
#include "cpu/few_rows-inl.h"
#include "cpu/unpack-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// vpmaddubsw is x86's, and Highway has had a name for it only since 1.0.4.
#if HWY_ARCH_X86
constexpr bool kHasFixedPoint = true;
#else
constexpr bool kHasFixedPoint = false;
#endif

template <Format kFormat>
constexpr bool IsFixedPointFormat() {
  return kHasFixedPoint && (kFormat == Format::affine4 || kFormat == Format::fp4);
}

/// How the activations of one unit are held.
enum class UnitKind : uint32_t { floats, two_planes, three_planes };

/// One entry of a prepared row's `headers`. They are sorted by kind, so that the kernel's choice is
/// the same for long runs and well predicted.
struct UnitHeader {
  uint32_t unit_and_kind;  ///< unit * 4 + kind
  float scale;             ///< 2^e

  HWY_INLINE UnitHeader(size_t unit, UnitKind kind, float scale_)
      : unit_and_kind(static_cast<uint32_t>(unit * 4) + static_cast<uint32_t>(kind)),
        scale(scale_) {}
  HWY_INLINE explicit UnitHeader(const float* p) { memcpy(this, p, sizeof(*this)); }
  size_t unit() const { return unit_and_kind / 4; }
  UnitKind kind() const { return static_cast<UnitKind>(unit_and_kind % 4); }
};
static_assert(sizeof(UnitHeader) == 2 * sizeof(float));

/// What the unsigned bytes that stand for weights have in excess: 4-bit integers are centred, fp4
/// codes are twice the value, plus 12.
template <Format kFormat>
constexpr int32_t kExcess = kFormat == Format::fp4 ? 12 : 8;

/// Words of a prepared row's `sums`: for each unit the excess times each lane's sum of activations,
/// as an integer in units of the unit's scale (in a unit of floats, as a float); then, for biases,
/// the sum of activations of each group.
template <Format kFormat>
constexpr size_t GroupSumsAt(size_t units) {
  return units * kLanes;
}

/// A plane is two vectors of bytes: the even weights' columns of each word, then the odd ones'.
constexpr size_t kPlaneBytes = 2 * kLanes * 4;

/// A unit's activations as integers times a power of two.
template <Format kFormat>
struct UnitIntegers {
  HWY_ALIGN int32_t values[UnitColumns<kFormat>()];
  int exponent;     ///< values = x * 2^exponent, rounded
  bool fits;        ///< nothing is lost that float32 would keep
  bool short_ones;  ///< all are multiples of 256

  /// Larger powers of two are no floats, or their inverses are not.
  static constexpr int kLargestExponent = 120;

  HWY_INLINE explicit UnitIntegers(const float* x) {
    const DF df;
    const DI di;
    constexpr size_t kColumns = UnitColumns<kFormat>();
    auto max = hn::Zero(df);
    for (size_t i = 0; i < kColumns; i += kLanes) {
      max = hn::Max(max, hn::Abs(hn::LoadU(df, x + i)));
    }
    const float largest = hn::GetLane(hn::MaxOfLanes(df, max));
    // The largest integer of three signed digits of a byte each. That of two, 127 * 256 + 127, has
    // the same leading bits, so one bound serves both.
    constexpr float kLargest = 127 * 65536 + 127 * 256 + 127;
    exponent = HWY_MIN(kLargestExponent, 22 - (largest > 0 ? std::ilogb(largest) : 0));
    if (largest * std::ldexp(1.0f, exponent) > kLargest) --exponent;

    const auto power = hn::Set(df, std::ldexp(1.0f, exponent));
    auto lost = hn::Zero(df);
    auto bits = hn::Zero(di);
    for (size_t i = 0; i < kColumns; i += kLanes) {
      const auto scaled = hn::Mul(hn::LoadU(df, x + i), power);
      const auto integer = hn::NearestInt(scaled);
      lost = hn::Max(lost, hn::Abs(hn::Sub(scaled, hn::ConvertTo(df, integer))));
      bits = hn::Or(bits, integer);
      hn::Store(integer, di, values + i);
    }
    // What is lost is at most 2^-24 of the unit's largest activation: what adding the two in
    // float32 would lose. Only where the power was held back is it more.
    fits = exponent < kLargestExponent || hn::GetLane(hn::MaxOfLanes(df, lost)) == 0.0f;
    HWY_ALIGN int32_t any[kLanes];
    hn::Store(bits, di, any);
    int32_t all_bits = 0;
    for (int32_t lane : any) all_bits |= lane;
    short_ones = (all_bits & 255) == 0;
  }
};

/// Prepares one unit of columns x[0, UnitColumns) in `slot`.
/// @param excess  kLanes words: see GroupSumsAt.
template <Format kFormat>
HWY_INLINE UnitHeader PrepareUnit(size_t u, const float* x, float* slot, float* excess) {
  using U = Unpack<kFormat>;
  static_assert(U::kPositions == 8 && U::Column(1, 0) == 1 && U::Column(0, 1) == 8);
  UnitIntegers<kFormat> unit(x);
  if (!unit.fits) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      double sum = 0;
      for (size_t i = 0; i < 8; ++i) sum += x[8 * lane + i];
      excess[lane] = is_affine(kFormat) ? static_cast<float>(kExcess<kFormat> * sum) : 0.0f;
    }
    for (size_t i = 0; i < 8; ++i) {
      const float scale = std::ldexp(U::kUniform, -U::Shift(i));
      for (size_t lane = 0; lane < kLanes; ++lane)
        slot[i * kLanes + lane] = x[8 * lane + i] * scale;
    }
    return {u, UnitKind::floats, 1.0f};
  }

  const int exponent = unit.exponent - (unit.short_ones ? 8 : 0);
  const float power = std::ldexp(1.0f, -exponent);
  const size_t planes = unit.short_ones ? 2 : 3;
  auto* words = reinterpret_cast<uint32_t*>(slot);
  for (size_t lane = 0; lane < kLanes; ++lane) {
    int32_t rest[8];
    int32_t lane_sum = 0;
    for (size_t i = 0; i < 8; ++i) {
      rest[i] = unit.values[8 * lane + i] >> (unit.short_ones ? 8 : 0);
      lane_sum += rest[i];
    }
    const int32_t lane_excess = kExcess<kFormat> * lane_sum;
    memcpy(excess + lane, &lane_excess, sizeof(lane_excess));
    // Byte i / 2 of the lane's word, in the vector of even or of odd weights.
    for (size_t plane = 0; plane < planes; ++plane) {
      uint32_t word[2] = {0, 0};
      for (size_t i = 0; i < 8; ++i) {
        const auto digit = static_cast<int8_t>(rest[i] & 255);
        word[i % 2] |= static_cast<uint32_t>(static_cast<uint8_t>(digit)) << (8 * (i / 2));
        rest[i] = (rest[i] - digit) >> 8;
      }
      words[plane * 2 * kLanes + lane] = word[0];
      words[plane * 2 * kLanes + kLanes + lane] = word[1];
    }
  }
  return {u, unit.short_ones ? UnitKind::two_planes : UnitKind::three_planes,
          kFormat == Format::fp4 ? 0.5f * power : power};
}

/// Where a prepared row's `headers` hold each unit's scale once more, in the order of units.
constexpr size_t UnitScalesAt(size_t units) { return 2 * units; }

/// Units whose scales and biases the kernel converts at a time.
template <Format kFormat>
HWY_INLINE size_t UnitsPerChunk(size_t group_size) {
  return kChunkGroups * group_size / UnitColumns<kFormat>();
}

template <Format kFormat>
HWY_INLINE void PrepareFixedPoint(const float* x, size_t K, size_t group_size, float* values,
                                  float* sums, float* headers) {
  const size_t units = Units<kFormat>(K);
  std::vector<UnitHeader> all;
  all.reserve(units);
  for (size_t u = 0; u < units; ++u) {
    all.push_back(PrepareUnit<kFormat>(u, x + u * UnitColumns<kFormat>(),
                                       values + u * UnitColumns<kFormat>(), sums + u * kLanes));
  }
  if (is_affine(kFormat)) {
    float* group_sums = sums + GroupSumsAt<kFormat>(units);
    for (size_t g = 0; g * group_size < K; ++g) {
      double sum = 0;
      for (size_t i = 0; i < group_size; ++i) sum += x[g * group_size + i];
      group_sums[g] = static_cast<float>(sum);
    }
  }
  const size_t chunk = UnitsPerChunk<kFormat>(group_size);
  for (size_t u = 0; u < units; u += chunk) {
    std::stable_sort(all.begin() + u, all.begin() + HWY_MIN(units, u + chunk),
                     [](const auto& a, const auto& b) { return a.kind() < b.kind(); });
  }
  // In unit order, for where a unit is a group.
  float* unit_scales = headers + UnitScalesAt(units);
  for (const auto& header : all) unit_scales[header.unit()] = header.scale;
  memcpy(headers, all.data(), units * sizeof(UnitHeader));
}

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

/// Rows of scales of one tile, and the sums of its products with one row of activations.
template <Format kFormat, Spread kSpread, int kRows>
struct TileSums {
  PerLane<kFormat, kSpread != Spread::groups> per_lane;
  VF acc[kRows];
  VI excess_mask;  ///< zero where weights are not centred
  /// Per group; where a unit is a group, times the unit's scale.
  HWY_ALIGN GroupBuffer scales[kRows];

  explicit HWY_INLINE TileSums(size_t group_size) : per_lane(group_size) {
    for (auto& sum : acc) sum = hn::Zero(DF());
  }

  HWY_INLINE void Add(int r, size_t chunk_u, float unit_scale, VF products) {
    auto scale = per_lane(scales[r], chunk_u);
    if constexpr (kSpread != Spread::same) scale = hn::Mul(scale, hn::Set(DF(), unit_scale));
    acc[r] = hn::MulAdd(scale, products, acc[r]);
  }
};

/// One chunk of units of kPlanes planes, headers [begin, end), for kRows rows of weights.
template <Format kFormat, Spread kSpread, int kPlanes, int kRows>
HWY_INLINE void MultiplyUnits(const float* headers, size_t begin, size_t end, size_t u0,
                              const uint8_t* const (&row)[kRows],
                              const uint8_t* const (&tail)[kRows], size_t safe, const float* values,
                              const float* excess, TileSums<kFormat, kSpread, kRows>& sums) {
  using U = Unpack<kFormat>;
  for (size_t i = begin; i < end; ++i) {
    const UnitHeader header(headers + 2 * i);
    const size_t u = header.unit();
    const auto* planes = reinterpret_cast<const uint8_t*>(values + u * UnitColumns<kFormat>());
    VU even[kPlanes], odd[kPlanes];
    for (int p = 0; p < kPlanes; ++p) {
      even[p] = hn::BitCast(DU(), hn::Load(D8(), planes + p * kPlaneBytes));
      odd[p] = hn::BitCast(DU(), hn::Load(D8(), planes + p * kPlaneBytes + kLanes * 4));
    }
    const auto unit_excess =
        hn::And(sums.excess_mask, hn::BitCast(DI(), hn::LoadU(DF(), excess + u * kLanes)));
    const uint8_t* const* from = u < safe ? row : tail;
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* p = from[r] + u * U::kBytes;
      hwy::Prefetch(p + kPrefetchBytes);
      const auto w = LoadWeightBytes<kFormat>(p);
      const auto x0 = AddNeighbours(MultiplyPlane(w, even[0], odd[0]), 1);
      auto sum = AddNeighbours(MultiplyPlane(w, even[kPlanes - 1], odd[kPlanes - 1]), 256);
      if constexpr (kPlanes == 3) {
        sum = hn::Add(sum, AddNeighbours(MultiplyPlane(w, even[1], odd[1]), 1));
        sum = hn::ShiftLeft<8>(sum);
      }
      sum = hn::Sub(hn::Add(sum, x0), unit_excess);
      sums.Add(r, u - u0, header.scale, hn::ConvertTo(DF(), sum));
    }
  }
}

/// The same for units of floats.
template <Format kFormat, Spread kSpread, int kRows>
HWY_NOINLINE void MultiplyFloatUnits(const float* headers, size_t begin, size_t end, size_t u0,
                                     const uint8_t* const (&row)[kRows],
                                     const uint8_t* const (&tail)[kRows], size_t safe,
                                     const float* values, const float* excess,
                                     TileSums<kFormat, kSpread, kRows>& sums) {
  using U = Unpack<kFormat>;
  for (size_t i = begin; i < end; ++i) {
    const size_t u = UnitHeader(headers + 2 * i).unit();
    const uint8_t* const* from = u < safe ? row : tail;
    typename U::Raw raw[kRows];
    for (int r = 0; r < kRows; ++r) raw[r] = U::Load(from[r] + u * U::kBytes);
    VF products[kRows][1];
    MultiplyUnit<kFormat, kRows, 1>(raw, values + u * UnitColumns<kFormat>(), 0, products);
    const auto unit_excess =
        hn::And(hn::BitCast(DF(), sums.excess_mask), hn::LoadU(DF(), excess + u * kLanes));
    for (int r = 0; r < kRows; ++r) sums.Add(r, u - u0, 1.0f, hn::Sub(products[r][0], unit_excess));
  }
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

/// kRows rows of weights times one row of activations.
template <Format kFormat, Spread kSpread, int kRows>
HWY_NOINLINE void FixedPointTile(const Experts& experts, size_t expert, size_t n,
                                 const PreparedRows& x, size_t t, float* y) {
  const size_t groups = experts.groups();
  const size_t units = Units<kFormat>(experts.K);
  const size_t safe = SafeUnits<kFormat>(experts.row_bytes());
  const size_t chunk = UnitsPerChunk<kFormat>(experts.group_size);
  const float* values = x.values + t * x.stride;
  const float* excess = x.sums + t * x.sums_stride;
  const float* group_sums = excess + GroupSumsAt<kFormat>(units);
  const float* headers = x.headers + t * x.headers_stride;
  const float* unit_scales = headers + UnitScalesAt(units);
  HWY_ALIGN uint8_t tails[kRows][kTailBytes<kFormat>];
  TileSums<kFormat, kSpread, kRows> sums(experts.group_size);
  const uint8_t* row[kRows];
  const uint8_t* tail[kRows];
  for (int r = 0; r < kRows; ++r) {
    row[r] = experts.row(expert, n + r);
    tail[r] = CopyTail<kFormat>(row[r], experts.row_bytes(), safe, units, tails[r]);
  }
  for (size_t g = 0, u0 = 0; g < groups; g += kChunkGroups, u0 += chunk) {
    const size_t count = HWY_MIN(kChunkGroups, groups - g);
    const GroupContext context{group_sums + g, unit_scales + u0};
    VF bias_sum[kRows];
    auto any_bias = hn::Zero(DF());
    for (int r = 0; r < kRows; ++r) {
      bias_sum[r] = hn::Zero(DF());
      ConvertRow<kFormat, kSpread == Spread::same>(experts, expert, n + r, g, count, context,
                                                   sums.scales[r], bias_sum[r], any_bias);
    }
    // Rows of nothing but zeros have no biases: centring would add and subtract what cancels.
    const bool centred =
        !is_affine(kFormat) || !hn::AllTrue(DF(), hn::Eq(any_bias, hn::Zero(DF())));
    for (int r = 0; r < kRows && is_affine(kFormat) && centred; ++r) {
      sums.acc[r] = hn::Add(sums.acc[r], bias_sum[r]);
    }
    sums.excess_mask = hn::Set(DI(), centred ? -1 : 0);
    const size_t u1 = HWY_MIN(units, u0 + chunk);
    size_t begin[4];
    for (size_t kind = 0, i = u0; kind < 4; ++kind) {
      begin[kind] = i;
      while (i < u1 && static_cast<size_t>(UnitHeader(headers + 2 * i).kind()) == kind) ++i;
    }
    MultiplyFloatUnits<kFormat, kSpread, kRows>(headers, begin[0], begin[1], u0, row, tail, safe,
                                                values, excess, sums);
    MultiplyUnits<kFormat, kSpread, 2, kRows>(headers, begin[1], begin[2], u0, row, tail, safe,
                                              values, excess, sums);
    MultiplyUnits<kFormat, kSpread, 3, kRows>(headers, begin[2], begin[3], u0, row, tail, safe,
                                              values, excess, sums);
  }
  for (int r = 0; r < kRows; ++r) y[r] = hn::GetLane(hn::SumOfLanes(DF(), sums.acc[r]));
}

template <Format kFormat, Spread kSpread>
HWY_INLINE void FixedPointOf(const Experts& experts, size_t expert, const PreparedRows& x,
                             size_t n0, size_t n1, float* y, size_t y_stride) {
  // Two to four rows of activations one after the other: four rows of weights stay in the
  // first-level cache meanwhile, and what they would share is a fifth of the work.
  size_t n = n0;
  for (; n + 4 <= n1; n += 4) {
    for (size_t t = 0; t < x.rows; ++t) {
      FixedPointTile<kFormat, kSpread, 4>(experts, expert, n, x, t, y + t * y_stride + n - n0);
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

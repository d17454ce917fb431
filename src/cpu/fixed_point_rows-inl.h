// 16-bit activations as exact integers, for the fixed-point kernel (fixed_point-inl.h).
//
// The activations of one unit of columns are integers of 15 or 23 bits and a sign, times a power of
// two, cut into two or three signed bytes ("planes").

#if defined(ZMLX_CPU_FIXED_POINT_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_CPU_FIXED_POINT_ROWS_INL_H_
#undef ZMLX_CPU_FIXED_POINT_ROWS_INL_H_
#else
#define ZMLX_CPU_FIXED_POINT_ROWS_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <cstring>

#include "cpu/block_product.h"
#include "cpu/few_rows-inl.h"
#include "cpu/target.h"
#include "cpu/unpack-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// What the unsigned bytes that stand for weights have in excess: 4-bit integers are centred, fp4
/// codes are twice the value, plus 12.
template <Format kFormat>
constexpr int32_t kExcess = kFormat == Format::fp4 ? 12 : 8;

/// How unsigned bytes of weights meet signed bytes of activations.
enum class ByteDot {
  pairs,  ///< vpmaddubsw: sums of two products, in 16 bits
  quads,  ///< vpdpbusd of AVX-512 VNNI: sums of four, added to 32 bits
};

constexpr bool kMayHaveQuads = HWY_ARCH_X86 && HWY_MAX_BYTES == 64;

/// The instruction that rows are prepared for and multiplied by.
HWY_INLINE ByteDot FixedPointDot() {
  return kMayHaveQuads && use_vnni() ? ByteDot::quads : ByteDot::pairs;
}

/// A plane is two vectors of bytes: the even weights' columns of each word, then the odd ones'.
constexpr size_t kPlaneBytes = 2 * kLanes * 4;

/// How the kernel takes one unit.
struct UnitHeader {
  uint32_t unit;
  float scale;  ///< the power of two that its integers are to be multiplied by

  static HWY_INLINE UnitHeader At(const float* words) {
    UnitHeader header;
    memcpy(&header, words, sizeof(header));
    return header;
  }
};
static_assert(sizeof(UnitHeader) == 2 * sizeof(float));

/// The headers of one chunk of units, sorted so that the kernel's loops are long: units of two
/// planes, then of three, then, if the row ends in one that is not whole, that one. In quads all
/// units have three planes, in their own order.
struct ChunkHeader {
  uint32_t two_end, three_end;  ///< units of the chunk before these
  uint32_t partial_planes;      ///< 0 if there is no partial unit
  uint32_t unused;
};
static_assert(sizeof(ChunkHeader) == 4 * sizeof(float));

/// Where the parts of a prepared row lie, in words of `sums` and of `headers`.
template <Format kFormat>
struct FixedPointLayout {
  size_t units;
  size_t unit_groups;  ///< groups that a unit spans, at least 1
  size_t chunk_units;  ///< whose scales and biases are converted at a time
  size_t chunks;

  HWY_INLINE FixedPointLayout(size_t K, size_t group_size)
      : units(Units<kFormat>(K)),
        unit_groups(HWY_MAX(size_t{1}, UnitColumns<kFormat>() / group_size)),
        chunk_units(kChunkGroups * group_size / UnitColumns<kFormat>()),
        chunks(hwy::DivCeil(units, chunk_units)) {}

  // In `sums`: for each unit the excess times each lane's sum of activations, as an integer in
  // units of the unit's scale; then, for biases, the sum of activations of each group.
  size_t excess(size_t unit) const { return unit * kLanes; }
  size_t group_sums() const { return units * kLanes; }
  // In `headers`: those of chunks, those of units, then the units' scales in the order of units,
  // each as often as the unit spans groups.
  size_t chunk_header(size_t chunk) const { return 4 * chunk; }
  size_t unit_header(size_t i) const { return 4 * chunks + 2 * i; }
  size_t unit_scales() const { return unit_header(units); }
  size_t unit_scale(size_t unit) const { return unit_scales() + unit * unit_groups; }
};

/// The integers of one unit: x[0, UnitColumns) = values / 2^exponent. Of two planes where that
/// loses nothing, if `two_planes` are of use.
template <Format kFormat>
struct UnitIntegers {
  HWY_ALIGN int32_t values[UnitColumns<kFormat>()];
  int exponent;
  size_t planes;

  HWY_INLINE UnitIntegers(const float* x, bool two_planes) {
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
    const int log =
        largest > 0 ? static_cast<int>(std::bit_cast<uint32_t>(largest) >> 23) - 127 : 0;
    exponent = 22 - log;
    if (largest * PowerOfTwo(exponent) > kLargest) --exponent;

    // What is lost is at most 2^-24 of the unit's largest activation: what adding the two in
    // float32 would lose.
    const auto power = hn::Set(df, PowerOfTwo(exponent));
    auto bits = hn::Zero(di);
    for (size_t i = 0; i < kColumns; i += kLanes) {
      const auto integer = hn::NearestInt(hn::Mul(hn::LoadU(df, x + i), power));
      bits = hn::Or(bits, integer);
      hn::Store(integer, di, values + i);
    }
    const auto low = hn::And(bits, hn::Set(di, 255));
    planes = two_planes && hn::AllTrue(di, hn::Eq(low, hn::Zero(di))) ? 2 : 3;
    if (planes == 3) return;
    exponent -= 8;
    for (size_t i = 0; i < kColumns; i += kLanes) {
      hn::Store(hn::ShiftRight<8>(hn::Load(di, values + i)), di, values + i);
    }
  }

  /// A power of two between 2^-126 and 2^127.
  static HWY_INLINE float PowerOfTwo(int exponent) {
    return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23);
  }
};

/// Prepares one unit of columns x[0, UnitColumns): its planes in `slot`, the least significant
/// first, and kLanes words of its excess.
/// @return its scale and the number of its planes.
template <Format kFormat>
HWY_INLINE std::pair<float, size_t> PrepareUnit(const float* x, bool two_planes, float* slot,
                                                float* excess) {
  using U = Unpack<kFormat>;
  static_assert(U::kPositions == 8 && U::Column(1, 0) == 1 && U::Column(0, 1) == 8);
  constexpr size_t kColumns = UnitColumns<kFormat>();
  UnitIntegers<kFormat> unit(x, two_planes);
  HWY_ALIGN int32_t lane_excess[kLanes];
  for (size_t lane = 0; lane < kLanes; ++lane) {
    int32_t sum = 0;
    for (size_t i = 0; i < 8; ++i) sum += unit.values[8 * lane + i];
    lane_excess[lane] = kExcess<kFormat> * sum;
  }
  memcpy(excess, lane_excess, sizeof(lane_excess));
  HWY_ALIGN int8_t planes[3 * kPlaneBytes];
  for (size_t p = 0; p < unit.planes; ++p) {
    // Column 2 * i is byte i of the vector of even weights, column 2 * i + 1 that of odd ones.
    HWY_ALIGN int8_t digits[kColumns];
    for (size_t i = 0; i < kColumns; ++i) {
      digits[i] = static_cast<int8_t>(unit.values[i] & 255);
      unit.values[i] = (unit.values[i] - digits[i]) >> 8;
    }
    int8_t* even = planes + p * kPlaneBytes;
    for (size_t i = 0; i < kColumns / 2; ++i) {
      even[i] = digits[2 * i];
      even[kColumns / 2 + i] = digits[2 * i + 1];
    }
  }
  memcpy(slot, planes, unit.planes * kPlaneBytes);
  const float power = UnitIntegers<kFormat>::PowerOfTwo(-unit.exponent);
  return {kFormat == Format::fp4 ? 0.5f * power : power, unit.planes};
}

/// The sum of activations of each group, from the lanes' sums, which are exact.
template <Format kFormat>
HWY_INLINE void SumGroups(const FixedPointLayout<kFormat>& layout, size_t K, size_t group_size,
                          float* sums, const float* headers) {
  const size_t lanes_per_group = group_size / Unpack<kFormat>::kPositions;
  float* group_sums = sums + layout.group_sums();
  for (size_t g = 0; g * group_size < K; ++g) {
    double sum = 0;
    for (size_t i = g * lanes_per_group; i < (g + 1) * lanes_per_group; ++i) {
      int32_t excess;
      memcpy(&excess, sums + i, sizeof(excess));
      sum +=
          static_cast<double>(excess / kExcess<kFormat>) * headers[layout.unit_scale(i / kLanes)];
    }
    group_sums[g] = static_cast<float>(sum);
  }
}

/// Prepares a row of K activations: see FixedPointLayout. A unit's planes are where its floats
/// would be.
/// @param x  zero from K to a whole number of units.
/// @param dot  in quads a third plane costs a fifth of the work, less than taking units out of
///             their order does; in pairs it costs half.
template <Format kFormat>
HWY_INLINE void PrepareFixedPoint(const float* x, size_t K, size_t group_size, ByteDot dot,
                                  float* values, float* sums, float* headers) {
  constexpr size_t kColumns = UnitColumns<kFormat>();
  const FixedPointLayout<kFormat> layout(K, group_size);
  const bool two_planes = dot == ByteDot::pairs;
  for (size_t chunk = 0; chunk < layout.chunks; ++chunk) {
    const size_t u0 = chunk * layout.chunk_units;
    const size_t u1 = HWY_MIN(layout.units, u0 + layout.chunk_units);
    const bool has_partial = u1 * kColumns > K;
    const size_t whole = u1 - (has_partial ? 1 : 0);
    ChunkHeader header{};
    // Where both occur, units of two planes from the front and of three from the back.
    size_t front = u0, back = whole;
    for (size_t u = u0; u < u1; ++u) {
      const auto [scale, planes] = PrepareUnit<kFormat>(
          x + u * kColumns, two_planes, values + u * kColumns, sums + layout.excess(u));
      const UnitHeader unit{static_cast<uint32_t>(u), scale};
      const size_t at = u == whole || !two_planes ? u : planes == 2 ? front++ : --back;
      memcpy(headers + layout.unit_header(at), &unit, sizeof(unit));
      std::fill_n(headers + layout.unit_scale(u), layout.unit_groups, scale);
      if (u == whole) header.partial_planes = static_cast<uint32_t>(planes);
    }
    header.two_end = static_cast<uint32_t>(front - u0);
    header.three_end = static_cast<uint32_t>(whole - u0);
    memcpy(headers + layout.chunk_header(chunk), &header, sizeof(header));
  }
  if (is_affine(kFormat)) SumGroups(layout, K, group_size, sums, headers);
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

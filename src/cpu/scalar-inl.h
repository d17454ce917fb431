// Typed numbers to and from float32 vectors.

#if defined(ZMLX_CPU_SCALAR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_CPU_SCALAR_INL_H_
#undef ZMLX_CPU_SCALAR_INL_H_
#else
#define ZMLX_CPU_SCALAR_INL_H_
#endif

#include <cstring>

#include "cpu/quantized.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DI = hn::ScalableTag<int32_t>;
using DU = hn::ScalableTag<uint32_t>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;
using DU16 = hn::Rebind<uint16_t, DF>;
using DU8 = hn::Rebind<uint8_t, DF>;

/// Lanes of a float32 vector; a constant, as scalable vector lengths are not among the targets.
constexpr size_t kLanes = HWY_LANES(float);

/// Reads kLanes numbers from element `i` on.
template <Scalar kType>
HWY_INLINE VF LoadFloats(const void* p, size_t i) {
  const DF df;
  const DU du;
  if constexpr (kType == Scalar::f32) {
    return hn::LoadU(df, static_cast<const float*>(p) + i);
  } else if constexpr (kType == Scalar::bf16) {
    const auto half = hn::LoadU(DU16(), static_cast<const uint16_t*>(p) + i);
    return hn::BitCast(df, hn::ShiftLeft<16>(hn::PromoteTo(du, half)));
  } else if constexpr (kType == Scalar::f16) {
    const hn::Rebind<hwy::float16_t, DF> df16;
    const auto half = hn::LoadU(DU16(), static_cast<const uint16_t*>(p) + i);
    return hn::PromoteTo(df, hn::BitCast(df16, half));
  } else if constexpr (kType == Scalar::e8m0) {
    // 2^(b - 127); b = 0 is the subnormal 2^-127, and 255 becomes infinity as it does in MLX.
    const auto b = hn::PromoteTo(du, hn::LoadU(DU8(), static_cast<const uint8_t*>(p) + i));
    const auto tiny = hn::Set(du, 0x00400000u);
    const auto bits = hn::IfThenElse(hn::Eq(b, hn::Zero(du)), tiny, hn::ShiftLeft<23>(b));
    return hn::BitCast(df, bits);
  } else {
    const auto b = hn::LoadU(DU8(), static_cast<const uint8_t*>(p) + i);
    const DU16 du16;
    const hn::Rebind<hwy::float16_t, DF> df16;
    const auto wide = hn::PromoteTo(du16, b);
    const auto magnitude = hn::And(wide, hn::Set(du16, 0x7F));
    // Only the NaN code 0x7F carries into bit 7, which then lands in float16's top exponent bit.
    const auto nan = hn::And(hn::Add(magnitude, hn::Set(du16, 1)), hn::Set(du16, 0x80));
    const auto sign = hn::ShiftLeft<8>(hn::And(wide, hn::Set(du16, 0x80)));
    const auto half = hn::Or(hn::ShiftLeft<7>(hn::Or(magnitude, nan)), sign);
    return hn::Mul(hn::PromoteTo(df, hn::BitCast(df16, half)), hn::Set(df, 256.0f));
  }
}

/// Round to nearest even; NaN stays NaN.
HWY_INLINE hn::Vec<DU16> ToBfloat16(VF v) {
  const DU du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu)));
  const auto is_nan = hn::RebindMask(du, hn::Ne(v, v));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x00400000u));
  const auto result = hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet, rounded));
  return hn::DemoteTo(DU16(), hn::BitCast(DI(), result));
}

/// Round to nearest even. Without F16C, Highway 1.0.3 truncates.
HWY_INLINE hn::Vec<DU16> ToFloat16(VF v) {
#if HWY_TARGET == HWY_SSE4
  const DU du;
  const DF df;
  const auto bits = hn::BitCast(du, v);
  const auto sign = hn::And(bits, hn::Set(du, 0x80000000u));
  const auto magnitude = hn::Xor(bits, sign);
  // Subnormal results: adding 0.5 aligns the units in the last place and rounds.
  const auto half = hn::Set(du, 0x3F000000u);
  const auto aligned = hn::Add(hn::BitCast(df, magnitude), hn::BitCast(df, half));
  const auto subnormal = hn::Sub(hn::BitCast(du, aligned), half);
  // Normal results: from exponent bias 127 to 15, rounding at bit 13; too large carries into
  // infinity.
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1u));
  const auto rounding = hn::Add(hn::Set(du, 0xC8000FFFu), odd);
  const auto normal = hn::ShiftRight<13>(hn::Add(magnitude, rounding));
  const auto above = [&](uint32_t limit) HWY_ATTR {
    return hn::RebindMask(
        du, hn::Gt(hn::BitCast(DI(), magnitude), hn::Set(DI(), static_cast<int32_t>(limit))));
  };
  auto result = hn::IfThenElse(above(0x387FFFFF), normal, subnormal);
  result = hn::IfThenElse(above(0x477FFFFF), hn::Set(du, 0x7C00u), result);
  result = hn::IfThenElse(above(0x7F800000), hn::Set(du, 0x7E00u), result);
  result = hn::Or(result, hn::ShiftRight<16>(sign));
  return hn::DemoteTo(DU16(), hn::BitCast(DI(), result));
#else
  return hn::BitCast(DU16(), hn::DemoteTo(hn::Rebind<hwy::float16_t, DF>(), v));
#endif
}

/// The 16 bits of each number as kType.
template <Scalar kType>
HWY_INLINE hn::Vec<DU16> Halves(VF v) {
  static_assert(kType == Scalar::bf16 || kType == Scalar::f16);
  return kType == Scalar::bf16 ? ToBfloat16(v) : ToFloat16(v);
}

/// Writes kLanes numbers from element `i` on.
template <Scalar kType>
HWY_INLINE void StoreFloats(VF v, void* p, size_t i) {
  const DF df;
  if constexpr (kType == Scalar::f32) {
    hn::StoreU(v, df, static_cast<float*>(p) + i);
  } else {
    hn::StoreU(Halves<kType>(v), DU16(), static_cast<uint16_t*>(p) + i);
  }
}

/// dst[0, count) from `count` numbers; dst holds a multiple of kLanes and is zero beyond `count`.
template <Scalar kType>
HWY_INLINE void FloatsFrom(const void* src, size_t count, float* HWY_RESTRICT dst) {
  const DF df;
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(LoadFloats<kType>(src, i), df, dst + i);
  if (i == count) return;
  HWY_ALIGN uint8_t tail[kLanes * 4] = {};
  const size_t size = size_of(kType);
  memcpy(tail, static_cast<const uint8_t*>(src) + i * size, (count - i) * size);
  hn::StoreU(LoadFloats<kType>(tail, 0), df, dst + i);
  // An e8m0 of zero bits is not zero.
  for (size_t k = count; k < i + kLanes; ++k) dst[k] = 0.0f;
}

// Not inlined: it would come back with five types at each of many call sites.
static HWY_NOINLINE HWY_MAYBE_UNUSED void FloatsFrom(const void* src, Scalar type, size_t count,
                                                     float* HWY_RESTRICT dst) {
  switch (type) {
    case Scalar::f32:
      return FloatsFrom<Scalar::f32>(src, count, dst);
    case Scalar::f16:
      return FloatsFrom<Scalar::f16>(src, count, dst);
    case Scalar::bf16:
      return FloatsFrom<Scalar::bf16>(src, count, dst);
    case Scalar::e8m0:
      return FloatsFrom<Scalar::e8m0>(src, count, dst);
    case Scalar::e4m3:
      return FloatsFrom<Scalar::e4m3>(src, count, dst);
  }
}

template <Scalar kType>
HWY_INLINE void FloatsTo(const float* HWY_RESTRICT src, size_t count, void* dst) {
  const DF df;
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) StoreFloats<kType>(hn::LoadU(df, src + i), dst, i);
  if (i == count) return;
  HWY_ALIGN float padded[kLanes] = {};
  HWY_ALIGN uint8_t tail[kLanes * 4];
  memcpy(padded, src + i, (count - i) * sizeof(float));
  StoreFloats<kType>(hn::Load(df, padded), tail, 0);
  memcpy(static_cast<uint8_t*>(dst) + i * size_of(kType), tail, (count - i) * size_of(kType));
}

/// dst[0, count) of a float type, each rounded once to nearest even.
static HWY_NOINLINE HWY_MAYBE_UNUSED void FloatsTo(const float* HWY_RESTRICT src, size_t count,
                                                   Scalar type, void* dst) {
  switch (type) {
    case Scalar::f32:
      return FloatsTo<Scalar::f32>(src, count, dst);
    case Scalar::f16:
      return FloatsTo<Scalar::f16>(src, count, dst);
    default:
      return FloatsTo<Scalar::bf16>(src, count, dst);
  }
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

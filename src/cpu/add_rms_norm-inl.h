// Residual add and RMS norm of one row: the sum is formed once, kept as float32 in the first-level
// cache, and scaled from there.

#if defined(ZMLX_CPU_ADD_RMS_NORM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_CPU_ADD_RMS_NORM_INL_H_
#undef ZMLX_CPU_ADD_RMS_NORM_INL_H_
#else
#define ZMLX_CPU_ADD_RMS_NORM_INL_H_
#endif

#include <cmath>
#include <cstring>

#include "cpu/add_rms_norm.h"
#include "cpu/scalar-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Rounds to nearest even in kType, keeping float32's form.
///
/// For bfloat16 without a care for NaN: rounding can turn only those into numbers whose low 16 bits
/// are not zero, and here every NaN comes from bfloat16 or from the processor.
template <Scalar kType>
HWY_INLINE VF RoundTo(VF v) {
  const DF df;
  if constexpr (kType == Scalar::bf16) {
    const DU du;
    const auto bits = hn::BitCast(du, v);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
    const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu)));
    return hn::BitCast(df, hn::And(rounded, hn::Set(du, 0xFFFF0000u)));
  } else if constexpr (kType == Scalar::f16) {
    const hn::Rebind<hwy::float16_t, DF> df16;
    return hn::PromoteTo(df, hn::BitCast(df16, Halves<kType>(v)));
  } else {
    return v;
  }
}

/// Writes two vectors of numbers that kType has, at element i, past the caches if `kStream` (then
/// aligned).
template <Scalar kType, bool kStream>
HWY_INLINE void StorePair(VF a, VF b, void* p, size_t i) {
  const auto store = [](auto d, auto v, auto* to) HWY_ATTR {
    if constexpr (kStream) {
      hn::Stream(v, d, to);
    } else {
      hn::StoreU(v, d, to);
    }
  };
  if constexpr (kType == Scalar::f32) {
    store(DF(), a, static_cast<float*>(p) + i);
    store(DF(), b, static_cast<float*>(p) + i + kLanes);
  } else {
    const hn::Repartition<uint16_t, DF> d16;
    auto* to = static_cast<uint16_t*>(p) + i;
    if constexpr (kType == Scalar::bf16) {
      store(d16, hn::ConcatOdd(d16, hn::BitCast(d16, b), hn::BitCast(d16, a)), to);
    } else {
      store(d16, hn::Combine(d16, Halves<kType>(b), Halves<kType>(a)), to);
    }
  }
}

/// Reads kLanes elements of the sum, rounded to the type that it is stored as.
template <Scalar kType, bool kAdd>
HWY_INLINE VF SumAt(const void* x, const void* residual, size_t i) {
  const auto v = LoadFloats<kType>(x, i);
  if constexpr (!kAdd) return v;
  return RoundTo<kType>(hn::Add(v, LoadFloats<kType>(residual, i)));
}

/// The first `columns` elements of a row, a multiple of 2 * kLanes: the sum to `plain` and `sum`.
/// @return the sum of squares.
template <Scalar kType, bool kAdd, bool kStream>
HWY_INLINE float AddRow(const void* x, const void* residual, size_t columns,
                        float* HWY_RESTRICT plain, void* sum) {
  const DF df;
  VF squares[2] = {hn::Zero(df), hn::Zero(df)};
  for (size_t i = 0; i < columns; i += 2 * kLanes) {
    const auto a = SumAt<kType, kAdd>(x, residual, i);
    const auto b = SumAt<kType, kAdd>(x, residual, i + kLanes);
    squares[0] = hn::MulAdd(a, a, squares[0]);
    squares[1] = hn::MulAdd(b, b, squares[1]);
    hn::Store(a, df, plain + i);
    hn::Store(b, df, plain + i + kLanes);
    if constexpr (kAdd) StorePair<kType, kStream>(a, b, sum, i);
  }
  return hn::GetLane(hn::SumOfLanes(df, hn::Add(squares[0], squares[1])));
}

/// Fetching the next row meanwhile was tried: slower.
template <Scalar kType, bool kStream>
HWY_INLINE void ScaleRow(const float* HWY_RESTRICT plain, const float* HWY_RESTRICT weight,
                         float scale, size_t columns, void* normed) {
  const DF df;
  const auto r = hn::Set(df, scale);
  for (size_t i = 0; i < columns; i += 2 * kLanes) {
    const auto a = hn::Mul(hn::Load(df, plain + i), r);
    const auto b = hn::Mul(hn::Load(df, plain + i + kLanes), r);
    StorePair<kType, kStream>(RoundTo<kType>(hn::Mul(a, hn::Load(df, weight + i))),
                              RoundTo<kType>(hn::Mul(b, hn::Load(df, weight + i + kLanes))), normed,
                              i);
  }
}

/// Rows [begin, end). `weight` is float32; it and `plain` hold D rounded up to 2 * kLanes.
template <Scalar kType, Scalar kNormed, bool kAdd, bool kStream>
HWY_NOINLINE void NormRows(const AddRmsNormArgs& args, const float* weight, size_t begin,
                           size_t end, float* plain) {
  constexpr size_t kSize = size_of(kType);
  constexpr size_t kNormedSize = size_of(kNormed);
  const size_t D = args.D;
  const size_t whole = D / (2 * kLanes) * (2 * kLanes);
  for (size_t row = begin; row < end; ++row) {
    const auto* x = static_cast<const uint8_t*>(args.x) + row * D * kSize;
    const auto* residual = static_cast<const uint8_t*>(args.residual);
    auto* sum = static_cast<uint8_t*>(args.sum);
    if constexpr (kAdd) residual += row * D * kSize;
    if constexpr (kAdd) sum += row * D * kSize;
    auto* normed = static_cast<uint8_t*>(args.normed) + row * D * kNormedSize;
    float squares = AddRow<kType, kAdd, kStream>(x, residual, whole, plain, sum);
    // The rest through padded copies.
    HWY_ALIGN uint8_t rest[3][2 * kLanes * 4] = {};
    const size_t left = D - whole;
    if (left > 0) {
      memcpy(rest[0], x + whole * kSize, left * kSize);
      if constexpr (kAdd) memcpy(rest[1], residual + whole * kSize, left * kSize);
      squares += AddRow<kType, kAdd, false>(rest[0], rest[1], 2 * kLanes, plain + whole, rest[2]);
      if constexpr (kAdd) memcpy(sum + whole * kSize, rest[2], left * kSize);
    }
    const double mean = static_cast<double>(squares) / static_cast<double>(D);
    const auto scale = static_cast<float>(1.0 / std::sqrt(mean + static_cast<double>(args.eps)));
    ScaleRow<kNormed, kStream>(plain, weight, scale, whole, normed);
    if (left > 0) {
      ScaleRow<kNormed, false>(plain + whole, weight + whole, scale, 2 * kLanes, rest[2]);
      memcpy(normed + whole * kNormedSize, rest[2], left * kNormedSize);
    }
  }
  if constexpr (kStream) hwy::FlushStream();
}

template <Scalar kType, Scalar kNormed>
HWY_INLINE void NormRowsOf(const AddRmsNormArgs& args, bool stream, const float* weight,
                           size_t begin, size_t end, float* plain) {
  if (!args.residual) {
    NormRows<kType, kNormed, false, false>(args, weight, begin, end, plain);
  } else if (stream) {
    NormRows<kType, kNormed, true, true>(args, weight, begin, end, plain);
  } else {
    NormRows<kType, kNormed, true, false>(args, weight, begin, end, plain);
  }
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

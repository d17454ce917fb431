// Residual add and RMS norm of rows: the sum is formed once, kept as float32 in the first-level
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

/// One row on its way: where it comes from and goes, and its sum as float32 meanwhile.
struct NormRow {
  const uint8_t* x;
  const uint8_t* residual;
  uint8_t* sum;
  uint8_t* normed;
  float* plain;
};

/// Elements [i, i + 2 * kLanes) of the sum, to `plain` and `sum`, and their squares.
template <Scalar kType, bool kAdd, bool kStream>
HWY_INLINE void AddPair(const NormRow& row, size_t i, VF (&squares)[2]) {
  const DF df;
  const auto a = SumAt<kType, kAdd>(row.x, row.residual, i);
  const auto b = SumAt<kType, kAdd>(row.x, row.residual, i + kLanes);
  squares[0] = hn::MulAdd(a, a, squares[0]);
  squares[1] = hn::MulAdd(b, b, squares[1]);
  hn::Store(a, df, row.plain + i);
  hn::Store(b, df, row.plain + i + kLanes);
  if constexpr (kAdd) StorePair<kType, kStream>(a, b, row.sum, i);
}

/// The same elements of `plain`, scaled, to `normed`.
template <Scalar kType, bool kStream>
HWY_INLINE void ScalePair(const NormRow& row, const float* weight, VF scale, size_t i) {
  const DF df;
  const auto a = hn::Mul(hn::Load(df, row.plain + i), scale);
  const auto b = hn::Mul(hn::Load(df, row.plain + i + kLanes), scale);
  StorePair<kType, kStream>(RoundTo<kType>(hn::Mul(a, hn::Load(df, weight + i))),
                            RoundTo<kType>(hn::Mul(b, hn::Load(df, weight + i + kLanes))),
                            row.normed, i);
}

HWY_INLINE float SumOfSquares(const VF (&squares)[2]) {
  return hn::GetLane(hn::SumOfLanes(DF(), hn::Add(squares[0], squares[1])));
}

/// Rows [begin, end). `weight` is float32; it and both halves of `plain` hold D rounded up to
/// 2 * kLanes.
///
/// While a row is scaled the next one is read, so that reads never pause: from memory a fifth
/// faster on Zen 5 than one row after the other.
template <Scalar kType, Scalar kNormed, bool kAdd, bool kStream>
class NormRows {
 public:
  HWY_INLINE NormRows(const AddRmsNormArgs& args, const float* weight, float* plain,
                      size_t plain_stride)
      : args_(args),
        weight_(weight),
        plain_(plain),
        plain_stride_(plain_stride),
        whole_(args.D / (2 * kLanes) * (2 * kLanes)) {}

  HWY_INLINE void Run(size_t begin, size_t end) const {
    float squares = Add(Row(begin));
    for (size_t n = begin; n < end; ++n) {
      const NormRow row = Row(n);
      const auto scale = hn::Set(DF(), Scale(squares));
      if (n + 1 < end) {
        squares = ScaleAndAdd(row, scale, Row(n + 1));
      } else {
        for (size_t i = 0; i < whole_; i += 2 * kLanes) {
          ScalePair<kNormed, kStream>(row, weight_, scale, i);
        }
      }
      ScaleRest(row, scale);
    }
    if constexpr (kStream) hwy::FlushStream();
  }

 private:
  /// How far ahead of the addition its inputs are fetched: the hardware's prefetcher stops at each
  /// page. Makes a tenth on Zen 5.
  static constexpr size_t kBytesAhead = 4096;

  HWY_INLINE NormRow Row(size_t n) const {
    const size_t first = n * args_.D;
    const auto at = [&](auto* p, Scalar type) HWY_ATTR { return p + first * size_of(type); };
    return {at(static_cast<const uint8_t*>(args_.x), kType),
            kAdd ? at(static_cast<const uint8_t*>(args_.residual), kType) : nullptr,
            kAdd ? at(static_cast<uint8_t*>(args_.sum), kType) : nullptr,
            at(static_cast<uint8_t*>(args_.normed), kNormed), plain_ + n % 2 * plain_stride_};
  }

  HWY_INLINE float Scale(float squares) const {
    const double mean = static_cast<double>(squares) / static_cast<double>(args_.D);
    return static_cast<float>(1.0 / std::sqrt(mean + static_cast<double>(args_.eps)));
  }

  HWY_INLINE float Add(const NormRow& row) const {
    VF squares[2] = {hn::Zero(DF()), hn::Zero(DF())};
    for (size_t i = 0; i < whole_; i += 2 * kLanes) AddPair<kType, kAdd, kStream>(row, i, squares);
    return SumOfSquares(squares) + AddRest(row);
  }

  HWY_INLINE float ScaleAndAdd(const NormRow& row, VF scale, const NormRow& next) const {
    VF squares[2] = {hn::Zero(DF()), hn::Zero(DF())};
    for (size_t i = 0; i < whole_; i += 2 * kLanes) {
      if constexpr (kStream) {
        for (size_t byte = 0; byte < 2 * kLanes * size_of(kType); byte += 64) {
          const size_t at = i * size_of(kType) + byte + kBytesAhead;
          hwy::Prefetch(next.x + at);
          hwy::Prefetch(next.residual + at);
        }
      }
      AddPair<kType, kAdd, kStream>(next, i, squares);
      ScalePair<kNormed, kStream>(row, weight_, scale, i);
    }
    return SumOfSquares(squares) + AddRest(next);
  }

  /// What is left of a row behind whole pairs of vectors, through padded copies.
  HWY_INLINE float AddRest(const NormRow& row) const {
    const size_t left = args_.D - whole_;
    if (left == 0) return 0.0f;
    constexpr size_t kSize = size_of(kType);
    HWY_ALIGN uint8_t rest[3][2 * kLanes * 4] = {};
    memcpy(rest[0], row.x + whole_ * kSize, left * kSize);
    if constexpr (kAdd) memcpy(rest[1], row.residual + whole_ * kSize, left * kSize);
    VF squares[2] = {hn::Zero(DF()), hn::Zero(DF())};
    const NormRow copy{rest[0], rest[1], rest[2], nullptr, row.plain + whole_};
    AddPair<kType, kAdd, false>(copy, 0, squares);
    if constexpr (kAdd) memcpy(row.sum + whole_ * kSize, rest[2], left * kSize);
    return SumOfSquares(squares);
  }

  HWY_INLINE void ScaleRest(const NormRow& row, VF scale) const {
    const size_t left = args_.D - whole_;
    if (left == 0) return;
    constexpr size_t kSize = size_of(kNormed);
    HWY_ALIGN uint8_t rest[2 * kLanes * 4];
    const NormRow copy{nullptr, nullptr, nullptr, rest, row.plain + whole_};
    ScalePair<kNormed, false>(copy, weight_ + whole_, scale, 0);
    memcpy(row.normed + whole_ * kSize, rest, left * kSize);
  }

  const AddRmsNormArgs& args_;
  const float* weight_;
  float* plain_;
  size_t plain_stride_;
  size_t whole_;
};

template <Scalar kType, Scalar kNormed>
HWY_NOINLINE void NormRowsOf(const AddRmsNormArgs& args, bool stream, const float* weight,
                             size_t begin, size_t end, float* plain, size_t plain_stride) {
  if (!args.residual) {
    NormRows<kType, kNormed, false, false>(args, weight, plain, plain_stride).Run(begin, end);
  } else if (stream) {
    NormRows<kType, kNormed, true, true>(args, weight, plain, plain_stride).Run(begin, end);
  } else {
    NormRows<kType, kNormed, true, false>(args, weight, plain, plain_stride).Run(begin, end);
  }
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

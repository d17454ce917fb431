// Activations brought into the order in which unpacked weights come.

#if defined(ZMLX_CPU_PREPARE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_CPU_PREPARE_ROWS_INL_H_
#undef ZMLX_CPU_PREPARE_ROWS_INL_H_
#else
#define ZMLX_CPU_PREPARE_ROWS_INL_H_
#endif

#include <cmath>
#include <limits>

#include "cpu/block_product.h"
#include "cpu/fixed_point-inl.h"
#include "cpu/unpack-inl.h"
#include "hwy/aligned_allocator.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <Scalar kType>
HWY_INLINE float MaxMagnitude(const void* x, size_t K) {
  const DF df;
  const auto inf = hn::Inf(df);
  auto max = hn::Zero(df);
  size_t i = 0;
  // Max may drop a NaN, so what is not below infinity is made infinite first.
  const auto absorb = [&](VF v) HWY_ATTR {
    v = hn::Abs(v);
    max = hn::Max(max, hn::IfThenElse(hn::Lt(v, inf), v, inf));
  };
  for (; i + kLanes <= K; i += kLanes) absorb(LoadFloats<kType>(x, i));
  if (i < K) {
    HWY_ALIGN float tail[kLanes];
    const size_t size = size_of(kType);
    FloatsFrom<kType>(static_cast<const uint8_t*>(x) + i * size, K - i, tail);
    absorb(hn::Load(df, tail));
  }
  return hn::GetLane(hn::MaxOfLanes(df, max));
}

float MaxMagnitudeOf(const void* x, Scalar type, size_t K) {
  switch (type) {
    case Scalar::f32:
      return MaxMagnitude<Scalar::f32>(x, K);
    case Scalar::f16:
      return MaxMagnitude<Scalar::f16>(x, K);
    default:
      return MaxMagnitude<Scalar::bf16>(x, K);
  }
}

/// The power of two to divide a row by. The factored kernel uses weights at up to 2^28 times their
/// value, so magnitudes far from 1 could leave float32's range half-way.
inline float RowFactor(float max) {
  constexpr int kComfortable = 32;
  if (max == 0.0f || !std::isfinite(max)) return 1.0f;
  const int exponent = std::ilogb(max);
  if (std::abs(exponent) <= kComfortable) return 1.0f;
  return std::ldexp(1.0f, HWY_MAX(-100, HWY_MIN(100, exponent)));
}

template <Format kFormat>
HWY_NOINLINE void Prepare(const float* HWY_RESTRICT x, size_t K, float factor, bool factored,
                          float* HWY_RESTRICT values, float* HWY_RESTRICT sums) {
  using U = Unpack<kFormat>;
  const size_t units = Units<kFormat>(K);
  const float inverse = 1.0f / factor;  // exact, a power of two
  float scales[U::kPositions];
  for (int i = 0; i < U::kPositions; ++i) {
    scales[i] = factored ? std::ldexp(U::kUniform * inverse, -U::Shift(i)) : 1.0f;
  }
  for (size_t u = 0; u < units; ++u) {
    const float* HWY_RESTRICT from = x + u * UnitColumns<kFormat>();
    float* HWY_RESTRICT to = values + u * UnitColumns<kFormat>();
    for (size_t i = 0; i < U::kPositions; ++i) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        to[i * kLanes + lane] = from[U::Column(i, lane)] * scales[i];
      }
    }
    if (!factored || !is_affine(kFormat)) continue;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      double sum = 0;
      for (size_t i = 0; i < U::kPositions; ++i) sum += from[U::Column(i, lane)];
      sums[u * kLanes + lane] = static_cast<float>(sum * inverse);
    }
  }
}

void PrepareRow(const void* x, Scalar type, Format format, size_t group_size, size_t K,
                const PreparedRows& prepared, size_t row) {
  float* values = prepared.values + row * prepared.stride;
  float* sums = prepared.sums ? prepared.sums + row * prepared.sums_stride : nullptr;
  // The stride is a whole number of units of the longest vectors, hence also of these.
  auto plain = hwy::AllocateAligned<float>(prepared.stride + kLanes);
  FloatsFrom(x, type, K, plain.get());
  std::fill(plain.get() + K, plain.get() + prepared.stride, 0.0f);
  const bool factored = prepared.kernel == RowKernel::factored;
  const float factor = factored ? RowFactor(MaxMagnitudeOf(x, type, K)) : 1.0f;
  prepared.factors[row] = factor;
  if (prepared.kernel == RowKernel::fixed_point) {
    float* headers = prepared.headers + row * prepared.headers_stride;
    if (format == Format::affine4) {
      return PrepareFixedPoint<Format::affine4>(plain.get(), K, group_size, values, sums, headers);
    }
    return PrepareFixedPoint<Format::fp4>(plain.get(), K, group_size, values, sums, headers);
  }
  switch (format) {
#define ZMLX_CASE(f) \
  case Format::f:    \
    return Prepare<Format::f>(plain.get(), K, factor, factored, values, sums)
    ZMLX_CASE(affine1);
    ZMLX_CASE(affine2);
    ZMLX_CASE(affine3);
    ZMLX_CASE(affine4);
    ZMLX_CASE(affine5);
    ZMLX_CASE(affine6);
    ZMLX_CASE(affine8);
    ZMLX_CASE(fp4);
    ZMLX_CASE(fp8);
#undef ZMLX_CASE
  }
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

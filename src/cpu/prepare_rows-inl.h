// Activations brought into the order in which unpacked weights come.

#if defined(ZMLX_CPU_PREPARE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_CPU_PREPARE_ROWS_INL_H_
#undef ZMLX_CPU_PREPARE_ROWS_INL_H_
#else
#define ZMLX_CPU_PREPARE_ROWS_INL_H_
#endif

#include <algorithm>
#include <cmath>

#include "cpu/aligned.h"
#include "cpu/block_product.h"
#include "cpu/fixed_point_rows-inl.h"
#include "cpu/unpack-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// The power of two to divide a row by. The factored kernel uses weights at up to 2^28 times their
/// value, so magnitudes far from 1 could leave float32's range half-way.
inline float RowFactor(float max) {
  constexpr int kComfortable = 32;
  if (max == 0.0f || !std::isfinite(max)) return 1.0f;
  const int exponent = std::ilogb(max);
  if (std::abs(exponent) <= kComfortable) return 1.0f;
  return std::ldexp(1.0f, HWY_MAX(-100, HWY_MIN(100, exponent)));
}

/// Values in the order of unpacking; if `factored`, divided by `factor` and by each position's own
/// power of two, and with the sums of values that share a lane.
template <Format kFormat>
HWY_INLINE void PrepareFloats(const float* HWY_RESTRICT x, size_t K, float factor, bool factored,
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

template <Format kFormat>
HWY_INLINE void PrepareRow(const void* x, Scalar type, const Experts& experts,
                           const PreparedRows& prepared, size_t row) {
  const size_t K = experts.K;
  float* values = prepared.values + row * prepared.stride;
  float* sums = prepared.sums ? prepared.sums + row * prepared.sums_stride : nullptr;
  // The stride is a whole number of units of the longest vectors, hence also of these.
  auto plain = allocate_aligned<float>(prepared.stride + kLanes);
  FloatsFrom(x, type, K, plain.get());
  std::fill(plain.get() + K, plain.get() + prepared.stride, 0.0f);
  prepared.factors[row] = 1.0f;
  if constexpr (has_fixed_point(kFormat)) {
    if (prepared.kernel == RowKernel::fixed_point) {
      float* headers = prepared.headers + row * prepared.headers_stride;
      return PrepareFixedPoint<kFormat>(plain.get(), K, experts.group_size, FixedPointDot(), values,
                                        sums, headers);
    }
  }
  const bool factored = prepared.kernel == RowKernel::factored;
  if (factored) prepared.factors[row] = RowFactor(magnitudes_of(x, type, K).largest);
  PrepareFloats<kFormat>(plain.get(), K, prepared.factors[row], factored, values, sums);
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

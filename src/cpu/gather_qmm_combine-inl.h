// The weighted sum over a token's experts.

#if defined(ZMLX_CPU_GATHER_QMM_COMBINE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_CPU_GATHER_QMM_COMBINE_INL_H_
#undef ZMLX_CPU_GATHER_QMM_COMBINE_INL_H_
#else
#define ZMLX_CPU_GATHER_QMM_COMBINE_INL_H_
#endif

#include "cpu/scalar-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// sum[i] += weight * y[i].
HWY_INLINE void AddWeightedRow(float weight, const float* HWY_RESTRICT y, size_t count,
                               float* HWY_RESTRICT sum) {
  const DF df;
  const auto w = hn::Set(df, weight);
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    hn::StoreU(hn::MulAdd(w, hn::LoadU(df, y + i), hn::LoadU(df, sum + i)), df, sum + i);
  }
  for (; i < count; ++i) sum[i] += weight * y[i];
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

// What one format's file in `formats/` is made of: its kernels for every instruction set, and the
// functions that pick one at run time.

#if defined(ZMLX_CPU_FORMAT_KERNELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_CPU_FORMAT_KERNELS_INL_H_
#undef ZMLX_CPU_FORMAT_KERNELS_INL_H_
#else
#define ZMLX_CPU_FORMAT_KERNELS_INL_H_
#endif

#include "cpu/few_rows-inl.h"
#include "cpu/fixed_point-inl.h"
#include "cpu/format_kernels.h"
#include "cpu/many_rows-inl.h"
#include "cpu/prepare_rows-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {

template <Format kFormat>
HWY_INLINE void Multiply(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0,
                         size_t n1, float* y, size_t y_stride) {
  if constexpr (has_fixed_point(kFormat)) {
    if (x.kernel == RowKernel::fixed_point) {
      return FixedPoint<kFormat>(experts, expert, x, n0, n1, y, y_stride);
    }
  }
  if (x.kernel == RowKernel::many) {
    ManyRows<kFormat>(experts, expert, x, n0, n1, y, y_stride);
  } else {
    FewRows<kFormat>(experts, expert, x, n0, n1, y, y_stride);
  }
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

/// Inside HWY_NAMESPACE, for each instruction set.
#undef ZMLX_FORMAT_KERNELS
#define ZMLX_FORMAT_KERNELS(f)                                                               \
  void PrepareRow_##f(const void* x, Scalar type, const Experts& experts,                    \
                      const PreparedRows& prepared, size_t row) {                            \
    PrepareRow<Format::f>(x, type, experts, prepared, row);                                  \
  }                                                                                          \
  void Multiply_##f(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0, \
                    size_t n1, float* y, size_t y_stride) {                                  \
    Multiply<Format::f>(experts, expert, x, n0, n1, y, y_stride);                            \
  }

/// Once.
#undef ZMLX_EXPORT_FORMAT_KERNELS
#define ZMLX_EXPORT_FORMAT_KERNELS(f)                                                        \
  HWY_EXPORT(PrepareRow_##f);                                                                \
  HWY_EXPORT(Multiply_##f);                                                                  \
  void prepare_row_##f(const void* x, Scalar type, const Experts& experts,                   \
                       const PreparedRows& prepared, size_t row) {                           \
    HWY_DYNAMIC_DISPATCH(PrepareRow_##f)(x, type, experts, prepared, row);                   \
  }                                                                                          \
  void multiply_##f(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0, \
                    size_t n1, float* y, size_t y_stride) {                                  \
    HWY_DYNAMIC_DISPATCH(Multiply_##f)(experts, expert, x, n0, n1, y, y_stride);             \
  }

#endif  // per-target include guard

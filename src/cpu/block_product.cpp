#include "cpu/block_product.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/block_product.cpp"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "cpu/few_rows-inl.h"
#include "cpu/fixed_point-inl.h"
#include "cpu/many_rows-inl.h"
#include "cpu/prepare_rows-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {

template <Format kFormat>
HWY_INLINE void Product(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0,
                        size_t n1, float* y, size_t y_stride) {
#if HWY_ARCH_X86
  if constexpr (IsFixedPointFormat<kFormat>()) {
    if (x.kernel == RowKernel::fixed_point) {
      return FixedPoint<kFormat>(experts, expert, x, n0, n1, y, y_stride);
    }
  }
#endif
  if (x.kernel == RowKernel::many) {
    ManyRows<kFormat>(experts, expert, x, n0, n1, y, y_stride);
  } else {
    FewRows<kFormat>(experts, expert, x, n0, n1, y, y_stride);
  }
}

void AddBias(const Table& bias, size_t expert, size_t rows, size_t n0, size_t n1, float* y,
             size_t y_stride) {
  constexpr size_t kChunk = 64;
  HWY_ALIGN float values[kChunk + kLanes];
  for (size_t n = n0; n < n1; n += kChunk) {
    const size_t count = HWY_MIN(kChunk, n1 - n);
    const auto* row = static_cast<const uint8_t*>(bias.row(expert, 0));
    FloatsFrom(row + n * bias.row_stride * size_of(bias.type), bias.type, count, values);
    for (size_t t = 0; t < rows; ++t) {
      for (size_t i = 0; i < count; ++i) y[t * y_stride + n - n0 + i] += values[i];
    }
  }
}

void BlockProduct(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0,
                  size_t n1, float* y, size_t y_stride) {
  switch (experts.format) {
#define ZMLX_CASE(f)                                             \
  case Format::f:                                                \
    Product<Format::f>(experts, expert, x, n0, n1, y, y_stride); \
    break
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
  if (experts.bias.data) AddBias(experts.bias, expert, x.rows, n0, n1, y, y_stride);
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace zmlx::cpu {

HWY_EXPORT(MaxMagnitudeOf);
HWY_EXPORT(PrepareRow);
HWY_EXPORT(BlockProduct);

namespace {

/// A row is padded to whole units of the longest vectors (16 lanes) that any target has, so that
/// the layout's size does not depend on the target.
size_t padded(Format format, size_t K) {
  const size_t unit = is_affine(format) || format == Format::fp4
                          ? 16 * (format == Format::affine5 || format == Format::affine6 ||
                                          format == Format::affine8
                                      ? 4
                                  : format == Format::affine3 ? 8
                                                              : 32 / bits_of(format))
                          : 32;
  return (K + unit - 1) / unit * unit;
}

}  // namespace

RowKernel choose_kernel(Format format, size_t K, Scalar x, size_t rows, bool finite) {
  // Measured on Zen 3: unpacking again for every four rows costs as much as the detour through the
  // cache at five.
  constexpr size_t kManyRows = 5;
  // See few_rows-inl.h. The integers of 1 and 2 bits are the furthest from their weights.
  const size_t short_sums = !is_affine(format) ? 0 : bits_of(format) <= 2 ? 4096 : 1024;
  if (rows >= kManyRows) return RowKernel::many;
  const bool four_bits = format == Format::affine4 || format == Format::fp4;
  if (HWY_ARCH_X86 && four_bits && x != Scalar::f32 && finite) return RowKernel::fixed_point;
  return finite && K >= short_sums ? RowKernel::factored : RowKernel::weightwise;
}

size_t prepared_stride(Format format, size_t K) { return padded(format, K); }

size_t prepared_sums_stride(Format format, size_t K) {
  // A sum per lane: at least four weights share one. A vector may be read past the last.
  return format == Format::fp8 ? 0 : padded(format, K) / 4 + 16;
}

size_t prepared_headers_stride(Format format, size_t K) {
  // Three words a unit, and the shortest unit has 4 lanes of 8 weights. A vector may be read past
  // the last.
  return format == Format::affine4 || format == Format::fp4 ? padded(format, K) / 32 * 3 + 16 : 0;
}

float max_magnitude(const void* x, Scalar type, size_t K) {
  return HWY_DYNAMIC_DISPATCH(MaxMagnitudeOf)(x, type, K);
}

void prepare_row(const void* x, Scalar type, const Experts& experts, const PreparedRows& prepared,
                 size_t row) {
  HWY_DYNAMIC_DISPATCH(PrepareRow)(x, type, experts.format, experts.group_size, experts.K, prepared,
                                   row);
}

void block_product(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0,
                   size_t n1, float* y, size_t y_stride) {
  HWY_DYNAMIC_DISPATCH(BlockProduct)(experts, expert, x, n0, n1, y, y_stride);
}

}  // namespace zmlx::cpu
#endif  // HWY_ONCE

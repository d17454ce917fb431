#include "cpu/block_product.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/block_product.cpp"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "cpu/scalar-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <Scalar kType>
HWY_INLINE Magnitudes RowMagnitudes(const void* x, size_t K) {
  const DF df;
  const auto zero = hn::Zero(df), inf = hn::Inf(df);
  auto largest = zero, smallest = inf;
  // Max may drop a NaN, so what is not below infinity is made infinite first.
  const auto absorb = [&](VF v) HWY_ATTR {
    v = hn::Abs(v);
    largest = hn::Max(largest, hn::IfThenElse(hn::Lt(v, inf), v, inf));
    smallest = hn::Min(smallest, hn::IfThenElse(hn::Gt(v, zero), v, inf));
  };
  size_t i = 0;
  for (; i + kLanes <= K; i += kLanes) absorb(LoadFloats<kType>(x, i));
  if (i < K) {
    HWY_ALIGN float tail[kLanes];
    FloatsFrom<kType>(static_cast<const uint8_t*>(x) + i * size_of(kType), K - i, tail);
    absorb(hn::Load(df, tail));
  }
  return {hn::GetLane(hn::MinOfLanes(df, smallest)), hn::GetLane(hn::MaxOfLanes(df, largest))};
}

Magnitudes MagnitudesOf(const void* x, Scalar type, size_t K) {
  switch (type) {
    case Scalar::f32:
      return RowMagnitudes<Scalar::f32>(x, K);
    case Scalar::f16:
      return RowMagnitudes<Scalar::f16>(x, K);
    default:
      return RowMagnitudes<Scalar::bf16>(x, K);
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

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <cmath>

#include "cpu/format_kernels.h"

namespace zmlx::cpu {

HWY_EXPORT(MagnitudesOf);
HWY_EXPORT(AddBias);

namespace {

/// Weights in a unit of the longest vectors, 16 lanes, that any target has: rows are padded to
/// whole ones, so that the layout's size does not depend on the target.
size_t longest_unit(Format format) {
  constexpr size_t kLanes = 16;
  switch (format) {
    case Format::affine3:
      return kLanes * 8;
    case Format::affine5:
    case Format::affine6:
      return kLanes * 4;
    case Format::fp8:
      return 32;
    default:
      return kLanes * 32 / bits_of(format);
  }
}

size_t padded(Format format, size_t K) {
  const size_t unit = longest_unit(format);
  return (K + unit - 1) / unit * unit;
}

}  // namespace

RowKernel choose_kernel(Format format, size_t K, Scalar x, size_t rows,
                        const Magnitudes& magnitudes) {
  if (rows >= kManyRows) return RowKernel::many;
  // See few_rows-inl.h. The integers of 1 and 2 bits are the furthest from their weights.
  const size_t short_sums = !is_affine(format) ? 0 : bits_of(format) <= 2 ? 4096 : 1024;
  if (!std::isfinite(magnitudes.largest)) return RowKernel::weightwise;
  if (has_fixed_point(format) && x != Scalar::f32 && magnitudes.smallest >= kSmallestFixedPoint) {
    return RowKernel::fixed_point;
  }
  return K >= short_sums ? RowKernel::factored : RowKernel::weightwise;
}

size_t prepared_stride(Format format, size_t K) { return padded(format, K); }

size_t prepared_sums_stride(Format format, size_t K) {
  // A sum per lane: at least four weights share one. A vector may be read past the last.
  return format == Format::fp8 ? 0 : padded(format, K) / 4 + 16;
}

size_t prepared_headers_stride(Format format, size_t K) {
  // Two words a unit, and the shortest unit has 4 lanes of 8 weights; one each group of at least
  // 16; and four for each chunk of 256 groups. A vector may be read past the last.
  const size_t columns = padded(format, K);
  return has_fixed_point(format) ? columns / 32 * 2 + columns / 16 + (K / 4096 + 1) * 4 + 16 : 0;
}

Magnitudes magnitudes_of(const void* x, Scalar type, size_t K) {
  return HWY_DYNAMIC_DISPATCH(MagnitudesOf)(x, type, K);
}

void prepare_row(const void* x, Scalar type, const Experts& experts, const PreparedRows& prepared,
                 size_t row) {
  switch (experts.format) {
#define ZMLX_CASE(f) \
  case Format::f:    \
    return prepare_row_##f(x, type, experts, prepared, row);
    ZMLX_FOR_EACH_FORMAT(ZMLX_CASE)
#undef ZMLX_CASE
  }
}

void block_product(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0,
                   size_t n1, float* y, size_t y_stride) {
  switch (experts.format) {
#define ZMLX_CASE(f)                                       \
  case Format::f:                                          \
    multiply_##f(experts, expert, x, n0, n1, y, y_stride); \
    break;
    ZMLX_FOR_EACH_FORMAT(ZMLX_CASE)
#undef ZMLX_CASE
  }
  if (experts.bias.data) {
    HWY_DYNAMIC_DISPATCH(AddBias)(experts.bias, expert, x.rows, n0, n1, y, y_stride);
  }
}

}  // namespace zmlx::cpu
#endif  // HWY_ONCE

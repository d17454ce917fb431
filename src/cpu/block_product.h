#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/quantized.h"

/// The product that every quantized operation on the CPU is made of: a few rows of activations
/// times a block of rows of one expert's quantized matrix.
namespace zmlx::cpu {

/// How a few rows of activations, or many, meet a block of weights.
enum class RowKernel : uint8_t {
  /// 16-bit activations and 4-bit weights in exact integer arithmetic.
  fixed_point,
  /// Weights are multiplied as they are unpacked, and scale and bias applied to sums. The fastest,
  /// but sums of unsigned integers are longer than those of weights, which shows where they are
  /// short.
  factored,
  /// Weights are dequantized in registers, one by one: as accurate as float32 allows, also for
  /// infinities.
  weightwise,
  /// A block of weights is dequantized into the cache once and multiplied from there.
  many,
};

/// Formats that have the fixed-point kernel: those of 4 bits, on x86, where it has an instruction.
constexpr bool has_fixed_point(Format format) {
#if defined(__x86_64__) || defined(_M_X64)
  return bits_of(format) == 4;
#else
  return bits_of(format) == 0;
#endif
}

/// What the choice of a kernel needs to know of activations: the least of their magnitudes but 0
/// (infinity if there is none), and the largest (infinity if any value is not finite).
struct Magnitudes {
  float smallest, largest;
};
Magnitudes magnitudes_of(const void* x, Scalar type, size_t K);

/// Smaller activations need a power of two that float32 lacks.
constexpr float kSmallestFixedPoint = 0x1p-97f;

/// Rows from which RowKernel::many is chosen. Measured on Zen 3: unpacking again for every four
/// rows costs as much as the detour through the cache at five.
constexpr size_t kManyRows = 5;

/// The kernel for `rows` rows of activations of type `x` that use one expert.
/// @param magnitudes  of all rows together; not looked at from kManyRows rows on.
RowKernel choose_kernel(Format format, size_t K, Scalar x, size_t rows,
                        const Magnitudes& magnitudes);

/// Activations in the order in which a format's unpacked weights come, as float32.
struct PreparedRows {
  float* values = nullptr;   ///< `rows` times `stride`
  float* sums = nullptr;     ///< per row, sums of the values that share a lane: for biases
  float* factors = nullptr;  ///< per row, the power of two that was divided out
  float* headers = nullptr;  ///< per row, how the fixed-point kernel is to take each unit
  size_t rows = 0;
  size_t stride = 0, sums_stride = 0, headers_stride = 0;
  RowKernel kernel = RowKernel::many;
};

/// Floats that one prepared row of K columns takes in `values`, in `sums` and in `headers`.
size_t prepared_stride(Format format, size_t K);
size_t prepared_sums_stride(Format format, size_t K);
size_t prepared_headers_stride(Format format, size_t K);

/// Fills row `row` of `prepared` from K contiguous values, for a product with `experts`.
void prepare_row(const void* x, Scalar type, const Experts& experts, const PreparedRows& prepared,
                 size_t row);

/// y[t * y_stride + n - n0] = sum over k of x[t][k] * w[expert][n][k], plus the bias, for every
/// prepared row t and n in [n0, n1).
void block_product(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0,
                   size_t n1, float* y, size_t y_stride);

}  // namespace zmlx::cpu

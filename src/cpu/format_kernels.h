#pragma once

#include <cstddef>

#include "cpu/block_product.h"

/// The kernels of each format. Each is compiled by itself, in the file of the format's name in
/// `formats/`: together they would take minutes in one compiler.
namespace zmlx::cpu {

#define ZMLX_FOR_EACH_FORMAT(X) \
  X(affine1) X(affine2) X(affine3) X(affine4) X(affine5) X(affine6) X(affine8) X(fp4) X(fp8)

#define ZMLX_DECLARE_FORMAT(f)                                                               \
  void prepare_row_##f(const void* x, Scalar type, const Experts& experts,                   \
                       const PreparedRows& prepared, size_t row);                            \
  void multiply_##f(const Experts& experts, size_t expert, const PreparedRows& x, size_t n0, \
                    size_t n1, float* y, size_t y_stride);
ZMLX_FOR_EACH_FORMAT(ZMLX_DECLARE_FORMAT)
#undef ZMLX_DECLARE_FORMAT

}  // namespace zmlx::cpu

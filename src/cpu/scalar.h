#pragma once

#include <cstddef>

#include "cpu/quantized.h"

namespace zmlx::cpu {

/// dst[0, count) of type f32, f16 or bf16 from float32, each rounded once to nearest even.
void floats_to(const float* src, size_t count, Scalar type, void* dst);

/// One number of type f32, f16 or bf16.
float float_from(const void* src, Scalar type);

/// dst[0, count) = NaN.
void fill_nan(size_t count, Scalar type, void* dst);

}  // namespace zmlx::cpu

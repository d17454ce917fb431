#pragma once

#include <cstddef>
#include <cstdint>

/// Quantized matrices as the CPU kernels see them: pointers, strides and formats, no framework.
namespace zmlx::cpu {

enum class Scalar : uint8_t { f32, f16, bf16, e8m0, e4m3 };

constexpr size_t size_of(Scalar type) {
  return type == Scalar::f32 ? 4 : type == Scalar::e8m0 || type == Scalar::e4m3 ? 1 : 2;
}

/// How a weight's bits are packed and read. affineN: N-bit unsigned integers q, the weight is
/// scale * q + bias. fp4: e2m1 (mxfp4, nvfp4), fp8: e4m3 (mxfp8), the weight is scale * value.
enum class Format : uint8_t {
  affine1,
  affine2,
  affine3,
  affine4,
  affine5,
  affine6,
  affine8,
  fp4,
  fp8,
};

constexpr bool is_affine(Format format) { return format <= Format::affine8; }

constexpr int bits_of(Format format) {
  constexpr int kBits[] = {1, 2, 3, 4, 5, 6, 8, 4, 8};
  return kBits[static_cast<int>(format)];
}

/// One number per (expert, row[, group]); strides in elements, the last axis contiguous.
struct Table {
  const void* data = nullptr;  ///< null if absent
  Scalar type = Scalar::f32;
  int64_t expert_stride = 0, row_stride = 0;

  const void* row(size_t expert, size_t n) const {
    auto offset =
        static_cast<int64_t>(expert) * expert_stride + static_cast<int64_t>(n) * row_stride;
    return static_cast<const uint8_t*>(data) + offset * static_cast<int64_t>(size_of(type));
  }
};

/// A stack of E matrices of N rows and K columns, quantized along K in groups.
struct Experts {
  Format format = Format::affine4;
  int group_size = 64;
  size_t num_experts = 0, N = 0, K = 0;
  const uint8_t* w = nullptr;
  int64_t w_expert_stride = 0, w_row_stride = 0;  ///< bytes
  Table scales, biases;                           ///< (E, N, K / group_size)
  Table bias;                                     ///< (E, N): added to each product

  const uint8_t* row(size_t expert, size_t n) const {
    return w + static_cast<int64_t>(expert) * w_expert_stride +
           static_cast<int64_t>(n) * w_row_stride;
  }
  size_t row_bytes() const { return K * bits_of(format) / 8; }
  size_t groups() const { return K / group_size; }
};

}  // namespace zmlx::cpu

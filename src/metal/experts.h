#pragma once

#include "scalar.h"

/// Who multiplies what: expert weights in memory, and the (token, expert) pairs of a call.
///
/// Kernels take a type C of constants: `T` the model's type, `kBits`, `kGroup`, `kAffine` the
/// quantization, `K` and `N` the inner and outer size of a product, `E` experts, `kTopK` experts a
/// token, `Intermediate` the type between the operations (T in numerics "exact", else float32),
/// `kPacks` (see product.h), `kWide` and `kWideX` whether weights and x lie at multiples of 16
/// bytes, strides of the indices, and what single kernels say. `kRows` (rows of a matrix that a
/// simdgroup makes at a time) and `kSimdgroups` (of a threadgroup) set the launch and no result.
namespace zmlx {

/// One stack of quantized matrices (E, N, K); strides in elements from one expert to the next. `S`
/// is the type of scales, `T` that of biases.
template <typename S, typename T>
struct Experts {
  const device uint32_t* w;
  const device S* scales;
  const device T* biases;  // null unless affine
  const device T* bias;    // added to the product; null if there is none
  long w_stride, scales_stride, biases_stride, bias_stride;
};

template <class C>
METAL_FUNC uint32_t expert_of(const device uint32_t* indices, int pair) {
  return indices[(pair / C::kTopK) * long(C::kIndexTokenStride) +
                 (pair % C::kTopK) * long(C::kIndexSlotStride)];
}

/// The row of x that a pair multiplies, or -1 if it is asked for one that does not exist.
template <class C>
METAL_FUNC int row_of(const device uint32_t* rows, int pair) {
  if constexpr (C::kRowIndices) {
    const uint32_t row = rows[pair];
    return row < static_cast<uint32_t>(C::kXRows) ? static_cast<int>(row) : -1;
  } else {
    return C::kRowPerToken ? pair / C::kTopK : pair;
  }
}

/// A product with the expert's bias, as the type in which the rest is computed.
template <class C, typename W>
METAL_FUNC typename C::Intermediate with_bias(float product, const thread W& experts,
                                              uint32_t expert, int n) {
  using Y = typename C::Intermediate;
  const Y y = static_cast<Y>(product);
  if (!experts.bias) return y;
  return y + static_cast<Y>(experts.bias[expert * experts.bias_stride + n]);
}

}  // namespace zmlx

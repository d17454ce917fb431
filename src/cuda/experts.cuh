#pragma once

#include "memory.cuh"

/// Who multiplies what: expert weights in memory, and the (token, expert) pairs of a call.
///
/// Kernels take a type C of constants: `T` the model's type, `kBits`, `kGroup` the quantization,
/// `K` and `N` the inner and outer size of a product, `E` experts, `kTopK` experts a token,
/// `kExact` whether sums and intermediates round as MLX's do (else they are float32), strides of
/// the indices, and what single kernels say.
namespace zmlx {

/// One stack of quantized matrices (E, N, K); strides in elements from one expert to the next. `S`
/// is the type of scales, `T` that of biases.
template <typename S, typename T>
struct Experts {
  const u32* w;
  const S* scales;
  const T* biases;  // null unless affine
  const T* bias;    // added to the product; null if there is none
  long long w_stride, scales_stride, biases_stride, bias_stride;
};

template <class C>
__device__ __forceinline__ u32 expert_of(const u32* indices, int pair) {
  return __ldg(indices + (pair / C::kTopK) * C::kIndexTokenStride +
               (pair % C::kTopK) * C::kIndexSlotStride);
}

/// The row of x that a pair multiplies, or -1 if it is asked for one that does not exist.
template <class C>
__device__ __forceinline__ int row_of(const u32* rows, int pair) {
  if constexpr (C::kRowIndices) {
    const u32 row = __ldg(rows + pair);
    return row < C::kRows ? static_cast<int>(row) : -1;
  } else {
    return C::kRowPerToken ? pair / C::kTopK : pair;
  }
}

/// A product with the expert's bias, as the type in which the rest is computed.
template <class C>
using Intermediate = typename C::Intermediate;

template <class C, typename W>
__device__ __forceinline__ Intermediate<C> with_bias(float product, const W& experts, u32 expert,
                                                     int n) {
  const auto y = round_to<Intermediate<C>>(product);
  if (!experts.bias) return y;
  const auto bias = experts.bias[expert * experts.bias_stride + n];
  return add(y, round_to<Intermediate<C>>(to_float(bias)));
}

/// Products of one token's experts, weighted and added in the order of the experts: one rounding a
/// product and one a sum, from zero, as MLX's reduction does; a single expert is not added.
template <int Count, typename T>
__device__ __forceinline__ T sum_in_order(const T* products, int stride) {
  if (Count == 1) return products[0];
  T sum = round_to<T>(0.0f);
#pragma unroll
  for (int k = 0; k < Count; ++k) sum = add(sum, products[k * stride]);
  return sum;
}

/// A product times its router weight in the type of the result.
template <typename Sum, typename Y, typename Weight>
__device__ __forceinline__ Sum weighted(Y y, Weight weight) {
  return mul(round_to<Sum>(to_float(y)), round_to<Sum>(to_float(weight)));
}

}  // namespace zmlx

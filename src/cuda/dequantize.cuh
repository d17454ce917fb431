#pragma once

#include "scalar.cuh"

/// Codes to values of the model's type, rounded as MLX's kernels round them.
namespace zmlx {

// Codes below 2^7 (bfloat16) and 2^10 (float16) are exact in the low bits of this number, which is
// then subtracted.
template <typename T>
inline constexpr u32 kMagic = same<T, bf16> ? 0x43004300u : 0x64006400u;
template <typename T>
inline constexpr u32 kMinusMagic = same<T, bf16> ? 0xc300c300u : 0xe400e400u;

/// A pair of codes, one in each half, as T.
template <typename T>
__device__ __forceinline__ u32 codes_to(u32 codes) {
  return add2<T>(codes | kMagic<T>, kMinusMagic<T>);
}

__device__ __forceinline__ float code_to_float(u32 code) {
  return __uint_as_float(0x4b000000u | code) - 8388608.0f;
}

/// Two codes of up to 8 bits as a pair of T.
template <typename T, int Bits>
__device__ __forceinline__ u32 pair_of_codes(u32 a, u32 b) {
  if constexpr (same<T, bf16> && Bits == 8) {
    // 8 bits fit bfloat16, but not below its magic number; they are the top half of a float32.
    const u32 fa = __float_as_uint(code_to_float(a)), fb = __float_as_uint(code_to_float(b));
    return __byte_perm(fa, fb, 0x7632);
  } else {
    return codes_to<T>(a | b << 16);
  }
}

/// a * b + c, as MLX's compiler rounds a product and a sum that dequantize: once, except in
/// bfloat16 before sm_90, which has no bfloat16 sum to be contracted.
template <typename T>
__device__ __forceinline__ u32 scale2(u32 q, u32 scale, u32 bias) {
#if __CUDA_ARCH__ < 900
  if constexpr (same<T, bf16>) return add2<T>(mul2<T>(q, scale), bias);
#endif
  return fma2<T>(q, scale, bias);
}

/// The low 8 bits of a bfloat16 are linear in its value: subnormal numbers and the first normal
/// ones are multiples of 2^-133. So a code in these bits needs no conversion if its scale is
/// multiplied by 2^133 instead. That is exact for the scales that `is_linear` accepts: all below
/// 2^-5 but subnormal ones.
template <typename T, int Bits>
inline constexpr bool kHasLinear = same<T, bf16> && (Bits == 4 || Bits == 8);

__device__ __forceinline__ bool is_linear(u16 scale) {
  return (scale >> 7 & 255u) - 1u < 254u - 133u || (scale & 0x7fff) == 0;
}

/// A pair of scales times 2^133, exactly, if `is_linear` accepts them.
__device__ __forceinline__ u32 linear_scale(u32 scales) {
  constexpr u32 k66 = 0x60806080u, k67 = 0x61006100u;  // 2^66 and 2^67
  return mul2<bf16>(mul2<bf16>(scales, k66), k67);
}

/// One group's scale and bias, applied to pairs of codes; `Linear` as said above.
template <typename T, int Bits, bool Linear>
struct Group {
  u32 scale, bias;

  __device__ __forceinline__ Group() {}
  /// From pairs, the scale as `linear_scale` makes it where it has to be.
  __device__ __forceinline__ Group(u32 scale, u32 bias) : scale(scale), bias(bias) {}

  /// Codes i and i + 4 of a word of 4-bit codes; `shift` is 4 * i.
  __device__ __forceinline__ u32 by_four(u32 word, int shift) const {
    const u32 codes = word >> shift & 0x000f000fu;
    return scale2<T>(Linear ? codes : codes_to<T>(codes), scale, bias);
  }

  /// All pairs of a word that `by_four` makes one by one. Codes that are linear need no shift by 4:
  /// they are 16 times as large, and the scale a 16th.
  __device__ __forceinline__ void all_by_four(u32 word, u32 (&pairs)[4]) const {
    if constexpr (Linear) {
      const u32 below = mul2<bf16>(scale, 0x3d803d80u);
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        pairs[i] = scale2<T>(word & 0x000f000fu, scale, bias);
        pairs[i + 1] = scale2<T>(word & 0x00f000f0u, below, bias);
        word >>= 8;
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) pairs[i] = by_four(word, 4 * i);
    }
  }

  /// Two 8-bit codes, each in the low half of one half.
  __device__ __forceinline__ u32 bytes(u32 codes) const {
    return scale2<T>(Linear ? codes : pair_of_codes<T, 8>(codes & 255, codes >> 16), scale, bias);
  }

  __device__ __forceinline__ u32 pair(u32 a, u32 b) const {
    return scale2<T>(pair_of_codes<T, Bits>(a, b), scale, bias);
  }
};

/// A scale of mxfp4 and mxfp8: a power of two.
__device__ __forceinline__ float e8m0_to_float(u8 code) {
  if (code == 255) return __int_as_float(0x7fffffff);
  return __uint_as_float(code == 0 ? 0x00400000u : static_cast<u32>(code) << 23);
}

/// A float8 of 4 bits exponent and 3 bits mantissa.
__device__ __forceinline__ float e4m3_to_float(u8 code) {
  if ((code & 127) == 127) return __int_as_float(0x7fffffff);
  // Its exponent is float16's 8 lower, subnormal numbers included.
  const u16 bits = (code & 128) << 8 | (code & 127) << 7;
  return __half2float(__ushort_as_half(bits)) * 256.0f;
}

/// Eight fp4 codes (sign, 2 bits exponent, 1 bit mantissa) times 2^-14: their bits are those of a
/// float16 whose exponent is 14 lower, subnormal numbers included.
__device__ __forceinline__ void fp4_to_floats(u32 word, float (&v)[8]) {
  const u32 even = (word & 0x08080808u) << 4 | (word & 0x07070707u) << 1;
  const u32 odd = (word & 0x80808080u) | (word & 0x70707070u) >> 3;
  const u32 pairs[4] = {__byte_perm(even, 0, 0x1404), __byte_perm(odd, 0, 0x1404),
                        __byte_perm(even, 0, 0x3424), __byte_perm(odd, 0, 0x3424)};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[(i / 2) * 4 + i % 2] = low<f16>(pairs[i]);
    v[(i / 2) * 4 + i % 2 + 2] = high<f16>(pairs[i]);
  }
}
inline constexpr float kFp4Unit = 16384.0f;

}  // namespace zmlx

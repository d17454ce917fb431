#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

/// Arithmetic that rounds where it says so. nvcc and NVRTC contract a product and a sum into one
/// rounding wherever they can, in 16-bit types too; what is written with these is not contracted.
namespace zmlx {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using bf16 = __nv_bfloat16;
using f16 = __half;

template <typename A, typename B>
struct Same {
  static constexpr bool value = false;
};
template <typename A>
struct Same<A, A> {
  static constexpr bool value = true;
};
template <typename A, typename B>
inline constexpr bool same = Same<A, B>::value;

template <bool Condition, typename A, typename B>
struct Select {
  using type = A;
};
template <typename A, typename B>
struct Select<false, A, B> {
  using type = B;
};

// Variables, because NVRTC takes functions without a space for the host's, which it refuses.
template <int A, int B>
inline constexpr int kCeilDiv = (A + B - 1) / B;
template <int A, int B>
inline constexpr int kRoundUp = kCeilDiv<A, B> * B;
template <int A, int B>
inline constexpr int kLarger = A > B ? A : B;

__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(f16 x) { return __half2float(x); }
__device__ __forceinline__ float to_float(float x) { return x; }

/// To the nearest T, ties to even.
template <typename T>
__device__ __forceinline__ T round_to(float x) {
  if constexpr (same<T, bf16>) {
    return __float2bfloat16_rn(x);
  } else if constexpr (same<T, f16>) {
    return __float2half_rn(x);
  } else {
    return x;
  }
}

template <typename T>
__device__ __forceinline__ T add(T a, T b) {
  if constexpr (same<T, float>) {
    return __fadd_rn(a, b);
  } else {
    return __hadd_rn(a, b);
  }
}

template <typename T>
__device__ __forceinline__ T mul(T a, T b) {
  if constexpr (same<T, float>) {
    return __fmul_rn(a, b);
  } else {
    return __hmul_rn(a, b);
  }
}

template <typename T>
__device__ __forceinline__ T not_a_number() {
  return round_to<T>(__int_as_float(0x7fffffff));
}

/// Elements that one load or store moves.
template <typename T, int Count>
struct alignas(Count * sizeof(T)) Vector {
  T at[Count];
};

// Two 16-bit values in a register, the first in the low half.

/// a * b + c, rounded once.
template <typename T>
__device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c) {
  u32 d;
  if constexpr (same<T, bf16>) {
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  } else {
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  }
  return d;
}

template <typename T>
inline constexpr u32 kOnes = same<T, bf16> ? 0x3f803f80u : 0x3c003c00u;

/// Rounded sum and product; fma2 because sm_80 has no bfloat16 sum and product of its own.
template <typename T>
__device__ __forceinline__ u32 add2(u32 a, u32 b) {
  return fma2<T>(a, kOnes<T>, b);
}
template <typename T>
__device__ __forceinline__ u32 mul2(u32 a, u32 b) {
  return fma2<T>(a, b, 0x80008000u);
}

template <typename T>
__device__ __forceinline__ float low(u32 pair) {
  if constexpr (same<T, bf16>) {
    return __uint_as_float(pair << 16);
  } else {
    return __low2float(*reinterpret_cast<__half2*>(&pair));
  }
}
template <typename T>
__device__ __forceinline__ float high(u32 pair) {
  if constexpr (same<T, bf16>) {
    return __uint_as_float(pair & 0xffff0000u);
  } else {
    return __high2float(*reinterpret_cast<__half2*>(&pair));
  }
}

/// A 16-bit value in both halves.
__device__ __forceinline__ u32 twice(u16 bits) { return __byte_perm(bits, 0, 0x1010); }

/// Eight 16-bit values as pairs (0, 4), (1, 5), (2, 6), (3, 7): the order in which one shift and
/// one mask take 4-bit codes out of a word.
__device__ __forceinline__ uint4 pair_by_four(uint4 x) {
  return {__byte_perm(x.x, x.z, 0x5410), __byte_perm(x.x, x.z, 0x7632),
          __byte_perm(x.y, x.w, 0x5410), __byte_perm(x.y, x.w, 0x7632)};
}

}  // namespace zmlx

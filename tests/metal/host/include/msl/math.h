#pragma once

#include "vec.h"

/// Math functions. What Apple's libraries return in the last bits can't be known here, so results
/// are the C library's; those of `fast::`, and in variant 1 those that are fast only where fast
/// math is on, differ in the last bit: a kernel must spell a function as the kernel that it follows
/// does.

extern "C" int msl_variant();
extern "C" {
float acosf(float);
float acoshf(float);
float asinf(float);
float asinhf(float);
float atanf(float);
float atan2f(float, float);
float atanhf(float);
float cosf(float);
float coshf(float);
float expf(float);
float exp2f(float);
float expm1f(float);
float logf(float);
float log2f(float);
float log10f(float);
float powf(float, float);
float sinf(float);
float sinhf(float);
float tanf(float);
float tanhf(float);
float fmodf(float, float);
float nextafterf(float, float);
}

namespace msl {

/// Another result within an error of one unit in the last place.
inline float another_last_bit(float value, int mode) {
  if (mode == __METAL_PRECISE_MATH__) return value;
  if (mode == __METAL_MAYBE_FAST_MATH__ && msl_variant() == 0) return value;
  const bool ordinary = value == value && value != 0 && __builtin_fabsf(value) < FLT_MAX &&
                        value != 1.0f && value != -1.0f;
  return ordinary ? as_type<float>(as_type<uint>(value) ^ 1) : value;
}

inline float exp10(float x) { return ::powf(10.0f, x); }
inline float cospi(float x) { return ::cosf(M_PI_F * x); }
inline float sinpi(float x) { return ::sinf(M_PI_F * x); }
inline float tanpi(float x) { return ::tanf(M_PI_F * x); }
inline float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
inline float fract(float x) { return __builtin_fminf(x - __builtin_floorf(x), 0x1.fffffep-1f); }
inline float saturate(float x) { return __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f); }
inline float sign(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : x == 0 ? x : 0.0f; }
inline float divide(float x, float y) { return x / y; }
inline float fdim(float x, float y) { return x > y ? x - y : 0.0f; }
inline float powr(float x, float y) { return ::powf(x, y); }
inline float median(float x, float y, float z) {
  return __builtin_fmaxf(__builtin_fminf(x, y), __builtin_fminf(__builtin_fmaxf(x, y), z));
}
inline float fmax3(float x, float y, float z) { return __builtin_fmaxf(__builtin_fmaxf(x, y), z); }
inline float fmin3(float x, float y, float z) { return __builtin_fminf(__builtin_fminf(x, y), z); }

}  // namespace msl

// Inexact ones: (name, function).
#define MSL_INEXACT1(apply)                                                                      \
  apply(acos, ::acosf) apply(acosh, ::acoshf) apply(asin, ::asinf) apply(asinh, ::asinhf)        \
      apply(atan, ::atanf) apply(atanh, ::atanhf) apply(cos, ::cosf) apply(cosh, ::coshf)        \
          apply(cospi, msl::cospi) apply(exp, ::expf) apply(exp2, ::exp2f)                       \
              apply(exp10, msl::exp10) apply(log, ::logf) apply(log2, ::log2f)                   \
                  apply(log10, ::log10f) apply(rsqrt, msl::rsqrt) apply(sin, ::sinf)             \
                      apply(sinh, ::sinhf) apply(sinpi, msl::sinpi) apply(sqrt, __builtin_sqrtf) \
                          apply(tan, ::tanf) apply(tanh, ::tanhf) apply(tanpi, msl::tanpi)
#define MSL_INEXACT2(apply) \
  apply(atan2, ::atan2f) apply(divide, msl::divide) apply(pow, ::powf) apply(powr, msl::powr)
// Exact ones.
#define MSL_EXACT1(apply)                                                                  \
  apply(fabs, __builtin_fabsf) apply(ceil, __builtin_ceilf) apply(floor, __builtin_floorf) \
      apply(fract, msl::fract) apply(rint, __builtin_rintf) apply(round, __builtin_roundf) \
          apply(trunc, __builtin_truncf) apply(saturate, msl::saturate) apply(sign, msl::sign)
#define MSL_EXACT2(apply)                                                          \
  apply(fdim, msl::fdim) apply(fmax, __builtin_fmaxf) apply(fmin, __builtin_fminf) \
      apply(fmod, ::fmodf) apply(copysign, __builtin_copysignf)

#define MSL_DEFINE1(name, function)                                         \
  inline float __metal_##name(float x, int mode = __METAL_PRECISE_MATH__) { \
    return msl::another_last_bit(function(x), mode);                        \
  }
#define MSL_DEFINE2(name, function)                                                  \
  inline float __metal_##name(float x, float y, int mode = __METAL_PRECISE_MATH__) { \
    return msl::another_last_bit(function(x, y), mode);                              \
  }
MSL_INEXACT1(MSL_DEFINE1)
MSL_INEXACT2(MSL_DEFINE2)
#undef MSL_DEFINE1
#undef MSL_DEFINE2
#define MSL_DEFINE1(name, function) \
  inline float __metal_##name(float x, int = 0) { return function(x); }
#define MSL_DEFINE2(name, function) \
  inline float __metal_##name(float x, float y, int = 0) { return function(x, y); }
MSL_EXACT1(MSL_DEFINE1)
MSL_EXACT2(MSL_DEFINE2)
#undef MSL_DEFINE1
#undef MSL_DEFINE2
inline float __metal_fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline float __metal_fmax3(float x, float y, float z, int = 0) { return msl::fmax3(x, y, z); }
inline float __metal_fmin3(float x, float y, float z, int = 0) { return msl::fmin3(x, y, z); }
inline float __metal_fmedian3(float x, float y, float z, int = 0) { return msl::median(x, y, z); }
inline float __metal_modf(float x, float* whole, int = 0) {
  *whole = __builtin_truncf(x);
  return x - *whole;
}
inline float __metal_frexp(float x, int* exponent, int = 0) {
  return __builtin_frexpf(x, exponent);
}
inline float __metal_ldexp(float x, int n, int = 0) { return __builtin_ldexpf(x, n); }
inline int __metal_ilogb(float x, int = 0) { return __builtin_ilogbf(x); }
inline float __metal_nextafter(float x, float y) { return ::nextafterf(x, y); }
inline int __metal_isnan(float x, int = 0) { return x != x; }
inline int __metal_isinf(float x, int = 0) { return __builtin_fabsf(x) == INFINITY; }
inline int __metal_isfinite(float x, int = 0) { return __builtin_fabsf(x) < INFINITY; }
inline int __metal_signbit(float x) { return as_type<int>(x) < 0; }

namespace metal {

#define MSL_DECLARE1(name, mode)                                            \
  inline float name(float x) { return __metal_##name(x, mode); }            \
  inline half name(half x) { return half(__metal_##name(float(x), mode)); } \
  template <typename T, int N>                                              \
  inline vec<T, N> name(vec<T, N> x) {                                      \
    for (int i = 0; i < N; ++i) x[i] = name(x[i]);                          \
    return x;                                                               \
  }
#define MSL_DECLARE2(name, mode)                                                              \
  inline float name(float x, float y) { return __metal_##name(x, y, mode); }                  \
  inline half name(half x, half y) { return half(__metal_##name(float(x), float(y), mode)); } \
  template <typename T, int N>                                                                \
  inline vec<T, N> name(vec<T, N> x, vec<T, N> y) {                                           \
    for (int i = 0; i < N; ++i) x[i] = name(x[i], y[i]);                                      \
    return x;                                                                                 \
  }

#define MSL_MAYBE1(name, function) MSL_DECLARE1(name, __METAL_MAYBE_FAST_MATH__)
#define MSL_MAYBE2(name, function) MSL_DECLARE2(name, __METAL_MAYBE_FAST_MATH__)
MSL_INEXACT1(MSL_MAYBE1)
MSL_INEXACT2(MSL_MAYBE2)
MSL_EXACT1(MSL_MAYBE1)
MSL_EXACT2(MSL_MAYBE2)
namespace precise {
#define MSL_PRECISE1(name, function) MSL_DECLARE1(name, __METAL_PRECISE_MATH__)
#define MSL_PRECISE2(name, function) MSL_DECLARE2(name, __METAL_PRECISE_MATH__)
MSL_INEXACT1(MSL_PRECISE1)
MSL_INEXACT2(MSL_PRECISE2)
MSL_EXACT1(MSL_PRECISE1)
MSL_EXACT2(MSL_PRECISE2)
}  // namespace precise
namespace fast {
#define MSL_FAST1(name, function) MSL_DECLARE1(name, __METAL_FAST_MATH__)
#define MSL_FAST2(name, function) MSL_DECLARE2(name, __METAL_FAST_MATH__)
MSL_INEXACT1(MSL_FAST1)
MSL_INEXACT2(MSL_FAST2)
MSL_EXACT1(MSL_FAST1)
MSL_EXACT2(MSL_FAST2)
}  // namespace fast
#undef MSL_MAYBE1
#undef MSL_MAYBE2
#undef MSL_PRECISE1
#undef MSL_PRECISE2
#undef MSL_FAST1
#undef MSL_FAST2
#undef MSL_DECLARE1
#undef MSL_DECLARE2

inline float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline half fma(half x, half y, half z) {
  return half(double(x) * double(y) + double(z));  // exact up to the one rounding
}
template <typename T, int N>
inline vec<T, N> fma(vec<T, N> x, vec<T, N> y, vec<T, N> z) {
  for (int i = 0; i < N; ++i) x[i] = fma(x[i], y[i], z[i]);
  return x;
}
inline bool isnan(float x) { return x != x; }
inline bool isinf(float x) { return __builtin_fabsf(x) == INFINITY; }
inline bool isfinite(float x) { return __builtin_fabsf(x) < INFINITY; }
inline bool signbit(float x) { return as_type<int>(x) < 0; }
inline float ldexp(float x, int n) { return __builtin_ldexpf(x, n); }
inline float modf(float x, float& whole) {
  whole = __builtin_truncf(x);
  return x - whole;
}
inline float nextafter(float x, float y) { return ::nextafterf(x, y); }

// min and max of floats give the other operand if one is NaN; MSL has one overload a type.
#define MSL_ORDER(T)                                  \
  constexpr T min(T a, T b) { return b < a ? b : a; } \
  constexpr T max(T a, T b) { return a < b ? b : a; } \
  constexpr T clamp(T x, T low, T high) { return min(max(x, low), high); }
MSL_ORDER(signed char)
MSL_ORDER(uchar)
MSL_ORDER(short)
MSL_ORDER(ushort)
MSL_ORDER(int)
MSL_ORDER(uint)
MSL_ORDER(long)
MSL_ORDER(ulong)
#undef MSL_ORDER
inline float min(float a, float b) { return __builtin_fminf(a, b); }
inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
inline float clamp(float x, float low, float high) { return min(max(x, low), high); }
inline half min(half a, half b) { return half(__builtin_fminf(float(a), float(b))); }
inline half max(half a, half b) { return half(__builtin_fmaxf(float(a), float(b))); }
inline half clamp(half x, half low, half high) { return min(max(x, low), high); }
template <typename T, int N>
inline vec<T, N> min(vec<T, N> a, vec<T, N> b) {
  for (int i = 0; i < N; ++i) a[i] = min(a[i], b[i]);
  return a;
}
template <typename T, int N>
inline vec<T, N> max(vec<T, N> a, vec<T, N> b) {
  for (int i = 0; i < N; ++i) a[i] = max(a[i], b[i]);
  return a;
}

constexpr int abs(int x) { return x < 0 ? -x : x; }
constexpr long abs(long x) { return x < 0 ? -x : x; }
constexpr short abs(short x) { return x < 0 ? -x : x; }
inline float abs(float x) { return __builtin_fabsf(x); }
inline half abs(half x) { return half(__builtin_fabsf(float(x))); }

template <typename T>
constexpr T select(T no, T yes, bool condition) {
  return condition ? yes : no;
}
template <typename T, int N>
constexpr vec<T, N> select(vec<T, N> no, vec<T, N> yes, vec<bool, N> condition) {
  for (int i = 0; i < N; ++i) no[i] = condition[i] ? yes[i] : no[i];
  return no;
}
template <typename T, int N>
constexpr T dot(vec<T, N> a, vec<T, N> b) {
  T sum = a[0] * b[0];
  for (int i = 1; i < N; ++i) sum += a[i] * b[i];
  return sum;
}
constexpr int popcount(uint x) { return __builtin_popcount(x); }
constexpr int popcount(ulong x) { return __builtin_popcountl(x); }
constexpr int popcount(uchar x) { return __builtin_popcount(x); }
constexpr uint clz(uint x) { return x ? __builtin_clz(x) : 32; }
constexpr uint ctz(uint x) { return x ? __builtin_ctz(x) : 32; }
constexpr uint extract_bits(uint x, uint offset, uint bits) {
  return bits == 0 ? 0 : (x >> offset) & (~0u >> (32 - bits));
}
constexpr uint mulhi(uint a, uint b) { return (ulong(a) * b) >> 32; }

}  // namespace metal

#undef MSL_INEXACT1
#undef MSL_INEXACT2
#undef MSL_EXACT1
#undef MSL_EXACT2

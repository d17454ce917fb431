// What formulas of kernels call; src/kernel/emit_metal.cpp writes the calls. Names are those of
// src/cuda/kernel_formula.cuh. Metal's library lacks expm1, log1p, cbrt, erf and erfc.

inline float f_log1p(float x) {
  const float u = 1.0f + x;
  if (u == 1.0f) return x;
  const float y = metal::precise::log(u);
  return u > 0.0f && u < INFINITY ? y + (x - (u - 1.0f)) / u : y;
}

// exp(x) - 1 by exp where it is far from 0, else by its series.
inline float f_expm1(float x) {
  if (metal::fabs(x) > 0.35f) return metal::precise::exp(x) - 1.0f;
  float p = 1.0f / 5040.0f;
  p = metal::fma(p, x, 1.0f / 720.0f);
  p = metal::fma(p, x, 1.0f / 120.0f);
  p = metal::fma(p, x, 1.0f / 24.0f);
  p = metal::fma(p, x, 1.0f / 6.0f);
  p = metal::fma(p, x, 0.5f);
  return metal::fma(p * x, x, x);
}

// These are as in src/kernel/vector_math-inl.h.
inline float f_erf_small(float x) {
  const float z = x * x;
  float p = -5.96761703e-4f;
  p = metal::fma(p, z, 4.99119423e-3f);
  p = metal::fma(p, z, -2.67681349e-2f);
  p = metal::fma(p, z, 1.12819925e-1f);
  p = metal::fma(p, z, -3.76125336e-1f);
  p = metal::fma(p, z, 1.28379166e-1f);
  return metal::fma(p, x, x);
}
inline float f_erf(float x) {
  const float a = metal::fabs(x);
  if (a < 0.927734375f) return f_erf_small(x);
  float r = -1.72853470e-5f;
  r = metal::fma(r, a, 3.83197126e-4f);
  r = metal::fma(r, a, -3.88396438e-3f);
  r = metal::fma(r, a, 2.42546219e-2f);
  r = metal::fma(r, a, -1.06777877e-1f);
  r = metal::fma(r, a, -6.34846687e-1f);
  r = metal::fma(r, a, -1.28717512e-1f);
  const float large = a > 4.5f ? 1.0f : 1.0f - metal::precise::exp(metal::fma(r, a, -a));
  return x != x ? x : metal::copysign(large, x);
}

inline float f_erfc(float x) {
  if (metal::fabs(x) < 0.5f) return 1.0f - f_erf_small(x);
  const float a = metal::fmin(metal::fabs(x), 10.5f), t = (a - 2.0f) / (a + 2.0f);
  float p = -3.961072653e-04f;
  p = metal::fma(p, t, -1.222341787e-03f);
  p = metal::fma(p, t, 1.312570996e-03f);
  p = metal::fma(p, t, 8.625357412e-03f);
  p = metal::fma(p, t, -8.060888387e-03f);
  p = metal::fma(p, t, -5.420262367e-02f);
  p = metal::fma(p, t, 1.640556604e-01f);
  p = metal::fma(p, t, -1.660315692e-01f);
  p = metal::fma(p, t, -9.276399761e-02f);
  p = metal::fma(p, t, 1.276978374e+00f);
  const float z = a * a, lost = metal::fma(a, a, -z);
  const float r = p / (1.0f + 2.0f * a) * metal::precise::exp(-z);
  const float tail = metal::fma(r, -lost, r);
  return x != x ? x : x < 0.0f ? 2.0f - tail : tail;
}

inline float f_cbrt(float x) {
  const float a = metal::fabs(x);
  if (!(a > 0.0f && a < INFINITY)) return x;
  const bool tiny = a < 1.17549435e-38f;
  const float normal = tiny ? a * 16777216.0f : a;
  float t = as_type<float>(as_type<uint>(normal) / 3u + 0x2A5119F2u);
  for (int i = 0; i < 3; ++i) t = metal::fma(normal / (t * t) - t, 1.0f / 3.0f, t);
  return metal::copysign(tiny ? t * 0.00390625f : t, x);
}

inline float f_sigmoid(float x) {
  const float z = metal::precise::exp(-metal::fabs(x));
  const float s = 1.0f / (1.0f + z);
  return x < 0.0f ? z * s : s;
}
inline float f_softplus(float x) {
  return metal::fmax(x, 0.0f) + f_log1p(metal::precise::exp(-metal::fabs(x))) + (x != x ? x : 0.0f);
}
inline float f_ldexp(float x, float power) {
  // By numbers of float32, of which the last alone rounds.
  for (int i = 0; i < 2; ++i) {
    if (power > 127.0f) {
      x *= 1.70141183e38f;  // 2^127
      power -= 127.0f;
    } else if (power < -126.0f) {
      x *= 1.97215226e-31f;  // 2^-102
      power += 102.0f;
    }
  }
  const int rest = int(metal::fmin(metal::fmax(power, -126.0f), 127.0f));
  return x * as_type<float>(uint(rest + 127) << 23);
}
inline float f_ilogb(float x) {
  const float a = metal::fabs(x);
  if (!(a > 0.0f)) return -INFINITY;
  const bool tiny = a < 1.17549435e-38f;
  const uint bits = as_type<uint>(tiny ? a * 16777216.0f : a);
  return a < INFINITY ? float(int(bits >> 23) - (tiny ? 151 : 127)) : INFINITY;
}
inline float f_nextafter(float x, float y) {
  if (x != x || y != y) return x + y;
  if (x == y) return y;
  if (x == 0.0f) return metal::copysign(as_type<float>(1u), y);
  const uint bits = as_type<uint>(x);
  return as_type<float>((x < y) == (x > 0.0f) ? bits + 1u : bits - 1u);
}
inline float f_sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }
inline float f_half(float x) { return float(half(x)); }
inline float f_bfloat(float x) { return float(bfloat16_t(x)); }
// Metal leaves it open what integers become of floats that do not fit.
inline int f_int(float x) {
  if (!(x > -2147483648.0f)) return x != x ? 0 : -2147483647 - 1;
  return x < 2147483648.0f ? int(x) : 2147483647;
}
inline uint f_uint(float x) {
  if (!(x > 0.0f)) return 0u;
  return x < 4294967296.0f ? uint(x) : 4294967295u;
}

// Integers wrap around, and dividing by zero gives zero.
inline int i_add(int a, int b) { return int(uint(a) + uint(b)); }
inline int i_sub(int a, int b) { return int(uint(a) - uint(b)); }
inline int i_mul(int a, int b) { return int(uint(a) * uint(b)); }
inline int i_div(int a, int b) { return b == 0 ? 0 : b == -1 ? i_sub(0, a) : a / b; }
inline int i_rem(int a, int b) { return b == 0 || b == -1 ? 0 : a % b; }
inline int i_neg(int a) { return i_sub(0, a); }
inline int i_abs(int a) { return a < 0 ? i_sub(0, a) : a; }
inline uint u_div(uint a, uint b) { return b == 0u ? 0u : a / b; }
inline uint u_rem(uint a, uint b) { return b == 0u ? 0u : a % b; }

// A number that all elements of a row are divided by, with a power of two that keeps its inverse
// within float32's normal numbers.
struct Divisor {
  float scale, inverse;
};
inline Divisor f_divisor(float x) {
  const float a = metal::fabs(x);
  const float scale = a < 7.8886091e-31f  ? 18446744073709551616.0f
                      : a > 1.2676506e30f ? 5.4210109e-20f
                                          : 1.0f;
  return {scale, 1.0f / (x * scale)};
}
inline float f_quotient(float a, Divisor by) { return a * by.scale * by.inverse; }

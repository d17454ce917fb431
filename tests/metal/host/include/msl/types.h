#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

/// Scalar types. half and bfloat round after each operation, to nearest even.

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using ulong = unsigned long;
using half = _Float16;
using std::int16_t;
using std::int32_t;
using std::int64_t;
using std::int8_t;
using std::size_t;
using std::uint16_t;
using std::uint32_t;
using std::uint64_t;
using std::uint8_t;

/// As MSL has it: any conversion of another float to it is explicit, while it becomes a float by
/// itself. The arithmetic is the compiler's own, so that what contracts for floats can be made to
/// for bfloats.
struct bfloat {
  __bf16 value;

  bfloat() = default;
  constexpr explicit bfloat(__bf16 v) : value(v) {}
  template <typename T>
    requires std::is_arithmetic_v<T> || std::is_same_v<T, _Float16>
  constexpr explicit(!std::is_integral_v<T>) bfloat(T v)
      : value(static_cast<__bf16>(static_cast<float>(v))) {}
  constexpr operator float() const { return static_cast<float>(value); }
  constexpr explicit operator __bf16() const { return value; }

#define MSL_BFLOAT_OPERATOR(op)                             \
  friend constexpr bfloat operator op(bfloat a, bfloat b) { \
    return bfloat(static_cast<__bf16>(a.value op b.value)); \
  }                                                         \
  template <typename I>                                     \
    requires std::is_integral_v<I>                          \
  friend constexpr bfloat operator op(bfloat a, I b) {      \
    return a op bfloat(b);                                  \
  }                                                         \
  template <typename I>                                     \
    requires std::is_integral_v<I>                          \
  friend constexpr bfloat operator op(I a, bfloat b) {      \
    return bfloat(a) op b;                                  \
  }                                                         \
  friend constexpr bfloat& operator op##=(bfloat & a, bfloat b) { return a = a op b; }
  MSL_BFLOAT_OPERATOR(+)
  MSL_BFLOAT_OPERATOR(-)
  MSL_BFLOAT_OPERATOR(/)
#ifndef MSL_CONTRACT
  MSL_BFLOAT_OPERATOR(*)
#endif
#undef MSL_BFLOAT_OPERATOR
  friend constexpr bfloat operator-(bfloat a) { return bfloat(static_cast<__bf16>(-a.value)); }
#define MSL_BFLOAT_COMPARISON(op)                                                      \
  friend constexpr bool operator op(bfloat a, bfloat b) { return a.value op b.value; } \
  template <typename I>                                                                \
    requires std::is_integral_v<I>                                                     \
  friend constexpr bool operator op(bfloat a, I b) {                                   \
    return a op bfloat(b);                                                             \
  }
  MSL_BFLOAT_COMPARISON(==)
  MSL_BFLOAT_COMPARISON(!=)
  MSL_BFLOAT_COMPARISON(<)
  MSL_BFLOAT_COMPARISON(>)
  MSL_BFLOAT_COMPARISON(<=)
  MSL_BFLOAT_COMPARISON(>=)
#undef MSL_BFLOAT_COMPARISON
};

#ifdef MSL_CONTRACT
/// A product that is still exact: what a compiler may fuse with an addition in the same expression.
/// (For halves and floats clang does it itself.)
struct bfloat_product {
  bfloat a, b;

  constexpr operator bfloat() const {
    return bfloat(static_cast<float>(a) * static_cast<float>(b));
  }
  constexpr operator float() const { return static_cast<bfloat>(*this); }
  constexpr bfloat plus(float c) const {
    // The product is exact in double, and its sum with a bfloat too unless one is negligible.
    const double sum = static_cast<double>(static_cast<float>(a) * static_cast<float>(b)) + c;
    return bfloat(static_cast<float>(sum));
  }
};
constexpr bfloat_product operator*(bfloat a, bfloat b) { return {a, b}; }
template <typename I>
  requires std::is_integral_v<I>
constexpr bfloat_product operator*(bfloat a, I b) {
  return {a, bfloat(b)};
}
template <typename I>
  requires std::is_integral_v<I>
constexpr bfloat_product operator*(I a, bfloat b) {
  return {bfloat(a), b};
}
constexpr bfloat& operator*=(bfloat& a, bfloat b) { return a = a * b; }
constexpr bfloat operator+(bfloat_product p, bfloat c) { return p.plus(c); }
constexpr bfloat operator+(bfloat c, bfloat_product p) { return p.plus(c); }
constexpr bfloat operator+(bfloat_product p, bfloat_product q) { return p.plus(bfloat(q)); }
constexpr bfloat operator-(bfloat_product p, bfloat c) { return p.plus(-c); }
constexpr bfloat operator-(bfloat c, bfloat_product p) { return bfloat_product{-p.a, p.b}.plus(c); }
constexpr bfloat operator-(bfloat_product p, bfloat_product q) { return p.plus(-bfloat(q)); }
constexpr bfloat operator-(bfloat_product p) { return -bfloat(p); }
constexpr bfloat_product operator*(bfloat_product p, bfloat c) { return {bfloat(p), c}; }
constexpr bfloat_product operator*(bfloat c, bfloat_product p) { return {c, bfloat(p)}; }
constexpr bfloat& operator+=(bfloat& a, bfloat_product p) { return a = p.plus(a); }
#endif

constexpr half operator""h(long double value) { return static_cast<half>(value); }
constexpr bfloat operator"" bf(long double value) { return bfloat(static_cast<float>(value)); }

template <typename To, typename From>
constexpr To as_type(From from) {
  return __builtin_bit_cast(To, from);
}

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define M_PI_F 3.14159265358979323846f
#define M_SQRT1_2_F 0.70710678118654752440f
#define M_LN2_F 0.69314718055994530942f
#define M_LN10_F 2.30258509299404568402f
#define M_LOG2E_F 1.44269504088896340736f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define FLT_MAX 3.402823466e+38f
#define HALF_MAX 65504.0h

#define __METAL_VERSION__ 320
#define __METAL__ 1
#define __METAL_PRECISE_MATH__ 0
#define __METAL_MAYBE_FAST_MATH__ 1
#define __METAL_FAST_MATH__ 2

namespace metal {

using std::conditional_t;
using std::decay_t;
using std::enable_if;
using std::enable_if_t;
using std::false_type;
using std::integral_constant;
using std::is_convertible_v;
using std::is_empty;
using std::is_integral;
using std::is_integral_v;
using std::is_same;
using std::is_same_v;
using std::is_signed;
using std::is_signed_v;
using std::is_unsigned;
using std::is_unsigned_v;
using std::remove_cv_t;
using std::remove_reference_t;
using std::true_type;
using std::void_t;
template <bool value>
using bool_constant = std::bool_constant<value>;
template <typename... T>
using _disjunction = std::disjunction<T...>;
template <typename T>
using remove_addrspace_t = T;
template <typename T>
inline constexpr bool is_floating_point_v =
    std::is_floating_point_v<T> || is_same_v<T, half> || is_same_v<T, bfloat>;
template <typename T>
struct is_floating_point : std::bool_constant<is_floating_point_v<T>> {};
template <typename T>
struct is_arithmetic : std::bool_constant<std::is_arithmetic_v<T> || is_floating_point_v<T>> {};
template <typename T>
inline constexpr bool is_arithmetic_v = is_arithmetic<T>::value;

template <typename T, size_t N>
struct array {
  T elements[N];
  constexpr T& operator[](size_t i) { return elements[i]; }
  constexpr const T& operator[](size_t i) const { return elements[i]; }
};

template <typename T>
struct numeric_limits : std::numeric_limits<T> {};

/// A 16-bit float's limits from their bits.
template <typename T, uint16_t kMax, uint16_t kMin, uint16_t kInfinity, uint16_t kNaN,
          uint16_t kEpsilon, int kDigits>
struct limits16 {
  static constexpr bool is_specialized = true, is_signed = true, is_integer = false;
  static constexpr int digits = kDigits;
  static constexpr T max() { return as_type<T>(kMax); }
  static constexpr T lowest() { return as_type<T>(uint16_t(kMax | 0x8000)); }
  static constexpr T min() { return as_type<T>(kMin); }
  static constexpr T infinity() { return as_type<T>(kInfinity); }
  static constexpr T quiet_NaN() { return as_type<T>(kNaN); }
  static constexpr T epsilon() { return as_type<T>(kEpsilon); }
};
template <>
struct numeric_limits<half> : limits16<half, 0x7bff, 0x0400, 0x7c00, 0x7e00, 0x1400, 11> {};
template <>
struct numeric_limits<bfloat> : limits16<bfloat, 0x7f7f, 0x0080, 0x7f80, 0x7fc0, 0x3c00, 8> {};

}  // namespace metal

#pragma once

#include "types.h"

/// Vectors of 2, 3 and 4 elements, with the swizzles that kernels use. Needs -fdeclspec.
namespace metal {

template <typename T, int N>
struct vec;

#define MSL_SWIZZLE2(a, b)                                     \
  constexpr vec<T, 2> get_##a##b() const { return {a, b}; }    \
  constexpr void put_##a##b(vec<T, 2> v) { a = v.x, b = v.y; } \
  __declspec(property(get = get_##a##b, put = put_##a##b)) vec<T, 2> a##b;
#define MSL_SWIZZLE3(p, q, s)                                              \
  constexpr vec<T, 3> get_##p##q##s() const { return {p, q, s}; }          \
  constexpr void put_##p##q##s(vec<T, 3> v) { p = v.x, q = v.y, s = v.z; } \
  __declspec(property(get = get_##p##q##s, put = put_##p##q##s)) vec<T, 3> p##q##s;

template <typename T>
struct alignas(2 * sizeof(T)) vec<T, 2> {
  T x, y;
  vec() = default;
  constexpr vec(T s) : x(s), y(s) {}
  constexpr vec(T a, T b) : x(a), y(b) {}
  template <typename U>
  constexpr explicit vec(vec<U, 2> v) : x(static_cast<T>(v.x)), y(static_cast<T>(v.y)) {}
  constexpr T& operator[](size_t i) { return (&x)[i]; }
  constexpr const T& operator[](size_t i) const { return (&x)[i]; }
  MSL_SWIZZLE2(x, y)
  MSL_SWIZZLE2(y, x)
};

template <typename T>
struct alignas(4 * sizeof(T)) vec<T, 3> {
  T x, y, z;
  vec() = default;
  constexpr vec(T s) : x(s), y(s), z(s) {}
  constexpr vec(T a, T b, T c) : x(a), y(b), z(c) {}
  constexpr vec(vec<T, 2> v, T c) : x(v.x), y(v.y), z(c) {}
  constexpr vec(T a, vec<T, 2> v) : x(a), y(v.x), z(v.y) {}
  template <typename U>
  constexpr explicit vec(vec<U, 3> v)
      : x(static_cast<T>(v.x)), y(static_cast<T>(v.y)), z(static_cast<T>(v.z)) {}
  constexpr T& operator[](size_t i) { return (&x)[i]; }
  constexpr const T& operator[](size_t i) const { return (&x)[i]; }
  MSL_SWIZZLE2(x, y)
  MSL_SWIZZLE2(y, z)
  MSL_SWIZZLE2(x, z)
};

template <typename T>
struct alignas(4 * sizeof(T)) vec<T, 4> {
  T x, y, z, w;
  vec() = default;
  constexpr vec(T s) : x(s), y(s), z(s), w(s) {}
  constexpr vec(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {}
  constexpr vec(vec<T, 2> u, vec<T, 2> v) : x(u.x), y(u.y), z(v.x), w(v.y) {}
  constexpr vec(vec<T, 3> v, T d) : x(v.x), y(v.y), z(v.z), w(d) {}
  template <typename U>
  constexpr explicit vec(vec<U, 4> v)
      : x(static_cast<T>(v.x)),
        y(static_cast<T>(v.y)),
        z(static_cast<T>(v.z)),
        w(static_cast<T>(v.w)) {}
  constexpr T& operator[](size_t i) { return (&x)[i]; }
  constexpr const T& operator[](size_t i) const { return (&x)[i]; }
  MSL_SWIZZLE2(x, y)
  MSL_SWIZZLE2(z, w)
  MSL_SWIZZLE2(x, z)
  MSL_SWIZZLE2(y, w)
  MSL_SWIZZLE3(x, y, z)
  MSL_SWIZZLE3(y, z, w)
};
#undef MSL_SWIZZLE2
#undef MSL_SWIZZLE3

/// A type that is not deduced from, so that scalars beside vectors are converted to their elements.
template <typename T>
struct as_is {
  using type = T;
};

#define MSL_VEC_OPERATOR(op)                                                \
  template <typename T, int N>                                              \
  constexpr vec<T, N> operator op(vec<T, N> a, vec<T, N> b) {               \
    vec<T, N> r;                                                            \
    for (int i = 0; i < N; ++i) r[i] = static_cast<T>(a[i] op b[i]);        \
    return r;                                                               \
  }                                                                         \
  template <typename T, int N>                                              \
  constexpr vec<T, N> operator op(vec<T, N> a, typename as_is<T>::type b) { \
    return a op vec<T, N>(b);                                               \
  }                                                                         \
  template <typename T, int N>                                              \
  constexpr vec<T, N> operator op(typename as_is<T>::type a, vec<T, N> b) { \
    return vec<T, N>(a) op b;                                               \
  }                                                                         \
  template <typename T, int N, typename U>                                  \
  constexpr vec<T, N>& operator op##=(vec<T, N>& a, U b) {                  \
    return a = a op b;                                                      \
  }
MSL_VEC_OPERATOR(+)
MSL_VEC_OPERATOR(-)
MSL_VEC_OPERATOR(*)
MSL_VEC_OPERATOR(/)
MSL_VEC_OPERATOR(%)
MSL_VEC_OPERATOR(&)
MSL_VEC_OPERATOR(|)
MSL_VEC_OPERATOR(^)
MSL_VEC_OPERATOR(<<)
MSL_VEC_OPERATOR(>>)
#undef MSL_VEC_OPERATOR

#define MSL_VEC_COMPARISON(op)                                                 \
  template <typename T, int N>                                                 \
  constexpr vec<bool, N> operator op(vec<T, N> a, vec<T, N> b) {               \
    vec<bool, N> r;                                                            \
    for (int i = 0; i < N; ++i) r[i] = a[i] op b[i];                           \
    return r;                                                                  \
  }                                                                            \
  template <typename T, int N>                                                 \
  constexpr vec<bool, N> operator op(vec<T, N> a, typename as_is<T>::type b) { \
    return a op vec<T, N>(b);                                                  \
  }
MSL_VEC_COMPARISON(==)
MSL_VEC_COMPARISON(!=)
MSL_VEC_COMPARISON(<)
MSL_VEC_COMPARISON(>)
MSL_VEC_COMPARISON(<=)
MSL_VEC_COMPARISON(>=)
#undef MSL_VEC_COMPARISON

template <typename T, int N>
constexpr vec<T, N> operator-(vec<T, N> a) {
  for (int i = 0; i < N; ++i) a[i] = -a[i];
  return a;
}
template <typename T, int N>
constexpr vec<T, N> operator~(vec<T, N> a) {
  for (int i = 0; i < N; ++i) a[i] = ~a[i];
  return a;
}

template <int N>
constexpr bool all(vec<bool, N> v) {
  bool r = true;
  for (int i = 0; i < N; ++i) r = r && v[i];
  return r;
}
template <int N>
constexpr bool any(vec<bool, N> v) {
  bool r = false;
  for (int i = 0; i < N; ++i) r = r || v[i];
  return r;
}
constexpr bool all(bool v) { return v; }
constexpr bool any(bool v) { return v; }

}  // namespace metal

#define MSL_VEC_NAMES(T, name)      \
  using name##2 = metal::vec<T, 2>; \
  using name##3 = metal::vec<T, 3>; \
  using name##4 = metal::vec<T, 4>;
MSL_VEC_NAMES(bool, bool)
MSL_VEC_NAMES(signed char, char)
MSL_VEC_NAMES(uchar, uchar)
MSL_VEC_NAMES(short, short)
MSL_VEC_NAMES(ushort, ushort)
MSL_VEC_NAMES(int, int)
MSL_VEC_NAMES(uint, uint)
MSL_VEC_NAMES(long, long)
MSL_VEC_NAMES(ulong, ulong)
MSL_VEC_NAMES(float, float)
MSL_VEC_NAMES(half, half)
MSL_VEC_NAMES(bfloat, bfloat)
#undef MSL_VEC_NAMES

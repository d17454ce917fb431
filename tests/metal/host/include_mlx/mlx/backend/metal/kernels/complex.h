#pragma once

#include <metal_stdlib>

// In place of MLX's file, whose constructors differ in nothing but address spaces. No kernel under
// test computes with complex numbers; MLX's other files only have to compile.
template <typename T>
struct complex_t {
  T real, imag;
  constexpr complex_t(T r = 0, T i = 0) : real(r), imag(i) {}
  friend constexpr complex_t operator+(complex_t a, complex_t b) {
    return {a.real + b.real, a.imag + b.imag};
  }
  friend constexpr complex_t operator-(complex_t a, complex_t b) {
    return {a.real - b.real, a.imag - b.imag};
  }
  friend constexpr complex_t operator-(complex_t a) { return {-a.real, -a.imag}; }
  friend constexpr complex_t operator*(complex_t a, complex_t b) {
    return {a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real};
  }
  friend constexpr complex_t operator/(complex_t a, complex_t b) {
    const T d = b.real * b.real + b.imag * b.imag;
    return {(a.real * b.real + a.imag * b.imag) / d, (a.imag * b.real - a.real * b.imag) / d};
  }
  friend constexpr complex_t& operator+=(complex_t& a, complex_t b) { return a = a + b; }
  friend constexpr complex_t operator%(complex_t a, complex_t) { __builtin_trap(); }
  friend constexpr bool operator==(complex_t a, complex_t b) {
    return a.real == b.real && a.imag == b.imag;
  }
  friend constexpr bool operator<(complex_t a, complex_t b) {
    return a.real < b.real || (a.real == b.real && a.imag < b.imag);
  }
  friend constexpr bool operator>(complex_t a, complex_t b) { return b < a; }
  friend constexpr bool operator<=(complex_t a, complex_t b) { return !(b < a); }
  friend constexpr bool operator>=(complex_t a, complex_t b) { return !(a < b); }
};
using complex64_t = complex_t<float>;

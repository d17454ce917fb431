#pragma once

#include <metal_stdlib>

// In place of MLX's file, whose constructors differ in nothing but address spaces. No kernel under
// test computes with complex numbers; MLX's utils.h only has to find the type.
template <typename T>
struct complex_t {
  T real, imag;
  constexpr complex_t(T r = 0, T i = 0) : real(r), imag(i) {}
};
using complex64_t = complex_t<float>;

#pragma once

/// Numbers and memory. MLX puts `utils.h` of its own kernels before every kernel's text, with the
/// types bfloat16_t and float16_t and metal's names; nothing else is taken for granted.
///
/// "Exact" kernels compute what MLX's own kernels compute, bit for bit. MLX compiles both its own
/// library and such kernels as these in Metal's math mode "safe", which fuses a product and a sum
/// within a statement only (`fp contract(on)`; Metal Shading Language Specification, 1.6.3). So
/// statements here have the shape of MLX's, and where MLX has a product and a sum in two
/// statements or kernels, so have these.
namespace zmlx {

template <typename T>
METAL_FUNC T not_a_number() {
  return static_cast<T>(metal::numeric_limits<float>::quiet_NaN());
}

/// Reads `Count` elements, a multiple of 4; `Wide` says that they lie at a multiple of the size of
/// four.
template <int Count, bool Wide, typename T>
METAL_FUNC void load_values(const device T* from, thread T* to) {
  if constexpr (Wide) {
#pragma unroll
    for (int i = 0; i < Count / 4; ++i) {
      const vec<T, 4> four = reinterpret_cast<const device vec<T, 4>*>(from)[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) to[4 * i + j] = four[j];
    }
  } else {
#pragma unroll
    for (int i = 0; i < Count; ++i) to[i] = from[i];
  }
}

}  // namespace zmlx

#pragma once

#include "simdgroup.h"

/// 8x8 matrices held by a simdgroup: two elements a lane, where MLX's steel/gemm/mma.h finds them.

namespace msl {

struct Coordinates {
  ushort row, column;
};

/// Of a lane's first element; the second one is to its right.
constexpr Coordinates matrix_place(uint lane) {
  const uint quad = lane / 4;
  return {static_cast<ushort>((quad & 4) + (lane / 2) % 4),
          static_cast<ushort>((quad & 2) * 2 + (lane % 2) * 2)};
}

struct MatrixOperands {
  float a[2], b[2], c[2];
};

/// Variant 0 adds products to the accumulator one by one, fused; variant 1 adds up rounded products
/// from the last, then the accumulator.
inline MSL_HOST void combine_matrix_product(void* slots, size_t, unsigned lanes) {
  auto* operands = static_cast<MatrixOperands*>(slots);
  float a[8][8], b[8][8], c[8][8];
  for (unsigned lane = 0; lane < lanes; ++lane) {
    const auto [row, column] = matrix_place(lane);
    for (int i = 0; i < 2; ++i) {
      a[row][column + i] = operands[lane].a[i];
      b[row][column + i] = operands[lane].b[i];
      c[row][column + i] = operands[lane].c[i];
    }
  }
  const bool fused = msl_variant() == 0;
  for (unsigned lane = 0; lane < lanes; ++lane) {
    const auto [row, column] = matrix_place(lane);
    for (int i = 0; i < 2; ++i) {
      float sum = fused ? c[row][column + i] : 0.0f;
      for (int k = 0; k < 8; ++k) {
        if (fused) {
          sum = __builtin_fmaf(a[row][k], b[k][column + i], sum);
        } else {
          sum += a[row][7 - k] * b[7 - k][column + i];
        }
      }
      operands[lane].c[i] = fused ? sum : c[row][column + i] + sum;
    }
  }
}

}  // namespace msl

namespace metal {

template <typename T, int Columns = 8, int Rows = 8>
struct simdgroup_matrix {
  static_assert(Columns == 8 && Rows == 8);
  vec<T, 2> elements;

  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T diagonal) {
    const auto [row, column] = msl::matrix_place(msl::own_lane());
    elements = {row == column ? diagonal : T(0), row == column + 1 ? diagonal : T(0)};
  }
  vec<T, 2>& thread_elements() { return elements; }
  const vec<T, 2>& thread_elements() const { return elements; }
};

using simdgroup_float8x8 = simdgroup_matrix<float>;
using simdgroup_half8x8 = simdgroup_matrix<half>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat>;

template <typename T, int C, int R>
simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, C, R> m;
  m.elements = {value, value};
  return m;
}

template <typename D, typename A, typename B, typename C>
MSL_MEETING inline void simdgroup_multiply_accumulate(simdgroup_matrix<D>& d,
                                                      const simdgroup_matrix<A>& a,
                                                      const simdgroup_matrix<B>& b,
                                                      const simdgroup_matrix<C>& c,
                                                      MslSite at = msl::site()) {
  msl::MatrixOperands operands{{float(a.elements.x), float(a.elements.y)},
                               {float(b.elements.x), float(b.elements.y)},
                               {float(c.elements.x), float(c.elements.y)}};
  msl_collective(msl::combine_matrix_product, &operands, sizeof(operands),
                 "simdgroup_multiply_accumulate", at);
  d.elements = {D(operands.c[0]), D(operands.c[1])};
}
template <typename D, typename A, typename B>
MSL_MEETING inline void simdgroup_multiply(simdgroup_matrix<D>& d, const simdgroup_matrix<A>& a,
                                           const simdgroup_matrix<B>& b, MslSite at = msl::site()) {
  const auto zero = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  simdgroup_multiply_accumulate(d, a, b, zero, at);
}

template <typename T, typename U>
MSL_MEETING inline void simdgroup_load(simdgroup_matrix<T>& m, const U* from,
                                       ulong elements_per_row = 8, ulong2 origin = {0, 0},
                                       bool transpose = false, MslSite = msl::site()) {
  const auto [row, column] = msl::matrix_place(msl::own_lane());
  for (ulong i = 0; i < 2; ++i) {
    const ulong r = transpose ? column + i : row, c = transpose ? row : column + i;
    m.elements[i] = from[(origin.y + r) * elements_per_row + origin.x + c];
  }
}
template <typename T, typename U>
MSL_MEETING inline void simdgroup_store(const simdgroup_matrix<T>& m, U* to,
                                        ulong elements_per_row = 8, ulong2 origin = {0, 0},
                                        bool transpose = false, MslSite = msl::site()) {
  const auto [row, column] = msl::matrix_place(msl::own_lane());
  for (ulong i = 0; i < 2; ++i) {
    const ulong r = transpose ? column + i : row, c = transpose ? row : column + i;
    to[(origin.y + r) * elements_per_row + origin.x + c] = m.elements[i];
  }
}

}  // namespace metal

#pragma once

#include "affine_product.h"
#include "experts.h"
#include "fp_product.h"

/// Products of rows of quantized matrices with one row of x by a simdgroup, in the order of MLX's
/// `affine_gather_qmv*` and `fp_gather_qmv*`: a lane takes `C::kPacks` packs of codes at a time
/// (MLX's "fast" variant two, the general one one), and the lanes' sums are added at the end. Where
/// a row ends within a step, the lanes beyond take no part.
namespace zmlx {

template <class C>
struct Product {
  using Lane = LaneProduct<C, C::kAffine>;
  using Weights = Experts<typename Lane::Scale, typename C::T>;
  static constant constexpr const int kStep = 32 * Lane::kValues;
  static constant constexpr const int kRowBytes = C::K / 8 * C::kBits;
  static constant constexpr const int kRowGroups = C::K / C::kGroup;
};

/// A matrix's last row stands in for those beyond it. Where there are none, rows lie at constant
/// distances, which takes fewer registers.
template <class C>
METAL_FUNC int row_or_last(int n) {
  return C::N % C::kRows == 0 ? n : metal::min(n, C::N - 1);
}

/// Where a row of a matrix begins for a lane.
struct RowStart {
  const device uint8_t* codes;
  long groups;
};

template <class C, typename W>
METAL_FUNC RowStart row_start(const thread W& experts, uint32_t expert, int n, uint lane) {
  using P = Product<C>;
  const device uint8_t* w =
      reinterpret_cast<const device uint8_t*>(experts.w + expert * experts.w_stride);
  return {w + n * long(P::kRowBytes) + lane * P::Lane::kBytes,
          expert * experts.scales_stride + n * long(P::kRowGroups)};
}

/// Adds to `sums` a lane's share of the products of `Rows` rows, taken in turn from `Stacks`
/// stacks: rows 0, Stacks, ... are those of the first one. Stacks' biases have the strides of their
/// scales.
template <class C, int Rows, int Stacks, typename W>
METAL_FUNC void multiply_rows(const device typename C::T* x, const thread W* stacks,
                              const thread RowStart* starts, uint lane, thread float* sums) {
  using P = Product<C>;
  const int first = static_cast<int>(lane) * P::Lane::kValues;
  for (int k = 0; k < C::K; k += P::kStep) {
    if (C::K % P::kStep != 0 && k + first >= C::K) break;
    // All loads of a step come before its arithmetic, to have them on their way together.
    typename P::Lane::Row rows[Rows];
    const int group = (k + first) / C::kGroup;
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      P::Lane::load_row(stacks[r % Stacks], starts[r].codes + k / 8 * C::kBits,
                        starts[r].groups + group, rows[r]);
    }
    typename P::Lane::X values;
    P::Lane::load_x(x + k + first, values);
#pragma unroll
    for (int r = 0; r < Rows; ++r) sums[r] += P::Lane::dot(values, rows[r]);
  }
}

}  // namespace zmlx

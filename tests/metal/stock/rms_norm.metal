// MLX's norm for rows of up to 4096 elements. Its wheel has no source for it, so its arithmetic is
// restated from the public mlx/backend/metal/kernels/rms_norm.metal: four elements a thread, squares
// added up in float in their order, simd_sum of those, simd_sum of the simdgroups' sums, a precise
// rsqrt, and two roundings.

#include "mlx/backend/metal/kernels/utils.h"

template <typename T>
[[kernel]] void rms_row(
    const device T* x [[buffer(0)]],
    const device T* weight [[buffer(1)]],
    device T* out [[buffer(2)]],
    constant float& eps [[buffer(3)]],
    constant uint& width [[buffer(4)]],
    constant uint& weight_stride [[buffer(5)]],
    uint row [[threadgroup_position_in_grid]],
    uint thread_index [[thread_position_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  constexpr uint kReads = 4;
  threadgroup float inverse[1];
  threadgroup float sums[32];
  const uint first = thread_index * kReads;
  x += row * size_t(width);
  out += row * size_t(width);

  float own[kReads];
  float acc = 0;
  for (uint i = 0; i < kReads; i++) {
    own[i] = first + i < width ? float(x[first + i]) : 0.0f;
    acc += own[i] * own[i];
  }
  acc = simd_sum(acc);
  if (simdgroup == 0) {
    sums[lane] = 0;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (lane == 0) {
    sums[simdgroup] = acc;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (simdgroup == 0) {
    acc = simd_sum(sums[lane]);
    if (lane == 0) {
      inverse[0] = metal::precise::rsqrt(acc / width + eps);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = 0; i < kReads; i++) {
    if (first + i < width) {
      out[first + i] =
          weight[weight_stride * (first + i)] * static_cast<T>(own[i] * inverse[0]);
    }
  }
}

#pragma once

#include "dense_row.cuh"

namespace zmlx {

/// Queries, keys and values of one token: the three products, the norm of each head (C::kHeadNorm)
/// and rotary positions, where MLX runs `qmv`, `rms_norm` and `rope_single`; keys and values go to
/// their place in the cache. One block a head: queries, then keys, then values.
///
/// C::kHeadDim is at most 256 and a multiple of 8; C::kThreads is 4 times that.
template <class C>
struct AttentionHeads {
  using T = typename C::T;
  static constexpr int D = C::kHeadDim, kHalf = D / 2, kRows = 4;
  static_assert(C::kThreads == D / kRows * 16 && D % 8 == 0 && D <= 256 && sizeof(T) == 2);
  using Product = LaneProduct<C, kRows>;
  static constexpr int kStaged = LaneLayout<C>::kShared;
  static constexpr int kCopied = C::kThreads * Product::kShared;
  static constexpr int kShared = kStaged + kCopied + D * int(sizeof(T) + sizeof(float));
  using V = Vector<T, 8>;

  struct Weights {
    Experts<T, T> q, k, v;
    const T* q_norm;
    const T* k_norm;
  };
  /// (heads, C::kHeadDim), and caches (heads, capacity, C::kHeadDim).
  struct Results {
    T* queries;
    T* keys;
    T* values;
    T* sum;
  };

  /// Cosines and sines for a position.
  static __device__ __forceinline__ void prepare_angles(int position, float2* angles) {
    for (int i = threadIdx.x; i < kHalf; i += C::kThreads) {
      const float part = __fdiv_rn(static_cast<float>(i), static_cast<float>(kHalf));
      const float frequency = exp2f(__fmul_rn(-part, C::kLogBase));
      const float angle =
          __fmul_rn(__fmul_rn(C::kRopeScale, static_cast<float>(position)), frequency);
      angles[i] = {cosf(angle), sinf(angle)};
    }
  }

  /// One head's RMS norm, in place, by one warp; MLX's has two, of which the second has no
  /// elements.
  static __device__ __forceinline__ void normalise(T* head, const T* weight, float eps) {
    constexpr int kVectors = D / 8;
    const int lane = threadIdx.x;
    V v;
    float squares = 0;
    if (lane < kVectors) {
      v = reinterpret_cast<const V*>(head)[lane];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        squares = __fmaf_rn(to_float(v.at[j]), to_float(v.at[j]), squares);
      }
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      squares = __fadd_rn(squares, __shfl_xor_sync(0xffffffffu, squares, distance));
    }
    const float mean = __fdiv_rn(squares, static_cast<float>(D));
    const float scale = rsqrtf(__fadd_rn(mean, eps));
    if (lane < kVectors) {
      const V w = reinterpret_cast<const V*>(weight)[lane];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        v.at[j] = mul(w.at[j], round_to<T>(__fmul_rn(to_float(v.at[j]), scale)));
      }
      reinterpret_cast<V*>(head)[lane] = v;
    }
    __syncwarp();
  }

  static __device__ __forceinline__ void rotate(const T* head, const float2* angles, T* out) {
    for (int i = threadIdx.x; i < kHalf; i += 32) {
      const float a = to_float(head[i]), b = to_float(head[i + kHalf]);
      const float cosine = angles[i].x, sine = angles[i].y;
      // As MLX's compiler contracts a * cosine - b * sine and a * sine + b * cosine.
      out[i] = round_to<T>(__fmaf_rn(a, cosine, -__fmul_rn(b, sine)));
      out[i + kHalf] = round_to<T>(__fmaf_rn(a, sine, __fmul_rn(b, cosine)));
    }
  }

  static __device__ __forceinline__ void run(const RowInput<T>& input, const Weights& w,
                                             const Results& out, int position, int capacity) {
    extern __shared__ uint4 shared[];
    auto* angles = reinterpret_cast<float2*>(shared + (kStaged + kCopied) / 16);
    T* head = reinterpret_cast<T*>(angles + kHalf);
    const int number = blockIdx.x;
    const bool is_query = number < C::kHeads;
    const bool is_key = !is_query && number < C::kHeads + C::kKvHeads;
    const int h = is_query ? number : (number - C::kHeads) % C::kKvHeads;
    const int row = threadIdx.x / 16 * kRows;

    Product product(shared + kStaged / 16);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      product.set_row(r, is_query ? w.q : is_key ? w.k : w.v, 0, h * D + row + r);
    }
    product.start();
    if (is_query || is_key) prepare_angles(position, angles);
    stage_row<C>(input, number == 0 ? out.sum : nullptr, nullptr, shared);
    __syncthreads();
    float dots[kRows];
    product.run(shared, dots);
    if (threadIdx.x % 16 == 0) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) head[row + r] = round_to<T>(dots[r]);
    }
    __syncthreads();
    if (threadIdx.x >= 32) return;

    const long long place = (static_cast<long long>(h) * capacity + position) * D;
    if (!is_query && !is_key) {
      for (int i = threadIdx.x; i < D; i += 32) out.values[place + i] = head[i];
      return;
    }
    if constexpr (C::kHeadNorm) {
      normalise(head, is_query ? w.q_norm : w.k_norm, is_query ? C::kQueryEps : C::kKeyEps);
    }
    rotate(head, angles, is_query ? out.queries + h * D : out.keys + place);
  }
};

}  // namespace zmlx

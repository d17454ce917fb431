#pragma once

#include "dequantize.cuh"
#include "experts.cuh"

/// Products in the order of MLX's `gather_qmv`: a row has 32 lanes; lane l takes 16 (or 8) elements
/// of every 512 (or 256), one accumulator per element; then a lane adds its accumulators in float32,
/// and the lanes are added pairwise, distances 16, 8, 4, 2, 1.
///
/// Here 16 threads make a row's 32 lanes, two each, so that a load is 16 bytes.
namespace zmlx {

template <class C>
struct LaneLayout {
  using T = typename C::T;
  static constexpr bool kNarrow = sizeof(T) == 2;
  static constexpr int kLane = kNarrow && C::kBits <= 4 ? 16 : 8;  // elements of a lane
  static constexpr int kThread = 2 * kLane;                        // elements of a thread
  static constexpr int kStep = 16 * kThread;
  static constexpr int kSteps = (C::K + kStep - 1) / kStep;
  static constexpr int kChunk = 16 / sizeof(T);          // elements in 16 bytes of x
  static constexpr int kChunks = kThread / kChunk;       // of a thread and step
  static constexpr int kShared = kSteps * kStep * sizeof(T);  // bytes of one row of x
  static constexpr bool kByFour = kNarrow && C::kExact && C::kBits == 4;
  static constexpr bool kPairs = kNarrow && C::kExact && C::kBits < 8;
};

/// Copies row x to shared memory: the chunks of a step side by side for the 16 threads.
template <class C>
__device__ __forceinline__ void stage_lanes(const typename C::T* x, uint4* shared) {
  using L = LaneLayout<C>;
  for (int i = threadIdx.x; i < C::K / L::kChunk; i += blockDim.x) {
    uint4 v = __ldg(reinterpret_cast<const uint4*>(x) + i);
    if constexpr (L::kByFour) v = pair_by_four(v);
    const int step = i / (16 * L::kChunks), within = i % (16 * L::kChunks);
    const int thread = within / L::kChunks, chunk = within % L::kChunks;
    shared[(step * L::kChunks + chunk) * 16 + thread] = v;
  }
}

/// Products of `R` rows with one row of x by a half warp.
template <class C, int R>
class LaneProduct {
  using T = typename C::T;
  using L = LaneLayout<C>;
  static constexpr int kBytes = L::kThread * C::kBits / 8;
  static constexpr int kRing = R > 2 ? 2 : 4;  // steps in flight

  struct Step {
    Packed<kBytes> codes[R];
    T scale[R], bias[R];
  };

 public:
  /// Row `r` of the product: row `n` of an expert's matrix.
  __device__ __forceinline__ void set_row(int r, const Experts<T, T>& experts, u32 expert, int n) {
    constexpr int kGroups = C::K / C::kGroup;
    w_[r] = reinterpret_cast<const u8*>(experts.w + expert * experts.w_stride) +
            static_cast<long long>(n) * (C::K / 8 * C::kBits) + thread_ * kBytes;
    scales_[r] = experts.scales + expert * experts.scales_stride + n * kGroups;
    biases_[r] = experts.biases + expert * experts.biases_stride + n * kGroups;
  }

  /// Starts the first loads; to be called before x is waited for.
  __device__ __forceinline__ void start() {
#pragma unroll
    for (int j = 0; j < kRing; ++j) load(ring_[j], j);
  }

  /// The rows' products, in every thread of the half warp.
  __device__ __forceinline__ void run(const uint4* x, float (&products)[R]) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums_[r][i] = 0;
    }
    for (int s = 0; s < L::kSteps; s += kRing) {
#pragma unroll
      for (int j = 0; j < kRing; ++j) {
        if (active(s + j)) multiply(ring_[j], x + (s + j) * L::kChunks * 16 + thread_);
        load(ring_[j], s + j + kRing);
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) products[r] = reduce(sums_[r]);
  }

 private:
  // Pairs of T, or float32.
  static constexpr int kSums = L::kPairs ? L::kThread / 2 : L::kThread;
  using Sum = typename Select<L::kPairs, u32, float>::type;

  __device__ __forceinline__ bool active(int step) const {
    return step * L::kStep + thread_ * L::kThread < C::K;
  }

  __device__ __forceinline__ void load(Step& step, int s) {
    if (!active(s)) return;
    const int group = (s * L::kStep + thread_ * L::kThread) / C::kGroup;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      step.codes[r].load(w_[r] + s * 16 * kBytes);
      step.scale[r] = __ldg(scales_[r] + group);
      step.bias[r] = __ldg(biases_[r] + group);
    }
  }

  __device__ __forceinline__ void multiply(const Step& step, const uint4* x) {
#pragma unroll
    for (int chunk = 0; chunk < L::kChunks; ++chunk) {
      const uint4 v = x[chunk * 16];
      const u32 xs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int r = 0; r < R; ++r) {
        if constexpr (L::kNarrow && C::kExact) {
          multiply_narrow(step, r, chunk, xs);
        } else {
          multiply_wide(step, r, chunk, xs);
        }
      }
    }
  }

  /// Weights rounded to T.
  __device__ __forceinline__ void multiply_narrow(const Step& step, int r, int chunk,
                                                  const u32 (&xs)[4]) {
    const u32 scale = twice(bits_of(step.scale[r])), bias = twice(bits_of(step.bias[r]));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      u32 q;
      if constexpr (L::kByFour) {
        q = codes_to<T>(step.codes[r].word[chunk] >> (4 * i) & 0x000f000fu);
      } else {
        const int at = chunk * 8 + 2 * i;
        q = pair_of_codes<T, C::kBits>(step.codes[r].template code<C::kBits>(at),
                                       step.codes[r].template code<C::kBits>(at + 1));
      }
      const u32 w = scale2<T>(q, scale, bias);
      const int at = chunk * 4 + i;
      if constexpr (L::kPairs) {
        sums_[r][at] = fma2<T>(xs[i], w, sums_[r][at]);
      } else {
        sums_[r][2 * at] = __fmaf_rn(low<T>(xs[i]), low<T>(w), sums_[r][2 * at]);
        sums_[r][2 * at + 1] = __fmaf_rn(high<T>(xs[i]), high<T>(w), sums_[r][2 * at + 1]);
      }
    }
  }

  /// Weights in float32.
  __device__ __forceinline__ void multiply_wide(const Step& step, int r, int chunk,
                                                const u32 (&xs)[4]) {
    if constexpr (!L::kPairs) {
      const float scale = to_float(step.scale[r]), bias = to_float(step.bias[r]);
#pragma unroll
      for (int i = 0; i < L::kChunk; ++i) {
        const int at = chunk * L::kChunk + i;
        float value;
        if constexpr (L::kNarrow) {
          value = i % 2 ? high<T>(xs[i / 2]) : low<T>(xs[i / 2]);
        } else {
          value = __uint_as_float(xs[i]);
        }
        const float q = code_to_float(step.codes[r].template code<C::kBits>(at));
        sums_[r][at] = __fmaf_rn(value, __fmaf_rn(q, scale, bias), sums_[r][at]);
      }
    }
  }

  static __device__ __forceinline__ u16 bits_of(T x) {
    if constexpr (L::kNarrow) {
      return *reinterpret_cast<const u16*>(&x);
    } else {
      return 0;
    }
  }

  static __device__ __forceinline__ float element(const Sum (&sums)[kSums], int i) {
    if constexpr (L::kPairs) {
      const int pair = L::kByFour ? i / 8 * 4 + i % 4 : i / 2;
      const bool top = L::kByFour ? i % 8 >= 4 : i % 2;
      return top ? high<T>(sums[pair]) : low<T>(sums[pair]);
    } else {
      return sums[i];
    }
  }

  static __device__ __forceinline__ float reduce(const Sum (&sums)[kSums]) {
    float lane[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < L::kThread; ++i) {
      lane[i / L::kLane] = __fadd_rn(lane[i / L::kLane], element(sums, i));
    }
    // Lane distances 16, 8, 4, 2 are half that in threads.
#pragma unroll
    for (int distance = 8; distance > 0; distance /= 2) {
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        lane[v] = __fadd_rn(lane[v], __shfl_xor_sync(0xffffffffu, lane[v], distance));
      }
    }
    return __fadd_rn(lane[0], lane[1]);
  }

  const int thread_ = threadIdx.x % 16;
  const u8* w_[R];
  const T* scales_[R];
  const T* biases_[R];
  Step ring_[kRing];
  Sum sums_[R][kSums];
};

}  // namespace zmlx

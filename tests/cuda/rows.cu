// Instances of the kernels that work row by row.

#include "config.cuh"
#include "gather_qmm_combine_rows.cuh"
#include "gather_qmm_swiglu_rows.cuh"

using namespace zmlx;

template <class C>
__global__ void swiglu_of(const typename C::T* x, const u32* w, const void* scales, const u32* indices,
                       typename C::T* out) {
  using W = typename RowProducts<C, C::kFp>::Weights;
  using S = typename Select<C::kFp, u8, typename C::T>::type;
  const W gate = experts<S, typename C::T>(w, scales, scales);
  gather_qmm_swiglu_rows<C>(x, gate, gate, indices, nullptr, out);
}

template <class C>
__global__ void combine(const typename C::T* x, const u32* w, const void* scales,
                        const u32* indices, const typename C::Weight* weights,
                        typename C::Out* out) {
  using S = typename Select<C::kFp, u8, typename C::T>::type;
  gather_qmm_combine_rows<C>(x, experts<S, typename C::T>(w, scales, scales), indices, weights,
                             out);
}

// The host works shared memory out by itself: tests/cpp/cuda_path_test.cpp has the same numbers.
template <class Base, int Threads, int Ring>
struct Launch : Base {
  static constexpr int kThreads = Threads, kRing = Ring;
};
template <class C>
__device__ constexpr int swiglu_shared() {
  using P = RowProducts<C, C::kFp>;
  return P::kShared + C::kThreads * P::template Product<P::kRows>::kShared;
}
template <class C>
__device__ constexpr int combine_shared() {
  using P = RowProducts<C, C::kFp>;
  return C::kTopK * P::kShared + C::kThreads * P::template Product<P::kRows>::kShared +
         C::kThreads / P::kUnit * P::kRows * int(sizeof(typename C::Sum));
}
using Up = Config<bf16, 4, 64, 2048, 1792>;
using Down = Config<bf16, 4, 64, 1792, 2048>;
static_assert(swiglu_shared<Launch<Up, 128, 8>>() == 20480);
static_assert(combine_shared<Launch<Down, 256, 8>>() == 49216);
using Fp = Config<bf16, 4, 32, 2880, 2880, true>;
static_assert(swiglu_shared<Launch<Fp, 128, 3>>() == 36864);
static_assert(combine_shared<Launch<Fp, 256, 2>>() == 81984);

template <class C>
__device__ void instantiate() {
  keep = reinterpret_cast<const void*>(&swiglu_of<C>);
  keep = reinterpret_cast<const void*>(&combine<C>);
}

__device__ void all() {
  instantiate<Config<bf16, 4, 64, 2048, 1792>>();
  instantiate<Config<bf16, 8, 64, 2048, 1792>>();
  instantiate<Config<bf16, 3, 32, 1056, 544, false, true, float>>();
  instantiate<Config<bf16, 5, 64, 1024, 512>>();
  instantiate<Config<f16, 4, 128, 1024, 512>>();
  instantiate<Config<f16, 8, 32, 1024, 512>>();
  instantiate<Config<float, 4, 64, 1024, 512>>();
  instantiate<Config<float, 6, 64, 1024, 512>>();
  instantiate<Config<bf16, 2, 64, 1024, 512, false, false>>();
  instantiate<Config<bf16, 4, 32, 2880, 2880, true>>();
  instantiate<Config<f16, 8, 32, 1024, 512, true>>();
  instantiate<Config<float, 4, 16, 1024, 512, true, false>>();
}

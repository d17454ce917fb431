// Instances of the kernels on tensor cores, and of the norm.

#include "add_rms_norm.cuh"
#include "config.cuh"
#include "gather_qmm_combine_mma.cuh"
#include "gather_qmm_swiglu_mma.cuh"

using namespace zmlx;

template <class C>
__global__ void swiglu_of(const typename C::T* x, const u32* w, const void* scales, const u32* indices,
                       typename C::T* out) {
  using T = typename C::T;
  const auto gate = experts<T, T>(w, scales, scales);
  SwigluMma<C>::run(x, gate, gate, indices, nullptr, out);
}

template <class C>
__global__ void combine(const typename C::T* x, const u32* w, const void* scales,
                        const u32* indices, const typename C::Weight* weights,
                        typename C::Out* out) {
  using T = typename C::T;
  CombineMma<C>(x, experts<T, T>(w, scales, scales), indices, weights, 4).run(out);
}

template <class C>
struct OneToken : C {
  static constexpr int kMaxTokens = 1;
};

// The host works shared memory out by itself: tests/cpp/cuda_path_test.cpp has the same numbers.
template <class Base, int Threads, int Ring, int Tokens, int Pairs, int Experts, int TopK>
struct Launch : Base {
  static constexpr int kThreads = Threads, kRing = Ring, kMaxTokens = Tokens, kMaxPairs = Pairs;
  static constexpr int E = Experts, kTopK = TopK;
};
using Up = Config<bf16, 4, 64, 2048, 768>;
using Down = Config<bf16, 4, 64, 768, 2048>;
static_assert(SwigluMma<Launch<Up, 64, 4, 1, 32, 128, 8>>::kShared == 24640);
static_assert(CombineMma<Launch<Down, 256, 3, 1, 32, 128, 8>>::kShared == 71812);
using WideUp = Config<bf16, 4, 64, 2048, 1792>;
using WideDown = Config<bf16, 4, 64, 1792, 2048>;
static_assert(SwigluMma<Launch<WideUp, 256, 3, 8, 128, 32, 4>>::kShared == 98560);
static_assert(CombineMma<Launch<WideDown, 384, 3, 8, 128, 32, 4>>::kShared == 221828);

template <class C>
__device__ void instantiate() {
  keep = reinterpret_cast<const void*>(&swiglu_of<C>);
  keep = reinterpret_cast<const void*>(&combine<C>);
}

template <typename T, int Width, int Threads>
__global__ void norm(const T* x, T* out) {
  add_rms_norm<T, Width, Threads>(x, x, x, 1e-5f, out, out);
}

__device__ void all() {
  instantiate<Config<bf16, 4, 64, 2048, 1792>>();
  instantiate<OneToken<Config<bf16, 4, 32, 2048, 768>>>();
  instantiate<Config<bf16, 8, 128, 1792, 2048, false, true, float>>();
  instantiate<Config<f16, 4, 64, 1088, 576>>();
  keep = reinterpret_cast<const void*>(&norm<bf16, 2048, 128>);
  keep = reinterpret_cast<const void*>(&norm<f16, 640, 128>);
  keep = reinterpret_cast<const void*>(&norm<float, 12288, 1024>);
}

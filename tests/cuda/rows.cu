// Instances of the kernels that work row by row.

#include "config.cuh"
#include "gather_qmm_combine_rows.cuh"
#include "gather_qmm_swiglu_rows.cuh"

using namespace zmlx;

template <class C>
__global__ void swiglu(const typename C::T* x, const u32* w, const void* scales, const u32* indices,
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
  gather_qmm_combine_rows<C>(x, experts<S, typename C::T>(w, scales, scales), indices, weights, out);
}

template <class C>
void instantiate() {
  swiglu<C><<<1, 1>>>(nullptr, nullptr, nullptr, nullptr, nullptr);
  combine<C><<<1, 1>>>(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);
}

void all() {
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

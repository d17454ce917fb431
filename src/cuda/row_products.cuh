#pragma once

#include "fp_product.cuh"
#include "lane_product.cuh"

/// One face for the two kinds of product that are made row by row: who makes a row, and from what.
namespace zmlx {

template <class C, bool Fp>
struct RowProducts {
  using Chunk = uint4;
  using Weights = Experts<typename C::T, typename C::T>;
  template <int R>
  using Product = LaneProduct<C, R>;
  using Scale = typename C::T;
  static constexpr int kUnit = 16;  // threads
  static constexpr int kRows = 2;   // of a unit
  static constexpr int kShared = LaneLayout<C>::kShared;
  static constexpr int kChunks = C::K / LaneLayout<C>::kChunk;  // that a row is staged in
  static __device__ __forceinline__ void stage_chunk(const typename C::T* x, int i, Chunk* shared) {
    zmlx::stage_chunk<C>(i, __ldcg(reinterpret_cast<const uint4*>(x) + i), shared);
  }
};

template <class C>
struct RowProducts<C, true> {
  using Chunk = float4;
  using Weights = Experts<u8, typename C::T>;
  template <int R>
  using Product = FpProduct<C, R>;
  using Scale = u8;
  static constexpr int kUnit = 32;
  static constexpr int kRows = 4;
  static constexpr int kShared = FpLayout<C>::kShared;
  static constexpr int kChunks = C::K / 4;
  static __device__ __forceinline__ void stage_chunk(const typename C::T* x, int i, Chunk* shared) {
    stage_fp_chunk<C>(x, i, shared);
  }
};

/// Copies `rows` rows, one after the other, to shared memory.
template <class C>
__device__ __forceinline__ void stage_rows(const typename C::T* x, int rows,
                                           typename RowProducts<C, C::kFp>::Chunk* shared) {
  using P = RowProducts<C, C::kFp>;
  constexpr int kStaged = P::kShared / 16;
  for (int i = threadIdx.x; i < rows * P::kChunks; i += C::kThreads) {
    const int row = i / P::kChunks;
    P::stage_chunk(x + row * C::K, i % P::kChunks, shared + row * kStaged);
  }
}

}  // namespace zmlx

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
  static constexpr int kUnit = 16;  // threads
  static constexpr int kRows = 2;   // of a unit
  static constexpr int kShared = LaneLayout<C>::kShared;
  static __device__ __forceinline__ void stage(const typename C::T* x, Chunk* shared) {
    stage_lanes<C>(x, shared);
  }
};

template <class C>
struct RowProducts<C, true> {
  using Chunk = float4;
  using Weights = Experts<u8, typename C::T>;
  template <int R>
  using Product = FpProduct<C, R>;
  static constexpr int kUnit = 32;
  static constexpr int kRows = 4;
  static constexpr int kShared = FpLayout<C>::kShared;
  static __device__ __forceinline__ void stage(const typename C::T* x, Chunk* shared) {
    stage_fp<C>(x, shared);
  }
};

}  // namespace zmlx

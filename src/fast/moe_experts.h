#pragma once

#include <optional>
#include <string>

#include "fast/cuda_path.h"
#include "zmlx/moe_block.h"

/// All of a layer's experts in one CUDA kernel: src/cuda/moe_experts_rows.cuh and
/// moe_experts_mma.cuh.
namespace zmlx::fast {

/// A kernel with its launch parameters, or why there is none.
struct ExpertsPlan {
  std::string obstacle;
  CudaProduct product = CudaProduct::lanes;
  int threads = 0;
  int ring = 1;        ///< stages in flight
  int parts = 1;       ///< that each phase has, and blocks
  int max_tokens = 1;  ///< pairs of one expert that are multiplied together
  int token_room = 1;  ///< tokens that fit into shared memory
  int max_pairs = 32;
  int shared_memory = 0;  ///< bytes
};

/// @param up         gate and up
/// @param down       the down projection, whose weighted sum is made in a type of `sum_bytes`
/// @param processors multiprocessors of the GPU
ExpertsPlan plan_experts(const CudaCall& up, const CudaCall& down, int sum_bytes, int processors);

/// The result of `moe_experts`, or nothing if there is no such kernel for the call.
std::optional<mx::array> one_kernel(const mx::array& x, const MoeExperts& experts,
                                    const mx::array& indices, const mx::array& weights,
                                    int max_rows, const mx::Stream& s);

}  // namespace zmlx::fast

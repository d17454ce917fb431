#pragma once

#include <string>

#include "fast/quantization.h"

/// Which kernel of src/cuda takes a call, if any. In numerics "exact" it is the one that follows
/// the order of sums of MLX's own kernel for that call; docs/numerics.md has the table.
namespace zmlx::fast {

/// The order in which a product is summed, named after the files of src/cuda.
enum class CudaProduct {
  lanes,  ///< MLX's gather_qmv: 32 lanes a row
  fp,     ///< MLX's fp_gather_qmv: the same for the fp modes, by groups
  mma,    ///< MLX's qmm_sm80 and qmm_naive on tensor cores: 16 elements at a time
};

/// One product of (token, expert) pairs with their experts' matrices (N, K).
struct CudaCall {
  Quantization quantization;
  mx::Dtype type;  ///< of x and of the product
  int N, K, experts;
  int tokens, top_k;
  bool exact;
  int compute_capability;  ///< 90 for 9.0

  int pairs() const { return tokens * top_k; }
};

/// A kernel with its launch parameters, or why there is none.
struct CudaPlan {
  std::string obstacle;
  CudaProduct product = CudaProduct::lanes;
  int threads = 0;
  int ring = 1;        ///< stages in flight
  int max_tokens = 1;  ///< pairs of one expert that are multiplied together
  int max_pairs = 32;  ///< of the call
  int blocks_per_sm = 1;
  int tile = 0;           ///< rows of a matrix that a block makes
  int shared_memory = 0;  ///< bytes
};

/// Which product follows MLX's own in numerics "exact", or suits the format; says why if none does.
std::string cuda_product(const CudaCall& call, CudaProduct& product);

/// For gate and up with the activation.
CudaPlan plan_swiglu(const CudaCall& call);

/// For the down projection with the weighted sum, which is made in a type of `sum_bytes`.
CudaPlan plan_combine(const CudaCall& call, int sum_bytes);

/// The product of x's rows with experts (E, N, K) that `indices` (..., K experts a token) select.
CudaCall cuda_call(const mx::array& x, const mx::array& w, const mx::array& indices,
                   const Quantization& quantization, bool exact);

/// A router's call, as far as it decides whether the kernel takes it.
struct CudaRoute {
  int experts, top_k;
  int groups;  ///< that are chosen among; 1 if all experts are
  int compute_capability;
};

/// Why the router's kernel does not take a call; empty if it does.
std::string cuda_route_obstacle(const CudaRoute& route);

/// Elements that a thread reads in MLX's sum over the last axis of an array of `ndim` axes, on
/// which the order of its sum depends.
int row_sum_reads(size_t ndim, size_t itemsize);

/// Threads of MLX's `rms_norm` for rows of `width` elements of `itemsize` bytes, on which the order
/// of its sum depends.
int rms_norm_threads(int width, size_t itemsize);

/// Bytes of shared memory that one block may have on a GPU of a compute capability, 90 for 9.0.
int cuda_shared_limit(int compute_capability);

/// 10 * major + minor of a GPU, or 0 if MLX has no CUDA backend here.
int cuda_compute_capability(int device = 0);

/// Multiprocessors of a GPU that MLX has; the driver has to be there.
int cuda_processors(int device);

/// Why no CUDA kernel runs on a stream; empty if they do.
std::string cuda_device_obstacle(const mx::Stream& s);

/// Why no CUDA kernel reads these arrays; empty if one does.
std::string cuda_obstacle(const mx::Stream& s, const mx::array& x, const QuantizedWeights& weights,
                          const Quantization& quantization, bool transpose);

/// Whether a stack of matrices can be read in place: rows without gaps, aligned to 16 bytes.
bool cuda_readable(const mx::array& a);

}  // namespace zmlx::fast

#pragma once

#include <optional>
#include <string>
#include <utility>

#include "mlx/array.h"
#include "mlx/utils.h"
#include "zmlx/api.h"

namespace zmlx::fast {

namespace mx = mlx::core;

/// The weights of a linear layer as `mlx.nn` keeps them, or of a stack of them, one an expert.
struct Linear {
  mx::array weight;                         ///< ([E,] N, K), packed if there are scales
  std::optional<mx::array> scales, biases;  ///< of quantized weights
  std::optional<mx::array> bias;            ///< ([E,] N), added to the product
  int group_size = 0, bits = 0;             ///< of quantized weights
  std::string mode;                         ///< likewise: "affine", "mxfp4", ...
};

/// From logits to experts: the arguments of `moe_route`, which explains them.
struct RouteOptions {
  std::string score;
  int k = 1, n_group = 1, topk_group = 1;
  bool renormalize = false;
  float scale = 1, eps = 0;
  std::string order = "descending", group_score = "top2";
  float group_fill = 0;
  bool precise = true;
  std::optional<mx::Dtype> score_dtype, weights_dtype;
};

/// The experts of a mixture-of-experts block, and how they are added.
struct MoeExperts {
  Linear gate, up, down;  ///< quantized
  std::string activation = "swiglu";
  float alpha = 1.702f, limit = 7.0f;
  bool weights_as_input = false;   ///< whether the router's weights are cast to the type of x
  bool result_as_experts = false;  ///< whether the sum is cast to the type of the experts' products
};

/// A mixture-of-experts block: a router, its experts and their weighted sum.
struct MoeBlock {
  Linear router;
  std::optional<mx::array> select_bias;
  RouteOptions route;
  MoeExperts experts;
};

/// The weighted sum of chosen experts in one call: `gather_qmm_swiglu` and `gather_qmm_combine`, on
/// CUDA as one kernel where there is one for the call and nothing traces it.
///
/// @param x        (..., D)
/// @param indices  (..., K), uint32
/// @param weights  (..., K), of a float type
/// @return (..., D), or nothing where no kernel takes the call, as for `moe_block`.
/// @throws std::invalid_argument for shapes, types or modes that do not fit.
ZMLX_API std::optional<mx::array> moe_experts(const mx::array& x, const MoeExperts& experts,
                                              const mx::array& indices, const mx::array& weights,
                                              int max_rows = 32, mx::StreamOrDevice s = {});

/// A whole block in one call: router product, `moe_route`, `moe_experts`. What it is for is the
/// host's time: composing a block in Python takes longer than a GPU needs to compute it.
///
/// @param x  (..., D)
/// @return (..., D), or nothing where a kernel does not take the call: more than `max_rows` tokens,
///     or a shape or type that falls back. Then the caller's own sequence of operations is the
///     better one, because it may sort tokens by expert.
/// @throws std::invalid_argument for shapes, types or modes that do not fit.
ZMLX_API std::optional<mx::array> moe_block(const mx::array& x, const MoeBlock& block,
                                            int max_rows = 32, mx::StreamOrDevice s = {});

struct AddNorm;

/// The same for the norm of a residual sum: the block's output, and the sum. One token on CUDA
/// only; nothing everywhere else.
ZMLX_API std::optional<std::pair<mx::array, mx::array>> moe_block_after_sum(
    const mx::array& x, const AddNorm& norm, const MoeBlock& block, mx::StreamOrDevice s = {});

}  // namespace zmlx::fast

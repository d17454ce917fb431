#pragma once

#include <optional>
#include <string>

#include "mlx/array.h"
#include "mlx/utils.h"
#include "zmlx/api.h"
#include "zmlx/moe_block.h"

/// Parts of a decoder layer for one decoded token, each one CUDA kernel that returns the bits of
/// the sequence of MLX's kernels that it stands for. What they are for is the host's time, which
/// MLX spends by the kernel.
///
/// A row x is (1, 1, D). The functions return nothing where no kernel takes the call (other devices
/// and types, layers that are not affine or have a bias, a call that is traced); then nothing has
/// happened.
namespace zmlx::fast {

namespace mx = mlx::core;

/// A residual sum and the norm of it: `rms_norm(x + residual, weight, eps)` is what is multiplied.
struct AddNorm {
  mx::array residual;  ///< (1, 1, D)
  mx::array weight;    ///< (D,)
  float eps;
};

/// `mx.fast.rms_norm` of each head.
struct HeadNorm {
  mx::array weight;  ///< (head_dim,)
  float eps;
};

/// An attention layer up to its attention.
struct AttentionInputs {
  Linear q, k, v;
  std::optional<HeadNorm> q_norm, k_norm;  ///< both or none
  int n_heads, n_kv_heads;
  int rope_dims;  ///< the size of a head
  bool rope_traditional;
  float rope_base, rope_scale;
};

struct AttentionHeadsResult {
  mx::array queries;             ///< (1, heads, 1, head_dim), with positions
  mx::array keys, values;        ///< the caches with the token in it
  std::optional<mx::array> sum;  ///< x + residual, if there is a residual
};

/// Queries, and the caches (1, kv_heads, capacity, head_dim) with the token's keys and values at
/// `position`. The caches are written in place unless somebody else holds them, as
/// `mx::slice_update` does.
ZMLX_API std::optional<AttentionHeadsResult> attention_heads(
    const mx::array& x, const std::optional<AddNorm>& norm, const AttentionInputs& layer,
    const mx::array& keys, const mx::array& values, int position, mx::StreamOrDevice s = {});

struct ShortConvResult {
  mx::array y;      ///< (1, 1, C): what the layer's last product gets
  mx::array state;  ///< (1, taps - 1, C)
  std::optional<mx::array> sum;
};

/// LFM2's short convolution: B, C, x = split(in_proj(x)); C * conv1d([state, B * x], taps).
///
/// @param taps  (C, taps, 1), as `mlx.nn.Conv1d` keeps them.
ZMLX_API std::optional<ShortConvResult> short_conv(const mx::array& x,
                                                   const std::optional<AddNorm>& norm,
                                                   const Linear& in_proj, const mx::array& taps,
                                                   const mx::array& state,
                                                   mx::StreamOrDevice s = {});

struct NormRouteResult {
  mx::array indices, weights;  ///< (1, 1, k), as `moe_route` returns them
  mx::array normed, sum;       ///< (1, 1, D)
};

/// A residual sum, its norm, the router's product and `moe_route`.
ZMLX_API std::optional<NormRouteResult> norm_route(const mx::array& x, const AddNorm& norm,
                                                   const Linear& router,
                                                   const std::optional<mx::array>& select_bias,
                                                   const RouteOptions& route,
                                                   mx::StreamOrDevice s = {});

}  // namespace zmlx::fast

#pragma once

#include <optional>
#include <string>
#include <utility>

#include "mlx/array.h"
#include "mlx/utils.h"
#include "zmlx/api.h"

/// Fused primitives for mixture-of-experts models on MLX.
///
/// Names, argument order and defaults follow `mlx::core::gather_qmm`, `quantized_matmul` and
/// `fast::rms_norm`. Every function builds a lazy array; nothing runs before evaluation. Where a
/// case has no fused kernel the same result is composed of MLX's own ops ("the fallback"), which
/// also serves gradients. `zmlx::explain` tells which path a call takes.
///
/// M is the number of tokens, K experts per token, E experts, D the model width, H the expert
/// width.
namespace zmlx::fast {

namespace mx = mlx::core;

/// Gate and up projections of the selected experts and the activation, in one pass:
///
///     g = gather_qmm(x, gate...) + gate_bias[i];  u = gather_qmm(x, up...) + up_bias[i]
///     "swiglu":          g * sigmoid(g) * u
///     "geglu":           gelu_tanh(g) * u
///     "swiglu_clamped":  g = min(g, limit); (clip(u, -limit, limit) + 1) * g * sigmoid(alpha * g)
///
/// "geglu" is the tanh approximation of GELU (Hendrycks and Gimpel 2016); "swiglu_clamped" is
/// GPT-OSS's activation.
///
/// @param x            (..., 1, D), float32, float16 or bfloat16.
/// @param gate_w       (E, H, D * bits / 32) uint32; `up_w` alike.
/// @param gate_scales  (E, H, D / group_size); a float type in mode "affine", else uint8.
/// @param gate_biases  like the scales in mode "affine", absent otherwise.
/// @param lhs_indices  which rows of x (its leading axes flattened) to take; by default all, in
/// order.
/// @param rhs_indices  which expert each row is multiplied by; by default expert 0 to E - 1. Both
///                     kinds of indices broadcast against each other as in `gather_qmm`.
/// @param group_size   default 64 in mode "affine", 32 in "mxfp4" and "mxfp8", 16 in "nvfp4".
/// @param bits         default 4; 8 in mode "mxfp8".
/// @param gate_bias    (E, H), added to the gate projection; `up_bias` alike.
/// @param numerics     "exact", "fp32" or empty for the global default; matters on GPUs only.
/// @param max_rows     GPUs run the fused kernel for at most so many tokens.
/// @return (broadcast indices..., 1, H), of the type that MLX's promotion gives the composition.
///         A row whose expert index is outside [0, E) is NaN.
/// @throws std::invalid_argument on shapes, types or modes that do not fit.
ZMLX_API mx::array gather_qmm_swiglu(
    const mx::array& x, const mx::array& gate_w, const mx::array& gate_scales,
    const std::optional<mx::array>& gate_biases, const mx::array& up_w, const mx::array& up_scales,
    const std::optional<mx::array>& up_biases,
    const std::optional<mx::array>& lhs_indices = std::nullopt,
    const std::optional<mx::array>& rhs_indices = std::nullopt, bool transpose = true,
    std::optional<int> group_size = std::nullopt, std::optional<int> bits = std::nullopt,
    const std::string& mode = "affine", const std::string& activation = "swiglu",
    float alpha = 1.702f, float limit = 7.0f,
    const std::optional<mx::array>& gate_bias = std::nullopt,
    const std::optional<mx::array>& up_bias = std::nullopt, bool sorted_indices = false,
    const std::string& numerics = "", int max_rows = 32, mx::StreamOrDevice s = {});

/// The down projection of the selected experts and their weighted sum, with no (M, K, D) buffer:
///
///     sum over k of weights[..., k] * (gather_qmm(x[..., k], w...) + bias[i])
///
/// @param x            (..., K, 1, H), float32, float16 or bfloat16.
/// @param w            (E, D, H * bits / 32) uint32; `scales` and `biases` (E, D, H / group_size).
/// @param rhs_indices  (..., K), the expert of each row; equal to x's leading axes.
/// @param weights      (..., K), the router's weights, a float type.
/// @param bias         (E, D), added to each expert's product before weighting.
/// @return (..., D). A token with an expert index outside [0, E) is NaN.
/// @throws std::invalid_argument on shapes, types or modes that do not fit.
ZMLX_API mx::array gather_qmm_combine(
    const mx::array& x, const mx::array& w, const mx::array& scales,
    const std::optional<mx::array>& biases, const mx::array& rhs_indices, const mx::array& weights,
    bool transpose = true, std::optional<int> group_size = std::nullopt,
    std::optional<int> bits = std::nullopt, const std::string& mode = "affine",
    const std::optional<mx::array>& bias = std::nullopt, const std::string& numerics = "",
    int max_rows = 32, mx::StreamOrDevice s = {});

/// Residual add and RMS norm in one pass over two inputs:
///
///     sum = x + residual;  normed = rms_norm(sum, weight, eps)
///
/// (Zhang and Sennrich 2019.) The sum is rounded to its type before it is normalised, as it is when
/// the two run one after the other.
///
/// @param x, residual  of one shape (..., D).
/// @param weight       (D), or absent.
/// @return (normed, sum), both (..., D).
/// @throws std::invalid_argument if shapes or types do not fit.
ZMLX_API std::pair<mx::array, mx::array> add_rms_norm(const mx::array& x, const mx::array& residual,
                                                      const std::optional<mx::array>& weight,
                                                      float eps, mx::StreamOrDevice s = {});

/// `mlx::core::fast::rms_norm`, in one pass on the CPU, where MLX composes it of some eight ops.
/// @param x       (..., D).
/// @param weight  (D), or absent.
ZMLX_API mx::array rms_norm(const mx::array& x, const std::optional<mx::array>& weight, float eps,
                            mx::StreamOrDevice s = {});

/// From router logits to the chosen experts and their weights, as mlx-lm's models compute them:
///
///     scores = softmax(logits) | sigmoid(logits) | logits, for "topk_softmax"
///     indices = the k best experts by scores + select_bias, among the best topk_group groups
///     weights = scores at indices, or softmax(logits at indices) for "topk_softmax"
///     weights = weights / (sum(weights) + eps), if renormalize;  weights = weights * scale
///
/// Every step rounds to the scores' type. The order of the indices and which of equal scores win is
/// what `order`'s sequence of MLX ops gives on the device (on CPUs a partition, in no order).
///
/// @param logits        (..., E), a float type.
/// @param k             experts per token, K.
/// @param score         "softmax", "sigmoid" or "topk_softmax" (softmax over the selected).
/// @param select_bias   (E), added to the scores to select by, not to the weights (DeepSeek-V3,
///                      GLM-4, LFM2).
/// @param n_group       groups of neighbouring experts, E / n_group each.
/// @param topk_group    groups among which experts are selected (DeepSeek-V2 and V3).
/// @param renormalize   divide the weights by their sum.
/// @param scale         multiplies the weights.
/// @param eps           added to the sum that `renormalize` divides by: 1e-6 in LFM2, 1e-20 in
///                      MiniMax, GLM-4.7-Flash, EXAONE-MoE and others.
/// @param order         "descending": argpartition(-x, k - 1)[:k], as most models have it;
///                      "ascending": argpartition(x, -k)[-k:], as Qwen3-MoE, LFM2, gpt-oss and
///                      Granite have it. Weights are summed in this order.
/// @param group_score   how groups are ranked: "top2", by the sum of their two best, or "max"
///                      (DeepSeek-V2), where weights are taken after `group_fill` and there is no
///                      select_bias.
/// @param group_fill    what dropped groups' scores become for the selection: 0, or -infinity in
///                      Ling 2.5 and later (mlx-lm's bailing_hybrid and bailing_moe_v3).
/// @param precise       whether a softmax of 16-bit logits sums in float32; Gemma 4 and
///                      LongCat-Flash do not ask for it.
/// @param score_dtype   what logits are cast to first: float32 in DeepSeek-V3, GLM-4, Granite and
///                      others; by default they are not.
/// @param weights_dtype  what the weights are cast to last; by default the scores' type.
/// @param numerics      "exact", "fp32" or empty for the global default; matters on GPUs only.
/// @param max_rows      GPUs run the fused kernel for at most so many tokens.
/// @return indices (uint32) and weights, both (..., K). Indices are always below E.
/// @throws std::invalid_argument on shapes, types or names that do not fit.
ZMLX_API std::pair<mx::array, mx::array> moe_route(
    const mx::array& logits, int k, const std::string& score,
    const std::optional<mx::array>& select_bias = std::nullopt, int n_group = 1, int topk_group = 1,
    bool renormalize = false, float scale = 1.0f, float eps = 0.0f,
    const std::string& order = "descending", const std::string& group_score = "top2",
    float group_fill = 0.0f, bool precise = true,
    std::optional<mx::Dtype> score_dtype = std::nullopt,
    std::optional<mx::Dtype> weights_dtype = std::nullopt, const std::string& numerics = "",
    int max_rows = 32, mx::StreamOrDevice s = {});

/// `mlx::core::quantized_matmul`, with this library's kernels on the CPU; elsewhere MLX's own.
/// @param x  (..., M, D).
/// @param w  (N, D * bits / 32) uint32; `scales` and `biases` (N, D / group_size).
/// @return (..., M, N).
ZMLX_API mx::array quantized_matmul(const mx::array& x, const mx::array& w, const mx::array& scales,
                                    const std::optional<mx::array>& biases = std::nullopt,
                                    bool transpose = true,
                                    std::optional<int> group_size = std::nullopt,
                                    std::optional<int> bits = std::nullopt,
                                    const std::string& mode = "affine", mx::StreamOrDevice s = {});

/// What GPUs do where nothing is said per call: "exact" (the default; bit-identical to stock MLX)
/// or "fp32" (float32 sums and intermediates, one rounding at the end). CPUs always sum in float32.
/// @throws std::invalid_argument on any other name.
ZMLX_API void set_default_numerics(const std::string& numerics);
ZMLX_API std::string default_numerics();

}  // namespace zmlx::fast

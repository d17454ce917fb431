#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>

#include "zmlx/fast.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;

namespace {

using OptionalArray = std::optional<mx::array>;
using OptionalInt = std::optional<int>;
using OptionalString = std::optional<std::string>;

mx::array gather_qmm_swiglu(const mx::array& x, const mx::array& gate_w,
                            const mx::array& gate_scales, const OptionalArray& gate_biases,
                            const mx::array& up_w, const mx::array& up_scales,
                            const OptionalArray& up_biases, const OptionalArray& lhs_indices,
                            const OptionalArray& rhs_indices, bool transpose,
                            OptionalInt group_size, OptionalInt bits, const std::string& mode,
                            const std::string& activation, float alpha, float limit,
                            const OptionalArray& gate_bias, const OptionalArray& up_bias,
                            bool sorted_indices, const OptionalString& numerics, int max_rows,
                            mx::StreamOrDevice stream) {
  return zmlx::fast::gather_qmm_swiglu(x, gate_w, gate_scales, gate_biases, up_w, up_scales,
                                       up_biases, lhs_indices, rhs_indices, transpose, group_size,
                                       bits, mode, activation, alpha, limit, gate_bias, up_bias,
                                       sorted_indices, numerics.value_or(""), max_rows, stream);
}

mx::array gather_qmm_combine(const mx::array& x, const mx::array& w, const mx::array& scales,
                             const OptionalArray& biases, const mx::array& rhs_indices,
                             const mx::array& weights, bool transpose, OptionalInt group_size,
                             OptionalInt bits, const std::string& mode, const OptionalArray& bias,
                             const OptionalString& numerics, int max_rows,
                             mx::StreamOrDevice stream) {
  return zmlx::fast::gather_qmm_combine(x, w, scales, biases, rhs_indices, weights, transpose,
                                        group_size, bits, mode, bias, numerics.value_or(""),
                                        max_rows, stream);
}

std::pair<mx::array, mx::array> moe_route(
    const mx::array& logits, int k, const std::string& score, const OptionalArray& select_bias,
    int n_group, int topk_group, bool renormalize, float scale, float eps, const std::string& order,
    const std::string& group_score, float group_fill, bool precise,
    std::optional<mx::Dtype> score_dtype, std::optional<mx::Dtype> weights_dtype,
    const OptionalString& numerics, int max_rows, mx::StreamOrDevice stream) {
  return zmlx::fast::moe_route(logits, k, score, select_bias, n_group, topk_group, renormalize,
                               scale, eps, order, group_score, group_fill, precise, score_dtype,
                               weights_dtype, numerics.value_or(""), max_rows, stream);
}

}  // namespace

void init_fast(nb::module_& m) {
  m.def("gather_qmm_swiglu", &gather_qmm_swiglu, "x"_a, "gate_w"_a, "gate_scales"_a,
        "gate_biases"_a.none(), "up_w"_a, "up_scales"_a, "up_biases"_a.none(),
        "lhs_indices"_a = nb::none(), "rhs_indices"_a = nb::none(), nb::kw_only(),
        "transpose"_a = true, "group_size"_a = nb::none(), "bits"_a = nb::none(),
        "mode"_a = "affine", "activation"_a = "swiglu", "alpha"_a = 1.702f, "limit"_a = 7.0f,
        "gate_bias"_a = nb::none(), "up_bias"_a = nb::none(), "sorted_indices"_a = false,
        "numerics"_a = nb::none(), "max_rows"_a = 32, "stream"_a = nb::none(),
        nb::sig("def gather_qmm_swiglu(x: mlx.core.array, gate_w: mlx.core.array, "
                "gate_scales: mlx.core.array, gate_biases: mlx.core.array | None, "
                "up_w: mlx.core.array, up_scales: mlx.core.array, "
                "up_biases: mlx.core.array | None, lhs_indices: mlx.core.array | None = None, "
                "rhs_indices: mlx.core.array | None = None, *, transpose: bool = True, "
                "group_size: int | None = None, bits: int | None = None, mode: str = 'affine', "
                "activation: str = 'swiglu', alpha: float = 1.702, limit: float = 7.0, "
                "gate_bias: mlx.core.array | None = None, up_bias: mlx.core.array | None = None, "
                "sorted_indices: bool = False, numerics: str | None = None, max_rows: int = 32, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Gate and up projections of the selected experts and the activation, in one pass.

.. code-block:: text

    g = gather_qmm(x, gate...) + gate_bias[i];  u = gather_qmm(x, up...) + up_bias[i]
    "swiglu":          g * sigmoid(g) * u
    "geglu":           gelu_tanh(g) * u
    "swiglu_clamped":  g = min(g, limit); (clip(u, -limit, limit) + 1) * g * sigmoid(alpha * g)

Args:
    x: ``(..., 1, D)``, float32, float16 or bfloat16.
    gate_w, up_w: packed weights ``(E, H, D * bits / 32)``, uint32.
    gate_scales, up_scales: ``(E, H, D / group_size)``, a float type in mode "affine", else uint8.
    gate_biases, up_biases: like the scales in mode "affine", else ``None``.
    lhs_indices: which rows of ``x`` to take, its leading axes flattened; by default all in order.
    rhs_indices: the expert of each row. Both kinds of indices broadcast as in ``mx.gather_qmm``.
    transpose, group_size, bits, mode: as in ``mx.gather_qmm``.
    activation: "swiglu", "geglu" or "swiglu_clamped" (GPT-OSS), which uses ``alpha`` and ``limit``.
    gate_bias, up_bias: ``(E, H)``, added to the projections.
    sorted_indices: ``rhs_indices`` rise; a hint that only fallbacks use.
    numerics: "exact" or "fp32" for this call; matters on GPUs only.
    max_rows: GPUs run the fused kernel for at most so many tokens.

Returns:
    ``(broadcast indices..., 1, H)``. A row whose expert does not exist is NaN.

Raises:
    ValueError: for shapes, types or modes that do not fit.
)");

  m.def("gather_qmm_combine", &gather_qmm_combine, "x"_a, "w"_a, "scales"_a, "biases"_a.none(),
        "rhs_indices"_a, "weights"_a, nb::kw_only(), "transpose"_a = true,
        "group_size"_a = nb::none(), "bits"_a = nb::none(), "mode"_a = "affine",
        "bias"_a = nb::none(), "numerics"_a = nb::none(), "max_rows"_a = 32,
        "stream"_a = nb::none(),
        nb::sig("def gather_qmm_combine(x: mlx.core.array, w: mlx.core.array, "
                "scales: mlx.core.array, biases: mlx.core.array | None, "
                "rhs_indices: mlx.core.array, weights: mlx.core.array, *, transpose: bool = True, "
                "group_size: int | None = None, bits: int | None = None, mode: str = 'affine', "
                "bias: mlx.core.array | None = None, numerics: str | None = None, "
                "max_rows: int = 32, stream: mlx.core.Stream | mlx.core.Device | None = None) "
                "-> mlx.core.array"),
        R"(The down projection of the selected experts and their weighted sum.

.. code-block:: text

    sum over k of weights[..., k] * (gather_qmm(x[..., k], w...) + bias[i])

without a buffer for the experts' separate outputs.

Args:
    x: ``(..., K, 1, H)``, float32, float16 or bfloat16.
    w: packed weights ``(E, D, H * bits / 32)``, uint32.
    scales, biases: ``(E, D, H / group_size)``; biases in mode "affine" only.
    rhs_indices: ``(..., K)``, the expert of each row.
    weights: ``(..., K)``, the router's weights.
    transpose, group_size, bits, mode: as in ``mx.gather_qmm``.
    bias: ``(E, D)``, added to each expert's product before weighting.
    numerics, max_rows: as in :func:`gather_qmm_swiglu`.

Returns:
    ``(..., D)``. A token with an expert that does not exist is NaN.

Raises:
    ValueError: for shapes, types or modes that do not fit.
)");

  m.def("add_rms_norm", &zmlx::fast::add_rms_norm, "x"_a, "residual"_a, "weight"_a.none(), "eps"_a,
        nb::kw_only(), "stream"_a = nb::none(),
        nb::sig("def add_rms_norm(x: mlx.core.array, residual: mlx.core.array, "
                "weight: mlx.core.array | None, eps: float, *, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) "
                "-> tuple[mlx.core.array, mlx.core.array]"),
        R"(Residual add and RMS norm in one pass.

Args:
    x, residual: of one shape ``(..., D)``.
    weight: ``(D,)`` or ``None``.
    eps: added to the mean square.

Returns:
    ``(normed, sum)``: ``sum = x + residual``, ``normed = rms_norm(sum, weight, eps)``.

Raises:
    ValueError: for shapes or types that do not fit.
)");

  m.def("moe_route", &moe_route, "logits"_a, "k"_a, nb::kw_only(), "score"_a,
        "select_bias"_a = nb::none(), "n_group"_a = 1, "topk_group"_a = 1, "renormalize"_a = false,
        "scale"_a = 1.0f, "eps"_a = 0.0f, "order"_a = "descending", "group_score"_a = "top2",
        "group_fill"_a = 0.0f, "precise"_a = true, "score_dtype"_a = nb::none(),
        "weights_dtype"_a = nb::none(), "numerics"_a = nb::none(), "max_rows"_a = 32,
        "stream"_a = nb::none(),
        nb::sig("def moe_route(logits: mlx.core.array, k: int, *, score: str, "
                "select_bias: mlx.core.array | None = None, n_group: int = 1, "
                "topk_group: int = 1, renormalize: bool = False, scale: float = 1.0, "
                "eps: float = 0.0, order: str = 'descending', group_score: str = 'top2', "
                "group_fill: float = 0.0, precise: bool = True, "
                "score_dtype: mlx.core.Dtype | None = None, "
                "weights_dtype: mlx.core.Dtype | None = None, numerics: str | None = None, "
                "max_rows: int = 32, stream: mlx.core.Stream | mlx.core.Device | None = None) "
                "-> tuple[mlx.core.array, mlx.core.array]"),
        R"(From router logits to the chosen experts and their weights, as mlx-lm computes them.

.. code-block:: text

    scores = softmax(logits) | sigmoid(logits) | logits, for "topk_softmax"
    indices = the k best experts by scores + select_bias, among the best topk_group groups
    weights = scores at indices, or softmax(logits at indices) for "topk_softmax"
    weights = weights / (sum(weights) + eps), if renormalize;  weights = weights * scale

Every step rounds to the scores' type. The order of the indices and which of equal scores win is
what the sequence of MLX ops of ``order`` gives on the device.

Args:
    logits: ``(..., E)``, a float type.
    k: experts per token, K.
    score: "softmax", "sigmoid" or "topk_softmax" (softmax over the selected).
    select_bias: ``(E,)``, added to the scores to select by, not to the weights.
    n_group, topk_group: groups of neighbouring experts, and how many of them are selected from.
    renormalize: divide the weights by their sum.
    scale: multiplies the weights.
    eps: added to the sum that ``renormalize`` divides by (1e-6 in LFM2, 1e-20 in MiniMax and others).
    order: "descending" for ``argpartition(-x, k - 1)[..., :k]``; "ascending" for
        ``argpartition(x, -k)[..., -k:]`` (Qwen3-MoE, LFM2, gpt-oss, Granite).
    group_score: how groups are ranked, "top2" or "max" (DeepSeek-V2: weights are taken after
        ``group_fill``, and there is no ``select_bias``).
    group_fill: what dropped groups' scores become for the selection (minus infinity in mlx-lm's
        bailing_hybrid and bailing_moe_v3).
    precise: whether a softmax of 16-bit logits sums in float32 (not in Gemma 4, LongCat-Flash).
    score_dtype: what logits are cast to first; by default they are not.
    weights_dtype: what the weights are cast to last; by default the scores' type.
    numerics, max_rows: as in :func:`gather_qmm_swiglu`.

Returns:
    ``(indices, weights)``, both ``(..., K)``, indices as uint32 and always below E.

Raises:
    ValueError: for shapes, types or names that do not fit.
)");

  m.def("rms_norm", &zmlx::fast::rms_norm, "x"_a, "weight"_a.none(), "eps"_a, nb::kw_only(),
        "stream"_a = nb::none(),
        nb::sig("def rms_norm(x: mlx.core.array, weight: mlx.core.array | None, eps: float, *, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(``mx.fast.rms_norm``, in one pass on the CPU.

Args:
    x: ``(..., D)``.
    weight: ``(D,)`` or ``None``.
    eps: added to the mean square.
)");

  m.def("quantized_matmul", &zmlx::fast::quantized_matmul, "x"_a, "w"_a, "scales"_a,
        "biases"_a = nb::none(), nb::kw_only(), "transpose"_a = true, "group_size"_a = nb::none(),
        "bits"_a = nb::none(), "mode"_a = "affine", "stream"_a = nb::none(),
        nb::sig("def quantized_matmul(x: mlx.core.array, w: mlx.core.array, "
                "scales: mlx.core.array, biases: mlx.core.array | None = None, *, "
                "transpose: bool = True, group_size: int | None = None, bits: int | None = None, "
                "mode: str = 'affine', "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(``mx.quantized_matmul``, with this library's kernels on the CPU.

Args:
    x: ``(..., M, D)``.
    w: packed weights ``(N, D * bits / 32)``, uint32.
    scales, biases: ``(N, D / group_size)``; biases in mode "affine" only.
    transpose, group_size, bits, mode: as in ``mx.quantized_matmul``.

Returns:
    ``(..., M, N)``.
)");

  m.def("set_default_numerics", &zmlx::fast::set_default_numerics, "numerics"_a,
        "What GPUs do where nothing is said per call: 'exact' (the default) or 'fp32'.");
  m.def("default_numerics", &zmlx::fast::default_numerics,
        "The numerics that GPUs use where nothing is said per call.");
}

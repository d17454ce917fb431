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

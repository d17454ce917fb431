"""The contract of docs/numerics.md for results that need not be MLX's bits, as on CPUs.

The oracle is in float64, from the packed bits of the weights, as ``tests/cpp/oracle.cpp`` is for
the C++ tests.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

_EPS = 2.0**-23
_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
_ULP = {mx.bfloat16: (2.0**-8, 0.0), mx.float16: (2.0**-11, 2.0**-25)}


def exact_weights(linear: Any) -> np.ndarray:
    """Weights of an mlx-lm ``QuantizedSwitchLinear``, (E, N, K), in float64."""
    bits, mode = linear.bits, linear.mode
    packed = np.array(linear.weight)
    rows = np.unpackbits(packed.view(np.uint8), axis=-1, bitorder="little")
    codes = rows.reshape(*packed.shape[:-1], -1, bits) @ (1 << np.arange(bits))
    scales = np.repeat(_scales(linear), linear.group_size, axis=-1)
    if mode == "affine":
        return codes * scales + np.repeat(_float64(linear.biases), linear.group_size, axis=-1)
    values = _e4m3(codes) if bits == 8 else np.where(codes & 8, -1, 1) * _FP4[codes & 7]
    return values * scales


def _scales(linear: Any) -> np.ndarray:
    if linear.mode == "affine":
        return _float64(linear.scales)
    codes = np.array(linear.scales)
    return _e4m3(codes) if linear.mode == "nvfp4" else np.ldexp(1.0, codes.astype(np.int32) - 127)


def _e4m3(codes: np.ndarray) -> np.ndarray:
    """Values of OCP's 8-bit floats with 4 bits of exponent; the code for NaN does not occur."""
    exponent, mantissa = codes.astype(np.int32) >> 3 & 15, codes.astype(np.int32) & 7
    normal, subnormal = np.ldexp(8.0 + mantissa, exponent - 10), np.ldexp(1.0 * mantissa, -9)
    return np.where(codes & 128, -1, 1) * np.where(exponent == 0, subnormal, normal)


def _float64(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32)).astype(np.float64)


def exact_swiglu(switch: Any, x: mx.array, indices: mx.array) -> tuple[np.ndarray, np.ndarray]:
    """Hidden activations of an mlx-lm ``SwitchGLU``, and the terms that their error is judged by.

    Args:
        switch: the module, quantized, with activation "swiglu" and no bias.
        x: (M, D).
        indices: (M, K).

    Returns:
        Both (M, K, H), float64.
    """
    columns, chosen = _float64(x)[:, None, :, None], np.array(indices)
    (gate, gate_terms), (up, up_terms) = (
        ((w @ columns)[..., 0], (np.abs(w) @ np.abs(columns))[..., 0])
        for w in (exact_weights(linear)[chosen] for linear in (switch.gate_proj, switch.up_proj))
    )
    terms = (gate_terms + np.abs(gate)) * (up_terms + np.abs(up) + 1)
    return gate / (1 + np.exp(-gate)) * up, terms


def exact_combine(
    linear: Any, hidden: mx.array, indices: mx.array, scores: mx.array
) -> tuple[np.ndarray, np.ndarray]:
    """The weighted sum of the down products, and the sum of its absolute terms.

    Args:
        linear: the down projection.
        hidden: (M, K, H).
        indices: (M, K).
        scores: (M, K), the router's weights.

    Returns:
        Both (M, D), float64.
    """
    w, rows = exact_weights(linear)[np.array(indices)], _float64(hidden)[..., None]
    weights = _float64(scores)[..., None]
    out = (weights * (w @ rows)[..., 0]).sum(-2)
    return out, (np.abs(weights) * (np.abs(w) @ np.abs(rows))[..., 0]).sum(-2)


def exact_rms_norm(x: mx.array, weight: mx.array, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """RMS norm over the last axis, and its magnitude."""
    rows = _float64(x)
    out = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + eps) * _float64(weight)
    return out, np.abs(out)


def broken(got: mx.array, reference: mx.array, exact: np.ndarray, terms: np.ndarray) -> str:
    """How a result breaks the contract; "" if it keeps it.

    Args:
        got: the result.
        reference: MLX's, in float32.
        exact: both, in float64.
        terms: sums of absolute terms.
    """
    ours, theirs = _float64(got).reshape(exact.shape), _float64(reference).reshape(exact.shape)
    if not np.isfinite(ours).all():
        return "not finite"
    rounded = _float64(mx.array(exact.astype(np.float32)).astype(got.dtype))
    own, other, last = (_rms(values - exact) for values in (ours, theirs, rounded))
    bound = max(other, last) if got.dtype == mx.float32 else other + last
    if own > bound:
        return f"root mean square error {own:.2e}, allowed {bound:.2e}"
    allowed = np.maximum(1.5 * np.abs(theirs - exact).max(), 4 * _EPS * terms)
    relative, absolute = _ULP.get(got.dtype, (0.0, 0.0))
    allowed = allowed + (np.abs(exact) + allowed) * relative + absolute
    excess = (np.abs(ours - exact) / allowed).max()
    return "" if excess <= 1 else f"an error of {excess:.2f} times what is allowed"


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))

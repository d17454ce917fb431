"""Random quantized weights, drawn as codes and scales.

Every weight matrix gets weights of mean 0 and standard deviation ``1 / sqrt(inputs)``, so that
activations keep their magnitude from layer to layer. Scales differ from group to group: equal ones
would hide a kernel that reads the wrong one.
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from zmlx.lm.precision import quantized_layers

# Scales spread evenly between these factors of their mean, where they are not powers of two.
_SPREAD = (0.75, 1.25)
# Of vectors that start as zeros: biases of products and of routers, and attention sinks.
_VECTOR_DEVIATION = 0.05


def fill_at_random(model: Any, dtype: mx.Dtype, seed: int) -> None:
    """Replaces the parameters of a model that mlx-lm built and nothing computed yet.

    Quantized weights are drawn as codes and scales. Of the others, those that start as zeros get
    random values, and the rest keeps what mlx-lm starts with (norms 1, for example).

    Args:
        model: as :func:`zmlx.lm.random_model.unfilled_model` returns it.
        dtype: of scales, biases and what is not quantized.
        seed: of the weights.
    """
    filled = set()
    key = mx.random.key(seed)
    for path, layer in quantized_layers(model):
        key, own = mx.random.split(key)
        _fill_layer(layer, dtype, own)
        filled |= {f"{path}.{name}" for name in ("weight", "scales", "biases")}
    keep_type = getattr(model, "cast_predicate", None) or (lambda path: True)
    changed = []
    for path, array in tree_flatten(model.parameters()):
        if path in filled or not mx.issubdtype(array.dtype, mx.floating):
            continue
        key, own = mx.random.split(key)
        new = _unquantized(array, own).astype(dtype if keep_type(path) else array.dtype)
        mx.eval(new)
        changed.append((path, new))
    model.update(tree_unflatten(changed))


def _fill_layer(layer: Any, dtype: mx.Dtype, key: mx.array) -> None:
    """Gives a quantized layer new codes and scales of the shapes that it has."""
    inputs = layer.scales.shape[-1] * layer.group_size
    codes, scales = mx.random.split(key)
    layer.weight = random_codes(layer.weight.shape, layer.mode, codes)
    deviation = 1 / math.sqrt(inputs)
    layer.scales = random_scales(
        layer.scales.shape, layer.mode, layer.bits, deviation, dtype, scales
    )
    if layer.get("biases") is not None:
        middle = (2**layer.bits - 1) / 2
        layer.biases = (-middle * layer.scales.astype(mx.float32)).astype(dtype)
    mx.eval(layer.parameters())  # one layer at a time: drawing takes memory of its own
    layer.freeze()


def _unquantized(array: mx.array, key: mx.array) -> mx.array:
    if mx.any(array).item():
        return array
    deviation = 1 / math.sqrt(array.shape[-1]) if array.ndim > 1 else _VECTOR_DEVIATION
    return deviation * mx.random.normal(array.shape, key=key)


def random_codes(shape: tuple[int, ...], mode: str, key: mx.array) -> mx.array:
    """Packed codes, uint32, every code equally often (those of "mxfp8" below 2, and no NaN)."""
    halves = (*shape[:-1], 2 * shape[-1])
    codes = mx.random.randint(0, 1 << 16, halves, dtype=mx.uint16, key=key).view(mx.uint32)
    return codes & mx.array(0xBFBFBFBF, mx.uint32) if mode == "mxfp8" else codes


def random_scales(
    shape: tuple[int, ...], mode: str, bits: int, deviation: float, dtype: mx.Dtype, key: mx.array
) -> mx.array:
    """Scales that give weights of :func:`random_codes` a standard deviation.

    Args:
        shape: of the scales.
        mode: the quantization mode; "affine" scales have ``dtype``, the others are codes in uint8.
        bits: of a code.
        deviation: the standard deviation that is wanted.
        dtype: of affine scales.
        key: a random key.
    """
    wanted = deviation / code_deviation(mode, bits)
    if mode in ("mxfp4", "mxfp8"):
        # Powers of two: the one below and the one above, so often that the mean square is right.
        below = math.floor(math.log2(wanted))
        share = (4.0 ** (math.log2(wanted) - below) - 1) / 3
        above = mx.random.bernoulli(share, shape, key=key)
        return (127 + below + above.astype(mx.int32)).astype(mx.uint8)
    scales = wanted * mx.random.uniform(*_SPREAD, shape, key=key)
    if mode == "nvfp4":
        return mx.maximum(mx.to_fp8(scales), mx.array(1, mx.uint8))  # 1: the smallest above 0
    return scales.astype(dtype)


def code_deviation(mode: str, bits: int) -> float:
    """Standard deviation of the values of :func:`random_codes` with scale 1."""
    if mode == "affine":
        return math.sqrt((4**bits - 1) / 12)
    if mode == "mxfp8":  # e4m3 without the exponent's highest bit; exponent 0 has no leading 1
        values = [m / 8 * 2**-6 for m in range(8)]
        values += [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 8) for m in range(8)]
    else:  # e2m1
        values = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    return math.sqrt(sum(value**2 for value in values) / len(values))

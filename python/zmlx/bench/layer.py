"""An MoE layer as mlx-lm builds it, and a rotation of experts that no cache can follow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from zmlx.bench.shapes import LayerShape

_MOST_LAYERS = 1024
# A width that every mode and group size divides, for layers whose arrays are replaced.
_ANY_WIDTH = 128


class MoELayer(nn.Module):
    """The experts of one layer with the weighted sum that follows them in mlx-lm's blocks.

    Routing is left out: ``indices`` (M, K) and ``scores`` (M, K) are given.
    """

    def __init__(self, switch_mlp: nn.Module):
        super().__init__()
        self.switch_mlp = switch_mlp

    def __call__(self, x: mx.array, indices: mx.array, scores: mx.array) -> mx.array:
        y = self.switch_mlp(x, indices)
        return (y * scores[..., None]).sum(axis=-2)


def build_layer(shape: LayerShape, dtype: mx.Dtype, seed: int = 0) -> MoELayer:
    """A stock layer with random weights, built from mlx-lm's ``SwitchGLU``.

    Quantizing every expert would take minutes; one random expert is quantized, and the others are
    its rows in random order, in memory of their own.

    Args:
        shape: sizes and weight format.
        dtype: of scales, biases and activations.
        seed: of the weights.
    """
    from mlx_lm.models.activations import SwigluOAI
    from mlx_lm.models.switch_layers import SwiGLU, SwitchGLU

    clamped = shape.activation == "swiglu_clamped"
    # A tiny SwitchGLU, whose projections are then replaced: its own would be float32 weights.
    switch = SwitchGLU(1, 1, 1, activation=SwigluOAI() if clamped else SwiGLU(), bias=False)
    sizes = {
        "gate_proj": (shape.expert_width, shape.width),
        "up_proj": (shape.expert_width, shape.width),
        "down_proj": (shape.width, shape.expert_width),
    }
    for number, (name, size) in enumerate(sizes.items()):
        setattr(switch, name, _projection(shape, *size, dtype, 3 * seed + number))
    layer = MoELayer(switch)
    layer.eval()
    mx.eval(layer.parameters())
    return layer


def _projection(shape: LayerShape, rows: int, columns: int, dtype: mx.Dtype, seed: int) -> Any:
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear

    rng = np.random.default_rng(seed)
    expert = rng.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns**0.5)
    quantized = mx.quantize(
        mx.array(expert).astype(dtype), shape.group_size, shape.bits, mode=shape.mode
    )
    del expert
    # The smallest layer that mlx-lm builds; its arrays are replaced.
    linear = QuantizedSwitchLinear(
        _ANY_WIDTH, 1, 1, False, shape.group_size, shape.bits, mode=shape.mode
    )
    orders = [mx.array(rng.permutation(rows)) for _ in range(shape.experts)]
    arrays = []
    for array in quantized:
        arrays.append(mx.stack([array[order] for order in orders]))
        mx.eval(arrays[-1])
    linear.weight, linear.scales, *biases = arrays
    linear.biases = biases[0] if biases else None
    if shape.bias:
        values = rng.standard_normal((shape.experts, rows), dtype=np.float32)
        linear.bias = mx.array(0.1 * values).astype(dtype)
    linear.freeze()
    return linear


def in_type(layer: MoELayer, dtype: mx.Dtype) -> MoELayer:
    """The same layer in another type, sharing the quantized weights."""
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchGLU

    switch = SwitchGLU(1, 1, 1, activation=layer.switch_mlp.activation, bias=False)
    for name in ("gate_proj", "up_proj", "down_proj"):
        source = layer.switch_mlp[name]
        linear = QuantizedSwitchLinear(
            _ANY_WIDTH, 1, 1, False, source.group_size, source.bits, mode=source.mode
        )
        for key in ("weight", "scales", "biases", "bias"):
            array = source.get(key)
            if array is not None and mx.issubdtype(array.dtype, mx.floating):
                array = array.astype(dtype)
            if array is not None or key == "biases":
                setattr(linear, key, array)
        linear.freeze()
        setattr(switch, name, linear)
    copy = MoELayer(switch)
    copy.eval()
    mx.eval(copy.parameters())
    return copy


class Rotation:
    """Which layer and which experts each call uses, so that weights come from memory.

    Call c uses layer c modulo the number of layers, and there the M * K experts after those of the
    layer's call before, going round all of them. Within a token experts are distinct, as in a
    model.
    """

    def __init__(self, shape: LayerShape, tokens: int, layers: int):
        self.shape = shape
        self.tokens = tokens
        self.layers = layers

    def indices(self, call: int) -> tuple[int, np.ndarray]:
        """Layer and experts (M, K), uint32, of a call."""
        pairs = self.tokens * self.shape.top_k
        visit, layer = divmod(call, self.layers)
        numbers = (visit * pairs + np.arange(pairs)) % self.shape.experts
        return layer, numbers.reshape(self.tokens, -1).astype(np.uint32)

    @property
    def distinct(self) -> int:
        """Distinct experts that a call reads."""
        return min(self.tokens * self.shape.top_k, self.shape.experts)

    def reuse_bytes(self, expert_bytes: int) -> int:
        """Least number of expert bytes read between two uses of the same expert.

        A call is taken to read each of its distinct experts once, in ascending order.

        Args:
            expert_bytes: of one expert (:meth:`LayerShape.expert_bytes`).
        """
        pairs = self.tokens * self.shape.top_k
        period = self.shape.experts // math.gcd(self.shape.experts, pairs)
        reads, last_use, least = 0, {}, None
        for call in range(2 * period * self.layers):
            layer, indices = self.indices(call)
            for expert in np.unique(indices).tolist():
                if (layer, expert) in last_use:
                    between = reads - last_use[layer, expert] - 1
                    least = between if least is None else min(least, between)
                last_use[layer, expert] = reads
                reads += 1
        return least * expert_bytes


def layers_needed(shape: LayerShape, tokens: list[int], scale_bytes: int, wanted: int) -> int:
    """Layers to build so that at least ``wanted`` bytes are read between uses of an expert."""
    expert_bytes = shape.expert_bytes(scale_bytes)
    # A little less than a whole round of all layers lies between two uses; start just below.
    layers = max(1, wanted // (shape.experts * expert_bytes))
    if layers > _MOST_LAYERS:
        raise ValueError(
            f"A layer of {shape.experts * expert_bytes / 1e6:.3g} MB is too small: it would take "
            f"{layers} of them to read {wanted / 1e6:.0f} MB between two uses of an expert."
        )
    while min(Rotation(shape, m, layers).reuse_bytes(expert_bytes) for m in tokens) < wanted:
        layers += 1
    return layers


def inputs(
    rotation: Rotation, dtype: mx.Dtype, calls: range, seed: int = 0
) -> Iterator[tuple[int, tuple[mx.array, mx.array, mx.array]]]:
    """Layer number and evaluated arguments ``(x, indices, scores)`` of each call."""
    shape = rotation.shape
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rotation.tokens, shape.width), dtype=np.float32)
    scores = rng.random((rotation.tokens, shape.top_k), dtype=np.float32)
    scores /= scores.sum(axis=-1, keepdims=True)
    fixed = (mx.array(x).astype(dtype), mx.array(scores).astype(dtype))
    for call in calls:
        layer, indices = rotation.indices(call)
        arguments = (fixed[0], mx.array(indices), fixed[1])
        mx.eval(*arguments)
        yield layer, arguments

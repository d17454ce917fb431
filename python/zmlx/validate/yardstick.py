"""A sound 16-bit model to measure against: stock, with its quantized products in float32.

On CPU stock's own 16-bit kernels sum in 16 bits, and are so far from float32 that even a kernel
that loses half of its bits is nearer. Here the stock model stays in its own type, but each product
of a quantized weight is computed by MLX's float32 kernel from the 16-bit inputs and rounded once.
It shares no arithmetic with this project's kernels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn


def _wide(array: mx.array | None) -> mx.array | None:
    """Floating-point arrays in float32; packed weights, integer scales and ``None`` as they are."""
    if array is None or not mx.issubdtype(array.dtype, mx.floating):
        return array
    return array.astype(mx.float32)


def _product(layer: nn.Module, x: mx.array) -> mx.array:
    y = mx.quantized_matmul(
        _wide(x),
        layer["weight"],
        _wide(layer["scales"]),
        _wide(layer.get("biases")),
        transpose=True,
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
    )
    return y.astype(x.dtype)


class _Linear(nn.QuantizedLinear):
    def __call__(self, x: mx.array) -> mx.array:
        y = _product(self, x)
        return y + self["bias"] if "bias" in self else y


class _Embedding(nn.QuantizedEmbedding):
    def as_linear(self, x: mx.array) -> mx.array:
        return _product(self, x)


def _classes() -> dict[type, type]:
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear

    class _SwitchLinear(QuantizedSwitchLinear):
        def __call__(
            self, x: mx.array, indices: mx.array, sorted_indices: bool = False
        ) -> mx.array:
            y = mx.gather_qmm(
                _wide(x),
                self["weight"],
                _wide(self["scales"]),
                _wide(self.get("biases")),
                rhs_indices=indices,
                transpose=True,
                group_size=self.group_size,
                bits=self.bits,
                mode=self.mode,
                global_scale=self.global_scale,
                sorted_indices=sorted_indices,
            ).astype(x.dtype)
            return y + mx.expand_dims(self["bias"][indices], -2) if "bias" in self else y

    return {
        nn.QuantizedLinear: _Linear,
        nn.QuantizedEmbedding: _Embedding,
        QuantizedSwitchLinear: _SwitchLinear,
    }


@contextlib.contextmanager
def float32_products(model: Any, paths: Container[str]) -> Iterator[None]:
    """Computes quantized products in float32 inside the block; the model must be stock.

    Args:
        model: an mlx-lm model.
        paths: of the quantized layers to compute so; the products of others stay stock's.
    """
    classes = _classes()
    changed = []
    for path, module in model.named_modules():
        wide = classes.get(type(module))
        if wide is not None and path in paths:
            changed.append((module, type(module)))
            module.__class__ = wide
    try:
        yield
    finally:
        for module, stock in changed:
            module.__class__ = stock

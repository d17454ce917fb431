"""Pattern "dense": quantized linear layers, and quantized embeddings used as output heads."""

import mlx.nn as nn

from zmlx import fast
from zmlx.patch.session import on_gpu

_quantized_matmul = fast.quantized_matmul


def _product(layer, x):
    return _quantized_matmul(
        x,
        layer["weight"],
        layer["scales"],
        layer.get("biases"),
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
    )


class FusedQuantizedLinear(nn.QuantizedLinear):
    def __call__(self, x):
        x = _product(self, x)
        if "bias" in self:
            x = x + self["bias"]
        return x


class FusedQuantizedEmbedding(nn.QuantizedEmbedding):
    def as_linear(self, x):
        return _product(self, x)


_CLASSES = {
    nn.QuantizedLinear: FusedQuantizedLinear,
    nn.QuantizedEmbedding: FusedQuantizedEmbedding,
}


def apply(places, session):
    """Patches the quantized linear layers and embeddings among `places`."""
    if "dense" not in session.patterns:
        return
    gpu = on_gpu()
    for place in places:
        fused = _CLASSES.get(type(place.module))
        if fused is None:
            if _is_quantized(place.module):
                session.skip(
                    place, "dense", "not MLX's nn.QuantizedLinear or nn.QuantizedEmbedding"
                )
        elif gpu:
            session.skip(place, "dense", "the default device is a GPU")
        else:
            session.swap(place, fused, "dense")


def _is_quantized(module):
    """Whether a module looks like a quantized layer, experts aside (they have their pattern)."""
    return "scales" in module and "Switch" not in type(module).__name__

"""Pattern "dense_swiglu": gate and up projections and activation of dense layers in one product.

A dense layer is taken for one expert that every token selects. mlx-lm has no class for such layers;
nearly all of its models define one whose `__call__` is the same line or two, and that is recognised
by its bytecode.
"""

import functools

import mlx.core as mx
import mlx.nn as nn

from zmlx import fast
from zmlx.patch.dense import FusedQuantizedLinear
from zmlx.patch.session import on_gpu

try:
    from mlx_lm.models.activations import swiglu
except ImportError:
    swiglu = None

_gather_qmm_swiglu = fast.gather_qmm_swiglu
_expand_dims = mx.expand_dims
_squeeze = mx.squeeze


def _one_line(self, x):
    return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


def _two_lines(self, x):
    down_proj = self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
    return down_proj


@functools.cache
def fused_mlp(stock):
    """A subclass of a dense layer's class that fuses gate, up and activation."""

    class FusedMLP(stock):
        def __call__(self, x):
            site = self._zmlx_site
            gate, up = self["gate_proj"], self["up_proj"]
            weights = (*_weights(gate), *_weights(up))
            plan = site.plan
            if plan.ids != (id(gate), id(up), *map(id, weights)):
                plan = site.plan = _Plan(gate, up, weights)
            if plan.options is None or x.ndim < 2:
                return stock.__call__(self, x)
            y = _gather_qmm_swiglu(_expand_dims(x, -2), *plan.stacked, **plan.options)
            return self["down_proj"](_squeeze(y, -2))

    FusedMLP.__name__ = FusedMLP.__qualname__ = f"Fused{stock.__name__}"
    return FusedMLP


class _Plan:
    """The weights of one layer as those of one expert: views, made anew if a weight changes."""

    def __init__(self, gate, up, weights):
        self.parts = (gate, up, *weights)  # kept, so that ids stay theirs
        self.ids = tuple(map(id, self.parts))
        self.options = None
        if obstacle(gate, up):
            return
        gate_w, gate_scales, gate_biases, gate_bias, up_w, up_scales, up_biases, up_bias = (
            None if w is None else _expand_dims(w, 0) for w in weights
        )
        index = mx.zeros((1,), mx.uint32)
        self.stacked = (gate_w, gate_scales, gate_biases, up_w, up_scales, up_biases, None, index)
        self.options = {
            "group_size": gate.group_size,
            "bits": gate.bits,
            "mode": gate.mode,
            "gate_bias": gate_bias,
            "up_bias": up_bias,
        }


def _weights(linear):
    get = linear.get
    return get("weight"), get("scales"), get("biases"), get("bias")


def obstacle(gate, up):
    """Why two projections cannot be fused, or ""."""
    for linear in (gate, up):
        if type(linear) not in (nn.QuantizedLinear, FusedQuantizedLinear):
            return f"its projections are {type(linear).__name__}, not nn.QuantizedLinear"
    if (gate.group_size, gate.bits, gate.mode) != (up.group_size, up.bits, up.mode):
        return "gate and up are quantized differently"
    if gate["weight"].shape != up["weight"].shape:
        return "gate and up differ in shape"
    return ""


def apply(places, session):
    """Patches the dense SwiGLU layers among `places`."""
    if "dense_swiglu" not in session.patterns or swiglu is None:
        return
    gpu = on_gpu()
    for place in places:
        module = place.module
        if not _is_known(type(module)):
            continue
        gate, up = module.get("gate_proj"), module.get("up_proj")
        reason = "the default device is a GPU" if gpu else obstacle(gate, up)
        if reason:
            session.skip(place, "dense_swiglu", reason)
            continue
        site = session.swap(place, fused_mlp(type(module)), "dense_swiglu")
        site.plan = _Plan(gate, up, (*_weights(gate), *_weights(up)))


@functools.cache
def _is_known(cls):
    """Whether a class's `__call__` is one of those above, with mlx-lm's `swiglu`."""
    call = cls.__dict__.get("__call__")
    code = getattr(call, "__code__", None)
    return (
        code is not None
        and any(_signature(code) == _signature(f.__code__) for f in (_one_line, _two_lines))
        and call.__globals__.get("swiglu") is swiglu
    )


def _signature(code):
    return code.co_code, code.co_names, code.co_argcount, code.co_kwonlyargcount

"""Patterns "moe_experts" and "moe_combine": the experts of mlx-lm's `SwitchGLU`.

`SwitchGLU` multiplies, and the block that owns it weights and sums. The patched module fuses its
own part (gate, up and activation), and returns an array that fuses the rest (down, weighting, sum)
if the block completes it.
"""

import functools
import sys

import mlx.core as mx
from mlx_lm.models.activations import SwigluOAI
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwiGLU, SwitchGLU, SwitchMLP

from zmlx import fast
from zmlx.patch.combine_form import combine_form
from zmlx.patch.seam import ExpertOutputs
from zmlx.patch.trial import bare

_gather_qmm_swiglu = fast.gather_qmm_swiglu
_gather_qmm_combine = fast.gather_qmm_combine
_expand_dims = mx.expand_dims
_stop_gradient = mx.stop_gradient
_broadcast_to = mx.broadcast_to
_default_device = mx.default_device
_CPU = mx.cpu

# Tokens that fused kernels take on GPUs; beyond, stock's own sequence runs, sorting and all.
MAX_ROWS = 32
# (token, expert) pairs from which stock sorts the tokens by expert.
_STOCK_SORTS = 64

_ONE = {t: mx.array(1.0, t) for t in (mx.float32, mx.float16, mx.bfloat16)}


class FusedSwitchGLU(SwitchGLU):
    # A decoded token takes a millisecond or two in all, so this avoids calls and look-ups.
    def __call__(self, x, indices):
        site = self._zmlx_site
        plan = site.plan
        get = self.get
        gate, up, down = get("gate_proj"), get("up_proj"), get("down_proj")
        if plan.modules != (id(gate), id(up), id(down), id(get("activation"))):
            plan = site.plan = Plan(self, site.patterns)
        selected = indices.shape
        if plan.stock or x.shape[:-1] != selected[:-1]:
            return SwitchGLU.__call__(self, x, indices)
        on_cpu = _default_device() == _CPU
        if not on_cpu and indices.size > plan.max_pairs(selected[-1]):
            return SwitchGLU.__call__(self, x, indices)

        chosen = _stop_gradient(indices)
        rows = _expand_dims(x, (-2, -3))
        if plan.fuses:
            hidden = _gather_qmm_swiglu(
                rows,
                gate["weight"],
                gate["scales"],
                gate.get("biases"),
                up["weight"],
                up["scales"],
                up.get("biases"),
                None,
                chosen,
                gate_bias=gate.get("bias"),
                up_bias=up.get("bias"),
                **plan.options,
            )
        else:
            hidden = self.activation(up(rows, chosen), gate(rows, chosen))
        if on_cpu:
            y = _products(plan.down_options, down, hidden, chosen)
        elif indices.size < _STOCK_SORTS:
            y = down(hidden, chosen).squeeze(-2)
        else:
            y = SwitchGLU.__call__(self, x, indices)
        if plan.combines:
            site.calls += 1
            y = ExpertOutputs(y)
            combine = functools.partial(_combine, site, plan.down_options, down, hidden, chosen)
            y._memo = (combine, selected, None)
        return y


def _combine(site, options, down, hidden, indices, weights):
    site.fused += 1
    return _gather_qmm_combine(
        hidden,
        down["weight"],
        down["scales"],
        down.get("biases"),
        indices,
        weights,
        bias=down.get("bias"),
        **options,
    )


def _products(options, down, hidden, indices):
    """The outputs of the experts one by one, (..., K, D): sums of one product each, because MLX's
    own product is slow on the CPU and sums in the model's type."""
    indices = _expand_dims(indices, -1)
    return _gather_qmm_combine(
        _expand_dims(hidden, -3),
        down["weight"],
        down["scales"],
        down.get("biases"),
        indices,
        _broadcast_to(_ONE[hidden.dtype], indices.shape),
        bias=down.get("bias"),
        **options,
    )


class Plan:
    """What can be fused of one `SwitchGLU` as it is now, and the constants for it.

    Weights are read from the projections at each call, so that `load_weights` and `update` work.
    A projection that was replaced shows in `modules`.
    """

    def __init__(self, module, patterns):
        names = ("gate_proj", "up_proj", "down_proj", "activation")
        self.parts = [module.get(name) for name in names]  # kept, so that ids stay theirs
        self.modules = tuple(id(part) for part in self.parts)
        self.obstacles = obstacles(module)
        self.fuses = "moe_experts" in patterns and "moe_experts" not in self.obstacles
        self.combines = "moe_combine" in patterns and "moe_combine" not in self.obstacles
        self.stock = not (self.fuses or self.combines)
        gate, _, down, activation = self.parts
        if not self.stock:
            self.down_options = _quantization(down)
        if self.fuses:
            self.options = {**_quantization(gate), **activation_options(activation)}

    def max_pairs(self, k):
        """The (token, expert) pairs up to which GPUs take the fused path."""
        # What stock sorts, only the fused product reproduces.
        if not self.fuses:
            return _STOCK_SORTS - 1
        # From four pairs an expert, MLX multiplies sorted fp weights with another kernel.
        if self.options["mode"] != "affine":
            experts = self.parts[0]["weight"].shape[0]
            return min(MAX_ROWS * k, max(_STOCK_SORTS, 4 * experts) - 1)
        return MAX_ROWS * k


def _quantization(projection):
    return {
        "group_size": projection.group_size,
        "bits": projection.bits,
        "mode": projection.mode,
    }


def activation_options(activation):
    """Keywords of `gather_qmm_swiglu` for an activation module, or None if it has none.

    Classes are compared exactly: a subclass may compute something else.
    """
    kind = type(activation)
    if kind is SwiGLU:
        return {"activation": "swiglu"}
    if kind is SwigluOAI:
        alpha, limit = getattr(activation, "_alpha", None), getattr(activation, "_limit", None)
        if isinstance(alpha, int | float) and isinstance(limit, int | float):
            return {"activation": "swiglu_clamped", "alpha": float(alpha), "limit": float(limit)}
    gemma4 = sys.modules.get("mlx_lm.models.gemma4_text")  # loaded if the activation is from there
    if gemma4 is not None and kind is getattr(gemma4, "GeGLU", None):
        return {"activation": "geglu"}
    return None


def obstacles(module):
    """Why the patterns do not apply to a `SwitchGLU`, by pattern; empty if both do."""
    projections = [module.get(name) for name in ("gate_proj", "up_proj", "down_proj")]
    reason = ""
    for projection in projections:
        if type(projection) is not QuantizedSwitchLinear:
            reason = f"its projections are {type(projection).__name__}, not QuantizedSwitchLinear"
        elif getattr(projection, "global_scale", None) is not None:
            reason = "its weights have a global scale"
    if not reason and not _switch_glu_is_known():
        reason = "this version of mlx-lm computes SwitchGLU differently"
    if reason:
        return {"moe_experts": reason, "moe_combine": reason}
    gate, up, _ = projections
    if _quantization(gate) != _quantization(up):
        return {"moe_experts": "gate and up are quantized differently"}
    activation = module.get("activation")
    if activation_options(activation) is None:
        name = type(module.activation).__qualname__
        return {"moe_experts": f"its activation {name} has no fused form"}
    return {}


@functools.cache
def _switch_glu_is_known():
    """Whether mlx-lm's classes compute what is fused here, tried on a tiny instance."""
    try:
        with mx.stream(mx.cpu):
            got, want = _tiny_switch_glu()
            if got.shape != want.shape:
                return False
            return (mx.abs(got - want).max() < 0.01 * mx.abs(want).max()).item()
    except Exception:  # whatever changed, it is not what is fused here
        return False


def _tiny_switch_glu():
    """What a small `SwitchGLU` with biases computes, and what this module takes it to compute."""
    module = bare(SwitchGLU, activation=lambda up, gate: up + 2 * gate)
    dense = {}
    for n, name in enumerate(("gate_proj", "up_proj", "down_proj")):
        w = mx.sin(mx.arange(2 * 32 * 32) + n).reshape(2, 32, 32)
        w, scales, biases = mx.quantize(w, 32, 8)
        bias = mx.cos(mx.arange(2 * 32) + n).reshape(2, 32)
        options = {"group_size": 32, "bits": 8, "mode": "affine", "global_scale": None}
        weights = {"weight": w, "scales": scales, "biases": biases, "bias": bias}
        module[name] = bare(QuantizedSwitchLinear, **options, **weights)
        dense[name] = mx.dequantize(w, scales, biases, group_size=32, bits=8), bias
    x = mx.sin(3 * mx.arange(3 * 32)).reshape(1, 3, 32)
    indices = mx.array([[[0, 1], [1, 1], [1, 0]]])

    def product(name, x):
        w, bias = dense[name]
        return mx.squeeze(w[indices] @ mx.expand_dims(x, -1), -1) + bias[indices]

    rows = mx.expand_dims(x, -2)
    want = product("down_proj", product("up_proj", rows) + 2 * product("gate_proj", rows))
    return module(x, indices), want


def apply(places, session):
    """Patches the `SwitchGLU` modules among `places`."""
    wanted = tuple(name for name in session.patterns if name in ("moe_experts", "moe_combine"))
    if not wanted:
        return
    for place in places:
        module = place.module
        if type(module) is not SwitchGLU:
            if isinstance(module, SwitchGLU | SwitchMLP):
                for name in wanted:
                    session.skip(place, name, "its class is not SwitchGLU itself")
            continue
        plan = Plan(module, wanted)
        for name in wanted:
            if name in plan.obstacles:
                session.skip(place, name, plan.obstacles[name])
        if plan.stock:
            continue
        patterns = tuple(name for name in wanted if name not in plan.obstacles)
        site = session.swap(place, FusedSwitchGLU, *patterns)
        site.plan = plan
        if place.owner is not None:
            site.combine_note = combine_form(type(place.owner), place.name)

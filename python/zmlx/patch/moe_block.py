"""Pattern "moe_block": a whole mixture-of-experts block as one call into C++.

What the patterns "moe_experts" and "moe_combine" fuse is computed by a GPU in less time than Python
takes to describe it. A block whose code is known is therefore described once; a call reads its
weights and builds router, experts and sum by itself. Everything else keeps the general patterns,
and so does a known block where a call is not as expected: while a gradient is traced, with more
tokens than the kernels take, after a layer was replaced.
"""

import functools
import sys
from dataclasses import dataclass, field

import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchGLU

from zmlx import _ext
from zmlx.patch import moe
from zmlx.patch.dense import FusedQuantizedLinear
from zmlx.patch.known_code import call_digest, code_digest
from zmlx.patch.session import site_of


@dataclass
class Known:
    """A block of known code.

    Attributes:
        route: keywords of `zmlx.fast.moe_route`, with the number of experts per token as k.
        router, experts: names of the block's layers.
        bias: name of the selection bias in the block, if it has one.
        options: further keywords of `_ext.MoeBlock`.
    """

    route: dict
    router: str = "gate"
    experts: str = "switch_mlp"
    bias: str = ""
    options: dict = field(default_factory=dict)


def _softmax_block(block):
    """qwen3_moe."""
    if block.sharding_group is not None:
        return "its experts are shared out among machines"
    route = {"score": "softmax", "order": "ascending", "k": block.top_k}
    route["renormalize"] = bool(block.norm_topk_prob)
    return Known(route, options={"result_as_experts": True})


def _topk_softmax_block(block, router="gate"):
    """mixtral, jamba."""
    return Known({"score": "topk_softmax", "k": block.num_experts_per_tok}, router)


def _lfm2_block(block):
    route = {
        "score": "sigmoid",
        "order": "ascending",
        "k": block.top_k,
        "renormalize": bool(block.norm_topk_prob),
        "eps": 1e-6,
        "scale": float(block.routed_scaling_factor),
    }
    bias = "expert_bias" if block.use_expert_bias else ""
    return Known(route, bias=bias, options={"weights_as_input": True, "bias_as_float32": True})


def _gpt_oss_block(block):
    if block.sharding_group is not None:
        return "its experts are shared out among machines"
    topk = getattr(sys.modules[type(block).__module__], "mlx_topk", None)
    if topk is None or code_digest(topk) != "2150817504b8e489":
        return "its mlx_topk is not the one known"
    route = {"score": "topk_softmax", "order": "ascending", "k": block.num_experts_per_tok}
    return Known(route, "router", "experts")


# By the digest of a class's `__call__`.
_KNOWN = {
    "cf79be9d0d77da0d": _softmax_block,  # qwen3_moe
    "792f696ac9d14e76": _topk_softmax_block,  # mixtral
    "2661e1ef077cd09c": functools.partial(_topk_softmax_block, router="router"),  # jamba
    "b0882113b78d92ff": _lfm2_block,  # lfm2_moe
    "9cb7e64485fca559": _gpt_oss_block,  # gpt_oss
}


@functools.cache
def fused_block(stock):
    """A subclass of a known block's class that makes a block in one call."""

    class FusedMoeBlock(stock):
        def __call__(self, x):
            site = self._zmlx_site
            plan = site.plan
            y = None if plan is None else plan(x)
            if y is None:
                return _by_its_own_code(self, x)
            _count(site)
            return y

        def after_sum(self, x, residual, norm):
            """`(output, x + residual)` for the norm of that sum, or None."""
            site = self._zmlx_site
            plan = site.plan
            pair = plan and plan.after_sum(x, residual, norm["weight"], norm.eps)
            if pair is not None:
                _count(site)
            return pair

    FusedMoeBlock.__name__ = FusedMoeBlock.__qualname__ = f"Fused{stock.__name__}"
    return FusedMoeBlock


def _count(site):
    site.experts.calls += 1
    site.experts.fused += 1


def _by_its_own_code(block, x):
    site = block._zmlx_site
    if site.ids != [id(part) for part in _parts(block, site.known)]:
        _describe(block, site)
    return site.stock.__call__(block, x)


def _parts(block, known):
    """The modules that a description holds on to."""
    experts = block.get(known.experts)
    names = ("gate_proj", "up_proj", "down_proj", "activation")
    return [block.get(known.router), experts, *(experts.get(name) for name in names)]


def _describe(block, site):
    """Makes a site's plan anew: None if there is an obstacle."""
    site.parts = _parts(block, site.known)  # kept, so that ids stay theirs
    site.ids = [id(part) for part in site.parts]
    site.plan = None if obstacle(block, site.known) else _make(block, site.known)
    # Where sums are counted: with those of the general patterns.
    site.experts = site_of(block[site.known.experts]) or site


def _make(block, known):
    experts = block[known.experts]
    layers = [(block, known.router, block[known.router], *_format(block[known.router]))]
    for name in ("gate_proj", "up_proj", "down_proj"):
        layers.append((experts, name, experts[name], *_format(experts[name])))
    bias = {"bias_owner": block, "bias_name": known.bias} if known.bias else {}
    activation = moe.activation_options(experts["activation"])
    return _ext.MoeBlock(
        block, layers, **known.route, **known.options, **bias, **activation, max_rows=moe.MAX_ROWS
    )


def _format(layer):
    if type(layer) is nn.Linear:
        return 0, 0, ""
    return layer.group_size, layer.bits, layer.mode


def obstacle(block, known):
    """Why a block of known code cannot be made in one call, or ""."""
    router, experts = block.get(known.router), block.get(known.experts)
    if type(router) not in (nn.Linear, nn.QuantizedLinear, FusedQuantizedLinear):
        return f"its router is {type(router).__name__}"
    if type(experts) not in (SwitchGLU, moe.FusedSwitchGLU):
        return f"its experts are {type(experts).__name__}"
    reasons = moe.obstacles(experts)
    return reasons.get("moe_experts") or reasons.get("moe_combine") or ""


def apply(places, session):
    """Patches the known blocks among `places`. After `moe.apply`, whose patterns a block falls back
    to."""
    if "moe_block" not in session.patterns:
        return
    for place in places:
        block = place.module
        if not _owns_experts(block):
            continue
        known = _KNOWN.get(call_digest(type(block)), lambda _: "its code is not known")(block)
        reason = known if isinstance(known, str) else obstacle(block, known)
        if reason:
            session.skip(place, "moe_block", reason)
            continue
        site = session.swap(place, fused_block(type(block)), "moe_block")
        site.known = known
        _describe(block, site)


def _owns_experts(module):
    """Whether a module holds experts that the general patterns know, and is no list of layers."""
    return site_of(module) is None and any(
        isinstance(child, SwitchGLU) for child in module.children().values()
    )

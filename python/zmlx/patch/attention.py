"""Pattern "attention": what mixes the tokens of a decoder layer, built by one call.

Decoding a token on a GPU takes the host longer than the GPU, and attention is most of the host's
work: some twenty MLX operations, each called from Python. Here one call into C++ builds them all,
the same ones in the same order. Nothing is computed differently; and where anything is not as
expected (a layer, the cache, the input), the module's own code runs.

mlx-lm defines attention anew for each model, mostly by the same code. A class is patched if its
`__call__` is code that is known, whatever its attributes are called.
"""

import functools
import math
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import ArraysCache, KVCache

from zmlx import _ext
from zmlx.patch.known_code import roles
from zmlx.patch.session import on_gpu
from zmlx.patch.trial import bare

# On the CPU there is nothing to gain, and layers have patterns of their own. Tests set this.
ON_CPU = False

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_HEADS = ("n_heads", "n_kv_heads")
_REST = ("rope", "scale", "o_proj")

# By the digest of a shape: where queries and keys are normalised, or that it is a short
# convolution, and the parts that its attributes play.
_KNOWN = {
    # llama and many others
    "fa01477898d25a9e": ("none", (*_PROJECTIONS, *_HEADS, *_REST)),
    # qwen3, qwen3_moe, lfm2, lfm2_moe
    "274109e7985d4e6b": (
        "heads", (*_PROJECTIONS, "q_norm", "n_heads", "k_norm", "n_kv_heads", *_REST)
    ),
    # glm4_moe
    "e5cb59edea200bcf": (
        "heads", (*_PROJECTIONS, *_HEADS, "use_qk_norm", "q_norm", "k_norm", *_REST)
    ),
    # olmoe, olmo2
    "72356a9c3f31363d": ("width", (*_PROJECTIONS, "q_norm", "k_norm", *_HEADS, *_REST)),
    # lfm2, lfm2_moe
    "f182fd2002714664": ("short_conv", ("in_proj", "L_cache", "args", "conv", "out_proj")),
}  # fmt: skip
_MEANT = {"mx": mx, "scaled_dot_product_attention": scaled_dot_product_attention}


@functools.cache
def one_call(stock):
    """A subclass of a class with a `builder`, which is asked first at every call."""
    build, _ = builder(stock)
    after_sum = build.after_sum
    stock_call = stock.__call__

    class OneCall(stock):
        def __call__(self, x, mask=None, cache=None):
            y = build(self, x, mask, cache)
            return stock_call(self, x, mask, cache) if y is None else y

        def after_sum(self, x, residual, norm, mask, cache):
            """`(output, x + residual)` for the norm of that sum, or None."""
            return after_sum(self, x, residual, norm["weight"], norm.eps, mask, cache)

    OneCall.__name__ = OneCall.__qualname__ = f"OneCall{stock.__name__}"
    return OneCall


@functools.cache
def builder(cls):
    """What builds the calls of a class's modules, and why there is none: `(builder, "")` or
    `(None, reason)`."""
    method = cls.__dict__.get("__call__")
    found = method and roles(method, _KNOWN, _MEANT)
    if not found:
        return None, "its code is none that is known"
    kind, names = found
    if kind == "short_conv":
        build = _ext.ShortConv(names, ArraysCache)
        return _tried(build, cls, _short_conv_parts(names), lambda: ArraysCache(1), None)
    build = _ext.Attention(names, kind, KVCache)
    return _tried(build, cls, _attention_parts(names, kind), KVCache, "causal")


def apply(places, session):
    """Patches the attention modules and short convolutions among `places`."""
    if "attention" not in session.patterns:
        return
    wanted = on_gpu() or ON_CPU
    for place in places:
        cls = type(place.module)
        build, reason = builder(cls) if wanted else (None, "the default device is the CPU")
        if build is not None:
            reason = build.obstacle(place.module)
        if not reason:
            session.swap(place, one_call(cls), "attention")
        elif build is not None or "Attention" in cls.__name__:
            session.skip(place, "attention", reason)


# --- A trial of what code does not show: the layers, the cache and the functions that it uses -----


def _tried(build, cls, parts, new_cache, mask):
    """`builder`'s result: `build`, if it computes on a tiny instance what `cls` does."""
    try:
        with mx.stream(mx.cpu):
            module = bare(cls, **parts)
            if build.obstacle(module) or not _same(build, module, new_cache, mask):
                return None, "this version of mlx-lm computes it differently"
    except Exception as error:  # whatever changed, it is not what is built here
        return None, f"this version of mlx-lm computes it differently: {error}"
    return build, ""


def _same(build, module, new_cache, mask):
    """Whether three tokens and then two more give the same, in the cache too."""
    theirs, ours = new_cache(), new_cache()
    built = []
    for length in (3, 1, 1):
        x = mx.sin(mx.arange(2.0 * length * 32)).reshape(2, length, 32)
        want = module(x, mask, theirs)
        got = build(module, x, mask, ours)
        built.append(got is not None)
        if got is None:  # a short convolution that has no state yet
            got = module(x, mask, ours)
        pairs = zip(_values(want, theirs), _values(got, ours), strict=True)
        if not all(mx.array_equal(a, b).item() for a, b in pairs):
            return False
    return all(built[1:])


def _values(y, cache):
    values = [y, *(value for _, value in tree_flatten(cache.state)), getattr(cache, "offset", 0)]
    return [mx.array(value) for value in values if value is not None]


def _attention_parts(names, norms):
    parts = {
        "q_proj": _quantized(32, 64, bias=True),
        "k_proj": _dense(32, 32, bias=True),
        "v_proj": _dense(32, 32),
        "o_proj": _quantized(64, 32),
        "q_norm": nn.RMSNorm(64 if norms == "width" else 16),
        "k_norm": nn.RMSNorm(32 if norms == "width" else 16),
        "rope": nn.RoPE(16, base=100.0),
        "n_heads": 4,
        "n_kv_heads": 2,
        "scale": 0.3,
        "use_qk_norm": True,
    }
    return {name: parts[role] for role, name in names.items()}


def _short_conv_parts(names):
    conv = {"stride": 1, "padding": 0, "dilation": 1, "groups": 32}
    parts = {
        "in_proj": _quantized(32, 96, bias=True),
        "conv": bare(nn.Conv1d, weight=_wave(32, 3, 1), bias=_wave(32), **conv),
        "out_proj": _dense(32, 32, bias=True),
        "L_cache": 3,
        "args": SimpleNamespace(hidden_size=32),
    }
    return {name: parts[role] for role, name in names.items()}


def _dense(width, outputs, bias=False):
    return bare(nn.Linear, weight=_wave(outputs, width), **_bias(outputs, bias))


def _quantized(width, outputs, bias=False):
    w, scales, biases = mx.quantize(_wave(outputs, width), 32, 8)
    options = {"group_size": 32, "bits": 8, "mode": "affine", **_bias(outputs, bias)}
    return bare(nn.QuantizedLinear, weight=w, scales=scales, biases=biases, **options)


def _bias(outputs, bias):
    return {"bias": _wave(outputs)} if bias else {}


def _wave(*shape):
    return mx.sin(mx.arange(1.0, 1.0 + math.prod(shape))).reshape(shape)

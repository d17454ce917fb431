"""Pattern "add_rms_norm" in decoder layers of known code.

`zmlx.patch.norm` follows residual sums through any code, at some 10 us of Python for each. On a GPU
that is more than the saved kernel takes. A layer whose code is known needs no following: its two
sums are computed with the norms after them, the second one with the first norm of the next layer.
For one token on CUDA, what takes the norm (`after_sum`) computes sum and norm itself.
"""

import functools

import mlx.core as mx
import mlx.nn as nn

from zmlx import fast
from zmlx.patch.known_code import roles
from zmlx.patch.seam import ResidualSum, pending_sum

_add_rms_norm = fast.add_rms_norm
_rms_norm = mx.fast.rms_norm


# By the digest of a shape: mixers, of which a layer has one, and the parts that attributes play.
_KNOWN = {
    # qwen3_moe, mixtral and many others
    "d90297f4cde3bf2a": (("mixer",), ("mixer", "first", "feed_forward", "second")),
    # the same in other words: olmoe
    "975f50abf0a6431c": (("mixer",), ("mixer", "first", "feed_forward", "second")),
    # lfm2, lfm2_moe
    "042b7e3d734af953": (
        ("attention", "convolution"),
        ("is_attention", "attention", "first", "convolution", "feed_forward", "second"),
    ),
}


def known(layer):
    """Names of a layer's mixer, feed-forward part and two norms, if its code is known and its norms
    are MLX's; else None."""
    call = type(layer).__dict__.get("__call__")
    found = call and roles(call, _KNOWN, {})
    if not found:
        return None
    mixers, names = found
    mixer = next((names[part] for part in mixers if layer.get(names[part]) is not None), None)
    parts = mixer, names["feed_forward"], names["first"], names["second"]
    if None in parts or None in map(layer.get, parts):
        return None
    return parts if all(isinstance(layer[name], nn.RMSNorm) for name in parts[2:]) else None


def _mixed(mixer, x, norm, mask, cache):
    """The residual stream as it is, and what the mixer makes of its norm."""
    if type(x) is not ResidualSum:
        return x, mixer(_rms_norm(x, norm["weight"], norm.eps), mask, cache)
    after_sum = getattr(type(mixer), "after_sum", None)
    r = after_sum and x.consume(lambda a, b: after_sum(mixer, a, b, norm, mask, cache))
    if r is not None:
        norm._zmlx_site.fused += 1
        return x.value, r
    normed = x.fuse(_add_rms_norm, norm["weight"], norm.eps)
    x = x.value
    if normed is None:
        normed = _rms_norm(x, norm["weight"], norm.eps)
    else:
        norm._zmlx_site.fused += 1
    return x, mixer(normed, mask, cache)


@functools.cache
def fused_layer(stock):
    """A subclass of a known layer's class that computes its sums along with the norms."""

    class FusedLayer(stock):
        def __call__(self, x, mask=None, cache=None):
            site = self._zmlx_site
            mixer, feed_forward, first, second = map(self.get, site.names)
            if type(first) not in site.norms or type(second) not in site.norms:
                return stock.__call__(self, x, mask, cache)
            x, r = _mixed(mixer, x, first, mask, cache)
            second._zmlx_site.fused += 1
            after_sum = getattr(type(feed_forward), "after_sum", None)
            pair = after_sum and after_sum(feed_forward, x, r, second)
            if pair is None:
                normed, h = _add_rms_norm(x, r, second["weight"], second.eps)
                return pending_sum(h, feed_forward(normed))
            y, h = pair
            return pending_sum(h, y)

    FusedLayer.__name__ = FusedLayer.__qualname__ = f"Fused{stock.__name__}"
    return FusedLayer

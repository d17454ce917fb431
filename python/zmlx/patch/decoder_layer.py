"""Pattern "add_rms_norm" in decoder layers of known code.

`zmlx.patch.norm` follows residual sums through any code, at some 10 us of Python for each. On a GPU
that is more than the saved kernel takes. A layer whose code is known needs no following: its two
sums are computed with the norms after them, the second one with the first norm of the next layer.
"""

import functools
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from zmlx import fast
from zmlx.patch.known_code import call_digest
from zmlx.patch.seam import ResidualSum, pending_sum

_add_rms_norm = fast.add_rms_norm
_rms_norm = mx.fast.rms_norm


@dataclass(frozen=True)
class Known:
    """Names of a layer's parts. There are several mixers where a layer has one of them."""

    mixers: tuple
    feed_forward: str
    norms: tuple

    def parts(self, layer):
        """Names of the layer's mixer, feed-forward part and two norms; None if it lacks one."""
        mixer = next((name for name in self.mixers if layer.get(name) is not None), None)
        names = (mixer, self.feed_forward, *self.norms)
        return None if None in map(layer.get, names) else names


_NORMS = ("input_layernorm", "post_attention_layernorm")

# By the digest of a class's `__call__`.
_KNOWN = {
    "285515860952a24c": Known(("self_attn",), "mlp", _NORMS),  # qwen3_moe and many others
    "998ddecd64b8d3d9": Known(("self_attn",), "block_sparse_moe", _NORMS),  # mixtral
    "f31af1f96b8bd8cd": Known(  # lfm2, lfm2_moe
        ("self_attn", "conv"), "feed_forward", ("operator_norm", "ffn_norm")
    ),
}


def known(layer):
    """The names of a layer's parts if its code is known and its norms are MLX's, else None."""
    names = _KNOWN.get(call_digest(type(layer)))
    parts = names and names.parts(layer)
    if not parts:
        return None
    return parts if all(isinstance(layer[name], nn.RMSNorm) for name in parts[2:]) else None


@functools.cache
def fused_layer(stock):
    """A subclass of a known layer's class that computes its sums along with the norms."""

    class FusedLayer(stock):
        def __call__(self, x, mask=None, cache=None):
            site = self._zmlx_site
            mixer, feed_forward, first, second = map(self.get, site.names)
            if type(first) not in site.norms or type(second) not in site.norms:
                return stock.__call__(self, x, mask, cache)
            normed = None
            if type(x) is ResidualSum:
                normed = x.fuse(_add_rms_norm, first["weight"], first.eps)
                x = x.value
            if normed is None:
                normed = _rms_norm(x, first["weight"], first.eps)
            else:
                first._zmlx_site.fused += 1
            r = mixer(normed, mask, cache)
            normed, h = _add_rms_norm(x, r, second["weight"], second.eps)
            second._zmlx_site.fused += 1
            return pending_sum(h, feed_forward(normed))

    FusedLayer.__name__ = FusedLayer.__qualname__ = f"Fused{stock.__name__}"
    return FusedLayer

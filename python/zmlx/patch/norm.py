"""Patterns "add_rms_norm" and "rms_norm".

In a decoder layer, `h = x + sublayer(norm(x))` is followed by another norm of h. The layer gets x
as a `ResidualSum`, so that adding to it makes one too; the norm that gets one computes the sum
along with its own result, and the next residual add reads the sum that the norm wrote. Nothing here
knows a model's layer: if the pieces meet in another order, or something else happens in between,
the ordinary result is used. On a GPU, where all this takes longer than a saved kernel, only layers
of known code are patched (`zmlx.patch.decoder_layer`).
"""

import functools

import mlx.core as mx
import mlx.nn as nn

from zmlx import fast
from zmlx.patch import decoder_layer
from zmlx.patch.seam import ResidualSum, residual_stream
from zmlx.patch.session import on_gpu, site_of

# Elements from which sums are fused on the CPU. Keeping track of one takes some 5 us of Python;
# below, that is more than one pass saves over two.
MIN_SIZE = 2**14

_array = mx.array
_add_rms_norm = fast.add_rms_norm
_fused_rms_norm = fast.rms_norm
_stock_rms_norm = mx.fast.rms_norm


class OnePassRMSNorm(nn.RMSNorm):
    def __call__(self, x):
        return _fused_rms_norm(x, self["weight"], self.eps)


class AddRMSNorm(nn.RMSNorm):
    def __call__(self, x):
        if type(x) is ResidualSum:
            return _norm_of_sum(self, x, _stock_rms_norm)
        return _stock_rms_norm(x, self["weight"], self.eps)


class OnePassAddRMSNorm(nn.RMSNorm):
    def __call__(self, x):
        if type(x) is ResidualSum:
            return _norm_of_sum(self, x, _fused_rms_norm)
        return _fused_rms_norm(x, self["weight"], self.eps)


def _norm_of_sum(norm, total, rms_norm):
    normed = total.fuse(_add_rms_norm, norm["weight"], norm.eps)
    if normed is None:
        return rms_norm(total.value, norm["weight"], norm.eps)
    norm._zmlx_site.fused += 1
    return normed


@functools.cache
def residual_layer(stock):
    """A subclass of a decoder layer's class that gets its input as a `ResidualSum`."""

    class ResidualLayer(stock):
        def __call__(self, *args, **kwargs):
            if args and type(args[0]) is _array and args[0].size >= self._zmlx_site.plan:
                args = (residual_stream(args[0]), *args[1:])
            return stock.__call__(self, *args, **kwargs)

    ResidualLayer.__name__ = ResidualLayer.__qualname__ = f"Residual{stock.__name__}"
    return ResidualLayer


def apply(places, session):
    """Patches the norms among `places`, and the decoder layers that they belong to."""
    residual = "add_rms_norm" in session.patterns
    one_pass = "rms_norm" in session.patterns
    if not (residual or one_pass):
        return
    gpu = on_gpu()
    layers = _decoder_layers(places) if residual else {}
    if gpu:
        layers = {id(place.module): place for place in _known_layers(layers.values(), session)}
    # Norms of layers, and of what owns the layers: the last one.
    owners = set(layers) | {id(place.owner) for place in layers.values()}
    for place in places:
        if id(place.module) in layers:
            _patch_layer(place, session, gpu)
        elif type(place.module) is nn.RMSNorm:
            if one_pass and gpu:
                session.skip(place, "rms_norm", "the default device is a GPU")
            _patch_norm(place, session, id(place.owner) in owners, one_pass and not gpu)
        elif "RMSNorm" in type(place.module).__name__:
            for name in ("add_rms_norm",) * (id(place.owner) in owners) + ("rms_norm",):
                if name in session.patterns:
                    session.skip(place, name, "not MLX's nn.RMSNorm")


def _known_layers(layers, session):
    """Those of known code; what keeps the others as they are is noted."""
    for place in layers:
        if decoder_layer.known(place.module) is not None:
            yield place
        else:
            session.skip(place, "add_rms_norm", "a GPU gains from layers of known code only")


def _patch_layer(place, session, gpu):
    stock = type(place.module)
    if not gpu:
        session.swap(place, residual_layer(stock)).plan = MIN_SIZE
        return
    names = decoder_layer.known(place.module)
    site = session.swap(place, decoder_layer.fused_layer(stock))
    site.names, site.norms = names, (AddRMSNorm,)


def _patch_norm(place, session, residual, one_pass):
    if residual:
        cls = OnePassAddRMSNorm if one_pass else AddRMSNorm
    elif one_pass:
        cls = OnePassRMSNorm
    else:
        return
    session.swap(place, cls, *(("add_rms_norm",) * residual + ("rms_norm",) * one_pass))


def _decoder_layers(places):
    """The items of lists that own an RMS norm and are not patched yet, by their ids."""
    norms = {id(place.owner) for place in places if type(place.module) is nn.RMSNorm}
    return {
        id(place.module): place
        for place in places
        if id(place.module) in norms
        and place.name.rpartition(".")[2].isdigit()
        and site_of(place.module) is None
    }

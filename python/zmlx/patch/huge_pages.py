"""Huge pages for the weights that the CPU's kernels read."""

from __future__ import annotations

from mlx.utils import tree_flatten

from zmlx import _ext
from zmlx.patch.session import on_gpu, site_of

_PATTERNS = {"moe_experts", "dense", "dense_swiglu"}
# A huge page of x86-64 and of Arm with 4 KiB pages; smaller arrays hold none.
_SIZE = 2 << 20


def apply(places, session, wanted):
    """Moves the arrays that patched modules read on the CPU into huge pages, in place.

    Args:
        places: of the model's modules.
        session: of the patched model.
        wanted: whether to; None means on the CPU, where it helps.
    """
    if wanted is False or (wanted is None and on_gpu()):
        return
    seen = set()
    for place in places:
        site = site_of(place.module)
        if site is None or _PATTERNS.isdisjoint(site.patterns):
            continue
        for _, array in tree_flatten(place.module.parameters()):
            if array.nbytes >= _SIZE and id(array) not in seen:
                seen.add(id(array))
                session.huge_bytes += _ext.use_huge_pages(array)

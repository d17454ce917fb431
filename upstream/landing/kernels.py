"""Kernels' sources: which files each primitive needs, and their text in MLX."""

import re
from functools import cache

from .change import COPYRIGHT
from .cpp import ROOT
from .errors import Missing
from .fold import fold
from .rewrite import CLASSES, edit

NAMESPACE = "fused"
_INCLUDE = re.compile(r'^#include "([^"]+)"$', re.M)

# What comments say of options that MLX does not get.
_COMMENTS = {
    "src/cuda/experts.cuh": [
        (
            "/// `kExact` whether sums and intermediates round as MLX's do (else they are "
            "float32), strides of\n/// the indices",
            "/// strides of the indices",
        )
    ],
    "src/cuda/activation.cuh": [
        ('rounds to\n/// T, where T is float32 in numerics "fp32".', "rounds to\n/// T.")
    ],
    "src/metal/activation.h": [
        ('rounds to T,\n/// which is float32 in numerics "fp32".', "rounds to T.")
    ],
    "src/metal/experts.h": [('(T in numerics "exact", else float32)', "(T)")],
}


@cache
def closure(folder, names):
    """The files of a folder that these files are made of, in the order of inclusion."""
    found = []

    def visit(name):
        path = ROOT / folder / name
        if not path.is_file():
            raise Missing(f"{folder}/{name} is no longer there; upstream/ must follow")
        if name in found:
            return
        for included in _INCLUDE.findall(path.read_text()):
            visit(included)
        found.append(name)

    for name in names:
        visit(name)
    return tuple(found)


def text(folder, name, include):
    """A kernel's file as it goes into MLX. include: makes MLX's path of one of ours."""
    path = f"{folder}/{name}"
    source = edit((ROOT / path).read_text(), *_COMMENTS.get(path, []))
    source = re.sub(r"\bzmlx\b", NAMESPACE, fold(source, kExact=True))
    for ours, theirs in CLASSES.items():
        source = re.sub(rf"\b{ours}\b", theirs, source)
    source = re.sub(r"^( *)/// ?", r"\1// ", source, flags=re.M)
    source = _INCLUDE.sub(lambda m: f'#include "{include(m.group(1))}"', source)
    return f"// {COPYRIGHT}\n\n{source}"

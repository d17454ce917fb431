"""Our kernels for a call, as the library would launch them, compiled many at a time."""

import ctypes
import json
import os
import re
from functools import cache

import numpy as np
from arrays import unwritten
from msl import PLAIN, Library
from msl.library import ROOT
from stock.wheel import include_folder

_SOURCES = ROOT / "src/metal"
_PREAMBLE = '#include "mlx/backend/metal/kernels/utils.h"\n'


@cache
def _calls():
    # The library's MLX is Python's.
    import mlx.core  # noqa: F401

    build = os.environ.get("ZMLX_BUILD", ROOT / "build/release")
    library = ctypes.CDLL(f"{build}/tests/metal/calls/libzmlx_metal_calls.so")
    library.zmlx_metal_call.restype = ctypes.c_char_p
    return library


class Refused(Exception):
    """No kernel takes the call."""


@cache
def kernel_of(op, **call):
    """What the library launches: text, name, threadgroups and more; see calls/calls.cpp."""
    words = " ".join(f"{k}={int(v) if isinstance(v, bool) else v}" for k, v in call.items())
    kernel = json.loads(_calls().zmlx_metal_call(f"op={op} {words}".encode()))
    if "refused" in kernel:
        raise Refused(kernel["refused"])
    return kernel


def _code(text):
    """Lines without comments and indentation, as the library embeds sources."""
    lines = (line.split("//")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#pragma once", "#include"))]


@cache
def _check_built(file, text):
    """The library may have been built from other sources than those that are compiled here."""
    if "\n".join(_code((_SOURCES / file).read_text())) not in "\n".join(_code(text)):
        raise RuntimeError(f"src/metal/{file} has changed since the library was built: make build")


class FusedKernels:
    """Kernels of many calls in one library.

    Each kernel's own text holds all of its file; here files are included once and the kernels'
    constants get names of their own. `test_text_alone` compiles whole texts.

    sources: the folder of the Metal sources.
    """

    def __init__(self, kernels, options=PLAIN, sources=_SOURCES):
        self._names = {}
        text = _PREAMBLE
        for file in sorted({k["file"] for k in kernels}):
            text += f'#include "{file}"\n'
        for kernel in kernels:
            key = kernel["text"]
            _check_built(kernel["file"], key)
            if key in self._names:
                continue
            number = len(self._names)
            self._names[key] = f"{kernel['name']}_{number}"
            own = kernel["config"].replace("struct Config", f"struct Config{number}")
            own += key[key.index("[[kernel]]") :].replace(kernel["name"], self._names[key], 1)
            text += re.sub(r"zmlx::Config\b", f"zmlx::Config{number}", own)
        self.library = Library(
            text,
            list(self._names.values()),
            include=[sources, include_folder()],
            options=options,
        )

    def run(self, kernel, arrays, outputs, variant=0):
        """arrays: inputs in order; outputs: (shape, type) of each. Returns the outputs."""
        results = [unwritten(shape, type_) for shape, type_ in outputs]
        x, y, z = kernel["threadgroups"]
        self.library(
            self._names[kernel["text"]],
            [np.ascontiguousarray(a) for a in arrays] + results,
            grid=(x * kernel["threads"], y, z),
            threadgroup=kernel["threads"],
            variant=variant,
        )
        return results


def alone(kernel, options=PLAIN):
    """A kernel compiled from its whole text, as MLX would compile it."""
    library = Library(
        _PREAMBLE + kernel["text"], [kernel["name"]], include=[include_folder()], options=options
    )
    fused = FusedKernels.__new__(FusedKernels)
    fused.library, fused._names = library, {kernel["text"]: kernel["name"]}
    return fused

"""Our kernels for a call, as the library would launch them, compiled many at a time."""

import json
import os
import re
import subprocess
import threading
from collections import defaultdict
from functools import cache

import numpy as np
from arrays import unwritten
from msl import PLAIN, Library
from msl.library import ROOT
from stock.wheel import include_folder

# What MLX puts before every kernel.
_PREAMBLE = '#include "mlx/backend/metal/kernels/utils.h"\n'
_LOCK = threading.Lock()
_CONFIG = "namespace zmlx {\nstruct Config {"


class Refused(Exception):
    """No kernel takes the call."""


@cache
def _describer():
    build = os.environ.get("ZMLX_BUILD", ROOT / "build/release")
    program = f"{build}/tests/cpp/metal_describe"
    return subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@cache
def kernel_of(operation, **settings):
    """What the library launches, as tests/cpp/metal_describe.cpp says it. Raises Refused."""
    words = (f"{k}={int(v) if isinstance(v, bool) else v}" for k, v in settings.items())
    with _LOCK:
        program = _describer()
        program.stdin.write(" ".join([operation, *words]) + "\n")
        program.stdin.flush()
        kernel = json.loads(program.stdout.readline())
    if "obstacle" in kernel:
        raise Refused(kernel["obstacle"])
    return kernel


def parts(kernel):
    """A kernel's text: the file it comes from with all that it includes, and the kernel's own."""
    text = kernel["text"]
    begin = text.rindex(_CONFIG)
    return text[:begin], text[begin:]


def replaced(header, text, instead):
    """A source with a change; sources are embedded without comments and indentation."""

    def bare(lines):
        return "\n".join(line.strip() for line in lines.splitlines())

    if header.count(bare(text)) == 0:
        raise ValueError(f"the kernel's source no longer holds: {text}")
    return header.replace(bare(text), bare(instead), 1)


class FusedKernels:
    """Kernels of many calls.

    Each kernel's text holds all of its file. Here those of one file are compiled together, under
    names of their own; `alone` compiles a text as it is.

    change: makes another text of a file's.
    """

    def __init__(self, kernels, options=PLAIN, change=lambda header: header):
        files = defaultdict(dict)
        for kernel in kernels:
            header, own = parts(kernel)
            files[header].setdefault(kernel["text"], (kernel["name"], own))
        self._found = {}
        for header, own_parts in files.items():
            text, names = _PREAMBLE + change(header), []
            for number, (name, own) in enumerate(own_parts.values()):
                names.append(f"{name}_{number}")
                own = own.replace(name, names[-1], 1)
                own = own.replace("struct Config", f"struct Config{number}", 1)
                text += re.sub(r"zmlx::Config\b", f"zmlx::Config{number}", own)
            library = Library(text, names, include=[include_folder()], options=options)
            self._found |= {key: (library, n) for key, n in zip(own_parts, names, strict=True)}

    def run(self, kernel, arrays, outputs, variant=0, offsets=None):
        """Launches a kernel.

        arrays: inputs in order. outputs: (shape, type) of each.
        offsets: bytes by which buffers lie off their alignment, by index.
        Returns the outputs.
        """
        results = [unwritten(shape, type_) for shape, type_ in outputs]
        library, name = self._found[kernel["text"]]
        library(
            name,
            [np.ascontiguousarray(a) for a in arrays] + results,
            grid=kernel["grid"],
            threadgroup=kernel["threads"],
            variant=variant,
            offsets=offsets or {},
        )
        return results


def alone(kernel, options=PLAIN):
    """A kernel compiled from its whole text, as MLX would compile it."""
    fused = FusedKernels([])
    source = _PREAMBLE + kernel["text"]
    library = Library(source, [kernel["name"]], include=[include_folder()], options=options)
    fused._found = {kernel["text"]: (library, kernel["name"])}
    return fused

"""Kernels of formulas on the Metal host, compiled many at a time."""

import concurrent.futures
import ctypes
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
from arrays import unwritten
from msl import PLAIN, Library
from stock.wheel import include_folder

# What MLX puts before every kernel.
_PREAMBLE = '#include "mlx/backend/metal/kernels/utils.h"\n'


def name_of(dtype):
    return str(dtype).removeprefix("mlx.core.")


def to_numpy(x):
    """An array with its bytes as they are; bfloat16 is uint16."""
    return np.ascontiguousarray(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x)


def buffer_of(x, offset):
    """All of an array's memory, from `offset` elements before its first to its last."""
    view = np.array(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x, copy=False)
    after = sum(max(0, (n - 1) * step) for n, step in zip(view.shape, view.strides, strict=True))
    start = view.__array_interface__["data"][0] - offset * view.itemsize
    memory = (ctypes.c_char * (after + (offset + 1) * view.itemsize)).from_address(start)
    return np.frombuffer(memory, view.dtype).copy()


def to_mlx(x, dtype):
    return mx.array(x).view(mx.bfloat16) if dtype == mx.bfloat16 else mx.array(x)


@dataclass
class Call:
    """A kernel for some arrays.

    Attributes:
        kernel: the kernel.
        inputs: its arguments, and of a derivative what follows them (see `Kernel.metal_launch`).
        of: "value", "vjp" or "jvp".
        rtol, atol: how far results may be from the CPU evaluator's.
        launch: what the library would launch.
        expected: what the CPU's evaluator computes.
    """

    kernel: object
    inputs: list
    of: str = "value"
    rtol: float = 2e-6
    atol: float = 1e-6
    launch: dict = field(init=False)
    expected: list = field(init=False)

    def __post_init__(self):
        with mx.stream(mx.cpu):
            self.launch = self.kernel.metal_launch(*self.inputs, of=self.of)
            self.expected = list(self._evaluated())
            mx.eval(self.expected)

    def __str__(self):
        shapes = ", ".join(f"{name_of(x.dtype)} {x.shape}" for x in self.inputs)
        return f"{self.of} of {self.kernel.name} for {shapes}"

    def _evaluated(self):
        count = len(self.kernel.inputs)
        inputs, rest = self.inputs[:count], self.inputs[count:]
        if self.of == "value":
            return [self.kernel(*inputs)]
        if self.of == "vjp":
            return mx.vjp(self.kernel, inputs, rest[-1:])[1]
        return mx.jvp(self.kernel, inputs, rest)[1]

    def arrays(self):
        """The buffers of the inputs."""
        offsets = [self.launch["numbers"].get(f"o{i}") for i in range(len(self.inputs))]
        with mx.stream(mx.cpu):
            return [
                to_numpy(x) if offset is None else buffer_of(x, offset)
                for x, offset in zip(self.inputs, offsets, strict=True)
            ]


def _built(part, options, change):
    """A library with the kernels of some launches, and their names in it."""
    texts = [_PREAMBLE, change(part[0]["header"])]
    names = []
    for number, launch in enumerate(part):
        texts.append(f"namespace kernel{number} {{\n{change(launch['text'])}\n}}\n")
        names.append(f"kernel{number}::{launch['name']}")
    library = Library("".join(texts), names, include=[include_folder()], options=options)
    return [(library, name) for name in names]


class Formulas:
    """The kernels of some calls; equal texts are compiled once.

    change: makes another text of a kernel's, or of what formulas call.
    """

    def __init__(self, calls, options=PLAIN, change=lambda text: text):
        launches = list({c.launch["text"]: c.launch for c in calls}.values())
        include_folder()  # fetches MLX's headers, which two threads must not do at once
        # One for each of two cores.
        parts = [part for part in (launches[::2], launches[1::2]) if part]
        self._found = {}
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            made = pool.map(lambda part: _built(part, options, change), parts)
            for part, found in zip(parts, made, strict=True):
                self._found |= {x["text"]: f for x, f in zip(part, found, strict=True)}

    def run(self, call, variant=0):
        """The outputs."""
        launch = call.launch
        outputs = [unwritten(x.size, name_of(x.dtype)) for x in call.expected]
        numbers = np.array(list(launch["numbers"].values()), np.int32)
        library, name = self._found[launch["text"]]
        library(
            name,
            [*call.arrays(), numbers, *outputs],
            grid=(launch["threadgroups"] * launch["threads"], 1, 1),
            threadgroup=(launch["threads"], 1, 1),
            variant=variant,
        )
        return [
            to_mlx(x.reshape(y.shape), y.dtype) for x, y in zip(outputs, call.expected, strict=True)
        ]

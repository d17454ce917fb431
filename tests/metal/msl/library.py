"""Compiles MSL sources to shared objects, kept by the hash of what they are made from."""

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from . import launch
from .translate import entry, translate

HOST = Path(__file__).parents[1] / "host"
ROOT = HOST.parents[2]
BUILD = Path(os.environ.get("ZMLX_METAL_BUILD", ROOT / "build/metal"))

_TARGET = ["-march=x86-64-v3", "-fPIC", "-std=c++20"]
_MSL = [
    *_TARGET,
    "-fdeclspec",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
    # Calls of functions that meet other lanes stay where they are in the control flow.
    "-fconvergent-functions",
    # MSL has no double: 1.0 is a float.
    "-Xclang",
    "-cl-single-precision-constant",
    "-Xclang",
    "-ffloat16-excess-precision=none",
    "-Xclang",
    "-fbfloat16-excess-precision=none",
    "-Wno-unknown-attributes",
    "-Wno-unknown-pragmas",
    "-Wno-user-defined-literals",
    "-Wno-pass-failed",
]
# Calls for every access of memory; see host/instrumentation.cpp.
_CHECKED = [
    "-O1",
    "-fsanitize=kernel-address",
    "-fsanitize=bounds,alignment",
    *(
        flag
        for option in (
            "instrumentation-with-call-threshold=0",
            "stack=0",
            "globals=0",
            "opt-same-temp=0",
            "kernel-mem-intrinsic-prefix=1",
        )
        for flag in ("-mllvm", f"-asan-{option}")
    ),
    "-fno-vectorize",
    "-fno-slp-vectorize",
]


@dataclass(frozen=True)
class Options:
    """How a kernel is compiled.

    checked: accesses of memory are checked, which takes some ten times as long.
    contract: whether a * b + c becomes one fused operation, wherever a compiler may do so.
    """

    checked: bool = False
    contract: bool = False


PLAIN = Options()


@cache
def clang():
    for name in ("clang++-19", "clang++-20", "clang++-21"):
        if path := shutil.which(name):
            return path
    raise FileNotFoundError("clang++-19 is needed (Debian: clang-19)")


def _run(command, **kwargs):
    done = subprocess.run(command, capture_output=True, text=True, **kwargs)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr[-6000:]}")
    return done.stdout


def _built(name, build):
    """The file `name` in the build folder, which `build(path)` makes if it is not there."""
    path = BUILD / name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            partial = path.with_suffix(".partial")
            build(partial)
            partial.rename(path)
    return path


def _compile(flags, text, contract):
    """Builds a kernel's library from C++."""

    def build(path):
        source = path.with_suffix(".ii")
        source.write_text(text)
        command = [clang(), *flags, "-w"]
        if contract:
            # x86 has no fused operation for halves, so clang does not fuse what it may.
            code = path.with_suffix(".ll")
            _run([*command, "-x", "c++-cpp-output", "-S", "-emit-llvm", source, "-o", code])
            code.write_text(
                re.sub(r"llvm\.fmuladd\.(v\d+)?f16", r"llvm.fma.\1f16", code.read_text())
            )
            command = [clang(), *_TARGET[:2], "-O2", "-w", "-Xclang", "-disable-llvm-passes", code]
        else:
            command += ["-x", "c++-cpp-output", source]
        _run([*command, "-shared", "-o", path])

    return build


def _digest(*parts):
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:20]


@cache
def runtime():
    """The host's runtime library."""
    sources = sorted(HOST.glob("*.cpp"))
    text = [p.read_text() for p in sorted(HOST.glob("*.*")) if p.is_file()]
    flags = [*_TARGET, "-O2", "-Wall", "-Wextra", "-shared", "-pthread"]
    name = f"runtime-{_digest(clang(), flags, *text)}.so"
    path = _built(name, lambda path: _run([clang(), *flags, *sources, "-o", path]))
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    launch.declare(library)
    return library


class Library:
    """Kernels of one MSL source, compiled together.

    source: MSL text. Its includes are looked for in `include`.
    entries: kernels to compile: names, template arguments included where a kernel has any
        (`affine_gather_qmv<float, 64, 4>`), or names given by `host_name`. By default those of
        `host_name` and, if there are none, all kernels that are no templates.
    """

    def __init__(self, source, entries=None, *, include=(), options=PLAIN, defines=()):
        folders = [HOST / "include_mlx", *include]
        flat = _run(
            [
                clang(),
                *_MSL,
                *(f"-D{d}" for d in (*defines, *(["MSL_CONTRACT"] if options.contract else []))),
                "-E",
                "-x",
                "c++",
                "-",
            ]
            + [f"-isystem{HOST / 'include'}", *(f"-I{folder}" for folder in folders)],
            input="#include <metal_stdlib>\n" + source,
        )
        translation = translate(flat)
        names = list(entries or translation.host_names or translation.kernels)
        self._numbers, self._kernels = {}, {}
        text = translation.text
        for number, name in enumerate(names):
            expression = translation.host_names.get(name, name)
            kernel = translation.kernels[expression.split("<")[0].split("::")[-1].strip()]
            text += entry(kernel, expression, number)
            self._numbers[name], self._kernels[name] = number, kernel
        flags = [*_MSL, *(_CHECKED if options.checked else ["-O2"])]
        flags.append(f"-ffp-contract={'on' if options.contract else 'off'}")
        name = f"kernels/{_digest(clang(), flags, text, _compile.__code__.co_code)}.so"
        path = _built(name, _compile(flags, text, options.contract))
        self._runtime = runtime()
        self._library = ctypes.CDLL(str(path))

    def kernels(self):
        return list(self._numbers)

    def set_constants(self, **values):
        """Sets function constants (bool) by their names."""
        for name, value in values.items():
            ctypes.c_bool.in_dll(self._library, name).value = value

    def __call__(
        self,
        name,
        buffers,
        *,
        grid,
        threadgroup,
        variant=0,
        threads=2,
        offsets=MappingProxyType({}),
    ):
        """Runs a kernel and writes to the arrays that it writes to.

        buffers: contiguous NumPy arrays by position, or a dictionary by buffer index; None for one
            that the kernel must not touch.
        grid, threadgroup: threads, as in MLX's `dispatch_threads`; up to three axes.
        variant: 0 or 1: which of the ways that MSL leaves open is taken (see README.md).
        threads: of the operating system, among which threadgroups are dealt.
        offsets: bytes by which buffers lie off their alignment, by index.
        Raises MslFault.
        """
        kernel = self._kernels[name]
        address = getattr(self._library, f"msl_entry_{self._numbers[name]}")
        launch.run(
            self._runtime,
            name,
            kernel,
            address,
            buffers,
            offsets,
            grid,
            threadgroup,
            variant,
            threads,
        )

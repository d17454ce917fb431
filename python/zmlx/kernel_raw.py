"""Kernels in a GPU's own language, with a derivative: for those who need the last bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import mlx.core as mx


@dataclass
class _Made:
    """A kernel of MLX's with its counts."""

    kernel: Callable
    kind: str
    name: str
    source: str
    define_seconds: float
    definitions: int = 0
    calls: int = 0


_made: dict[tuple, _Made] = {}
_lock = Lock()


def _find_or_make(kind: str, name: str, source: str, **parameters: Any) -> _Made:
    """The same kernel for the same arguments: MLX compiles each anew."""
    key = (kind, name, source, *parameters.values())
    with _lock:
        if key not in _made:
            start = time.perf_counter()
            kernel = getattr(mx.fast, kind)(name=name, source=source, **parameters)
            _made[key] = _Made(kernel, kind, name, source, time.perf_counter() - start)
        found = _made[key]
        found.definitions += 1
    return found


def entries() -> list[dict[str, Any]]:
    """For :func:`zmlx.registry.entries`. When MLX compiles it does not tell."""
    with _lock:
        return [
            {
                "name": made.name,
                "kind": made.kind,
                "formula": made.source,
                "definitions": made.definitions,
                "calls": made.calls,
                "compilations": 1,
                "define_seconds": made.define_seconds,
                "compile_seconds": 0.0,
            }
            for made in _made.values()
        ]


def clear() -> None:
    """Forgets all kernels; those in use stay usable."""
    with _lock:
        _made.clear()


def _as_sequence(arrays: Any) -> Any:
    """MLX gives one array for what is a sequence where there are several."""
    return (arrays,) if isinstance(arrays, mx.array) else arrays


def _raw_kernel(
    kind: str,
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str,
    ensure_row_contiguous: bool,
    vjp: Callable | None,
) -> Callable[..., list[mx.array]]:
    made = _find_or_make(
        kind,
        name,
        source,
        input_names=tuple(input_names),
        output_names=tuple(output_names),
        header=header,
        ensure_row_contiguous=ensure_row_contiguous,
    )

    def call(*inputs: mx.array, **launch: Any) -> list[mx.array]:
        made.calls += 1

        def run(*arrays: mx.array) -> list[mx.array]:
            return made.kernel(inputs=list(arrays), **launch)

        if vjp is None:
            return run(*inputs)
        wrapped = mx.custom_function(run)
        wrapped.vjp(lambda *given: vjp(*map(_as_sequence, given)))
        return wrapped(*inputs)

    return call


def metal_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    *,
    header: str = "",
    ensure_row_contiguous: bool = True,
    vjp: Callable | None = None,
) -> Callable[..., list[mx.array]]:
    """A kernel in Metal's shading language: ``mx.fast.metal_kernel``, kept for equal arguments.

    Args:
        name, input_names, output_names, source, header, ensure_row_contiguous: as MLX has them.
        vjp: ``vjp(primals, cotangents, outputs)``, sequences all of them, returns a cotangent for
            each input; without it the kernel cannot be differentiated.

    Returns:
        A function of the arrays, with MLX's keywords ``grid``, ``threadgroup``, ``output_shapes``,
        ``output_dtypes``, ``template``...
    """
    return _raw_kernel(
        "metal_kernel", name, input_names, output_names, source, header, ensure_row_contiguous, vjp
    )


def cuda_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    *,
    header: str = "",
    ensure_row_contiguous: bool = True,
    vjp: Callable | None = None,
) -> Callable[..., list[mx.array]]:
    """The same in CUDA C++, by ``mx.fast.cuda_kernel``."""
    return _raw_kernel(
        "cuda_kernel", name, input_names, output_names, source, header, ensure_row_contiguous, vjp
    )

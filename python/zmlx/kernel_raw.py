"""Kernels in a GPU's own language, with a derivative: for those who need the last bit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx


def _cached(make: Callable, kind: str) -> Callable:
    """The same kernel for the same arguments: MLX compiles each anew."""

    @functools.lru_cache(maxsize=1024)
    def cached(name, inputs, outputs, source, header, contiguous):
        return make(
            name=name,
            input_names=list(inputs),
            output_names=list(outputs),
            source=source,
            header=header,
            ensure_row_contiguous=contiguous,
        )

    cached.__name__ = kind
    return cached


_metal = _cached(mx.fast.metal_kernel, "metal_kernel")
_cuda = _cached(mx.fast.cuda_kernel, "cuda_kernel")


def _with_vjp(kernel: Callable, vjp: Callable | None) -> Callable:
    def call(*inputs: mx.array, **launch: Any) -> list[mx.array]:
        def run(*arrays: mx.array) -> list[mx.array]:
            return kernel(inputs=list(arrays), **launch)

        if vjp is None:
            return run(*inputs)
        wrapped = mx.custom_function(run)
        wrapped.vjp(vjp)
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
        vjp: ``vjp(primals, cotangents, outputs)`` returns a cotangent for each input; without it
            the kernel cannot be differentiated.

    Returns:
        A function of the arrays, with MLX's keywords ``grid``, ``threadgroup``, ``output_shapes``,
        ``output_dtypes``, ``template``...
    """
    kernel = _metal(
        name, tuple(input_names), tuple(output_names), source, header, ensure_row_contiguous
    )
    return _with_vjp(kernel, vjp)


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
    kernel = _cuda(
        name, tuple(input_names), tuple(output_names), source, header, ensure_row_contiguous
    )
    return _with_vjp(kernel, vjp)

"""Checks of kernels against references; parameters as in the PyPI package ``zmlx``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx


def _compare(got: mx.array, expected: mx.array, what: str, atol: float, rtol: float) -> None:
    if got.shape != expected.shape:
        raise AssertionError(f"{what}: got shape {got.shape}, expected {expected.shape}")
    got, expected = got.astype(mx.float32), expected.astype(mx.float32)
    difference = mx.abs(got - expected)
    # NaN and infinities must be in the same places.
    same = (got == expected) | (mx.isnan(got) & mx.isnan(expected))
    wrong = ~(same | (difference <= atol + rtol * mx.abs(expected)))
    count = int(mx.sum(wrong).item())
    if count:
        worst = mx.max(mx.where(wrong & mx.isfinite(difference), difference, 0)).item()
        raise AssertionError(
            f"{what}: {count} of {got.size} elements differ, by up to {worst:.3e} "
            f"(atol={atol}, rtol={rtol})"
        )


def _inputs(shape: Sequence[int], dtype: mx.Dtype, count: int) -> list[mx.array]:
    return [mx.random.normal(shape).astype(dtype) for _ in range(count)]


def assert_matches(
    kernel_fn: Callable[..., Any],
    ref_fn: Callable[..., Any],
    shapes: Sequence[tuple[int, ...]],
    *,
    dtypes: Sequence[mx.Dtype] | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-5,
    n_inputs: int = 1,
    seed: int = 42,
) -> None:
    """Asserts that a kernel gives what a reference gives, for normal random inputs.

    Args:
        kernel_fn: under test.
        ref_fn: the reference, of the same arrays.
        shapes: of the inputs, one after the other.
        dtypes: of the inputs; float32 by default.
        atol, rtol: a difference may be ``atol + rtol * |expected|``.
        n_inputs: how many arrays both take.
        seed: of the inputs.

    Raises:
        AssertionError: naming shape, type and the largest difference.
    """
    mx.random.seed(seed)
    for shape in shapes:
        for dtype in dtypes or [mx.float32]:
            inputs = _inputs(shape, dtype, n_inputs)
            what = f"value for shape={shape}, dtype={dtype}"
            _compare(kernel_fn(*inputs), ref_fn(*inputs), what, atol, rtol)


def assert_gradient_matches(
    kernel_fn: Callable[..., Any],
    ref_fn: Callable[..., Any],
    shapes: Sequence[tuple[int, ...]],
    *,
    dtypes: Sequence[mx.Dtype] | None = None,
    atol: float = 1e-4,
    rtol: float = 1e-4,
    n_inputs: int = 1,
    seed: int = 42,
) -> None:
    """The same of the derivatives of the sum by every input.

    Raises:
        AssertionError: naming the input, shape, type and the largest difference.
    """
    mx.random.seed(seed)
    by = list(range(n_inputs))
    for shape in shapes:
        for dtype in dtypes or [mx.float32]:
            inputs = _inputs(shape, dtype, n_inputs)
            got = mx.grad(lambda *a: kernel_fn(*a).sum(), by)(*inputs)
            expected = mx.grad(lambda *a: ref_fn(*a).sum(), by)(*inputs)
            for i in by:
                what = f"gradient by input {i} for shape={shape}, dtype={dtype}"
                _compare(got[i], expected[i], what, atol, rtol)


__all__ = ["assert_gradient_matches", "assert_matches"]

"""Kernels from formulas: see ``docs/tutorial.md`` for a walk through, ``docs/kernels.md`` for the
language.

Names, parameters and what variables are called follow the PyPI package ``zmlx`` (macOS only), whose
formulas run here unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from zmlx import _ext

Kernel = _ext.Kernel

_PASS_KEYS = ("init", "update", "reduce")


def _refuse_source(kind: str, **sources: str | None) -> None:
    for name, source in sources.items():
        if source:
            raise ValueError(
                f"[{kind}] {name} is raw source, which formulas do not take: what reaches a "
                "compiler is made from the typed formula alone. Use `let` bindings, or "
                "zmlx.metal_kernel for a kernel in Metal's own language."
            )


def _compute_dtype(dtype: Any) -> mx.Dtype | None:
    return getattr(mx, dtype) if isinstance(dtype, str) else dtype


def elementwise(
    expr: str,
    *,
    name: str | None = None,
    inputs: Sequence[str] | None = None,
    grad_expr: str | Sequence[str] | None = None,
    compute_dtype: mx.Dtype | None = None,
    header: str | None = None,
    use_output: bool = True,
    grad_prelude: str = "",
) -> Kernel:
    """An operation on each element, from a formula in C.

    Args:
        expr: such as ``"x * tanh(log(1 + exp(x)))"``. Its free names are the inputs.
        name: in errors and the registry; by default made from the formula.
        inputs: names in the order of arguments; by default all free names, as they appear.
        grad_expr: the derivative times the cotangent ``g``, instead of the derived one; one for
            each input. Of the inputs, and with ``use_output`` of the result ``y``.
        compute_dtype: what ``T`` means in the formula and the type of inputs in it: float32 (the
            default, whatever arrays hold), ``mx.float16``, ``mx.bfloat16`` (every operation's
            result is rounded), ``mx.int32`` or ``mx.uint32``.
        header: raw source; refused.
        use_output: whether ``grad_expr`` knows ``y``.
        grad_prelude: raw source; refused.

    Returns:
        A kernel of arrays that broadcast, with a result of the type that they promote to. It works
        under ``mx.grad``, ``mx.vjp``, ``mx.jvp``, ``mx.vmap`` and ``mx.compile``.

    Raises:
        ValueError: with the place, if ``expr`` is not an expression.
    """
    _refuse_source("elementwise", header=header, grad_prelude=grad_prelude)
    if isinstance(grad_expr, str):
        grad_expr = [grad_expr]
    return _ext.elementwise(
        expr,
        name or "",
        list(inputs or []),
        list(grad_expr or []),
        use_output,
        _compute_dtype(compute_dtype),
    )


def reduce(
    *,
    init: str,
    update: str,
    finalize: str = "acc",
    name: str | None = None,
    compute_dtype: mx.Dtype | None = None,
    header: str | None = None,
) -> Kernel:
    """One number for each row, the last axis.

    Args:
        init: the accumulator's first value, a constant: ``"0.0f"``.
        update: of the accumulator ``acc`` and the element ``v``: ``"acc + v * v"``. Of the form
            "acc + f(v)", with ``+ * min max & | ^``, it is done in parts and can be differentiated;
            any other takes the elements in order.
        finalize: of the result, as ``acc`` or ``s``: ``"sqrt(s)"``.
        name: in errors and the registry.
        compute_dtype: as in :func:`elementwise`.
        header: raw source; refused.

    Returns:
        A kernel of ``x (..., D)`` that gives ``(...)``, or ``(1,)`` for ``x (D,)``.
    """
    _refuse_source("reduce", header=header)
    return _ext.reduce(init, update, finalize, name or "", _compute_dtype(compute_dtype))


def _pass(which: str, given: Mapping[str, str]) -> tuple[str, str, str]:
    unknown = sorted(set(given) - set(_PASS_KEYS))
    missing = [key for key in _PASS_KEYS if key not in given]
    if unknown or missing:
        raise ValueError(
            f"[map_reduce] {which} needs the keys {', '.join(_PASS_KEYS)}"
            + (f"; {', '.join(missing)} missing" if missing else "")
            + (f"; {', '.join(unknown)} unknown" if unknown else "")
            + "."
        )
    return given["init"], given["update"], given["reduce"]


def map_reduce(
    *,
    pass1: Mapping[str, str],
    pass2: Mapping[str, str],
    write: str,
    name: str | None = None,
    threadgroup: int | str = 256,
    compute_dtype: mx.Dtype | None = None,
    header: str | None = None,
) -> Kernel:
    """Two numbers for each row, the last axis, and then something for each element: softmax, norms.

    Args:
        pass1: ``init`` (a constant), ``update`` of ``acc1`` and ``x``, and ``reduce`` of two
            partial results ``a`` and ``b``.
        pass2: the same with ``acc2``; its update also knows ``s1``, the first result.
        write: of ``x``, ``s1`` and ``s2``.
        name: in errors and the registry.
        threadgroup: threads of a group on a GPU, a power of two, or ``"auto"``.
        compute_dtype: as in :func:`elementwise`.
        header: raw source; refused.

    Returns:
        A kernel of ``x (..., D)`` that gives the same shape. It can be differentiated where both
        updates are of the form "acc + f(x)".
    """
    _refuse_source("map_reduce", header=header)
    if threadgroup != "auto" and not isinstance(threadgroup, int):
        raise ValueError(
            f"[map_reduce] threadgroup must be a number or 'auto', not {threadgroup!r}."
        )
    return _ext.map_reduce(
        _pass("pass1", pass1),
        _pass("pass2", pass2),
        write,
        name or "",
        0 if threadgroup == "auto" else threadgroup,
        _compute_dtype(compute_dtype),
    )

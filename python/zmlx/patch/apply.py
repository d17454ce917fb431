"""`patch` and `unpatch`."""

from __future__ import annotations

from collections.abc import Iterable

import mlx.nn as nn

from zmlx.patch import dense, dense_swiglu, huge_pages, norm
from zmlx.patch.patterns import select
from zmlx.patch.report import report
from zmlx.patch.session import open_session, places, restore

try:
    from zmlx.patch import moe, moe_block
except ImportError as error:  # no mlx-lm, or one without what the patterns are about
    moe = None
    _MOE_MISSING = f"mlx-lm's SwitchGLU cannot be imported: {error}"

try:
    from zmlx.patch import attention
except ImportError as error:
    attention = None
    _ATTENTION_MISSING = f"mlx-lm's caches cannot be imported: {error}"


def patch(
    model: nn.Module,
    patterns: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    verbose: bool = False,
    *,
    use_huge_pages: bool | None = None,
) -> nn.Module:
    """Makes a model use the fused primitives, in place. Results keep their meaning; weights,
    parameters and module tree stay as they are.

    A model that is patched already is patched anew with the patterns given, so that doing it twice
    is doing it once. Modules replaced after patching (by adapters, say) are not patched until
    `patch` is called again.

    Args:
        model: an mlx-lm model, or any part of one.
        patterns: names from `PATTERNS`; all by default.
        exclude: names to leave out.
        verbose: print the report.
        use_huge_pages: move the weights of patched layers into huge pages of the system, in place
            (Linux 6.1 or newer). It takes about as long as copying them, once, and reading them
            gets up to 15 % faster. By default where layers run on the CPU.

    Returns:
        `model` itself.

    Raises:
        TypeError: `model` is not an `mlx.nn.Module`.
        ValueError: a name is not in `PATTERNS`.
    """
    check_module("patch", model)
    names = select(patterns, exclude)
    restore(model)
    session = open_session(model, names)
    found = places(model)
    if moe is not None:
        moe.apply(found, session)
        moe_block.apply(found, session)
    elif "moe_experts" in names:
        session.skip(found[0], "moe_experts", _MOE_MISSING)
    dense.apply(found, session)
    dense_swiglu.apply(found, session)
    norm.apply(found, session)
    if attention is not None:
        attention.apply(found, session)
    elif "attention" in names:
        session.skip(found[0], "attention", _ATTENTION_MISSING)
    huge_pages.apply(found, session, use_huge_pages)
    if verbose:
        print(report(model))
    return model


def unpatch(model: nn.Module) -> nn.Module:
    """Undoes `patch`: every module has its own class again, and nothing is left behind.

    Args:
        model: a model, patched or not.

    Returns:
        `model` itself.

    Raises:
        TypeError: `model` is not an `mlx.nn.Module`.
    """
    check_module("unpatch", model)
    restore(model)
    return model


def check_module(function, model):
    """Raises a TypeError that names `function` unless `model` is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"[{function}] model must be an mlx.nn.Module, but is {type(model).__name__}."
        )

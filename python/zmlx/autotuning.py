"""Choosing by measurement; ``zmlx.autotune``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from zmlx import _ext


def autotune(
    fn: Callable[..., Any],
    candidates: Sequence[Any],
    *,
    args: Sequence[Any] = (),
    key: str | None = None,
    margin: float = 0.02,
    max_rounds: int = 15,
    max_seconds: float = 1.0,
) -> Any:
    """The candidate with which a function is fastest.

    Candidates take turns, medians are compared, and what is clearly slower drops out early.

    Args:
        fn: called as ``fn(*args, **candidate)`` where candidates are dicts, else as
            ``fn(*args, candidate)``; what it returns is evaluated.
        candidates: the first is kept unless another is faster by ``margin``.
        args: such as it will be called with.
        key: what the choice is remembered under on this machine, also by other processes: name the
            function and the class of its arguments. ``None``: not at all.
        margin: as a share of the first candidate's time.
        max_rounds, max_seconds: when to stop, after a first call of each candidate.

    Returns:
        The candidate.
    """
    candidates = list(candidates)

    def run(number: int) -> None:
        chosen = candidates[number]
        result = fn(*args, **chosen) if isinstance(chosen, dict) else fn(*args, chosen)
        if result is not None:
            mx.eval(result)

    described = "" if key is None else f"{key}, of {candidates!r}"
    result = _ext.autotune(len(candidates), run, described, margin, max_rounds, max_seconds)
    return candidates[result.best]

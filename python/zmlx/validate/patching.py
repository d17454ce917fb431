"""A model that is patched for a while."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx

from zmlx import fast
from zmlx.patch import Report, patch, report, unpatch

Patcher = Callable[[Any], contextlib.AbstractContextManager]


def patcher(patterns: Sequence[str] | None = None, numerics: str | None = None) -> Patcher:
    """A context manager, called with a model, that gives it back patched inside the block.

    Args:
        patterns: names of the patterns; default: all.
        numerics: "exact", "fp32" or ``None`` for the global default.
    """

    @contextlib.contextmanager
    def patched(model: Any) -> Iterator[Any]:
        before = fast.default_numerics()
        fast.set_default_numerics(numerics or before)
        try:
            yield patch(model, patterns=patterns)
        finally:
            unpatch(model)
            fast.set_default_numerics(before)

    return patched


def patch_report(model: Any, patched: Patcher) -> Report:
    """What patching replaces in a stock model, which is stock again afterwards."""
    with patched(model):
        mx.eval(model(mx.array([[0]])))  # whether a sum was fused shows when the model runs
        return report(model)


def summary_lines(found: Report) -> list[str]:
    """One line on what was replaced, and one for each kind of module that was left alone."""
    counts = [(pattern, found.count(pattern)) for pattern in found.patterns]
    replaced = ", ".join(f"{pattern} {count}" for pattern, count in counts if count)
    lines = [f"Patched modules by pattern: {replaced or 'none'}"]
    skipped = Counter((entry.pattern, entry.module_class, entry.reason) for entry in found.skipped)
    for (pattern, name, reason), count in skipped.items():
        lines.append(f"Left as it was: {count} {name} ({pattern}): {reason}")
    return lines


# The projections whose products each pattern replaces, below the module that it is about.
_PRODUCTS = {
    "dense": ("",),
    "moe_experts": (".gate_proj", ".up_proj", ".down_proj"),
    "moe_combine": (".down_proj",),
}


def replaced_products(found: Report) -> set[str]:
    """Paths of the layers whose quantized products were replaced."""
    return {
        entry.path + projection
        for entry in found.replaced
        for projection in _PRODUCTS.get(entry.pattern, ())
    }

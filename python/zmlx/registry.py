"""What was made of formulas, and of kernels in GPUs' own languages, in this process."""

from __future__ import annotations

from typing import Any

from zmlx import _ext, kernel_raw
from zmlx.table import format_table


def entries() -> list[dict[str, Any]]:
    """A dict for each kernel: ``name``, ``kind``, ``formula``, ``definitions`` (how often it was
    asked for), ``calls``, ``compilations`` (derivatives and result types count by themselves),
    ``define_seconds`` and ``compile_seconds``. What MLX does with raw kernels it does not tell:
    of these ``compile_seconds`` is 0."""
    return _ext.kernel_registry() + kernel_raw.entries()


def list_kernels() -> list[str]:
    """Names of all kernels."""
    return [entry["name"] for entry in entries()]


def cache_size() -> int:
    """How many kernels there are."""
    return len(entries())


def clear_cache() -> None:
    """Forgets all kernels; those in use stay usable."""
    _ext.clear_kernel_registry()
    kernel_raw.clear()


def summary() -> str:
    """A table of all kernels, the most called first."""
    rows = [
        [
            entry["name"],
            entry["kind"],
            str(entry["definitions"]),
            str(entry["calls"]),
            f"{1e6 * (entry['define_seconds'] + entry['compile_seconds']):.0f}",
        ]
        for entry in sorted(entries(), key=lambda entry: -entry["calls"])
    ]
    header = ["kernel", "kind", "asked for", "calls", "made in us"]
    return "\n".join(format_table(header, rows, right=range(2, 5)))

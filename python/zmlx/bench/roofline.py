"""A roofline picture of layer measurements."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from zmlx.bench.moe_layer import LayerResult


def require_matplotlib() -> None:
    """Raises ValueError, saying what to install, if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install matplotlib") from None


def plot(results: Sequence[LayerResult], path: str | os.PathLike) -> None:
    """Draws GFLOP/s against FLOP per weight byte, with the measured bandwidth as the roof.

    Args:
        results: one or more layers, measured in one run.
        path: picture to write; the ending decides the format.

    Raises:
        ValueError: if matplotlib is missing or does not know the format.
    """
    require_matplotlib()
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.5))
    intensities = []
    for result, dtype in ((r, dtype) for r in results for dtype in r.settings.dtypes):
        intensities += _draw(axes, result, dtype)
    _draw_roof(axes, results, min(intensities) / 1.5, max(intensities) * 1.5)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="FLOP per byte of weights read",
        ylabel="GFLOP/s",
        title=f"MoE layer, {results[0].settings.threads} threads",
    )
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=150)
    finally:
        pyplot.close(figure)


def _draw(axes: Any, result: LayerResult, dtype: str) -> list[float]:
    """Points of one layer, named by their M; returns their places on the x axis."""
    name = f"{result.shape.name} {result.shape.format} {dtype}"
    cases = result.cases
    places = [result.shape.flops(c.tokens) / result.weight_bytes(c, dtype) for c in cases]
    rates = [result.flops(case, dtype) / 1e9 for case in cases]
    axes.plot(places, rates, "o", label=f"patched, {name}")
    for place, rate, case in zip(places, rates, cases, strict=True):
        axes.annotate(f"M = {case.tokens}", (place, rate), (6, -3), textcoords="offset points")
    stock = [
        (place, result.shape.flops(case.tokens) / case.stock[dtype].median / 1e9)
        for place, case in zip(places, cases, strict=True)
        if dtype in case.stock
    ]
    if stock:
        axes.plot(*zip(*stock, strict=True), "x", label=f"stock, {name}")
    return places


def _draw_roof(axes: Any, results: Sequence[LayerResult], low: float, high: float) -> None:
    bandwidth = max(result.bandwidth.bytes_per_second for result in results)
    span = np.geomspace(low, high, 50)
    label = f"read bandwidth {bandwidth / 1e9:.1f} GB/s"
    axes.plot(span, span * bandwidth / 1e9, color="black", label=label)

"""Timing several implementations side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from zmlx.bench.timing import Series
from zmlx.table import format_table


def compare(
    implementations: dict[str, Callable[..., Any]],
    shapes: Sequence[tuple[int, ...]],
    *,
    dtypes: Sequence[mx.Dtype] | None = None,
    n_inputs: int = 1,
    warmup: int = 5,
    iters: int = 20,
    seed: int = 42,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Times implementations on the same inputs, taking turns, and prints a table.

    Args:
        implementations: by name; the first is what others are compared with.
        shapes: of the inputs.
        dtypes: of the inputs; float32 and float16 by default.
        n_inputs: how many arrays each takes.
        warmup: calls before.
        iters: timed calls of each.
        seed: of the inputs.
        quiet: whether to print nothing.

    Returns:
        A dict for each case: ``shape``, ``dtype``, ``<name>_us`` (the median) for each
        implementation, and ``speedup`` of the second over the first.
    """
    mx.random.seed(seed)
    names = list(implementations)
    results = []
    for shape in shapes:
        for dtype in dtypes or [mx.float32, mx.float16]:
            inputs = [mx.random.normal(shape).astype(dtype) for _ in range(n_inputs)]
            mx.eval(inputs)
            times = _take_turns(implementations, inputs, warmup, iters)
            case = {"shape": shape, "dtype": str(dtype)}
            case.update({f"{name}_us": 1e6 * times[name].median for name in names})
            second = names[1] if len(names) > 1 else names[0]
            case["speedup"] = times[names[0]].median / times[second].median
            results.append(case)
    if not quiet:
        print("\n".join(_table(results, names)))
    return results


def _take_turns(
    implementations: dict[str, Callable[..., Any]], inputs: list, warmup: int, iters: int
) -> dict[str, Series]:
    times = {name: Series() for name in implementations}
    for i in range(warmup + iters):
        for name, function in implementations.items():
            tic = time.perf_counter()
            mx.eval(function(*inputs))
            if i >= warmup:
                times[name].seconds.append(time.perf_counter() - tic)
    return times


def _table(results: list[dict[str, Any]], names: list[str]) -> list[str]:
    rows = [
        [
            str(case["shape"]),
            case["dtype"].replace("mlx.core.", ""),
            *(f"{case[f'{name}_us']:.1f}" for name in names),
            f"{case['speedup']:.2f}x",
        ]
        for case in results
    ]
    header = ["shape", "type", *(f"{name}, us" for name in names), "speedup"]
    return list(format_table(header, rows, right=range(2, len(header))))

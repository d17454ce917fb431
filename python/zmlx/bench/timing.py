"""Repeated timings, and the bandwidth measured between them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx


class Series:
    """Seconds of every repetition of one thing.

    Attributes:
        seconds: in the order measured.
    """

    def __init__(self, seconds: list[float] | None = None) -> None:
        self.seconds: list[float] = list(seconds or [])

    @property
    def total(self) -> float:
        """Seconds spent."""
        return sum(self.seconds)

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the interquartile range over the median; 0 for fewer than 4 repetitions."""
        if len(self.seconds) < 4:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median

    def time(self, function: Callable[[], Any]) -> None:
        """Evaluates the arrays that ``function`` returns, and notes how long that took."""
        tic = time.perf_counter()
        mx.eval(function())
        self.seconds.append(time.perf_counter() - tic)


def slower(patched: Series, stock: Series) -> bool:
    """Whether ``patched`` takes longer than ``stock``, by more than both spread."""
    return patched.median * (1 - patched.spread) > stock.median * (1 + stock.spread)


@contextmanager
def roomy_cache(megabytes: int) -> Iterator[None]:
    """Lets MLX keep the memory of arrays of so many MiB: by default every call maps fresh pages."""
    limit = mx.set_cache_limit(32 * megabytes << 20)
    try:
        yield
    finally:
        mx.set_cache_limit(limit)


class Bandwidth:
    """The machine's bandwidth with as many threads as the kernels have, measured between them.

    Args:
        kind: ``"read"``, or ``"copy"``, which moves each byte twice.
        threads: as many as the kernels use.
        size: bytes of the buffer; more than the caches hold.
    """

    def __init__(self, kind: str, threads: int, size: int):
        from zmlx import _ext

        self._measure = {"read": _ext.read_bandwidth, "copy": _ext.copy_bandwidth}[kind]
        self._moved = size if kind == "read" else 2 * size
        self.kind = kind
        self.threads = threads
        self.size = size
        self.series = Series()

    def sample(self, passes: int = 2) -> None:
        """Measures a few passes."""
        self.series.seconds += [
            float(seconds) for seconds in self._measure(self.size, self.threads, passes)
        ]

    @property
    def bytes_per_second(self) -> float:
        """Bytes moved per second in the median pass."""
        return self._moved / self.series.median

"""``add_rms_norm`` against stock's two operations, and against a copy's bandwidth."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from zmlx import lm
from zmlx.arguments import at_least, guarded, name_list
from zmlx.bench.options import add_run_options, begin_run, end_run
from zmlx.bench.timing import Bandwidth, Series, roomy_cache
from zmlx.capsule import make_capsule, measurement, write_capsule
from zmlx.progress import Progress
from zmlx.table import format_table

_DESCRIPTION = """\
Times add_rms_norm (the sum and its norm in one pass over two inputs and two outputs) against x + r
followed by mx.fast.rms_norm, with the machine's copy bandwidth measured in between. MLX's cache is
made large enough to hold the outputs and temporaries of both: with its default of 32 MiB on the
CPU, large outputs are fresh memory at every call, and both mostly wait for the system to map pages.
"""
_EPS = 1e-5


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        megabytes: of each of the two inputs, in MiB.
        width: length of a row.
        dtypes: types of the inputs.
        repeats: rounds.
        threads: of the kernel and of the bandwidth measurement.
        seed: of the inputs.
    """

    megabytes: int = 64
    width: int = 2048
    dtypes: tuple[str, ...] = ("bfloat16", "float32")
    repeats: int = 20
    threads: int = 1
    seed: int = 0


@dataclass
class NormResult:
    """Times in one type.

    Attributes:
        dtype: the type.
        rows: rows of each input.
        moved_bytes: two inputs read and two outputs written.
        fused: times of ``add_rms_norm``.
        stock: times of the two stock operations.
        copy: copy bandwidth, measured in between.
        error: largest difference from stock in float32, relative to the largest value.
    """

    dtype: str
    rows: int
    moved_bytes: int
    fused: Series
    stock: Series
    copy: Bandwidth
    error: float

    @property
    def rate(self) -> float:
        """Bytes moved per second by the fused operation."""
        return self.moved_bytes / self.fused.median

    @property
    def share(self) -> float:
        """That, over a copy's."""
        return self.rate / self.copy.bytes_per_second

    @property
    def failure(self) -> str | None:
        """What is wrong with the result, if anything."""
        limit = 1e-5 if self.dtype == "float32" else 0.02
        if self.error <= limit:
            return None
        return f"add_rms_norm {self.dtype}: off stock float32's result by {self.error:.2g}"


def bench_add_rms_norm(settings: Settings, *, progress: bool = False) -> list[NormResult]:
    """Measures every type of ``settings``."""
    from zmlx import _ext

    _ext.set_num_threads(settings.threads)
    progress_bar = Progress("add_rms_norm", None, enabled=progress, unit="call")
    with roomy_cache(settings.megabytes), progress_bar as bar:
        return [_measure(dtype, settings, bar) for dtype in settings.dtypes]


def _measure(dtype: str, settings: Settings, bar: Progress) -> NormResult:
    from zmlx import fast

    bar.stage(f"add_rms_norm, {dtype}")
    kind = lm.parse_dtype(dtype)
    size = settings.megabytes << 20
    rows = max(1, size // kind.size // settings.width)
    x, residual, weight = _inputs(rows, settings.width, kind, settings.seed)
    moved = 4 * rows * settings.width * kind.size

    def fused() -> tuple[mx.array, mx.array]:
        return fast.add_rms_norm(x, residual, weight, _EPS)

    def stock() -> tuple[mx.array, mx.array]:
        total = x + residual
        return mx.fast.rms_norm(total, weight, _EPS), total

    result = NormResult(
        dtype, rows, moved, Series(), Series(), Bandwidth("copy", settings.threads, size),
        _error(fused(), x, residual, weight),
    )  # fmt: skip
    mx.clear_cache()  # what the inputs were made from would fill it
    mx.eval(stock())
    for _ in range(settings.repeats):
        result.copy.sample()
        mx.eval(fused())
        for _ in range(3):
            result.fused.time(fused)
        result.stock.time(stock)
        bar.advance(4)
    return result


def _inputs(rows: int, width: int, dtype: mx.Dtype, seed: int) -> list[mx.array]:
    keys = mx.random.split(mx.random.key(seed), 3)
    shapes = ((rows, width), (rows, width), (width,))
    arrays = [
        mx.random.normal(shape, key=key).astype(dtype)
        for shape, key in zip(shapes, keys, strict=True)
    ]
    mx.eval(arrays)
    return arrays


def _error(
    found: tuple[mx.array, mx.array], x: mx.array, residual: mx.array, weight: mx.array
) -> float:
    rows = min(64, x.shape[0])
    total = x[:rows].astype(mx.float32) + residual[:rows].astype(mx.float32)
    normed = mx.fast.rms_norm(total, weight.astype(mx.float32), _EPS)
    errors = []
    for own, truth in zip(found, (normed, total), strict=True):
        truth = np.array(truth, dtype=np.float64)
        own = np.array(own[:rows].astype(mx.float32), dtype=np.float64)
        errors.append(float(np.abs(own - truth).max() / np.abs(truth).max()))
    return max(errors) if np.isfinite(errors).all() else float("nan")


def results_text(results: list[NormResult], settings: Settings) -> str:
    """The table, for people."""
    rows = [
        [
            result.dtype,
            f"{1e3 * result.fused.median:.2f}",
            f"{100 * result.fused.spread:.0f} %",
            f"{result.rate / 1e9:.1f}",
            f"{result.copy.bytes_per_second / 1e9:.1f}",
            f"{100 * result.share:.0f} %",
            f"{1e3 * result.stock.median:.1f}",
            f"{result.stock.median / result.fused.median:.1f}",
        ]
        for result in results
    ]
    header = ["type", "time ms", "spread", "GB/s", "copy GB/s", "of copy", "stock ms", "x stock"]
    return "\n".join(
        [
            f"add_rms_norm: two inputs of {settings.megabytes} MiB, rows of {settings.width}, "
            f"{settings.threads} threads; 2 reads and 2 writes are counted",
            *format_table(header, rows, right=range(1, len(header))),
        ]
    )


def results_capsule(
    results: list[NormResult], settings: Settings, command: list[str] | None = None
) -> dict[str, Any]:
    """The run as a capsule (see :mod:`zmlx.capsule`)."""
    entries = []
    for result in results:
        case = {"dtype": result.dtype, "rows": result.rows, "width": settings.width}
        entries += [
            measurement("add_rms_norm", "fused", "s", result.fused.seconds, case),
            measurement("add_rms_norm", "stock", "s", result.stock.seconds, case),
            measurement(
                "copy_bandwidth", "machine", "s", result.copy.series.seconds,
                {"dtype": result.dtype, "bytes": result.copy.size, "threads": settings.threads},
            ),
        ]  # fmt: skip
    failures = [result.failure for result in results if result.failure]
    return make_capsule(
        "add_rms_norm",
        f"{settings.megabytes}MiB",
        parameters=asdict(settings),
        measurements=entries,
        results={
            "cases": [
                {
                    "dtype": result.dtype,
                    "moved_bytes": result.moved_bytes,
                    "bytes_per_second": result.rate,
                    "copy_bytes_per_second": result.copy.bytes_per_second,
                    "share_of_copy_bandwidth": result.share,
                    "seconds": result.fused.median,
                    "stock_seconds": result.stock.median,
                    "stock_over_fused": result.stock.median / result.fused.median,
                    "error": result.error,
                }
                for result in results
            ],
            "failures": failures,
        },
        passed=not failures,
        command=command,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's options to ``parser``."""
    parser.description = _DESCRIPTION
    parser.add_argument("--megabytes", type=at_least(1), default=64, help="MiB of each input (64)")
    parser.add_argument("--width", type=at_least(1), default=2048, help="row length (%(default)s)")
    parser.add_argument(
        "--dtype",
        type=name_list(("bfloat16", "float16", "float32")),
        default=["bfloat16", "float32"],
        help="types (bfloat16,float32)",
    )
    parser.add_argument("--repeats", type=at_least(1), default=20, help="rounds (%(default)s)")
    add_run_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the benchmark as the parsed arguments say; returns the exit code."""
    return guarded("zmlx bench add-rms-norm", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    threads = begin_run(arguments)
    settings = Settings(
        arguments.megabytes,
        arguments.width,
        tuple(arguments.dtype),
        arguments.repeats,
        threads,
        arguments.seed,
    )
    results = bench_add_rms_norm(settings, progress=not arguments.no_progress)
    print("\n" + results_text(results, settings))
    if arguments.capsule:
        capsule = results_capsule(results, settings)
        print(f"Capsule {write_capsule(capsule, arguments.capsule)}")
    return end_run([result.failure for result in results if result.failure])


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``benchmarks/bench_add_rms_norm.py``; returns the exit code."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(argv))

"""Kernels made of formulas on a GPU against ``mx.compile``, MLX's own kernels and a copy."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import mlx.core as mx

from zmlx import lm
from zmlx.arguments import at_least, guarded, name_list
from zmlx.bench import kernels
from zmlx.bench.kernels import Case
from zmlx.bench.options import end_run
from zmlx.bench.timing import Series, slower
from zmlx.capsule import check_writable, make_capsule, measurement, write_capsule
from zmlx.environment import environment_lines
from zmlx.progress import Progress
from zmlx.table import format_table

_DESCRIPTION = """\
Times kernels made of formulas on the default device against mx.compile of the same formula (softmax
and RMS norm: against mx.softmax and mx.fast.rms_norm) and against copies of as many bytes, taking
turns in every round. Each time is that of a chain of calls, every one computing on the result of
the one before, divided by their number, so that the host's work and the wait for the result hide.
The copy is the fastest of several, round by round: the formula "x", MLX's negation, and on CUDA a
plain kernel in which each thread moves four times 16 bytes.
"""
_EPS = 1e-5
# Calls of a chain, at most.
_CHAIN_CALLS = 400
# Words are of 16 bytes.
_COPY_SOURCE = """
  const int first = blockIdx.x * 1024 + threadIdx.x;
  const float4* from = reinterpret_cast<const float4*>(from_array);
  float4* to = reinterpret_cast<float4*>(to_array);
  float4 moved[4];
  #pragma unroll
  for (int u = 0; u < 4; ++u) if (first + u * 256 < Words) moved[u] = from[first + u * 256];
  #pragma unroll
  for (int u = 0; u < 4; ++u) if (first + u * 256 < Words) to[first + u * 256] = moved[u];
"""


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        megabytes: of each array, in MiB.
        rows, width: of softmax and RMS norm.
        dtypes: types of the arrays.
        repeats: rounds.
        chain_bytes: that a chain of calls moves.
        seed: of the inputs.
    """

    megabytes: int = 256
    rows: int = 4096
    width: int = 4096
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    repeats: int = 15
    chain_bytes: int = 12 << 30
    seed: int = 0


def _rms_norm(width: int) -> Callable[[], Callable]:
    """One sum and an output; the second pass has nothing to do."""
    from zmlx import map_reduce

    return lambda: map_reduce(
        pass1={"init": "0.0f", "update": "acc1 + x * x", "reduce": "a + b"},
        pass2={"init": "0.0f", "update": "acc2", "reduce": "a"},
        write=f"x * rsqrt(s1 / {width} + {_EPS}f)",
        threadgroup="auto",
    )


def _swiglu(a: mx.array, b: mx.array) -> mx.array:
    return a / (1 + mx.exp(-a)) * b


def _mish(x: mx.array) -> mx.array:
    return x * mx.tanh(mx.log(1 + mx.exp(x)))


def all_cases(width: int) -> list[Case]:
    """The formulas of ``zmlx bench kernels`` and two more, compiled, and two of rows."""
    formulas = [case for case in kernels.all_cases() if not case.length]
    formulas += [
        Case("swiglu", kernels.elementwise_of("a / (1 + exp(-a)) * b"), _swiglu, 2, 5),
        Case("mish", kernels.elementwise_of("x * tanh(log(1 + exp(x)))"), _mish, 1, 5),
    ]
    rows = [
        Case("softmax", kernels.softmax, lambda x: mx.softmax(x, axis=-1), 1, 0, width),
        Case("rms_norm", _rms_norm(width), lambda x: mx.fast.rms_norm(x, None, _EPS), 1, 0, width),
    ]
    return [replace(case, stock=mx.compile(case.stock)) for case in formulas] + rows


@dataclass
class GpuResult:
    """Times of one formula in one type.

    Attributes:
        case: the formula.
        dtype: the type.
        moved_bytes: inputs read and the output written, of one call.
        copied_bytes: read and written, of one copy.
        calls: of a chain.
        error: largest difference from MLX's result in float32, relative to the largest value.
        kernel, stock: seconds of a call.
        copies: the same of every kind of copy, by its name.
    """

    case: Case
    dtype: str
    moved_bytes: int
    copied_bytes: int
    calls: int
    error: float
    kernel: Series = field(default_factory=Series)
    stock: Series = field(default_factory=Series)
    copies: dict[str, Series] = field(default_factory=dict)

    @property
    def best_copy(self) -> str:
        """The name of the fastest copy."""
        return min(self.copies, key=lambda name: self.copies[name].median)

    @property
    def rate(self) -> float:
        """Bytes moved per second."""
        return self.moved_bytes / self.kernel.median

    @property
    def copy_rate(self) -> float:
        """That of the fastest copy."""
        return self.copied_bytes / self.copies[self.best_copy].median

    @property
    def failure(self) -> str | None:
        """What is wrong with the result, if anything."""
        limit = 1e-5 if self.dtype == "float32" else 0.01
        if self.error <= limit:
            return None
        return f"{self.case.name} {self.dtype}: off MLX's result by {self.error:.2g}"


def copies(array: mx.array) -> dict[str, Callable[[mx.array], mx.array]]:
    """Ways to copy an array like this one, by name."""
    from zmlx import cuda_kernel

    named = {"formula": kernels.elementwise_of("x")(), "negative": mx.negative}
    if mx.cuda.is_available() and mx.default_device() == mx.gpu and array.nbytes % 16 == 0:
        plain = cuda_kernel("plain_copy", ["from_array"], ["to_array"], _COPY_SOURCE)
        blocks = -(-array.nbytes // (4 * 16 * 256))

        def copy(x: mx.array) -> mx.array:
            launch = {"grid": (256 * blocks, 1, 1), "threadgroup": (256, 1, 1)}
            shape = {"output_shapes": [x.shape], "output_dtypes": [x.dtype]}
            template = [("Words", x.nbytes // 16)]
            return plain(x, **launch, **shape, template=template)[0]

        named["plain kernel"] = copy
    return named


def _chain(function: Callable, calls: int, first: mx.array, *rest: mx.array) -> float:
    """Seconds of one of so many calls, each on the result of the one before."""
    y = first
    for _ in range(calls):
        y = function(y, *rest)
    tic = time.perf_counter()
    mx.eval(y)
    return (time.perf_counter() - tic) / calls


def bench_kernels_gpu(settings: Settings, *, progress: bool = False) -> list[GpuResult]:
    """Measures every case in every type."""
    limit = mx.set_cache_limit(3 * settings.chain_bytes)
    try:
        with Progress("kernels", None, enabled=progress, unit="chain") as bar:
            return [
                _measure(case, dtype, settings, bar)
                for dtype in settings.dtypes
                for case in all_cases(settings.width)
            ]
    finally:
        mx.set_cache_limit(limit)
        mx.clear_cache()


def _measure(case: Case, dtype: str, settings: Settings, bar: Progress) -> GpuResult:
    bar.stage(f"{case.name} {dtype}")
    kind = lm.parse_dtype(dtype)
    shape = (
        (settings.rows, case.length) if case.length else ((settings.megabytes << 20) // kind.size,)
    )
    keys = mx.random.split(mx.random.key(settings.seed), case.inputs)
    inputs = [mx.random.normal(shape, key=key).astype(kind) for key in keys]
    mx.eval(inputs)
    nbytes = inputs[0].nbytes
    moved = nbytes * (case.inputs + 1)
    kernel = case.make()
    calls = max(1, min(settings.chain_bytes // moved, _CHAIN_CALLS))
    result = GpuResult(case, dtype, moved, 2 * nbytes, calls, _error(kernel, case.stock, inputs))
    mx.clear_cache()
    copying = copies(inputs[0])
    result.copies = {name: Series() for name in copying}
    turns = [(kernel, result.kernel, inputs), (case.stock, result.stock, inputs)]
    turns += [(copying[name], result.copies[name], inputs[:1]) for name in copying]
    for function, _, arrays in turns:
        _chain(function, calls, *arrays)
    for _ in range(settings.repeats):
        for function, series, arrays in turns:
            series.seconds.append(_chain(function, calls, *arrays))
            bar.advance()
    return result


def _error(kernel: Callable, stock: Callable, inputs: list[mx.array]) -> float:
    """On a part of the inputs."""
    part = [x[: max(1, (1 << 22) * x.shape[0] // x.size)] for x in inputs]
    own = kernel(*part).astype(mx.float32)
    exact = stock(*(x.astype(mx.float32) for x in part))
    return float((mx.abs(own - exact).max() / mx.abs(exact).max()).item())


def results_text(results: list[GpuResult], settings: Settings) -> str:
    """The table, for people."""
    rows = [
        [
            result.case.name
            + (f" ({settings.rows}, {settings.width})" if result.case.length else ""),
            result.dtype,
            f"{1e6 * result.kernel.median:.1f}",
            f"{100 * result.kernel.spread:.1f} %",
            f"{result.rate / 1e9:.0f}",
            f"{result.copy_rate / 1e9:.0f}",
            result.best_copy,
            f"{100 * result.rate / result.copy_rate:.0f} %",
            f"{1e6 * result.stock.median:.1f}",
            f"{100 * result.stock.spread:.1f} %",
            f"{result.stock.median / result.kernel.median:.2f}",
        ]
        for result in results
    ]
    header = ["formula", "type", "us", "spread", "GB/s", "copy GB/s", "copy is", "of copy"]
    header += ["MLX us", "spread", "x MLX"]
    return "\n".join(
        [
            f"kernels: arrays of {settings.megabytes} MiB; MLX is mx.compile of the formula, or "
            "mx.softmax and mx.fast.rms_norm",
            *format_table(header, rows, right=[2, 3, 4, 5, 7, 8, 9, 10]),
        ]
    )


def results_capsule(
    results: list[GpuResult], settings: Settings, command: list[str] | None = None
) -> dict[str, Any]:
    """The run as a capsule (see :mod:`zmlx.capsule`)."""
    entries = []
    for result in results:
        case = {"formula": result.case.name, "dtype": result.dtype, "calls": result.calls}
        entries.append(measurement("kernel", "fused", "s", result.kernel.seconds, case))
        entries.append(measurement("kernel", "stock", "s", result.stock.seconds, case))
        entries += [
            measurement("copy", name, "s", series.seconds, case)
            for name, series in result.copies.items()
        ]
    failures = [result.failure for result in results if result.failure]
    return make_capsule(
        "kernels_gpu",
        f"{settings.megabytes}MiB",
        parameters=asdict(settings),
        measurements=entries,
        results={
            "cases": [
                {
                    "formula": result.case.name,
                    "dtype": result.dtype,
                    "operations": result.case.operations,
                    "length": result.case.length,
                    "moved_bytes": result.moved_bytes,
                    "seconds": result.kernel.median,
                    "bytes_per_second": result.rate,
                    "copy": result.best_copy,
                    "copy_bytes_per_second": result.copy_rate,
                    "share_of_copy_bandwidth": result.rate / result.copy_rate,
                    "stock_seconds": result.stock.median,
                    "stock_over_kernel": result.stock.median / result.kernel.median,
                    "slower_than_stock": slower(result.kernel, result.stock),
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
    parser.add_argument(
        "--megabytes", type=at_least(1), default=256, help="MiB of each array (256)"
    )
    parser.add_argument("--rows", type=at_least(1), default=4096, help="(%(default)s)")
    parser.add_argument("--width", type=at_least(1), default=4096, help="of rows (%(default)s)")
    parser.add_argument(
        "--dtype",
        type=name_list(("bfloat16", "float16", "float32")),
        default=["float32", "bfloat16"],
        help="types (float32,bfloat16)",
    )
    parser.add_argument("--repeats", type=at_least(1), default=15, help="rounds (%(default)s)")
    parser.add_argument(
        "--chain-megabytes",
        type=at_least(1),
        default=12 << 10,
        help="MiB that a chain of calls moves (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--capsule", metavar="DIR", help="write repro capsules into this folder")
    parser.add_argument("--no-progress", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Runs the benchmark as the parsed arguments say; returns the exit code."""
    return guarded("zmlx bench kernels-gpu", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.capsule:
        check_writable(arguments.capsule)
    print("\n".join(environment_lines()), flush=True)
    settings = Settings(
        arguments.megabytes,
        arguments.rows,
        arguments.width,
        tuple(arguments.dtype),
        arguments.repeats,
        arguments.chain_megabytes << 20,
        arguments.seed,
    )
    results = bench_kernels_gpu(settings, progress=not arguments.no_progress)
    print("\n" + results_text(results, settings))
    if arguments.capsule:
        path = write_capsule(results_capsule(results, settings), arguments.capsule)
        print(f"Capsule {path}")
    return end_run([result.failure for result in results if result.failure])


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``benchmarks/bench_kernels_gpu.py``; returns the exit code."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(argv))

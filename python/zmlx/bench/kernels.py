"""Kernels made of formulas against MLX's composition of the same, and a copy's bandwidth."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import mlx.core as mx

from zmlx.arguments import at_least, guarded
from zmlx.bench.options import add_run_options, begin_run, end_run
from zmlx.bench.timing import Bandwidth, Series, roomy_cache
from zmlx.capsule import make_capsule, measurement, write_capsule
from zmlx.progress import Progress
from zmlx.table import format_table

_DESCRIPTION = """\
Times kernels made of formulas on float32 arrays against MLX's composition of the same formula, with
the machine's copy bandwidth measured in between, and what a first and a later call of a small
kernel cost. The copy reads as many bytes as an input has and writes as many past the caches, from
and to pages that are mapped already. A last-level cache of half an array's size takes some passes
to keep a part of what is read again and again, so copy and kernel have as many in turn, and shares
are of the best pass of each. What arithmetic alone would take is worked out from the
formula's multiplications and from the rate of multiply-adds that a long polynomial reaches in the
cache; the floor is the larger of that and the copy's time. MLX's cache is made large enough to hold
outputs and temporaries of both, so that neither waits for the system to map pages.
"""


@dataclass(frozen=True)
class Case:
    """One formula.

    Attributes:
        name: of the case.
        make: makes the kernel.
        stock: MLX's composition.
        inputs: arrays that both take.
        operations: of the formula, as MLX counts them; 0 for reductions.
        length: of a row; 0 for the bench's own.
        multiplications: the least that an element needs, in multiply-adds' time (see `_EXP`).
    """

    name: str
    make: Callable[[], Callable]
    stock: Callable
    inputs: int = 1
    operations: int = 0
    length: int = 0
    multiplications: int = 0


# What functions need of the units that multiply, in float32 to two units in the last place: exp
# three to take multiples of log(2) / 32 off and three for a polynomial of degree two and a table's
# product; a division as long as five (measured on Zen 5).
_EXP, _DIVIDE = 6, 5


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        megabytes: of each input, in MiB.
        repeats: rounds.
        passes: of a copy and then of the kernel in each round.
        threads: of the kernels and of the bandwidth measurement.
        seed: of the inputs.
    """

    megabytes: int = 64
    repeats: int = 15
    passes: int = 6
    threads: int = 1
    seed: int = 0


def elementwise_of(formula: str) -> Callable[[], Callable]:
    """What makes the kernel of a formula."""
    from zmlx import elementwise

    return lambda: elementwise(formula)


def softmax() -> Callable:
    """The kernel of two passes."""
    from zmlx import map_reduce

    return map_reduce(
        pass1={"init": "-INFINITY", "update": "max(acc1, x)", "reduce": "max(a, b)"},
        pass2={"init": "0.0f", "update": "acc2 + exp(x - s1)", "reduce": "a + b"},
        write="exp(x - s1) / s2",
        threadgroup="auto",
    )


def _norm2() -> Callable:
    from zmlx import reduce

    return reduce(init="0", update="acc + v * v", finalize="sqrt(s)")


def _stock_softmax(x: mx.array) -> mx.array:
    return mx.softmax(x, axis=-1)


def _geglu(a: mx.array, b: mx.array) -> mx.array:
    return 0.5 * a * (1 + mx.tanh(0.7978845608 * (a + 0.044715 * a * a * a))) * b


def _horner(x: mx.array) -> mx.array:
    total = x * 0.0014
    for c in (0.0083, 0.0417, 0.1667, 0.5, 1.0):
        total = (total + c) * x
    return total + 1.0


def _mixture(x: mx.array) -> mx.array:
    left, right = x - 1.0, x + 1.0
    return 0.25 * mx.exp(-0.5 * left * left) + 0.75 * mx.exp(-0.5 * right * right)


def _huber(a: mx.array, b: mx.array) -> mx.array:
    d = a - b
    size = mx.abs(d)
    return mx.where(size < 1.0, 0.5 * d * d, size - 0.5) + 0.01 * a * a


def _mish_gate(a: mx.array, b: mx.array) -> mx.array:
    return a * mx.tanh(mx.log(1.0 + mx.exp(a))) * b + 0.5 * (a - b) * 2.0 - 1.0


def all_cases() -> list[Case]:
    """Memory-bound formulas, formulas of ten or more operations, and rows."""
    return [
        Case("x * 2 + 1", elementwise_of("x * 2 + 1"), lambda x: x * 2 + 1, 1, 2, 0, 1),
        Case("max(x, 0)", elementwise_of("max(x, 0)"), lambda x: mx.maximum(x, 0), 1, 1),
        Case("a * b + a", elementwise_of("a * b + a"), lambda a, b: a * b + a, 2, 2, 0, 1),
        Case(
            "geglu",
            elementwise_of(
                "0.5f * a * (1 + tanh(0.7978845608f * (a + 0.044715f * a * a * a))) * b"
            ),
            _geglu, 2, 10, 0, 6 + _EXP + _DIVIDE,
        ),
        Case(
            "polynomial",
            elementwise_of(
                "((((((0.0014f*x + 0.0083f)*x + 0.0417f)*x + 0.1667f)*x + 0.5f)*x + 1)*x + 1)"
            ),
            _horner, 1, 12, 0, 6,
        ),
        Case(
            "gaussians",
            elementwise_of(
                "let l = x - 1; let r = x + 1; 0.25f * exp(-0.5f*l*l) + 0.75f * exp(-0.5f*r*r)"
            ),
            _mixture, 1, 11, 0, 6 + 2 * _EXP,
        ),
        Case(
            "huber",
            elementwise_of(
                "let d = a - b; (abs(d) < 1 ? 0.5f*d*d : abs(d) - 0.5f) + 0.01f*a*a"
            ),
            _huber, 2, 10, 0, 4,
        ),
        Case(
            "mish gate",
            elementwise_of("a * tanh(log(1 + exp(a))) * b + 0.5f * (a - b) * 2 - 1"),
            _mish_gate, 2, 11, 0, 3 + _EXP + _DIVIDE,
        ),
        Case("softmax", softmax, _stock_softmax, 1, 0, 1024, _EXP + _DIVIDE),
        Case("softmax", softmax, _stock_softmax, 1, 0, 32768, _EXP + _DIVIDE),
        Case("norm", _norm2, lambda x: mx.sqrt(mx.sum(x * x, -1)), 1, 0, 1024, 1),
    ]  # fmt: skip


@dataclass
class KernelResult:
    """Times of one formula.

    Attributes:
        case: the formula.
        moved_bytes: inputs read and the output written.
        kernel: times of the kernel.
        stock: times of MLX's composition.
        shares: the kernel's bytes per second over a copy's, each the best of a round.
        arithmetic: seconds that the multiplications alone take on all threads.
        floor_shares: the larger of that and the time of a copy as large, over the kernel's time.
        copy: copy bandwidth.
        error: largest difference from MLX's result, relative to the largest value.
    """

    case: Case
    moved_bytes: int
    kernel: Series
    stock: Series
    shares: list[float]
    copy: Bandwidth
    error: float
    arithmetic: float = 0.0
    floor_shares: list[float] = field(default_factory=list)

    @property
    def floor_share(self) -> float:
        """How near the kernel comes to its floor: the median of the rounds."""
        return statistics.median(self.floor_shares)

    @property
    def rate(self) -> float:
        """Bytes moved per second."""
        return self.moved_bytes / self.kernel.median

    @property
    def share(self) -> float:
        """That, over a copy's: the median of the rounds."""
        return statistics.median(self.shares)

    @property
    def failure(self) -> str | None:
        """What is wrong with the result, if anything."""
        if self.error <= 1e-5:
            return None
        return f"{self.case.name}: off MLX's result by {self.error:.2g}"


def bench_kernels(settings: Settings, *, progress: bool = False) -> list[KernelResult]:
    """Measures every case."""
    from zmlx import _ext

    _ext.set_num_threads(settings.threads)
    progress_bar = Progress("kernels", None, enabled=progress, unit="call")
    with roomy_cache(settings.megabytes), progress_bar as bar:
        return [_measure(case, settings, bar) for case in all_cases()]


def multiply_add_seconds(repeats: int = 200) -> float:
    """Seconds of a multiply-add of one element on one thread.

    Of two polynomials in the second-level cache, one with 72 coefficients more: what reading,
    writing and calling take is the same for both.
    """
    from zmlx import _ext, elementwise

    def polynomial(degree: int) -> Callable:
        formula = "0.5f"
        for i in range(degree):
            formula = f"({formula} * x + 0.{i + 1:03}f)"
        return elementwise(formula)

    threads = _ext.num_threads()
    _ext.set_num_threads(1)
    try:
        x = mx.random.uniform(-1.0, 1.0, (1 << 16,))
        pair = [(polynomial(18), Series()), (polynomial(90), Series())]
        for kernel, _ in pair:
            mx.eval(x, kernel(x))
        for _ in range(repeats):
            for kernel, series in pair:
                series.time(lambda kernel=kernel: kernel(x))
        short, long = (min(series.seconds) for _, series in pair)
        return (long - short) / 72 / x.size
    finally:
        _ext.set_num_threads(threads)


def _measure(case: Case, settings: Settings, bar: Progress) -> KernelResult:
    bar.stage(f"{case.name} {case.length or ''}")
    length = case.length or 1024
    bytes_each = settings.megabytes << 20
    rows = max(1, bytes_each // 4 // length)
    keys = mx.random.split(mx.random.key(settings.seed), case.inputs)
    inputs = [mx.random.normal((rows, length), key=key) for key in keys]
    mx.eval(inputs)
    kernel = case.make()
    own, stock = kernel(*inputs), case.stock(*inputs)
    mx.eval(own, stock)
    error = float((mx.abs(own - stock).max() / mx.abs(stock).max()).item())
    moved = 4 * (rows * length * case.inputs + own.size)
    result = KernelResult(
        case, moved, Series(), Series(), [],
        Bandwidth("copy", settings.threads, bytes_each), error,
    )  # fmt: skip
    del own, stock
    copies, units, bests = [], [], []
    for _ in range(settings.repeats):
        result.copy.sample(settings.passes)
        for _ in range(settings.passes):
            result.kernel.time(lambda: kernel(*inputs))
        copy = min(result.copy.series.seconds[-settings.passes :])
        best = min(result.kernel.seconds[-settings.passes :])
        result.shares.append(moved / best / (2 * bytes_each / copy))
        copies.append(copy * moved / (2 * bytes_each) / best)
        # In every round, as processors change their clock; the fastest is nearest to a floor.
        units.append(multiply_add_seconds(20) / settings.threads)
        bests.append(best)
        bar.advance(4)
    result.arithmetic = case.multiplications * rows * length * min(units)
    result.floor_shares = [
        max(share, result.arithmetic / best) for share, best in zip(copies, bests, strict=True)
    ]
    for _ in range(max(3, settings.repeats // 4)):
        result.stock.time(lambda: case.stock(*inputs))
        bar.advance()
    return result


@dataclass
class CallResult:
    """What calls cost on 16 elements, in seconds.

    Attributes:
        first: defining, calling and evaluating a kernel that was not there before.
        later: building and evaluating a chain of calls, for each.
        stock: the same of ``mx.sigmoid``.
    """

    first: Series
    later: Series
    stock: Series

    @property
    def added(self) -> float:
        """What a later call takes beyond MLX's own operation."""
        return self.later.median - self.stock.median


def bench_calls(repeats: int = 25, chain: int = 200) -> CallResult:
    """Measures first and later calls."""
    from zmlx import elementwise

    x = mx.ones(16)
    result = CallResult(Series(), Series(), Series())
    for i in range(repeats):
        tic = time.perf_counter()
        # A constant of its own makes each a new formula.
        mx.eval(elementwise(f"x / (1 + exp(-x)) + {i}.5f * tanh(x)", name=f"call{tic}")(x))
        result.first.seconds.append(time.perf_counter() - tic)
    kernel = elementwise("sigmoid(x)")
    for _ in range(repeats):
        for series, function in ((result.later, kernel), (result.stock, mx.sigmoid)):
            tic = time.perf_counter()
            y = x
            for _ in range(chain):
                y = function(y)
            mx.eval(y)
            series.seconds.append((time.perf_counter() - tic) / chain)
    return result


def results_text(results: list[KernelResult], calls: CallResult, settings: Settings) -> str:
    """The table, for people."""
    rows = [
        [
            result.case.name + (f", rows of {result.case.length}" if result.case.length else ""),
            f"{1e3 * result.kernel.median:.2f}",
            f"{result.rate / 1e9:.1f}",
            f"{result.copy.bytes_per_second / 1e9:.1f}",
            f"{100 * result.share:.0f} %",
            f"{1e3 * result.arithmetic:.2f}",
            f"{100 * result.floor_share:.0f} %",
            f"{1e3 * result.stock.median:.1f}",
            f"{result.stock.median / result.kernel.median:.1f}",
        ]
        for result in results
    ]
    header = [
        "formula",
        "time ms",
        "GB/s",
        "copy GB/s",
        "of copy",
        "arithmetic ms",
        "of floor",
        "MLX ms",
        "x MLX",
    ]
    return "\n".join(
        [
            f"kernels: inputs of {settings.megabytes} MiB float32, {settings.threads} threads",
            *format_table(header, rows, right=range(1, len(header))),
            f"first call {1e6 * calls.first.median:.0f} us, later calls "
            f"{1e6 * calls.later.median:.2f} us, mx.sigmoid {1e6 * calls.stock.median:.2f} us",
        ]
    )


def results_capsule(
    results: list[KernelResult],
    calls: CallResult,
    settings: Settings,
    command: list[str] | None = None,
) -> dict[str, Any]:
    """The run as a capsule (see :mod:`zmlx.capsule`)."""
    entries = []
    for result in results:
        case = {"formula": result.case.name, "length": result.case.length}
        entries += [
            measurement("kernel", "fused", "s", result.kernel.seconds, case),
            measurement("kernel", "stock", "s", result.stock.seconds, case),
            measurement(
                "copy_bandwidth", "machine", "s", result.copy.series.seconds,
                {**case, "bytes": result.copy.size, "threads": settings.threads},
            ),
        ]  # fmt: skip
    for what, variant, series in (
        ("first_call", "fused", calls.first),
        ("later_call", "fused", calls.later),
        ("later_call", "stock", calls.stock),
    ):
        entries.append(measurement(what, variant, "s", series.seconds, {"elements": 16}))
    failures = [result.failure for result in results if result.failure]
    # Memory whose speed changes gives runs that stand beside each other.
    rate = statistics.median(result.copy.bytes_per_second for result in results)
    return make_capsule(
        "kernels",
        f"{settings.megabytes}MiB-copy-{max(10, round(rate / 1e10) * 10)}-GB-a-second",
        parameters=asdict(settings),
        measurements=entries,
        results={
            "cases": [
                {
                    "formula": result.case.name,
                    "operations": result.case.operations,
                    "length": result.case.length,
                    "moved_bytes": result.moved_bytes,
                    "seconds": result.kernel.median,
                    "bytes_per_second": result.rate,
                    "copy_bytes_per_second": result.copy.bytes_per_second,
                    "share_of_copy_bandwidth": result.share,
                    "arithmetic_seconds": result.arithmetic,
                    "share_of_floor": result.floor_share,
                    "stock_seconds": result.stock.median,
                    "stock_over_kernel": result.stock.median / result.kernel.median,
                    "error": result.error,
                }
                for result in results
            ],
            "first_call_seconds": calls.first.median,
            "later_call_seconds": calls.later.median,
            "stock_call_seconds": calls.stock.median,
            "failures": failures,
        },
        passed=not failures,
        command=command,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's options to ``parser``."""
    parser.description = _DESCRIPTION
    parser.add_argument("--megabytes", type=at_least(1), default=64, help="MiB of each input (64)")
    parser.add_argument("--repeats", type=at_least(1), default=15, help="rounds (%(default)s)")
    parser.add_argument(
        "--passes", type=at_least(1), default=6, help="of copy and kernel in a round (%(default)s)"
    )
    add_run_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the benchmark as the parsed arguments say; returns the exit code."""
    return guarded("zmlx bench kernels", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    threads = begin_run(arguments)
    settings = Settings(
        arguments.megabytes, arguments.repeats, arguments.passes, threads, arguments.seed
    )
    results = bench_kernels(settings, progress=not arguments.no_progress)
    calls = bench_calls()
    print("\n" + results_text(results, calls, settings))
    if arguments.capsule:
        capsule = results_capsule(results, calls, settings)
        print(f"Capsule {write_capsule(capsule, arguments.capsule)}")
    return end_run([result.failure for result in results if result.failure])


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``benchmarks/bench_kernels.py``; returns the exit code."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(argv))

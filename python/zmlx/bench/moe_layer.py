"""One MoE layer, stock against patched: time, bandwidth, ratio."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from zmlx import lm
from zmlx.bench.layer import MoELayer, Rotation, build_layer, in_type, inputs, layers_needed
from zmlx.bench.shapes import LayerShape
from zmlx.bench.timing import Bandwidth, Series, slower
from zmlx.machine import bandwidth_buffer_bytes, last_level_cache_bytes
from zmlx.progress import Progress

# Weights must come from memory: this many times the last-level cache lies between two uses.
_CACHE_MULTIPLE = 4
# Tokens from which the comparison guards prompts: patched must not be slower than stock.
GUARD_TOKENS = 16
# Root mean square error, relative to stock's float32 result, above which a result is wrong. 16-bit
# types round activations to 8 or 11 bits; their error is below 1 %.
_ERROR_LIMITS = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.02}


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        tokens: every M.
        dtypes: of the patched layer.
        repeats: timed rounds.
        burst: timed calls of the patched layer in a row in each round, after one that is not timed.
            A model decodes without pause too; the first calls after other work find its data in
            the caches and its addresses in the page tables' caches.
        seconds: time after which a case's rounds end, once there were 3.
        stock_seconds: time after which stock is not called again in a case.
        no_stock_16bit_above: M beyond which stock is not run in 16-bit types; ``None``: always.
        threads: of the kernels and of the bandwidth measurement.
        cpu_target: SIMD target to force; "": the best.
        seed: of weights and activations.
    """

    tokens: tuple[int, ...] = (1, 4, 16, 64)
    dtypes: tuple[str, ...] = ("bfloat16",)
    repeats: int = 20
    burst: int = 12
    seconds: float = 20.0
    stock_seconds: float = 20.0
    no_stock_16bit_above: int | None = None
    threads: int = 1
    cpu_target: str = ""
    seed: int = 0

    @property
    def stock_dtypes(self) -> tuple[str, ...]:
        """Types in which stock is measured: the patched ones, bfloat16 and float32."""
        return tuple(dict.fromkeys([*self.dtypes, "bfloat16", "float32"]))


@dataclass
class Case:
    """Times of one M.

    Attributes:
        tokens: M.
        distinct: distinct experts that a call reads.
        reuse_bytes: least expert bytes read between two uses of an expert.
        patched: times by type.
        stock: times by type; a type that was left out is missing.
        paths: which paths the patched layer took, by type.
        errors: root mean square error against stock float32, relative, by type.
    """

    tokens: int
    distinct: int
    reuse_bytes: int
    patched: dict[str, Series] = field(default_factory=dict)
    stock: dict[str, Series] = field(default_factory=dict)
    paths: dict[str, list[str]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


@dataclass
class LayerResult:
    """Measurements of one layer.

    Attributes:
        shape: the layer.
        settings: what was asked for.
        layers: how many layers' weights were built.
        cases: one for each M.
        bandwidth: read bandwidth, measured between the calls.
    """

    shape: LayerShape
    settings: Settings
    layers: int
    cases: list[Case]
    bandwidth: Bandwidth

    def weight_bytes(self, case: Case, dtype: str) -> int:
        """Bytes of weights, scales and biases that a call reads."""
        return case.distinct * self.shape.expert_bytes(lm.parse_dtype(dtype).size)

    def rate(self, case: Case, dtype: str) -> float:
        """Weight bytes per second of the patched layer."""
        return self.weight_bytes(case, dtype) / case.patched[dtype].median

    def share(self, case: Case, dtype: str) -> float:
        """That, over the read bandwidth."""
        return self.rate(case, dtype) / self.bandwidth.bytes_per_second

    def flops(self, case: Case, dtype: str) -> float:
        """Floating-point operations per second of the patched layer."""
        return self.shape.flops(case.tokens) / case.patched[dtype].median

    def ratio(self, case: Case, dtype: str, stock: str) -> float | None:
        """Stock's time in type ``stock`` over the patched layer's time in ``dtype``."""
        series = case.stock.get(stock)
        return series.median / case.patched[dtype].median if series else None

    def failures(self) -> list[str]:
        """What is wrong: results that differ, or a prompt that patching makes slower."""
        found = []
        for case, dtype in itertools.product(self.cases, self.settings.dtypes):
            where = f"{self.shape.name} {self.shape.format}, M = {case.tokens}, {dtype}"
            error = case.errors[dtype]
            if not error <= _ERROR_LIMITS[dtype]:
                found.append(f"{where}: the result differs from stock float32 by {error:.2g}")
            # The type that patching would replace; where it was too slow to run, float32.
            stock = dtype if dtype in case.stock else "float32"
            if case.tokens >= GUARD_TOKENS and slower(case.patched[dtype], case.stock[stock]):
                found.append(
                    f"{where}: patched takes {1e3 * case.patched[dtype].median:.1f} ms, stock "
                    f"{stock} {1e3 * case.stock[stock].median:.1f} ms"
                )
        return found


def bench_layer(shape: LayerShape, settings: Settings, *, progress: bool = False) -> LayerResult:
    """Measures one layer.

    Raises:
        ValueError: if the layer cannot be built in this format.
    """
    from zmlx import _ext

    shape.check()
    _ext.set_num_threads(settings.threads)
    if settings.cpu_target:
        _ext.set_cpu_target(settings.cpu_target)
    wanted = _CACHE_MULTIPLE * (last_level_cache_bytes() or 32 << 20)
    scale_bytes = min(lm.parse_dtype(dtype).size for dtype in settings.dtypes)
    layers = layers_needed(shape, list(settings.tokens), scale_bytes, wanted)
    bandwidth = Bandwidth("read", settings.threads, bandwidth_buffer_bytes())
    result = LayerResult(shape, settings, layers, [], bandwidth)
    with Progress(shape.name, None, enabled=progress, unit="call") as bar:
        bar.stage(f"{shape.name} {shape.format}: building {layers} layer(s)")
        variants = _build(shape, settings, layers)
        for tokens in settings.tokens:
            bar.stage(f"{shape.name} {shape.format}: M = {tokens}")
            result.cases.append(_measure(variants, tokens, result, bar.advance))
    return result


def _build(
    shape: LayerShape, settings: Settings, layers: int
) -> dict[tuple[str, str], list[MoELayer]]:
    """The layers of each (variant, dtype); all share the quantized weights."""
    from zmlx.patch import patch

    variants: dict[tuple[str, str], list[MoELayer]] = {}
    for number in range(layers):
        base = build_layer(shape, mx.bfloat16, settings.seed + number)
        for dtype in settings.stock_dtypes:
            variants.setdefault(("stock", dtype), []).append(in_type(base, lm.parse_dtype(dtype)))
        for dtype in settings.dtypes:
            patched = patch(in_type(base, lm.parse_dtype(dtype)))
            variants.setdefault(("patched", dtype), []).append(patched)
    return variants


class _Calls:
    """Calls of one M: every call, of whichever variant, takes the next experts of the rotation."""

    def __init__(
        self, variants: dict[tuple[str, str], list[MoELayer]], rotation: Rotation, seed: int
    ):
        self._variants = variants
        # The rotation repeats; a few hundred index arrays are enough and small.
        count = min(512, rotation.layers * rotation.shape.experts)
        self._arguments = {
            dtype: list(inputs(rotation, lm.parse_dtype(dtype), range(count), seed))
            for dtype in {dtype for _, dtype in variants}
        }
        self._count = count
        self._next = 0

    def call(self, variant: str, dtype: str, number: int | None = None) -> mx.array:
        """The unevaluated result of the next call, or of call ``number``."""
        if number is None:
            number = self._next
            self._next += 1
        layer, arguments = self._arguments[dtype][number % self._count]
        return self._variants[variant, dtype][layer](*arguments)


def _measure(
    variants: dict[tuple[str, str], list[MoELayer]],
    tokens: int,
    result: LayerResult,
    advance: Callable[[int], None],
) -> Case:
    settings, shape = result.settings, result.shape
    rotation = Rotation(shape, tokens, result.layers)
    scale_bytes = min(lm.parse_dtype(dtype).size for dtype in settings.dtypes)
    case = Case(tokens, rotation.distinct, rotation.reuse_bytes(shape.expert_bytes(scale_bytes)))
    calls = _Calls(variants, rotation, settings.seed)
    _check(calls, case, settings)

    skip = settings.no_stock_16bit_above
    stock = [
        dtype
        for dtype in settings.stock_dtypes
        if dtype == "float32" or skip is None or tokens <= skip
    ]
    case.patched = {dtype: Series() for dtype in settings.dtypes}
    case.stock = {dtype: Series() for dtype in stock}
    for number in range(settings.repeats):
        result.bandwidth.sample()
        for dtype, series in case.patched.items():
            mx.eval(calls.call("patched", dtype))  # threads wake up, code is in the cache
            for _ in range(settings.burst):
                series.time(lambda dtype=dtype: calls.call("patched", dtype))
                advance(1)
        for dtype, series in case.stock.items():
            if not series.seconds or series.total + series.median <= settings.stock_seconds:
                series.time(lambda dtype=dtype: calls.call("stock", dtype))
                advance(1)
        spent = sum(series.total for series in case.patched.values())
        if number >= 2 and spent > settings.seconds:
            break
    return case


def _check(calls: _Calls, case: Case, settings: Settings) -> None:
    """Compares a result with stock float32's, and notes which path the patched layer takes."""
    import zmlx

    truth = np.array(calls.call("stock", "float32", 0).astype(mx.float32), dtype=np.float64)
    for dtype in settings.dtypes:
        # 16-bit activations are rounded copies of the float32 ones; that is part of the error.
        own = np.array(calls.call("patched", dtype, 0).astype(mx.float32), dtype=np.float64)
        case.errors[dtype] = float(np.sqrt(np.mean((own - truth) ** 2) / np.mean(truth**2)))
        records = zmlx.explain(lambda dtype=dtype: calls.call("patched", dtype, 0))
        case.paths[dtype] = [
            f"{record.op}: {record.path}" + (f" ({record.reason})" if record.reason else "")
            for record in records
        ]

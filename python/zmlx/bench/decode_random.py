"""Decoding of a full-size model with random weights, stock against patched.

Both are there at once and share every array, so that runs can take turns in one process without
patching anew: a patched model works out some things at its first call.
"""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from zmlx import lm
from zmlx.bench.host_time import StepTimes, measure_steps
from zmlx.bench.timing import Series, slower
from zmlx.lm.random_model import Format, RandomModel, build_random
from zmlx.patch import patch, report
from zmlx.progress import Progress
from zmlx.validate.identity import Identity, alternate, compare_greedy
from zmlx.validate.patching import summary_lines
from zmlx.validate.verdict import Speed

MEMORY_LIMIT = 1.05
# A slower prompt counts from so many runs on, since fewer have no spread, and from this excess on:
# with the same kernels on both sides, medians of two series differ by a percent.
GUARD_RUNS = 4
GUARD_EXCESS = 0.02
VARIANTS = ("stock", "patched")


@dataclass(frozen=True)
class RandomSettings:
    """What to measure.

    Attributes:
        model: a known configuration's name, or the path of one.
        form: of the weights; ``None``: the model's own.
        layers: ``None``: all.
        prompt_tokens: length of the prompt, which is random.
        max_tokens: generated tokens in each run.
        cache_step: tokens that the caches of keys and values grow by; ``None``: mlx-lm's own.
        runs: repetitions.
        dtypes: types to compute in.
        threads: of the kernels.
        seed: of weights and prompt, and draws the order of stock and patched in each run.
    """

    model: str
    form: Format | None = None
    layers: int | None = None
    prompt_tokens: int = 512
    max_tokens: int = 64
    cache_step: int | None = None
    runs: int = 5
    dtypes: tuple[str, ...] = ("bfloat16",)
    threads: int = 1
    seed: int = 0


@dataclass
class RandomCase:
    """Measurements in one type.

    Attributes:
        speed: tokens per second of both.
        identity: of the tokens of all runs.
        judged: whether different tokens are a failure: not in 16-bit types on the CPU, and nowhere
            if stock's own runs differ from one another.
        steps: where each run's time goes, by variant.
        peak_bytes: MLX's peak memory of a run, weights included, by variant.
        held_bytes: memory that the patched model holds on to beyond stock's.
        patched: what was replaced, in lines of text.
    """

    speed: Speed
    identity: Identity
    judged: bool
    steps: dict[str, list[StepTimes]]
    peak_bytes: dict[str, int]
    held_bytes: int
    patched: list[str]

    @property
    def dtype(self) -> str:
        """The type that the models computed in."""
        return self.speed.dtype

    @property
    def distinct_tokens(self) -> int:
        """How many different tokens stock generated in a run; few would prove little."""
        return len(set(self.identity.stock[0][0].tokens))

    @property
    def total_tokens(self) -> int:
        """Tokens that stock generated in all runs."""
        return sum(len(generation.tokens) for (generation,) in self.identity.stock)

    def prompt_series(self, variant: str) -> Series:
        """Seconds of each run's prompt."""
        return Series([found.prompt_seconds for (found,) in getattr(self.identity, variant)])

    def slower_prompt(self) -> bool | None:
        """Whether patching slows the prompt down beyond the noise; ``None``: too few runs."""
        patched, stock = (self.prompt_series(name) for name in ("patched", "stock"))
        if len(stock.seconds) < GUARD_RUNS:
            return None
        return slower(patched, stock) and patched.median > (1 + GUARD_EXCESS) * stock.median

    def copies_weights(self, weight_bytes: int) -> bool:
        """Whether the patched model holds more than 1 % of the weights again."""
        return self.held_bytes > 0.01 * weight_bytes

    def failures(self) -> list[str]:
        """What is wrong: different tokens, a slower prompt, more memory."""
        found = []
        excused = len(self.identity.stock) > 1 and not self.identity.stock_repeats
        if self.judged and not self.identity.ok and not excused:
            divergence = self.identity.divergence
            found.append(f"{self.dtype}: {divergence.sentence() if divergence else 'no tokens'}")
        if self.slower_prompt():
            ratio = self.speed.ratio("prompt")
            found.append(f"{self.dtype}: the prompt has {ratio:.3f} times the speed of stock")
        ratio = self.peak_bytes["patched"] / self.peak_bytes["stock"]
        if ratio > MEMORY_LIMIT:
            found.append(f"{self.dtype}: patched needs {ratio:.3f} times the memory of stock")
        return found


@dataclass
class RandomResult:
    """Measurements of one model.

    Attributes:
        name: of its configuration.
        format: of most of its weights.
        layers: how many it has.
        weight_bytes: of its parameters, as built.
        build_seconds: time that building took.
        cases: one for each type.
    """

    name: str
    format: Format
    layers: int
    weight_bytes: int
    build_seconds: float
    cases: list[RandomCase] = field(default_factory=list)

    def failures(self) -> list[str]:
        """What is wrong in any type."""
        return [failure for case in self.cases for failure in case.failures()]


def bench_random(settings: RandomSettings, *, progress: bool = False) -> RandomResult:
    """Builds and measures one model.

    Raises:
        ModelError: if the model cannot be built.
        ValueError: if it cannot be shortened or quantized as the settings say.
    """
    from zmlx import _ext

    _ext.set_num_threads(settings.threads)
    # One run of each first, then the runs of mlx-lm's loop and those of the timed one.
    total = 2 * len(settings.dtypes) * (1 + 2 * settings.runs) * settings.max_tokens
    with Progress(settings.model, total, enabled=progress) as bar:
        bar.stage(f"{settings.model}: drawing weights")
        built = build_random(
            settings.model, form=settings.form, layers=settings.layers, seed=settings.seed
        )
        result = RandomResult(built.name, built.format, built.layers, built.bytes, built.seconds)
        for dtype in settings.dtypes:
            bar.stage(f"{built.name}, {dtype}")
            with lm.in_dtype(built.model, lm.parse_dtype(dtype)), _cache_step(settings.cache_step):
                result.cases.append(_measure(built, dtype, settings, bar))
    return result


@contextlib.contextmanager
def _cache_step(step: int | None) -> Iterator[None]:
    from mlx_lm.models.cache import KVCache

    own = KVCache.step
    KVCache.step = own if step is None else step
    try:
        yield
    finally:
        KVCache.step = own


def _measure(built: RandomModel, dtype: str, settings: RandomSettings, bar: Progress) -> RandomCase:
    rng = random.Random(settings.seed)
    prompt = [rng.randrange(built.config["vocab_size"]) for _ in range(settings.prompt_tokens)]
    stock, twin = built.model, built.twin()
    # Kernels that are compiled or loaded on the way hold the host up, and with it work in flight,
    # which takes memory: both peaks are those of models that have run before.
    lm.greedy(stock, prompt, 2)
    # Memory first: later, stock's peak would hold what the patched model keeps.
    peaks = {"stock": lm.greedy(stock, prompt, settings.max_tokens, bar.advance).peak_bytes}
    before = _active_bytes()
    patch(twin)
    lm.greedy(twin, prompt, 2)
    peaks["patched"] = lm.greedy(twin, prompt, settings.max_tokens, bar.advance).peak_bytes
    held = _active_bytes() - before
    identity = compare_greedy(
        stock,
        [prompt],
        dtype=dtype,
        max_tokens=settings.max_tokens,
        runs=settings.runs,
        rng=rng,
        patched_model=lambda _: contextlib.nullcontext(twin),
        decode=str,  # there is no tokenizer
        on_token=bar.advance,
    )
    steps: dict[str, list[StepTimes]] = {variant: [] for variant in VARIANTS}

    def run_steps(variant: str, model: Any) -> None:
        steps[variant].append(measure_steps(model, prompt, settings.max_tokens))
        bar.advance(settings.max_tokens)

    alternate(
        settings.runs,
        rng,
        lambda _: run_steps("stock", stock),
        lambda _: run_steps("patched", twin),
    )
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    return RandomCase(
        speed=Speed.of(identity),
        identity=identity,
        judged=dtype == "float32" or not on_cpu,
        steps=steps,
        peak_bytes=peaks,
        held_bytes=held,
        patched=summary_lines(report(twin)),
    )


def _active_bytes() -> int:
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    return mx.get_active_memory()

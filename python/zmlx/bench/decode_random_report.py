"""What a measurement of a model with random weights says, for people and as a capsule."""

from __future__ import annotations

import os
import statistics
from dataclasses import asdict
from typing import Any

from zmlx.bench.decode_random import (
    GUARD_EXCESS,
    GUARD_RUNS,
    VARIANTS,
    RandomCase,
    RandomResult,
    RandomSettings,
)
from zmlx.bench.speed_report import speed_measurements, speed_results
from zmlx.bench.timing import Series
from zmlx.capsule import make_capsule, measurement
from zmlx.lm.precision import format_name
from zmlx.table import format_table
from zmlx.validate.identity import first_difference

_PARTS = ("build", "submit", "busy", "total")
_SHARES = ("host_share", "busy_share")
# Environment variables that choose the kernels, or how MLX launches them.
SWITCHES = (
    "ZMLX_CUDA",
    "ZMLX_CPU_TARGET",
    "MLX_CUDA_USE_CUDNN_SDPA",
    "MLX_MAX_OPS_PER_BUFFER",
    "MLX_MAX_MB_PER_BUFFER",
    "MLX_USE_CUDA_GRAPHS",
)


def result_text(result: RandomResult, settings: RandomSettings) -> str:
    """The tables, for people."""
    lines = [
        f"{_title(result)}, {result.weight_bytes / 1e9:.2f} GB, drawn in "
        f"{result.build_seconds:.0f} s: prompt of {settings.prompt_tokens} tokens, "
        f"{settings.max_tokens} generated, median of {settings.runs} runs, "
        f"{settings.threads} threads",
        *result.cases[0].patched,
        "",
        *_speed_table(result),
        "",
        *_host_table(result),
        "",
    ]
    for case in result.cases:
        lines += _sentences(case, result.weight_bytes)
    return "\n".join(lines)


def _title(result: RandomResult) -> str:
    return f"{result.name}, random weights, {result.layers} layers, {_format(result)}"


def _format(result: RandomResult) -> str:
    return format_name(result.format.mode, result.format.bits)


def _speed_table(result: RandomResult) -> list[str]:
    rows = []
    for case in result.cases:
        for phase in ("prompt", "decode"):
            rates = getattr(case.speed, phase)
            spread = [f"{100 * Series(rates[variant]).spread:.1f} %" for variant in VARIANTS]
            rows.append([*case.speed.cells(phase), *spread])
    header = ["tokens/s", "", "stock", "patched", "ratio", "spread stock", "patched"]
    return format_table(header, rows, right=range(2, 7))


def _host_table(result: RandomResult) -> list[str]:
    rows = []
    for case in result.cases:
        for variant in VARIANTS:
            seconds = [f"{1e3 * step_median(case, variant, part):.3f}" for part in _PARTS]
            shares = [f"{100 * step_median(case, variant, share):.0f} %" for share in _SHARES]
            rows.append([case.dtype, variant, *seconds, *shares])
    header = ["ms a token", "", "graph", "submit", "busy in both", "all", "host share", "busy"]
    return format_table(header, rows, right=range(2, 8))


def step_median(case: RandomCase, variant: str, part: str) -> float:
    """Median over the runs of an attribute of :class:`zmlx.bench.host_time.StepTimes`."""
    return statistics.median(getattr(times, part) for times in case.steps[variant])


def _sentences(case: RandomCase, weight_bytes: int) -> list[str]:
    identity = (
        f"Tokens, {case.dtype}: identical {case.identity.compared} of {case.total_tokens} "
        f"({case.distinct_tokens} different ones in a run)"
    )
    if len(case.identity.stock) > 1:
        repeats = "the same" if case.identity.stock_repeats else "NOT the same"
        identity += f"; stock's own runs were {repeats}"
    if not case.judged:
        identity += "; not judged: MLX's 16-bit CPU path is no reference"
    elif case.identity.divergence:
        identity += f"; {case.identity.divergence.sentence()}"
    verdict = {
        None: f"not judged: it takes {GUARD_RUNS} runs",
        False: "not slower than stock",
        True: "SLOWER than stock",
    }[case.slower_prompt()]
    stock, patched = (case.peak_bytes[variant] for variant in VARIANTS)
    copied = "copied" if case.copies_weights(weight_bytes) else "not copied"
    return [
        identity,
        f"Prompt, {case.dtype}: {verdict} (slower: the medians differ by more than both spreads "
        f"and {100 * GUARD_EXCESS:.0f} %)",
        f"Peak memory, {case.dtype}: stock {stock / 1e9:.3f} GB, patched {patched / 1e9:.3f} GB "
        f"({100 * (patched / stock - 1):+.1f} %); weights {copied} "
        f"({case.held_bytes / 1e6:+.1f} MB held)",
    ]


def result_capsule(
    result: RandomResult, settings: RandomSettings, command: list[str] | None = None
) -> dict[str, Any]:
    """The run as a capsule (see :mod:`zmlx.capsule`)."""
    entries = speed_measurements([case.speed for case in result.cases])
    for case in result.cases:
        where = {"dtype": case.dtype}
        for variant in VARIANTS:
            for part in _PARTS:
                # The median token of each run.
                runs = [getattr(times, part) for times in case.steps[variant]]
                entries.append(measurement(f"step_{part}", variant, "s", runs, where))
            peak = [float(case.peak_bytes[variant])]
            entries.append(measurement("peak_mlx_bytes", variant, "bytes", peak, where))
    failures = result.failures()
    return make_capsule(
        "decode",
        f"{result.name}-random-{result.layers}-layers-{_format(result)}"
        f"-prompt-{settings.prompt_tokens}"
        + (f"-cache-step-{settings.cache_step}" if settings.cache_step else ""),
        parameters={
            **asdict(settings),
            "model": f"{result.name}, random weights, {result.layers} layers, "
            f"prompt of {settings.prompt_tokens}" + _cache_note(settings),
            "environment": {name: os.environ[name] for name in SWITCHES if name in os.environ},
        },
        measurements=entries,
        results={
            "format": _format(result),
            "quantization": asdict(result.format),
            "weight_bytes": result.weight_bytes,
            "cases": [_case_results(case, result.weight_bytes) for case in result.cases],
            "memory": {
                case.dtype: {
                    variant: {"mlx_bytes": case.peak_bytes[variant]} for variant in VARIANTS
                }
                for case in result.cases
            },
            "failures": failures,
        },
        passed=not failures,
        command=command,
    )


def _cache_note(settings: RandomSettings) -> str:
    return f", caches grow by {settings.cache_step}" if settings.cache_step else ""


def _case_results(case: RandomCase, weight_bytes: int) -> dict[str, Any]:
    return {
        **speed_results(case.speed),
        "same_tokens": case.identity.ok,
        "same_tokens_judged": case.judged,
        "stock_repeats_itself": case.identity.stock_repeats,
        "first_differences": {
            variant: [
                first_difference(case.identity.stock[0][0].tokens, generation.tokens)
                for (generation,) in getattr(case.identity, variant)
            ]
            for variant in VARIANTS
        },
        "tokens_compared": case.identity.compared,
        "tokens_generated": case.total_tokens,
        "distinct_tokens": case.distinct_tokens,
        "divergence": asdict(case.identity.divergence) if case.identity.divergence else None,
        "prompt_slower": case.slower_prompt(),
        **{
            share: {variant: step_median(case, variant, share) for variant in VARIANTS}
            for share in _SHARES
        },
        "held_bytes": case.held_bytes,
        "weights_copied": case.copies_weights(weight_bytes),
        "patched": case.patched,
    }

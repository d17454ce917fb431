"""`smart_patch`: patterns chosen by timing them on a sample."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from zmlx.patch.apply import check_module, patch
from zmlx.patch.patterns import PATTERNS, select
from zmlx.patch.report import Timing, report
from zmlx.patch.session import session_of

# The order in which patterns are tried. "moe_combine" ends what "moe_experts" begins: timed as one.
_GROUPS = (
    ("moe_experts", "moe_combine"),
    ("moe_block",),
    ("dense",),
    ("dense_swiglu",),
    ("rms_norm",),
    ("add_rms_norm",),
    ("attention",),
)
assert sorted(sum(_GROUPS, ())) == sorted(PATTERNS)

# Ratios of times nearer to 1 than this are noise.
_NOISE = 0.01


def smart_patch(
    model: nn.Module,
    sample: mx.array | Sequence[int] | str,
    tokenizer: Any = None,
    patterns: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    *,
    decode_steps: int = 8,
    repeats: int = 5,
    verbose: bool = False,
) -> nn.Module:
    """Patches a model with those patterns that make it faster on a sample.

    Each pattern is timed against the model without it, in turns, on the prompt and on tokens
    decoded after it; it stays if one of the two gets faster and neither gets slower. What is left
    is then timed against the stock model, and the pattern kept last is dropped until neither is
    slower, so that the model is never left slower than stock. `report(model).timings` holds the
    figures.

    Args:
        model: an mlx-lm model.
        sample: a prompt: token ids or, with `tokenizer`, text.
        tokenizer: has `encode`, which turns text into token ids; needed for text only.
        patterns, exclude: the candidates, as in `patch`.
        decode_steps: tokens decoded in a run.
        repeats: runs of each variant.
        verbose: print the report.

    Returns:
        `model` itself.

    Raises:
        TypeError: `model` is not an `mlx.nn.Module`, or the sample is text and has no tokenizer.
        ValueError: a name is not in `PATTERNS`, the sample is not one non-empty sequence of ids, or
            `decode_steps` or `repeats` is below 1.
    """
    check_module("smart_patch", model)
    names = select(patterns, exclude)
    if decode_steps < 1 or repeats < 1:
        raise ValueError(
            "[smart_patch] decode_steps and repeats must be at least 1, but are "
            f"{decode_steps} and {repeats}."
        )
    trial = _Trial(model, _token_ids(sample, tokenizer), decode_steps, repeats)
    kept, timings = _choose(trial, names)
    patch(model, kept)
    session_of(model).timings = timings
    if verbose:
        print(report(model))
    return model


def _choose(trial, names):
    kept, timings = [], []
    for group in _GROUPS:
        candidate = tuple(name for name in group if name in names)
        if not candidate or not _applies(trial.model, candidate):
            continue
        timing = trial.compare("+".join(candidate), _flat(kept), _flat([*kept, candidate]))
        timing.kept = _helps(timing)
        timings.append(timing)
        if timing.kept:
            kept.append(candidate)
    while kept:
        timing = trial.compare("all kept, against stock", (), _flat(kept))
        timing.kept = not _slower(timing)
        timings.append(timing)
        if timing.kept:
            break
        kept.pop()
    return _flat(kept), timings


def _flat(groups):
    return tuple(name for group in groups for name in group)


def _token_ids(sample, tokenizer):
    if isinstance(sample, str):
        if tokenizer is None:
            raise TypeError("[smart_patch] a text sample needs a tokenizer.")
        sample = tokenizer.encode(sample)
    ids = mx.array(sample)
    if ids.ndim == 2 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.ndim != 1 or ids.size == 0 or not mx.issubdtype(ids.dtype, mx.integer):
        raise ValueError(
            "[smart_patch] sample must be a non-empty sequence of token ids, but has shape "
            f"{ids.shape} and type {ids.dtype}."
        )
    return ids[None]


def _applies(model, patterns):
    patch(model, patterns)
    return any(report(model).count(name) for name in patterns)


class _Trial:
    """Times variants of a model, each a tuple of patterns."""

    def __init__(self, model, ids, decode_steps, repeats):
        self.model = model
        self.ids = ids
        self.decode_steps = decode_steps
        self.repeats = repeats

    def compare(self, name, without, with_):
        """Times two variants in turns, so that drifts of the machine meet both."""
        runs = {without: [], with_: []}
        for variant in runs:
            self._run(variant)  # compiles, warms caches
        for n in range(self.repeats):
            for variant in (without, with_) if n % 2 == 0 else (with_, without):
                runs[variant].append(self._run(variant))
        prefill, decode = (
            [(a[i], b[i]) for a, b in zip(runs[without], runs[with_], strict=True)] for i in (0, 1)
        )
        return Timing(
            pattern=name,
            kept=False,
            prefill_without=statistics.median(a for a, _ in prefill),
            prefill_with=statistics.median(b for _, b in prefill),
            prefill_ratio=statistics.median(b / a for a, b in prefill),
            decode_without=statistics.median(a for a, _ in decode),
            decode_with=statistics.median(b for _, b in decode),
            decode_ratio=statistics.median(b / a for a, b in decode),
        )

    def _run(self, variant):
        """Seconds of the prompt, and of one token after it."""
        from mlx_lm.models.cache import make_prompt_cache

        model = patch(self.model, variant)
        cache = make_prompt_cache(model)
        start = time.perf_counter()
        token = mx.argmax(model(self.ids, cache=cache)[:, -1:], axis=-1)
        mx.eval(token)
        prompt_end = time.perf_counter()
        for _ in range(self.decode_steps):
            token = mx.argmax(model(token, cache=cache), axis=-1)
            mx.eval(token)
        end = time.perf_counter()
        return prompt_end - start, (end - prompt_end) / self.decode_steps


def _slower(timing):
    return max(timing.prefill_ratio, timing.decode_ratio) > 1 + _NOISE


def _helps(timing):
    return not _slower(timing) and min(timing.prefill_ratio, timing.decode_ratio) < 1 - _NOISE

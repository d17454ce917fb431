"""Runs a validation: loads the model, and measures identity, nearness to float32 and speed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from zmlx import lm
from zmlx.lm.precision import format_name, weight_format
from zmlx.patch import Report as PatchReport
from zmlx.progress import Progress
from zmlx.validate.agreement import Agreement, Comparison, agreement
from zmlx.validate.identity import Identity, compare_greedy
from zmlx.validate.patching import patch_report, patcher, replaced_products, summary_lines
from zmlx.validate.rounding import WHOLE_TOKENS, BlockRounding, measure_rounding
from zmlx.validate.settings import Settings
from zmlx.validate.verdict import FormatReport, Report, Speed
from zmlx.validate.yardstick import float32_products


def validate(
    model: str | None = None,
    *,
    progress: bool = False,
    on_load: Callable[[lm.LoadedModel], None] | None = None,
    on_format: Callable[[FormatReport], None] | None = None,
    **settings: Any,
) -> Report:
    """Compares a patched model with stock; :mod:`zmlx.validate.verdict` says what is required.

    Args:
        model: a folder or a hub name; default: the small model in ``models/``.
        progress: whether to show a progress bar on stderr.
        on_load: called with the model once it is loaded.
        on_format: called with the findings of each format as soon as they are complete.
        **settings: the attributes of :class:`zmlx.validate.settings.Settings`, such as
            ``max_tokens``, ``runs``, ``prompts`` and ``bits``.

    Raises:
        ModelError: if the model cannot be loaded.
        ValueError: if a setting is out of range.
    """
    chosen = Settings(**settings)
    tic = time.perf_counter()
    loaded = lm.load(model)
    if on_load:
        on_load(loaded)
    formats = []
    for index, bits in enumerate(chosen.bits or (None,)):
        if index:  # a requantized model does not hold the stored weights any more
            loaded = lm.load(model)
        formats.append(_validate_format(loaded, bits, chosen, progress))
        if on_format:
            on_format(formats[-1])
    return Report(
        model=loaded.name,
        architecture=str(loaded.config.get("model_type", "unknown")),
        parameters=asdict(chosen),
        formats=formats,
        seconds=time.perf_counter() - tic,
    )


def _on_gpu() -> bool:
    return mx.default_device().type == mx.DeviceType.gpu


def _validate_format(
    loaded: lm.LoadedModel, bits: int | None, settings: Settings, progress: bool
) -> FormatReport:
    name, note = _set_format(loaded.model, bits, settings)
    with Progress(name, None, enabled=progress) as bar:
        return _FormatRun(loaded, name, note, settings, bar).report()


def _set_format(model: Any, bits: int | None, settings: Settings) -> tuple[str, str]:
    """Requantizes if another format is asked for; returns the format's name and a note on it."""
    stored = weight_format(model)
    if stored is None:
        if bits is not None:
            raise ValueError("[validate] bits: the model's weights are not quantized.")
        return "unquantized", "as stored"
    as_stored = bits is None or (
        (settings.mode, bits) == stored[:2] and settings.group_size in (None, stored[2])
    )
    if as_stored:
        return format_name(*stored[:2]), "as stored"
    layers = lm.requantize(model, bits=bits, group_size=settings.group_size, mode=settings.mode)
    mode, new_bits, group = weight_format(model)
    note = (
        f"{layers} layers dequantized from {format_name(*stored[:2])} and quantized again in "
        f"memory, group {group}"
    )
    return format_name(mode, new_bits), note


class _FormatRun:
    """The validation of one weight format of one model."""

    def __init__(
        self, loaded: lm.LoadedModel, name: str, note: str, settings: Settings, bar: Progress
    ):
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.name, self.note, self.settings, self.bar = name, note, settings, bar
        self.own = lm.parse_dtype(settings.dtype) if settings.dtype else lm.model_dtype(self.model)
        # See verdict: MLX's 16-bit CPU kernels are no reference for token identity.
        self.judged = self.own if _on_gpu() else mx.float32
        self.prompts = [self.tokenizer.encode(prompt) for prompt in settings.prompts]
        self.patched = patcher(settings.patterns, settings.numerics)
        self.rng = random.Random(settings.seed)
        mx.random.seed(settings.seed)
        bar.expect(self._work())

    def report(self) -> FormatReport:
        """Measures everything; the model is stock and in its own type again afterwards."""
        identity = self._identity()
        speeds = [Speed.of(identity)]
        found = patch_report(self.model, self.patched)
        agreements, roundings = {}, []
        if self.own != mx.float32:
            agreements = self._agreements(identity, replaced_products(found))
            if not _on_gpu():
                roundings = self._roundings(found)
        if self.own != self.judged:
            speeds.insert(0, self._own_speed())
        variants = {"stock": identity.stock, "patched": identity.patched}
        return FormatReport(
            name=self.name,
            note=self.note,
            device="gpu" if _on_gpu() else "cpu",
            own_dtype=lm.dtype_name(self.own),
            weight_bytes=sum(array.nbytes for _, array in tree_flatten(self.model.parameters())),
            replaced=len(found.replaced),
            patched=summary_lines(found),
            texts=[
                (prompt, self.tokenizer.decode(generation.tokens))
                for prompt, generation in zip(
                    self.settings.prompts, identity.patched[0], strict=True
                )
            ],
            identity=identity,
            agreements=list(agreements.values()),
            comparisons=_comparisons(agreements),
            roundings=roundings,
            speeds=speeds,
            peak_bytes={
                variant: max(generation.peak_bytes for run in runs for generation in run)
                for variant, runs in variants.items()
            },
        )

    def _stage(self, dtype: mx.Dtype, text: str) -> None:
        self.bar.stage(f"{self.name}, {lm.dtype_name(dtype)}: {text}")

    def _compare(
        self, prompts: list[list[int]], dtype: mx.Dtype, max_tokens: int, runs: int
    ) -> Identity:
        with lm.in_dtype(self.model, dtype):
            return compare_greedy(
                self.model,
                prompts,
                dtype=lm.dtype_name(dtype),
                max_tokens=max_tokens,
                runs=runs,
                rng=self.rng,
                patched_model=self.patched,
                decode=self.tokenizer.decode,
                on_token=self.bar.advance,
            )

    def _identity(self) -> Identity:
        self._stage(self.judged, "greedy tokens")
        # Threads start and kernels are loaded or compiled before anything is timed.
        self._compare(self.prompts[:1], self.judged, max_tokens=2, runs=1)
        return self._compare(
            self.prompts, self.judged, self.settings.max_tokens, self.settings.runs
        )

    def _agreements(
        self, identity: Identity, replaced: set[str]
    ) -> dict[tuple[str, str], Agreement]:
        """Agreement with stock in float32 of each (variant, feed), in the model's own type."""
        sequences = [
            prompt + generation.tokens[: self.settings.near_tokens]
            for prompt, generation in zip(self.prompts, identity.stock[0], strict=True)
        ]

        def whole() -> list[np.ndarray]:
            return [
                self.bar.count(len(tokens), lm.sequence_logits(self.model, tokens))
                for tokens in sequences
            ]

        def steps() -> list[np.ndarray]:
            return [lm.step_logits(self.model, tokens, self.bar.advance) for tokens in sequences]

        self._stage(mx.float32, "reference")
        with lm.in_dtype(self.model, mx.float32):
            reference = whole()
        found = {}

        def note(variant: str, feed: str, logits: list[np.ndarray]) -> None:
            found[variant, feed] = agreement(variant, feed, reference, logits)

        with lm.in_dtype(self.model, self.own):
            self._stage(self.own, "stock against float32")
            note("stock", "whole", whole())
            if _on_gpu():
                note("stock", "steps", steps())
            else:
                with float32_products(self.model, replaced):
                    note("yardstick", "whole", whole())
            self._stage(self.own, "patched against float32")
            with self.patched(self.model):
                note("patched", "whole", whole())
                note("patched", "steps", steps())
        return found

    def _roundings(self, found: PatchReport) -> list[BlockRounding]:
        """Errors of each patched block alone, in the model's own type."""
        self._stage(self.own, "blocks")
        roundings = measure_rounding(self.model, self.prompts, self.own, found, self.patched)
        return self.bar.count(self._rounding_work(), roundings)

    def _rounding_work(self) -> int:
        # Recorded once, then run in float32, as the yardstick and patched.
        return 4 * min(WHOLE_TOKENS, sum(map(len, self.prompts)))

    def _own_speed(self) -> Speed:
        """Times short greedy runs of one prompt in a type in which identity is not judged."""
        self._stage(self.own, "speed")
        prompts = [max(self.prompts, key=len)]
        speed, spent = None, 0.0
        for run in range(self.settings.runs):
            if run and spent >= self.settings.own_seconds:
                break
            identity = self._compare(prompts, self.own, self.settings.own_decode_tokens, 1)
            spent += sum(g.prompt_seconds + g.decode_seconds for g in identity.stock[0])
            once = Speed.of(identity)
            speed = once if speed is None else speed.joined(once)
        return speed

    def _work(self) -> int:
        """Tokens that the progress bar counts; one fed to a model counts like a generated one."""
        settings, count = self.settings, len(self.prompts)
        total = 2 * settings.runs * count * settings.max_tokens
        if self.own != mx.float32:
            near = min(settings.near_tokens, settings.max_tokens)
            fed = sum(map(len, self.prompts)) + count * near
            total += 5 * fed + (0 if _on_gpu() else self._rounding_work())
        if self.own != self.judged:
            total += 2 * settings.own_decode_tokens
        return total


def _comparisons(found: dict[tuple[str, str], Agreement]) -> list[Comparison]:
    """Patched against stock, each way of feeding tokens."""
    # On CPU stock computes each token alone, so one pass stands for both.
    return [
        Comparison(feed, found.get(("stock", feed), found["stock", "whole"]), patched)
        for (variant, feed), patched in found.items()
        if variant == "patched"
    ]

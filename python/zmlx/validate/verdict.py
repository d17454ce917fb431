"""What a validation found, and what ``PASS`` means.

``PASS`` requires all of these; anything else is ``FAIL``:

1. *Identity.* In every run, every greedy token of the patched model is stock's, for all prompts.
   On GPUs the models compute in their own type; on CPU in float32, because MLX's 16-bit CPU
   kernels sum in 16 bits and leave their own float32 result within tokens, so that equality with
   them would prove nothing. There is no allowance for ties: the logit margin is reported instead.
2. *Nearness*, where the model's own type is a 16-bit one. Over the prompts and the first tokens of
   their float32 continuations, fed to both models (teacher forcing), and against a float32 run
   of the stock model: the patched model's mean Kullback-Leibler divergence is no larger than
   stock's, and it disagrees on the most likely token no more often. "No larger" leaves room for
   chance and nothing else: an excess counts if it is above two standard errors of the difference,
   position by position. (Sums in float32 bring the divergence far below stock's on CPU, and on
   GPUs the two are bit-identical. Where only a few layers can be patched, though, the two are
   equally far, and which is ahead is a coin's toss.) The patched model is judged twice, on whole
   sequences and one token at a time, because different kernels run; stock is judged the same two
   ways on GPUs and once on CPU, where it computes each token alone either way.
3. *Rounding*, on CPU and likewise for 16-bit types. Stock is so far from float32 there that a
   kernel could lose half of its bits and still be nearer. So every block that holds a patched
   module is also judged alone (:mod:`zmlx.validate.rounding`): for the same inputs its median error
   against float32 is at most 1.5 times that of a block whose quantized products MLX computes in
   float32 and rounds once. Sound kernels are at 1 or below; two lost bits are at 2 and more.

A NaN anywhere fails.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field, replace
from typing import Any

from zmlx.lm import Generation
from zmlx.validate.agreement import Agreement, Comparison
from zmlx.validate.identity import Identity
from zmlx.validate.rounding import ROUNDING_LIMIT, BlockRounding

# How tokens were fed, in words.
FEEDS = {"whole": "whole sequences", "steps": "one token at a time"}


@dataclass
class Speed:
    """Prompt and decode speed of both variants in one type; one value a run, over all prompts.

    Attributes:
        dtype: the type that the models computed in.
        prompt_tokens: tokens of the prompts together.
        decode_tokens: tokens whose time was taken, in one run.
        prompt: tokens per second by variant, ``{"stock": [...], "patched": [...]}``.
        decode: likewise for the generated tokens after each prompt's first.
    """

    dtype: str
    prompt_tokens: int
    decode_tokens: int
    prompt: dict[str, list[float]]
    decode: dict[str, list[float]]

    @classmethod
    def of(cls, identity: Identity) -> Speed:
        """The speeds of a greedy comparison."""
        variants = {"stock": identity.stock, "patched": identity.patched}
        first = identity.stock[0]
        return cls(
            dtype=identity.dtype,
            prompt_tokens=sum(generation.prompt_tokens for generation in first),
            decode_tokens=sum(len(generation.tokens) - 1 for generation in first),
            prompt={name: [_prompt_rate(run) for run in runs] for name, runs in variants.items()},
            decode={name: [_decode_rate(run) for run in runs] for name, runs in variants.items()},
        )

    def joined(self, other: Speed) -> Speed:
        """The runs of both."""
        return replace(
            self,
            prompt={name: rates + other.prompt[name] for name, rates in self.prompt.items()},
            decode={name: rates + other.decode[name] for name, rates in self.decode.items()},
        )

    def median(self, phase: str, variant: str) -> float:
        """Median tokens per second of ``"prompt"`` or ``"decode"``."""
        return statistics.median(getattr(self, phase)[variant])

    def ratio(self, phase: str) -> float:
        """Patched over stock."""
        return self.median(phase, "patched") / self.median(phase, "stock")

    def cells(self, phase: str) -> list[str]:
        """A table's row: type, phase, both medians and their ratio."""
        return [
            self.dtype,
            phase,
            f"{self.median(phase, 'stock'):.1f}",
            f"{self.median(phase, 'patched'):.1f}",
            f"{self.ratio(phase):.2f}x",
        ]


def _prompt_rate(run: list[Generation]) -> float:
    return sum(g.prompt_tokens for g in run) / sum(g.prompt_seconds for g in run)


def _decode_rate(run: list[Generation]) -> float:
    # One token a prompt has no decode time; such runs are refused when arguments are checked.
    return sum(len(g.tokens) - 1 for g in run) / sum(g.decode_seconds for g in run)


@dataclass
class FormatReport:
    """Findings for one format of the weights.

    Attributes:
        name: ``"4-bit"``, ``"mxfp4"``, ...
        note: how the format came about, for example by requantizing.
        device: ``"cpu"`` or ``"gpu"``.
        own_dtype: the type that the model computes in.
        weight_bytes: bytes of all parameters.
        replaced: how many modules ``patch`` replaced.
        patched: what it replaced and what it left alone, in lines.
        texts: prompt and its greedy continuation, by the patched model.
        identity: token by token.
        agreements: against float32, in the model's own type.
        comparisons: patched against stock, as they are judged.
        roundings: errors of the patched blocks alone (CPU).
        speeds: one entry for each type.
        peak_bytes: MLX's peak memory by variant, in the identity runs.
    """

    name: str
    note: str
    device: str
    own_dtype: str
    weight_bytes: int
    replaced: int
    patched: list[str]
    texts: list[tuple[str, str]]
    identity: Identity
    agreements: list[Agreement] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    roundings: list[BlockRounding] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    peak_bytes: dict[str, int] = field(default_factory=dict)

    def failures(self) -> list[str]:
        """Every requirement that is not met, one sentence each; empty means that it passed."""
        found = []
        if self.identity.divergence is not None:
            found.append(f"{self.identity.dtype}: {self.identity.divergence.sentence()}")
        elif not self.identity.ok:
            found.append(f"{self.identity.dtype}: no token was compared")
        if self.own_dtype != "float32" and not self.comparisons:
            found.append(f"{self.own_dtype}: nearness to float32 was not judged")
        for comparison in self.comparisons:
            found += _nearness_failures(self.own_dtype, comparison)
        judged_alone = self.own_dtype != "float32" and self.device == "cpu" and self.replaced
        if judged_alone and not self.roundings:
            found.append(f"{self.own_dtype}: no patched block was found to judge alone")
        return found + _rounding_failures(self.own_dtype, self.roundings)

    @property
    def passed(self) -> bool:
        """Whether every requirement is met."""
        return not self.failures()


def _rounding_failures(dtype: str, roundings: list[BlockRounding]) -> list[str]:
    """One sentence on the worst of the blocks that are too far off."""
    bad = [rounding for rounding in roundings if not rounding.ok]
    if not bad:
        return []
    worst = worst_rounding(bad)
    return [
        f"{dtype}: {len(bad)} of {len(roundings)} blocks are less exact than float32 products "
        f"rounded once; worst {worst.path} ({FEEDS[worst.feed]}): error {worst.patched:.2g}, "
        f"{worst.ratio:.3g} times, at most {ROUNDING_LIMIT:g} is sound"
    ]


def worst_rounding(roundings: list[BlockRounding]) -> BlockRounding:
    """The block with the largest ratio; NaN is worst."""
    return max(roundings, key=lambda r: math.inf if math.isnan(r.ratio) else r.ratio)


def _nearness_failures(dtype: str, comparison: Comparison) -> list[str]:
    stock, patched = comparison.stock, comparison.patched
    where = f"{dtype}, {FEEDS[comparison.feed]}"
    found = []
    if not comparison.divergence_ok:
        mean, error = comparison.difference
        found.append(
            f"{where}: patched is farther from float32 than stock: KL divergence "
            f"{patched.mean_divergence:.3g} against {stock.mean_divergence:.3g} nats "
            f"(difference {mean:.2g}, standard error {error:.2g})"
        )
    if not comparison.agreement_ok:
        only_patched, only_stock = comparison.discordant
        found.append(
            f"{where}: patched's most likely token is not float32's at {patched.disagreements} of "
            f"{patched.positions} positions, stock's at {stock.disagreements} (patched alone at "
            f"{only_patched}, stock alone at {only_stock})"
        )
    return found


@dataclass
class Report:
    """A whole validation.

    Attributes:
        model: the model's name.
        architecture: its ``model_type``.
        parameters: the settings of the run.
        formats: findings, one entry for each weight format.
        seconds: how long it took.
    """

    model: str
    architecture: str
    parameters: dict[str, Any]
    formats: list[FormatReport]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every format passed."""
        return bool(self.formats) and all(entry.passed for entry in self.formats)

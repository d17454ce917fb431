"""How near a model's predictions are to those of its float32 run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural-log probabilities over the last axis, in float64; (positions, vocabulary)."""
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class Agreement:
    """Teacher-forced agreement of one variant with the float32 run, position by position.

    Attributes:
        variant: ``"stock"``, ``"patched"`` or ``"yardstick"``.
        feed: how tokens were fed: ``"whole"`` sequences, or single ``"steps"``.
        divergence: Kullback-Leibler divergence KL(float32 || variant) in nats at each position;
            NaN where the variant's logits are not finite.
        agrees: whether the most likely token is the float32 run's, at each position.
    """

    variant: str
    feed: str
    divergence: np.ndarray
    agrees: np.ndarray

    @property
    def positions(self) -> int:
        """How many predictions were compared."""
        return int(self.divergence.size)

    @property
    def mean_divergence(self) -> float:
        """Mean KL divergence in nats; NaN if any logit was not finite."""
        return float(self.divergence.mean())

    @property
    def disagreements(self) -> int:
        """Positions at which the most likely token is another one."""
        return int((~self.agrees).sum())


def agreement(
    variant: str, feed: str, reference: list[np.ndarray], logits: list[np.ndarray]
) -> Agreement:
    """Compares logits with the float32 run's, over the same tokens.

    Args:
        variant: ``"stock"``, ``"patched"`` or ``"yardstick"``.
        feed: ``"whole"`` or ``"steps"``.
        reference: float32 logits, one (positions, vocabulary) array a prompt.
        logits: the variant's, of the same shapes.
    """
    divergence, agrees = [], []
    for truth, own in zip(reference, logits, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            log_p, log_q = log_softmax(truth), log_softmax(own)
            nats = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
        finite = np.isfinite(own).all(axis=-1)
        divergence.append(np.where(finite, nats, np.nan))
        agrees.append((truth.argmax(axis=-1) == own.argmax(axis=-1)) & finite)
    return Agreement(variant, feed, np.concatenate(divergence), np.concatenate(agrees))


@dataclass(frozen=True)
class Comparison:
    """Whether the patched model is as near to float32 as stock is, over the same positions.

    Attributes:
        feed: how the patched model's tokens were fed.
        stock: stock's agreement.
        patched: the patched model's agreement.
    """

    feed: str
    stock: Agreement
    patched: Agreement

    @property
    def difference(self) -> tuple[float, float]:
        """Mean of patched minus stock divergence, and that mean's standard error."""
        paired = self.patched.divergence - self.stock.divergence
        error = float(paired.std(ddof=1) / math.sqrt(paired.size)) if paired.size > 1 else math.inf
        return float(paired.mean()), error

    @property
    def divergence_ok(self) -> bool:
        """Whether patched's mean divergence is at most stock's.

        Or above it by no more than two standard errors of the paired difference. NaN fails.
        """
        mean, error = self.difference
        return mean <= 0 or mean <= 2 * error < math.inf

    @property
    def discordant(self) -> tuple[int, int]:
        """Positions at which only patched disagrees with float32, and at which only stock does."""
        only_patched = int((~self.patched.agrees & self.stock.agrees).sum())
        only_stock = int((self.patched.agrees & ~self.stock.agrees).sum())
        return only_patched, only_stock

    @property
    def agreement_ok(self) -> bool:
        """Whether patched disagrees with float32 at no more positions than stock does.

        Or at more, but by no more than two standard deviations of what chance does: of n positions
        at which only one of the two disagrees, either is as likely to, which gives sqrt(n).
        """
        only_patched, only_stock = self.discordant
        return only_patched - only_stock <= 2 * math.sqrt(only_patched + only_stock)

    @property
    def ok(self) -> bool:
        """Both of the above."""
        return self.divergence_ok and self.agreement_ok

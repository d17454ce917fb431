"""Are the greedy tokens of the stock and of the patched model the same?"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from zmlx.lm import Generation, greedy, sequence_logits


@dataclass(frozen=True)
class Divergence:
    """The first position at which the patched model's token is not stock's.

    Attributes:
        run: which repetition, from 0.
        prompt: which prompt, from 0.
        position: which generated token, from 0.
        stock_token: stock's token id; ``patched_token`` the patched model's.
        stock_text: what stock's token spells; ``patched_text`` what the patched model's does.
        stock_margin: by how much stock's logit of its own token exceeds its logit of the patched
            model's token there. Near 0 it was a tie that rounding decides.
        patched_margin: by how much the patched model's logit of its own token exceeds its logit of
            stock's token.
    """

    run: int
    prompt: int
    position: int
    stock_token: int
    patched_token: int
    stock_text: str
    patched_text: str
    stock_margin: float
    patched_margin: float

    def sentence(self) -> str:
        """The divergence in one line."""
        return (
            f"first divergence: prompt {self.prompt + 1}, token {self.position + 1} (run "
            f"{self.run + 1}): stock {self.stock_text!r} ({self.stock_token}), patched "
            f"{self.patched_text!r} ({self.patched_token}); logit margin {self.stock_margin:.3g} "
            f"in stock, {self.patched_margin:.3g} in patched"
        )


@dataclass
class Identity:
    """Greedy runs of both variants in one type.

    Attributes:
        dtype: the type that the models computed in.
        stock: ``stock[run][prompt]``; likewise ``patched``.
        divergence: the first difference, or ``None``.
        compared: tokens compared in all runs together, up to the first difference of each prompt.
    """

    dtype: str
    stock: list[list[Generation]] = field(default_factory=list)
    patched: list[list[Generation]] = field(default_factory=list)
    divergence: Divergence | None = None
    compared: int = 0

    @property
    def ok(self) -> bool:
        """Whether every token was the same."""
        return self.divergence is None and self.compared > 0

    @property
    def stock_repeats(self) -> bool:
        """Whether stock generated the same tokens in each of several runs. If it did not, other
        tokens say nothing about the patched model."""
        texts = [[generation.tokens for generation in run] for run in self.stock]
        return len(texts) > 1 and all(text == texts[0] for text in texts)


def alternate(
    runs: int,
    rng: random.Random,
    stock: Callable[[int], None],
    patched: Callable[[int], None],
) -> None:
    """Calls both once a run, in an order drawn for each run, so that drift favours neither."""
    for run in range(runs):
        pair = [stock, patched]
        rng.shuffle(pair)
        for call in pair:
            call(run)


def first_difference(stock: list[int], patched: list[int]) -> int | None:
    """Index of the first token that differs (or that only one has), ``None`` if there is none."""
    for index, (left, right) in enumerate(zip(stock, patched, strict=False)):
        if left != right:
            return index
    return None if len(stock) == len(patched) else min(len(stock), len(patched))


def compare_greedy(
    model: Any,
    prompts: list[list[int]],
    *,
    dtype: str,
    max_tokens: int,
    runs: int,
    rng: random.Random,
    patched_model: Callable[[Any], Any],
    decode: Callable[[list[int]], str],
    on_token: Callable[[int], None] | None = None,
) -> Identity:
    """Generates with both variants and compares token by token.

    Args:
        model: a stock model, already in ``dtype``; it is stock again afterwards.
        prompts: token ids of each prompt.
        dtype: name of the type, for the report.
        max_tokens: tokens to generate for each prompt.
        runs: repetitions.
        rng: decides which variant goes first in each run.
        patched_model: called with the model, a context manager that gives the patched one: the
            same model, patched inside the block, or another with the same weights.
        decode: token ids to text.
        on_token: called with 1 after each token.
    """
    result = Identity(dtype)

    def generate(variant: Any) -> list[Generation]:
        return [greedy(variant, prompt, max_tokens, on_token) for prompt in prompts]

    def run_patched(run: int) -> None:
        with patched_model(model) as patched:
            result.patched.append(generate(patched))

    alternate(runs, rng, lambda run: result.stock.append(generate(model)), run_patched)

    where = None
    for run, (stock, patched) in enumerate(zip(result.stock, result.patched, strict=True)):
        for index, (left, right) in enumerate(zip(stock, patched, strict=True)):
            position = first_difference(left.tokens, right.tokens)
            result.compared += len(left.tokens) if position is None else position
            if position is not None and where is None:
                where = (run, index, position, left.tokens, right.tokens)
    if where is not None:
        result.divergence = _describe(model, prompts, where, patched_model, decode)
    return result


def _describe(
    model: Any,
    prompts: list[list[int]],
    where: tuple[int, int, int, list[int], list[int]],
    patched_model: Callable[[Any], Any],
    decode: Callable[[list[int]], str],
) -> Divergence:
    """Looks up both models' logits after the tokens that they still share."""
    run, prompt, position, stock_tokens, patched_tokens = where
    left, right = stock_tokens[position], patched_tokens[position]
    shared = prompts[prompt] + stock_tokens[:position]
    stock = sequence_logits(model, shared)[-1]
    with patched_model(model) as other:
        patched = sequence_logits(other, shared)[-1]
    return Divergence(
        run=run,
        prompt=prompt,
        position=position,
        stock_token=left,
        patched_token=right,
        stock_text=decode([left]),
        patched_text=decode([right]),
        stock_margin=float(stock[left] - stock[right]),
        patched_margin=float(patched[right] - patched[left]),
    )

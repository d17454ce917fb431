"""Greedy generation, timed, and teacher-forced logits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class Generation:
    """One greedy continuation.

    Attributes:
        tokens: the generated token ids.
        prompt_tokens: number of tokens in the prompt.
        prompt_seconds: from the start to the first generated token.
        decode_seconds: from the first generated token to the last.
        peak_bytes: MLX's peak memory during the generation, weights included.
    """

    tokens: list[int]
    prompt_tokens: int
    prompt_seconds: float
    decode_seconds: float
    peak_bytes: int


def greedy(
    model: Any,
    prompt: list[int],
    max_tokens: int,
    on_token: Callable[[int], None] | None = None,
) -> Generation:
    """Continues ``prompt`` by exactly ``max_tokens`` greedy tokens with mlx-lm's own loop.

    The end-of-sequence token is an ordinary token here, so that every run has the same length.

    Args:
        model: an mlx-lm model.
        prompt: token ids, at least one.
        max_tokens: at least 1.
        on_token: called with 1 after each token, for a progress bar.
    """
    from mlx_lm.generate import generate_step, generation_stream

    tokens: list[int] = []
    first = last = 0.0
    mx.reset_peak_memory()
    tic = time.perf_counter()
    for token, _ in generate_step(mx.array(prompt), model, max_tokens=max_tokens):
        last = time.perf_counter()
        if not tokens:
            first = last
        tokens.append(int(token))
        if on_token:
            on_token(1)
    # mlx-lm starts one step more than it returns: it must not run into the next measurement.
    mx.synchronize(generation_stream)
    return Generation(tokens, len(prompt), first - tic, last - first, mx.get_peak_memory())


def sequence_logits(model: Any, tokens: list[int], chunk: int = 512) -> np.ndarray:
    """Teacher-forced logits of all positions, many tokens at a time, as a prompt is processed.

    Returns:
        float32 array (len(tokens), vocabulary): row i predicts token i + 1.
    """
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    rows = []
    for start in range(0, len(tokens), chunk):
        piece = mx.array(tokens[start : start + chunk])[None]
        rows.append(np.array(model(piece, cache=cache)[0].astype(mx.float32)))
    return np.concatenate(rows)


def step_logits(
    model: Any, tokens: list[int], on_token: Callable[[int], None] | None = None
) -> np.ndarray:
    """Teacher-forced logits of all positions, one token at a time, as decoding runs.

    Returns:
        float32 array (len(tokens), vocabulary): row i predicts token i + 1.
    """
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    rows = []
    for token in tokens:
        logits = model(mx.array([[token]]), cache=cache)[0, -1].astype(mx.float32)
        rows.append(np.array(logits))
        if on_token:
            on_token(1)
    return np.stack(rows)

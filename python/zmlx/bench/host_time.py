"""Where the host's time goes while a model decodes: building the graph, handing it to MLX, waiting.

MLX's Python calls only build a graph; ``mx.async_eval`` then walks it and hands every operation to
the device. While a device computes one token, the host prepares the next: as long as that takes
less time than the device needs, it costs nothing, and beyond that it decides the speed.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import mlx.core as mx


@dataclass(frozen=True)
class StepTimes:
    """Median seconds of one decoded token.

    Attributes:
        tokens: the generated token ids.
        build: Python, until the graph of the next token is there.
        submit: in ``mx.async_eval``. MLX lets the host run ahead by a few tasks only, so if the
            device is behind this holds waiting as well.
        busy: processor time of the calling thread in both, which holds no waiting.
        total: from one token to the next.
    """

    tokens: list[int]
    build: float
    submit: float
    busy: float
    total: float

    @property
    def host_share(self) -> float:
        """Part of a token's time that passes while the host builds and submits."""
        return (self.build + self.submit) / self.total

    @property
    def busy_share(self) -> float:
        """Part of a token's time in which the host works on both."""
        return self.busy / self.total


def measure_steps(model: Any, prompt: list[int], max_tokens: int) -> StepTimes:
    """Decodes greedily with the steps of ``mlx_lm.generate.generate_step``, each of them timed.

    As there, the next token's step is submitted before the host waits for the present one.

    Args:
        model: an mlx-lm model.
        prompt: token ids, at least one.
        max_tokens: steps to time, at least 1.
    """
    from mlx_lm.generate import generation_stream
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)

    def step(inputs: mx.array) -> tuple[mx.array, mx.array]:
        logits = model(inputs[None], cache=cache)[:, -1, :]
        logprobs = logits - mx.logsumexp(logits, keepdims=True)
        return mx.argmax(logprobs, axis=-1), logprobs.squeeze(0)

    tokens, build, submit, busy, total = [], [], [], [], []
    inputs = mx.array(prompt)
    with mx.stream(generation_stream):
        if len(prompt) > 1:
            model(inputs[:-1][None], cache=cache)
            mx.eval([entry.state for entry in cache])
            mx.clear_cache()
        y, logprobs = step(inputs[-1:])
        mx.async_eval(y, logprobs)
        mx.eval(y)
        for _ in range(max_tokens):
            cpu, begin = time.thread_time(), time.perf_counter()
            next_y, next_logprobs = step(y)
            built = time.perf_counter()
            mx.async_eval(next_y, next_logprobs)
            submitted = time.perf_counter()
            busy.append(time.thread_time() - cpu)
            tokens.append(y.item())
            total.append(time.perf_counter() - begin)
            build.append(built - begin)
            submit.append(submitted - built)
            y, logprobs = next_y, next_logprobs
    mx.synchronize(generation_stream)
    return StepTimes(tokens, *(statistics.median(part) for part in (build, submit, busy, total)))

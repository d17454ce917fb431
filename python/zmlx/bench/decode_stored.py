"""Decoding of a stored model, stock against patched: tokens per second and memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zmlx import lm
from zmlx.bench.speed_report import speed_measurements, speed_results
from zmlx.capsule import make_capsule, measurement
from zmlx.lm.precision import format_name, weight_format
from zmlx.progress import Progress
from zmlx.table import format_table
from zmlx.validate.identity import compare_greedy
from zmlx.validate.patching import patcher
from zmlx.validate.prompts import DEFAULT_PROMPTS
from zmlx.validate.verdict import Speed

_MEMORY_LIMIT = 1.05


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        max_tokens: generated tokens in each run.
        runs: repetitions.
        dtypes: types to compute in.
        prompt: text to continue.
        threads: of the kernels.
        memory: whether to measure memory as well.
        seed: draws the order of stock and patched in each run.
    """

    max_tokens: int = 64
    runs: int = 5
    dtypes: tuple[str, ...] = ("bfloat16", "float32")
    prompt: str = DEFAULT_PROMPTS[2]
    threads: int = 1
    memory: bool = True
    seed: int = 0


@dataclass
class DecodeResult:
    """Measurements of one model.

    Attributes:
        model: its name.
        format: of its weights.
        speeds: one for each type.
        same_tokens: whether stock and patched generated the same, by type (for information: on
            CPU they differ in 16-bit types).
        memory: ``{dtype: {variant: {"resident_bytes", "mlx_bytes", "tokens"}}}``.
    """

    model: str
    format: str
    speeds: list[Speed]
    same_tokens: dict[str, bool]
    memory: dict[str, dict[str, dict[str, int]]]

    def failures(self) -> list[str]:
        """What is wrong: memory beyond the limit."""
        found = []
        for dtype, peaks in self.memory.items():
            ratio = peaks["patched"]["resident_bytes"] / peaks["stock"]["resident_bytes"]
            if ratio > _MEMORY_LIMIT:
                found.append(f"{dtype}: patched needs {ratio:.3f} times the memory of stock")
        return found


def bench_stored(model: str | None, settings: Settings, *, progress: bool = False) -> DecodeResult:
    """Measures one model.

    Args:
        model: a folder or a hub name; default: the small model in ``models/``.
        settings: what to measure.
        progress: whether to show a progress bar on stderr.

    Raises:
        ModelError: if the model cannot be loaded.
    """
    from zmlx import _ext

    _ext.set_num_threads(settings.threads)
    loaded = lm.load(model)
    stored = weight_format(loaded.model)
    result = DecodeResult(
        loaded.name, format_name(*stored[:2]) if stored else "unquantized", [], {}, {}
    )
    prompt = loaded.tokenizer.encode(settings.prompt)
    rng = random.Random(settings.seed)
    # A short run of both first, then the timed ones.
    total = 2 * len(settings.dtypes) * (settings.runs * settings.max_tokens + 4)
    with Progress(loaded.name, total, enabled=progress) as bar:
        for dtype in settings.dtypes:
            bar.stage(f"{loaded.name}, {dtype}")
            with lm.in_dtype(loaded.model, lm.parse_dtype(dtype)):
                for tokens, runs in ((4, 1), (settings.max_tokens, settings.runs)):
                    identity = compare_greedy(
                        loaded.model,
                        [prompt],
                        dtype=dtype,
                        max_tokens=tokens,
                        runs=runs,
                        rng=rng,
                        patched_model=patcher(),
                        decode=loaded.tokenizer.decode,
                        on_token=bar.advance,
                    )
            result.speeds.append(Speed.of(identity))
            result.same_tokens[dtype] = identity.ok
        if settings.memory:
            own = lm.dtype_name(lm.model_dtype(loaded.model))
            path = str(lm.default_model_path() if model is None else model)
            for dtype in settings.dtypes:
                bar.stage(f"{loaded.name}, {dtype}: memory")
                result.memory[dtype] = {
                    variant: _peak(path, variant, "own" if dtype == own else dtype, settings)
                    for variant in ("stock", "patched")
                }
    return result


def _peak(path: str, variant: str, dtype: str, settings: Settings) -> dict[str, int]:
    script = Path(__file__).with_name("decode_memory.py")
    command = [sys.executable, str(script), path, variant, dtype, "16", settings.prompt]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Measuring the memory of {variant} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def result_text(result: DecodeResult, settings: Settings) -> str:
    """The table, for people."""
    rows = [speed.cells(phase) for speed in result.speeds for phase in ("prompt", "decode")]
    tokens = result.speeds[0]
    header = ["tokens/s", "", "stock", "patched", "ratio"]
    lines = [
        f"{result.model}, {result.format}: prompt of {tokens.prompt_tokens} tokens, "
        f"{settings.max_tokens} generated, median of {settings.runs} runs, "
        f"{settings.threads} threads",
        *format_table(header, rows, right=(2, 3, 4)),
    ]
    for dtype, peaks in result.memory.items():
        stock, patched = (peaks[name]["resident_bytes"] for name in ("stock", "patched"))
        lines.append(
            f"Peak memory of a process, {dtype}: stock {stock / 1e6:.1f} MB, patched "
            f"{patched / 1e6:.1f} MB ({100 * (patched / stock - 1):+.1f} %)"
        )
    return "\n".join(lines)


def result_capsule(
    result: DecodeResult, settings: Settings, command: list[str] | None = None
) -> dict[str, Any]:
    """The run as a capsule (see :mod:`zmlx.capsule`)."""
    entries = speed_measurements(result.speeds)
    entries += [
        measurement(f"peak_{name}", variant, "bytes", [float(peak[name])], {"dtype": dtype})
        for dtype, peaks in result.memory.items()
        for variant, peak in peaks.items()
        for name in ("resident_bytes", "mlx_bytes")
    ]
    failures = result.failures()
    return make_capsule(
        "decode",
        result.model.rsplit("/", 1)[-1],
        parameters={"model": result.model.rsplit("/", 1)[-1], **asdict(settings)},
        measurements=entries,
        results={
            "format": result.format,
            "cases": [
                {**speed_results(speed), "same_tokens": result.same_tokens[speed.dtype]}
                for speed in result.speeds
            ],
            "memory": result.memory,
            "failures": failures,
        },
        passed=not failures,
        command=command,
    )

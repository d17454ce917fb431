"""What ``zmlx evidence`` runs, each step a command of its own.

A step in its own process cannot take the others down with it, and leaves its memory behind.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Exit code of a step that could not be run here; it prints why.
EXIT_SKIPPED = 77


def checkout() -> Path | None:
    """The sources of ZMLX: those that this package lies in, else the current folder."""
    for root in (Path(__file__).resolve().parents[3], Path.cwd()):
        if (root / "include" / "zmlx").is_dir() and (root / "tests" / "python").is_dir():
            return root
    return None


@dataclass(frozen=True)
class Options:
    """What the steps are told.

    Attributes:
        capsules: folder for the capsules.
        quick: a shorter run.
        progress: whether to show progress bars.
        model: model to validate; ``None``: the small one in ``models/``.
        shape: arguments that name the layer to time; empty: the benchmark's own.
    """

    capsules: str
    quick: bool = False
    progress: bool = True
    model: str | None = None
    shape: tuple[str, ...] = ()

    @property
    def common(self) -> list[str]:
        """The options that every step has."""
        return ["--capsule", self.capsules, *([] if self.progress else ["--no-progress"])]


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: for ``--steps`` and the summary.
        summary: what it shows, in a few words.
        arguments: of ``python -m``, from the options.
    """

    name: str
    summary: str
    arguments: Callable[[Options], list[str]]

    def command(self, options: Options) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", *self.arguments(options)]


def _tests(options: Options) -> list[str]:
    quick = ["--quick"] if options.quick else []
    return ["zmlx.evidence.unit_tests", "--capsule", options.capsules, *quick]


def _identity(options: Options) -> list[str]:
    return ["zmlx.evidence.identity", *options.common, *(["--quick"] if options.quick else [])]


def _validate(options: Options) -> list[str]:
    size = ["50", "--runs", "1", "--near-tokens", "8"] if options.quick else ["500", "--runs", "5"]
    model = [options.model] if options.model else []
    return ["zmlx", "validate", *model, "--max-tokens", *size, *options.common]


def _layer(options: Options) -> list[str]:
    # Stock's 16-bit kernels on the CPU take seconds a call for many tokens.
    size = ["--seq-lens", "1,4,16,64", "--stock-seconds", "10", "--no-stock-bf16", _most_tokens()]
    if options.quick:
        size += ["--repeats", "3", "--seconds", "2", "--stock-seconds", "2", "--no-memory"]
    return ["zmlx", "bench", "moe-layer", *options.shape, *size, *options.common]


def _most_tokens() -> str:
    import mlx.core as mx

    return "1" if mx.default_device().type == mx.DeviceType.cpu else "64"


STEPS = {
    step.name: step
    for step in (
        Step("tests", "unit tests on this device, Python and C++", _tests),
        Step("identity", "fused against MLX's own ops over modes, types and tokens", _identity),
        Step("validate", "greedy tokens of a whole model, stock against patched", _validate),
        Step("layer", "one MoE layer at M = 1, 4, 16, 64, stock against patched", _layer),
    )
}

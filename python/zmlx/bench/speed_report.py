"""How capsules hold a model's speed."""

from __future__ import annotations

from typing import Any

from zmlx.capsule import measurement
from zmlx.validate.verdict import Speed

_PHASES = ("prompt", "decode")
_VARIANTS = ("stock", "patched")


def speed_measurements(speeds: list[Speed]) -> list[dict[str, Any]]:
    """A capsule's measurements: tokens per second of every run."""
    return [
        measurement(
            phase, variant, "tokens/s", getattr(speed, phase)[variant], {"dtype": speed.dtype}
        )
        for speed in speeds
        for phase in _PHASES
        for variant in _VARIANTS
    ]


def speed_results(speed: Speed) -> dict[str, Any]:
    """What a capsule's results say of one type."""
    return {
        "dtype": speed.dtype,
        **{
            f"{phase}_{variant}": speed.median(phase, variant)
            for phase in _PHASES
            for variant in _VARIANTS
        },
        **{f"{phase}_ratio": speed.ratio(phase) for phase in _PHASES},
    }

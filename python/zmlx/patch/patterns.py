"""The patterns that `patch` knows, by name."""

from __future__ import annotations

from collections.abc import Iterable

PATTERNS = {
    "moe_experts": "gate and up projections and activation of SwitchGLU experts in one product",
    "moe_combine": "down projection of the experts and their weighted sum, with no (M, K, D) array",
    "moe_block": "a block of known code, from router to weighted sum, in one call",
    "add_rms_norm": "residual add and RMS norm in one pass (one token on CUDA: with what follows)",
    "dense_swiglu": "gate and up projections and activation of dense layers in one product (CPU)",
    "dense": "quantized linear layers and output heads (CPU)",
    "rms_norm": "RMS norm in one pass (CPU)",
    "attention": "attention, and LFM2's short convolution, built by one call (GPU)",
}


def select(
    patterns: str | Iterable[str] | None = None, exclude: str | Iterable[str] = ()
) -> tuple[str, ...]:
    """Names of the patterns to apply, in the order of `PATTERNS`.

    Args:
        patterns: names to apply; all by default.
        exclude: names to leave out.

    Raises:
        ValueError: a name is not in `PATTERNS`.
    """
    wanted = PATTERNS if patterns is None else _names("patterns", patterns)
    unwanted = _names("exclude", exclude)
    return tuple(name for name in PATTERNS if name in wanted and name not in unwanted)


def _names(argument, value):
    names = (value,) if isinstance(value, str) else tuple(value)
    for name in names:
        if name not in PATTERNS:
            raise ValueError(
                f"[patch] {argument} names {name!r}, but the patterns are: {', '.join(PATTERNS)}."
            )
    return names

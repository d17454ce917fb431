"""What a validation runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zmlx import lm
from zmlx.validate.prompts import DEFAULT_PROMPTS


@dataclass(frozen=True)
class Settings:
    """What a validation runs.

    Attributes:
        prompts: texts to continue.
        max_tokens: greedy tokens for each prompt, end-of-sequence tokens included; at least 2.
        runs: repetitions of the greedy comparison.
        near_tokens: continuation tokens of each prompt over which nearness to float32 is judged,
            besides the prompt's own tokens.
        own_decode_tokens: tokens generated from the longest prompt to time a 16-bit type on CPU,
            where stock is too slow for more.
        own_seconds: seconds of stock after which that timing is not repeated further.
        dtype: type to judge instead of the model's own: "float32", "float16" or "bfloat16".
        bits: weight formats to validate: the stored one as it is, others by requantizing the
            dequantized weights in memory; none: the stored format.
        group_size: of the requantized formats; default: the mode's.
        mode: of the requantized formats.
        numerics: "exact" or "fp32" (GPU only); default: the global default.
        patterns: names of the patterns to patch; default: all.
        seed: decides whether stock or patched goes first in each run.
    """

    prompts: Sequence[str] = DEFAULT_PROMPTS
    max_tokens: int = 100
    runs: int = 3
    near_tokens: int = 32
    own_decode_tokens: int = 16
    own_seconds: float = 30.0
    dtype: str | None = None
    bits: Sequence[int] = ()
    group_size: int | None = None
    mode: str = "affine"
    numerics: str | None = None
    patterns: Sequence[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError, naming the argument, if a setting is out of range."""
        least = {"max_tokens": 2, "runs": 1, "near_tokens": 1, "own_decode_tokens": 2}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(
                    f"[validate] {name} must be at least {bound}, but is {getattr(self, name)}."
                )
        if isinstance(self.prompts, str) or not self.prompts or not all(self.prompts):
            raise ValueError("[validate] prompts must be a list of texts, none of them empty.")
        if self.dtype is not None:
            lm.parse_dtype(self.dtype)
        if self.numerics not in (None, "exact", "fp32"):
            raise ValueError(
                f"[validate] numerics must be 'exact' or 'fp32', but is '{self.numerics}'."
            )

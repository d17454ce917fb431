"""Fused primitives in mlx-lm models, in place and without code per model.

    from zmlx.patch import patch, report, unpatch

    patch(model)
    print(report(model))
    unpatch(model)

`PATTERNS` names what is replaced. Each pattern recognises MLX's and mlx-lm's classes exactly,
leaves alone what it does not know, and the report says why.
"""

from zmlx.patch.apply import patch, unpatch
from zmlx.patch.patterns import PATTERNS
from zmlx.patch.report import Replaced, Report, Timing, report
from zmlx.patch.session import Skipped
from zmlx.patch.smart import smart_patch

__all__ = [
    "PATTERNS",
    "Replaced",
    "Report",
    "Skipped",
    "Timing",
    "patch",
    "report",
    "smart_patch",
    "unpatch",
]

"""What `patch` replaced in a model, what it left alone and why, and what was seen since."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field

import mlx.nn as nn

from zmlx.patch.patterns import PATTERNS
from zmlx.patch.session import Skipped, session_of, site_of


@dataclass
class Replaced:
    """A module that a pattern replaced.

    `calls` counts the calls whose result could have been fused with a later operation, and `fused`
    those that were; both are 0 for patterns that need no later operation. `note` says what to
    know about this module.
    """

    path: str
    module_class: str
    pattern: str
    calls: int = 0
    fused: int = 0
    note: str = ""


@dataclass
class Timing:
    """How `smart_patch` found a pattern: seconds of the prompt and of one decoded token, without it
    and with it (medians), and the median of the ratios of runs made one after the other."""

    pattern: str
    kept: bool
    prefill_without: float
    prefill_with: float
    prefill_ratio: float
    decode_without: float
    decode_with: float
    decode_ratio: float


@dataclass
class Report:
    """What `patch` did to a model. Prints as a table; `as_dict()` is for JSON.

    `huge_bytes` counts the bytes of weights that lie in huge pages now.
    """

    model_class: str
    patterns: tuple[str, ...]
    replaced: list[Replaced] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    huge_bytes: int = 0

    def count(self, pattern: str) -> int:
        """How many modules a pattern replaced."""
        return sum(r.pattern == pattern for r in self.replaced)

    def fused(self, pattern: str) -> int:
        """How often a pattern's later operation was fused so far ("moe_combine" and
        "add_rms_norm")."""
        return sum(r.fused for r in self.replaced if r.pattern == pattern)

    def as_dict(self) -> dict:
        """Everything in plain types, for JSON."""
        return asdict(self)

    def __str__(self):
        names = ", ".join(self.patterns)
        lines = [f"{self.model_class}: " + (f"patterns {names}" if names else "not patched")]
        lines += self._replaced_lines() + self._skipped_lines() + self._timing_lines()
        if self.huge_bytes:
            lines += ["", f"  {self.huge_bytes / 1e6:.0f} MB of weights lie in huge pages"]
        return "\n".join(lines)

    def _replaced_lines(self):
        rows = []
        for pattern in PATTERNS:
            mine = [r for r in self.replaced if r.pattern == pattern]
            for (name, note), n in Counter((r.module_class, r.note) for r in mine).items():
                rows.append((pattern, str(n), name, note))
        return _table(("pattern", "modules", "class", ""), rows)

    def _skipped_lines(self):
        counts = Counter((s.pattern, s.module_class, s.reason) for s in self.skipped)
        rows = [(p, str(n), name, reason) for (p, name, reason), n in counts.items()]
        return _table(("left as it was", "modules", "class", "why"), rows)

    def _timing_lines(self):
        rows = [
            (
                t.pattern,
                "kept" if t.kept else "dropped",
                f"{t.prefill_without * 1e3:.2f} -> {t.prefill_with * 1e3:.2f} ms",
                f"{t.decode_without * 1e3:.2f} -> {t.decode_with * 1e3:.2f} ms",
            )
            for t in self.timings
        ]
        return _table(("timed", "", "prompt", "one token"), rows)


def _table(header, rows):
    if not rows:
        return []
    rows = [header, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    return [""] + [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def report(model: nn.Module) -> Report:
    """What `patch` did to a model, as it stands now.

    Args:
        model: the model that `patch` or `smart_patch` was given.

    Returns:
        what was replaced and what was not; with no patterns if the model is not patched.
    """
    session = session_of(model)
    site = site_of(model)
    model_class = site.stock if site else type(model)
    result = Report(model_class.__name__, session.patterns if session else ())
    if session is None:
        return result
    result.timings = list(session.timings)
    result.huge_bytes = session.huge_bytes
    result.skipped = list(session.skipped)
    sums = any(site.fused for site in session.sites if "add_rms_norm" in site.patterns)
    for site in session.sites:
        for pattern in site.patterns:
            entry = Replaced(site.path, site.stock.__name__, pattern)
            reason = _observe(site, entry, sums)
            if reason:
                result.skipped.append(Skipped(entry.path, entry.module_class, pattern, reason))
            else:
                result.replaced.append(entry)
    return result


def _observe(site, entry, sums):
    """Fills in what was seen of a site. Returns "" if the pattern came about or still may, or else
    why it did not. `sums` tells whether any residual sum was fused."""
    if entry.pattern not in ("moe_combine", "add_rms_norm"):
        return ""
    entry.calls, entry.fused = site.calls, site.fused
    if site.fused:
        return ""
    if entry.pattern == "add_rms_norm":
        entry.note = "no residual sum that gains seen yet"
        return "its input was no residual sum" if sums else ""
    if site.calls or site.combine_note:
        return site.combine_note or "no weighted sum over the experts followed"
    entry.note = "not called yet"
    return ""

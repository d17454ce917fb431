"""Progress bars on stderr."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """A bar that counts tokens or calls; use it in a ``with`` statement.

    Args:
        label: text before the bar.
        total: units of work; ``None`` if unknown.
        enabled: ``False`` shows nothing.
        unit: what is counted.
    """

    def __init__(self, label: str, total: int | None, *, enabled: bool = True, unit: str = "token"):
        from tqdm import tqdm

        self._bar = tqdm(
            total=total,
            desc=label,
            unit=unit,
            disable=not enabled,
            file=sys.stderr,
            leave=False,
            dynamic_ncols=True,
            # A log file gets a line now and then, a terminal a smooth bar.
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def expect(self, total: int) -> None:
        """Sets how many units of work there are."""
        self._bar.total = total

    def stage(self, text: str) -> None:
        """Says what is being done now."""
        self._bar.set_description(text)

    def advance(self, count: int = 1) -> None:
        """``count`` more units are done."""
        if self._bar.total is not None and self._bar.n + count > self._bar.total:
            self._bar.total = self._bar.n + count  # repeated timings cannot be counted beforehand
        self._bar.update(count)

    def count(self, units: int, value: Any) -> Any:
        """Advances by ``units`` and returns ``value``."""
        self.advance(units)
        return value

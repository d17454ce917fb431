"""Tables: aligned columns for a terminal, and Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> list[str]:
    """Lines of a table with aligned columns.

    Args:
        header: one title a column.
        rows: cells, as many a row as there are titles.
        right: columns that are aligned to the right.
    """
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return [line(cells[0]), rule, *[line(row) for row in cells[1:]]]


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> list[str]:
    """Lines of a Markdown table; see :func:`format_table`."""
    marks = ["---:" if column in right else ":---" for column in range(len(header))]
    return [f"| {' | '.join(row)} |" for row in (header, marks, *rows)]

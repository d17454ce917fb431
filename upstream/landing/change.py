"""What a primitive changes in MLX: new files, and texts put into MLX's own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PRIMITIVES = ("gather_qmm_swiglu", "add_rms_norm", "gather_qmm_combine", "moe_route")
GATHERING = ("gather_qmm_swiglu", "gather_qmm_combine")

FILES = Path(__file__).resolve().parents[1] / "files"
COPYRIGHT = "Copyright © 2026 Apple Inc."


@dataclass(frozen=True)
class Insertion:
    """A text that belongs into one of MLX's files."""

    path: str
    place: Callable[[str], int]  # where, in the file's text
    text: str  # whole lines
    owners: frozenset[str]  # primitives, any of which needs it


@dataclass
class Change:
    """What the chosen primitives add to a checkout."""

    has_global_scale: bool = True  # whether this MLX's gather_qmm has that argument
    files: dict[str, str] = field(default_factory=dict)
    insertions: list[Insertion] = field(default_factory=list)

    def add_file(self, path, text):
        self.files[path] = text

    def insert(self, path, place, text, owners=PRIMITIVES):
        text = text if text.endswith("\n") else text + "\n"
        self.insertions.append(Insertion(path, place, text, frozenset(owners)))


def cpp_file(includes, namespace, *parts, header=False):
    """The text of a C++ file: copyright, includes, and parts in a namespace."""
    lines = [f"// {COPYRIGHT}", ""]
    if header:
        lines += ["#pragma once", ""]
    system = [f"#include {i}" for i in includes if i.startswith("<")]
    own = [f'#include "{i}"' for i in includes if not i.startswith("<")]
    lines += system + [""] * bool(system and own) + own
    return "\n".join([*lines, "", in_namespace(namespace, *parts)])


def in_namespace(name, *parts):
    body = "\n\n".join(part.strip() for part in parts if part.strip())
    opening = f"namespace {name} {{" if name else "namespace {"
    return f"{opening}\n\n{body}\n\n}} // namespace{' ' + name if name else ''}\n"


def stored(path):
    """A text that has no counterpart in this project's sources, as it goes into MLX."""
    return (FILES / path).read_text()

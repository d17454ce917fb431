"""Formats texts as the checkout's own hooks do."""

import re
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from .errors import Missing


def wanted_version(checkout):
    """The clang-format that the checkout's hooks use, or None if they name none."""
    hooks = checkout / ".pre-commit-config.yaml"
    text = hooks.read_text() if hooks.exists() else ""
    found = re.search(r"mirrors-clang-format\s+rev: v([\d.]+)", text)
    return found and found.group(1)


def _program():
    beside = Path(sys.executable).with_name("clang-format")
    program = str(beside) if beside.exists() else shutil.which("clang-format")
    if not program:
        raise Missing("clang-format: pip install clang-format")
    return program


def version():
    text = subprocess.run([_program(), "--version"], capture_output=True, text=True).stdout
    return re.search(r"version ([\d.]+)", text).group(1)


def clang_format(text, path, checkout):
    """The text in the style that the checkout has for a file of this path."""
    style = checkout / ".clang-format"
    if not path.endswith((".h", ".cpp", ".cuh")) or not style.exists():
        return text
    return _formatted(text, path, style.read_text())


@lru_cache(maxsize=4096)
def _formatted(text, path, style):
    # MLX writes braces around every body, which its style does not ask for.
    rules = re.sub(r"^\.\.\.\n?", "", style, flags=re.M) + "InsertBraces: true\n"
    with tempfile.NamedTemporaryFile("w", suffix=".clang-format") as file:
        file.write(rules)
        file.flush()
        done = subprocess.run(
            [_program(), f"--style=file:{file.name}", f"--assume-filename={path}"],
            input=text,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise Missing(f"clang-format: {done.stderr.strip()}")
    return done.stdout


def block(text, path, checkout):
    """A part of a C++ file; ends as many lines after its last as before."""
    tail = text[len(text.rstrip("\n")) :]
    head = text[: len(text) - len(text.lstrip("\n"))]
    function = path.endswith("python/src/fast.cpp")  # statements, not declarations
    opening, end = ("void f() {", "}") if function else ("namespace n {", "} // namespace n")
    whole = clang_format(f"{opening}\n\n{text.strip()}\n\n{end}\n", path, checkout)
    body = whole.split("{", 1)[1].rsplit("}", 1)[0].strip("\n")
    return head + body + tail

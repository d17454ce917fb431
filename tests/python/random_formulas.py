"""Random formulas with their values in float64, from tests/cpp/kernel_random.h."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
_BUILT = ROOT / "build/release/tests/cpp/kernel_random_corpus"
_SOURCES = ["tests/cpp/kernel_random_corpus.cpp", "tests/cpp/kernel_random.cpp"]
_SOURCES += ["src/kernel/expression.cpp", "src/kernel/simplify.cpp"]
# Kinds of formulas that round to 16 bits, and what T is in them.
KINDS = {"casts": "float32", "half": "float16", "bfloat": "bfloat16"}


@dataclass
class RandomFormula:
    """A formula of a, b and c at some points.

    Attributes:
        text: of the formula.
        inputs: float32, (3, points).
        value, error: in float64, and how far a computation in float32 may be from it; NaN where
            nothing can be said.
        slope, slope_error: the same of the derivative by a, by differences.
    """

    text: str
    inputs: np.ndarray
    value: np.ndarray
    error: np.ndarray
    slope: np.ndarray
    slope_error: np.ndarray


def corpus_program(folder: Path) -> Path | None:
    """The program that makes them, built or compiled into the folder; ``None`` if neither is."""
    if _BUILT.exists():
        return _BUILT
    compiler = shutil.which("c++") or shutil.which("clang++")
    if compiler is None:
        return None
    program = folder / "kernel_random_corpus"
    include = ["-I", str(ROOT / "src"), "-I", str(ROOT / "tests/cpp")]
    files = [str(ROOT / file) for file in _SOURCES]
    command = [compiler, "-std=c++20", "-O1", *include, *files, "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True)
    return program


def random_formulas(
    program: Path, seed: int, count: int, depth: int = 5, points: int = 37, kind: str = "float"
) -> list[RandomFormula]:
    """So many of them; `kind` is that of tests/cpp/kernel_random_corpus.cpp."""
    arguments = [str(program), *map(str, (seed, count, depth, points)), kind]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    formulas = []
    for line in done.stdout.splitlines():
        text, numbers = line.split("\t")
        columns = np.array(numbers.split(), dtype=np.float64).reshape(points, 7).T
        formulas.append(RandomFormula(text, columns[:3].astype(np.float32), *columns[3:]))
    return formulas


def in_one(formulas: list[RandomFormula]) -> str:
    """One formula of a, b, c and k that is number k of the given ones: for compilers that start
    slowly."""
    text = formulas[-1].text
    for number in range(len(formulas) - 2, -1, -1):
        text = f"(k < {number}.5f ? ({formulas[number].text}) : {text})"
    return text


def inputs_of_one(formulas: list[RandomFormula]) -> list[np.ndarray]:
    """The arguments of that one: all points of all formulas."""
    numbers = [np.full(f.inputs.shape[1], k, np.float32) for k, f in enumerate(formulas)]
    joined = np.concatenate([f.inputs for f in formulas], axis=1)
    return [*joined, np.concatenate(numbers)]

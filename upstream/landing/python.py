"""The Python binding with its documentation, tests and a benchmark."""

import re

from . import places
from .change import stored
from .cpp import ROOT, blanked, closing
from .errors import Missing
from .rewrite import edit

_BINDINGS = "python/src/fast.cpp"


def _statement(operation):
    text = (ROOT / _BINDINGS).read_text()
    start = text.find(f'  m.def("{operation}"')
    if start < 0:
        raise Missing(f"{_BINDINGS} does not bind '{operation}'")
    code = blanked(text)
    return text[start : closing(code, code.index("(", start)) + 2]


def _signature(statement):
    """The signature as MLX writes it, in one literal."""
    start = statement.index("nb::sig(")
    end = closing(blanked(statement), start + len("nb::sig"))
    text = "".join(re.findall(r'"([^"]*)"', statement[start:end]))
    text = text.replace("mlx.core.", "").replace("Stream | Device | None", "StreamOrDevice")
    text = re.sub(r", (?:numerics: str \| None = None|max_rows: int = 32)", "", text)
    return statement[:start] + f'nb::sig("{text}")' + statement[end + 1 :]


def _docstring(statement):
    start = statement.index('R"(')
    lines = statement[start + 3 : statement.index(')"', start)].rstrip().splitlines()
    kept = [line for line in lines if not re.match(r" *(?:numerics|max_rows)[:,]", line)]
    body = "\n".join(" " * 8 + line if line else "" for line in kept)
    return statement[:start] + f'R"pbdoc(\n{body}\n      )pbdoc");'


def binding(operation):
    text = _docstring(_signature(_statement(operation)))
    text = re.sub(r'"numerics"_a = nb::none\(\),\s*"max_rows"_a = 32,', "", text)
    text = re.sub(rf"&(?:zmlx::fast::)?{operation}\b", f"&mx::fast::{operation}", text, count=1)
    return edit(text, ("zmlx", "mlx", text.count("zmlx")))


def add(change, chosen):
    for operation in ("gather_qmm_swiglu", "add_rms_norm", "gather_qmm_combine", "moe_route"):
        owner = (operation,)
        change.insert(
            "python/src/fast.cpp",
            places.before_function_end("void init_fast("),
            "\n" + binding(operation),
            owner,
        )
        change.insert(
            "docs/src/python/fast.rst",
            places.after_listed("autosummary", "scaled_dot_product_attention"),
            f"  {operation}\n",
            owner,
        )
        change.insert(
            "tests/CMakeLists.txt",
            places.after_source("target_sources", "fft_tests.cpp"),
            f"          {operation}_tests.cpp\n",
            owner,
        )
        if operation in chosen:
            for path in (
                f"tests/{operation}_tests.cpp",
                f"python/tests/test_{operation}.py",
                f"benchmarks/python/{operation}_bench.py",
            ):
                change.add_file(path, stored(path))

"""Is every patched block of a model as exact as a sound 16-bit one?

Predictions of a whole model are a blunt instrument: where two experts are nearly tied, a rounding
decides between them, and what follows says little about kernels. So each block (the attention or
the experts of one layer, the output head) is also judged alone: the inputs that it gets in a
float32 run, rounded to the model's type, go to the patched block, to the yardstick (stock with its
quantized products in float32, :mod:`zmlx.validate.yardstick`), and to stock in float32, which is
the truth for these inputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from zmlx import lm
from zmlx.patch import Report
from zmlx.validate.patching import Patcher, replaced_products
from zmlx.validate.yardstick import float32_products

# The patched block's error may be this many times the yardstick's. Sound kernels are at 1 or
# below: they round less often.
ROUNDING_LIMIT = 1.5
# Tokens given to each block at once, and one at a time.
WHOLE_TOKENS = 64
_STEP_TOKENS = 8


@dataclass(frozen=True)
class BlockRounding:
    """Errors of one block.

    Attributes:
        path: of the block in the model.
        feed: ``"whole"`` sequences or single ``"steps"``.
        patched: median over the tokens of the patched block's error, relative to the truth.
        yardstick: likewise of the yardstick's.
    """

    path: str
    feed: str
    patched: float
    yardstick: float

    @property
    def ratio(self) -> float:
        """Patched over yardstick; 1 where both are exact."""
        if self.patched == self.yardstick:
            return 1.0
        return self.patched / self.yardstick if self.yardstick else float("inf")

    @property
    def ok(self) -> bool:
        """Whether the ratio is at most :data:`ROUNDING_LIMIT` (NaN is not)."""
        return self.ratio <= ROUNDING_LIMIT


@dataclass
class _Call:
    """One recorded call of a block."""

    path: str
    module: nn.Module
    method: str
    arguments: tuple
    keywords: dict[str, Any]

    def run(self, dtype: mx.Dtype) -> np.ndarray:
        """The outputs, (rows, width), for the recorded inputs cast to ``dtype``."""

        def cast(value: Any) -> Any:
            floating = isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating)
            return value.astype(dtype) if floating else value

        arguments = [cast(value) for value in self.arguments]
        keywords = {name: cast(value) for name, value in self.keywords.items()}
        result = getattr(self.module, self.method)(*arguments, **keywords)
        # Some blocks return their output and more.
        arrays = [array for _, array in tree_flatten(result) if isinstance(array, mx.array)]
        if not arrays:
            raise ValueError(f"[validate] The block '{self.path}' returns no array.")
        output = np.array(arrays[0].astype(mx.float32), dtype=np.float64)
        return output.reshape(-1, output.shape[-1])

    def steps(self, count: int) -> list[_Call]:
        """Calls with the first ``count`` tokens alone; none if an argument spans all tokens."""
        x = self.arguments[0] if self.arguments else None
        others = [*self.arguments[1:], *self.keywords.values()]
        if getattr(x, "ndim", 0) != 3 or any(isinstance(value, mx.array) for value in others):
            return []
        # A mask is given by name; one token needs none.
        rest = tuple(None if isinstance(value, str) else value for value in self.arguments[1:])
        keywords = {
            name: None if isinstance(value, str) else value for name, value in self.keywords.items()
        }
        return [
            _Call(self.path, self.module, self.method, (x[:, i : i + 1], *rest), keywords)
            for i in range(min(count, x.shape[1]))
        ]


def measure_rounding(
    model: Any, sequences: list[list[int]], own: mx.Dtype, found: Report, patched: Patcher
) -> list[BlockRounding]:
    """Errors of every block that holds a patched module.

    Args:
        model: a stock model; it is stock again afterwards.
        sequences: token ids; the first :data:`WHOLE_TOKENS` are used.
        own: the type that is judged.
        found: what patching replaces.
        patched: patches the model.
    """
    blocks = patched_blocks(model, [entry.path for entry in found.replaced])
    calls: list[_Call] = []
    with lm.in_dtype(model, mx.float32), _recording(blocks, calls):
        for tokens in _first(sequences, WHOLE_TOKENS):
            mx.eval(model(mx.array([tokens])))
    for call in calls:
        # What the block gets in its own type.
        call.arguments = tuple(_rounded(value, own) for value in call.arguments)
        call.keywords = {name: _rounded(value, own) for name, value in call.keywords.items()}
    feeds = {"whole": calls, "steps": _single_steps(calls)}
    with lm.in_dtype(model, mx.float32):
        truth = _run_all(feeds, mx.float32)
    with lm.in_dtype(model, own):
        with float32_products(model, replaced_products(found)):
            yardstick = _run_all(feeds, own)
        with patched(model):
            results = _run_all(feeds, own)
    return [
        BlockRounding(
            path,
            feed,
            _median_error(truth[feed][path], results[feed][path]),
            _median_error(truth[feed][path], yardstick[feed][path]),
        )
        for feed in feeds
        for path in truth[feed]
    ]


def _run_all(
    feeds: dict[str, list[_Call]], dtype: mx.Dtype
) -> dict[str, dict[str, list[np.ndarray]]]:
    """Outputs of all calls by feed and path."""
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for feed, calls in feeds.items():
        by_path = found.setdefault(feed, {})
        for call in calls:
            by_path.setdefault(call.path, []).append(call.run(dtype))
    return found


def patched_blocks(model: Any, replaced: list[str]) -> dict[str, nn.Module]:
    """The blocks that hold a replaced module, by path.

    A block is a child of a decoder layer; outside the layers it is the replaced module itself.
    """
    named = dict(model.named_modules())
    paths = {id(module): path for path, module in named.items()}
    layers = [paths[id(layer)] for layer in getattr(model, "layers", []) if id(layer) in paths]
    blocks = {}
    for path in replaced:
        for layer in layers:
            if path.startswith(f"{layer}."):
                path = f"{layer}.{path[len(layer) + 1 :].split('.')[0]}"
                break
        # A layer may keep a list of modules under this name.
        if path in named:
            blocks[path] = named[path]
    return blocks


@contextlib.contextmanager
def _recording(blocks: dict[str, nn.Module], calls: list[_Call]) -> Iterator[None]:
    """Notes every call of the blocks; of two nested ones both."""

    def recorder(path: str, stock: type) -> type:
        def noted(method: str) -> Callable:
            def call(self: nn.Module, *arguments: Any, **keywords: Any) -> Any:
                calls.append(_Call(path, self, method, arguments, keywords))
                return getattr(stock, method)(self, *arguments, **keywords)

            return call

        # A tied output head is called through as_linear; an embedding gets token ids.
        method = "as_linear" if hasattr(stock, "as_linear") else "__call__"
        return type(stock.__name__, (stock,), {method: noted(method)})

    stock = {path: type(module) for path, module in blocks.items()}
    for path, module in blocks.items():
        module.__class__ = recorder(path, stock[path])
    try:
        yield
    finally:
        for path, module in blocks.items():
            module.__class__ = stock[path]


def _rounded(value: Any, dtype: mx.Dtype) -> Any:
    if isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating):
        value = value.astype(dtype)
        mx.eval(value)
    return value


def _first(sequences: list[list[int]], tokens: int) -> Iterator[list[int]]:
    for sequence in sequences:
        if tokens <= 0:
            return
        yield sequence[:tokens]
        tokens -= len(sequence)


def _single_steps(calls: list[_Call]) -> list[_Call]:
    """The first tokens of each block, one by one."""
    steps: dict[str, list[_Call]] = {}
    for call in calls:
        known = steps.setdefault(call.path, [])
        known += call.steps(_STEP_TOKENS - len(known))
    return [call for items in steps.values() for call in items]


def _median_error(truth: list[np.ndarray], found: list[np.ndarray]) -> float:
    """Median over the rows of the error's norm over the truth's; NaN if any value is."""
    exact, own = np.concatenate(truth), np.concatenate(found)
    with np.errstate(invalid="ignore"):
        scale = np.linalg.norm(exact, axis=-1)
        errors = np.linalg.norm(own - exact, axis=-1) / np.where(scale > 0, scale, 1.0)
    return float(np.median(errors)) if np.isfinite(errors).all() else float("nan")

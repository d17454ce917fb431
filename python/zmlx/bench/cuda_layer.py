"""A chain of MoE layers on a CUDA GPU, stock against patched."""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from zmlx.arguments import EXIT_FAIL, EXIT_USAGE, at_least, integer_list, name_list
from zmlx.bench.layer import MoELayer, build_layer, in_type
from zmlx.bench.shapes import SHAPES, LayerShape
from zmlx.bench.timing import Series
from zmlx.capsule import check_writable, make_capsule, measurement, write_capsule
from zmlx.table import format_table

_DESCRIPTION = """\
Times the experts of a chain of MoE layers, each fed with the one before, as mlx-lm computes them
and patched, one after the other in every round. Times are wall-clock times, so they hold the host's
part. "steady" chains run as in generation: the host builds the next while the GPU works on the one
before. A chain "alone" is built, evaluated and waited for.
"""

# Chains of one steady run.
_STEADY = 8


@dataclass
class ChainResult:
    """One shape at one number of tokens.

    Attributes:
        shape: the layers.
        tokens: M.
        weight_bytes: of the distinct experts that the chain selects.
        equal: whether both forms return the same bits.
        stock, patched: seconds of a steady chain.
        stock_alone, patched_alone: seconds of a chain by itself.
        build, submit: the patched chain's seconds on the host: Python, and MLX's evaluation until
            it returns.
    """

    shape: LayerShape
    tokens: int
    weight_bytes: int
    equal: bool = False
    stock: Series = field(default_factory=Series)
    patched: Series = field(default_factory=Series)
    stock_alone: Series = field(default_factory=Series)
    patched_alone: Series = field(default_factory=Series)
    build: Series = field(default_factory=Series)
    submit: Series = field(default_factory=Series)


class Chain:
    """Layers with weights of their own, in both forms."""

    def __init__(self, shape: LayerShape, length: int, distinct: int):
        from zmlx.patch import patch

        self.shape = shape
        self.length = length
        self.stock = [build_layer(shape, mx.bfloat16, seed) for seed in range(distinct)]
        self.patched = [in_type(layer, mx.bfloat16) for layer in self.stock]
        for layer in self.patched:
            patch(layer, ["moe_experts", "moe_combine"])

    def run(
        self, layers: list[MoELayer], x: mx.array, indices: list[mx.array], scores: mx.array
    ) -> mx.array:
        for number in range(self.length):
            x = layers[number % len(layers)](x, indices[number], scores)
        return x

    def measure(self, tokens: int, repeats: int) -> ChainResult:
        """Both forms in turn, after two rounds that compile their kernels."""
        shape, rng = self.shape, np.random.default_rng(tokens)
        chosen = [
            np.stack([rng.permutation(shape.experts)[: shape.top_k] for _ in range(tokens)])
            for _ in range(self.length)
        ]
        distinct = sum(len(np.unique(layer)) for layer in chosen)
        indices = [mx.array(layer[None].astype(np.uint32)) for layer in chosen]
        x = mx.random.normal((1, tokens, shape.width)).astype(mx.bfloat16)
        scores = mx.softmax(mx.random.normal((1, tokens, shape.top_k)), -1).astype(mx.bfloat16)
        mx.eval(x, scores, indices)
        result = ChainResult(shape, tokens, distinct * shape.expert_bytes(2))
        for _ in range(2):
            stock, patched = (
                self.run(layers, x, indices, scores) for layers in (self.stock, self.patched)
            )
            result.equal = mx.array_equal(stock, patched).item()
        for _ in range(repeats):
            for layers, steady, alone in (
                (self.stock, result.stock, result.stock_alone),
                (self.patched, result.patched, result.patched_alone),
            ):
                run = functools.partial(self.run, layers, x, indices, scores)
                alone.time(run)
                steady.seconds.append(_steady(run))
            begin = time.perf_counter()
            y = self.run(self.patched, x, indices, scores)
            built = time.perf_counter()
            mx.async_eval(y)
            result.submit.seconds.append(time.perf_counter() - built)
            result.build.seconds.append(built - begin)
            mx.eval(y)
        return result


def _steady(run: Callable[[], mx.array]) -> float:
    """Seconds of one of several chains, each built while the one before is computed."""
    mx.eval(run())
    begin = time.perf_counter()
    last = None
    for _ in range(_STEADY):
        y = run()
        mx.async_eval(y)
        if last is not None:
            mx.eval(last)
        last = y
    mx.eval(last)
    return (time.perf_counter() - begin) / _STEADY


def _capsule(shape: LayerShape, chain: Chain, results: list[ChainResult]) -> dict[str, Any]:
    measurements = []
    for result in results:
        for what, variant, series in (
            ("steady", "stock", result.stock),
            ("steady", "patched", result.patched),
            ("alone", "stock", result.stock_alone),
            ("alone", "patched", result.patched_alone),
            ("build", "patched", result.build),
            ("submit", "patched", result.submit),
        ):
            tokens = {"tokens": result.tokens}
            measurements.append(measurement(what, variant, "s", series.seconds, tokens))
    return make_capsule(
        "cuda_layer",
        f"{shape.name}-{shape.format}",
        parameters={
            "layers": chain.length,
            "distinct_layers": len(chain.stock),
            "type": "bfloat16",
        },
        measurements=measurements,
        results={
            str(result.tokens): {
                "ratio": result.stock.median / result.patched.median,
                "ratio_alone": result.stock_alone.median / result.patched_alone.median,
                "patched_us_per_layer": result.patched.median / chain.length * 1e6,
                "equal": result.equal,
                "weight_bytes": result.weight_bytes,
            }
            for result in results
        },
        passed=all(result.equal for result in results),
    )


def _row(result: ChainResult, length: int) -> list[str]:
    micro = 1e6 / length
    return [
        f"{result.shape.name} {result.shape.format}",
        str(result.tokens),
        f"{result.stock.median * micro:.1f}",
        f"{result.patched.median * micro:.1f}",
        f"{result.stock.median / result.patched.median:.2f}",
        f"{result.stock_alone.median * micro:.1f}",
        f"{result.patched_alone.median * micro:.1f}",
        f"{result.build.median * micro:.1f}",
        f"{result.submit.median * micro:.1f}",
        f"{result.weight_bytes / result.patched.median / 1e12:.2f}",
        "yes" if result.equal else "NO",
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=_DESCRIPTION)
    parser.add_argument(
        "--shapes", type=name_list(tuple(SHAPES)), default=list(SHAPES), help="(all)"
    )
    parser.add_argument("--bits", type=integer_list, help="of affine shapes (their own)")
    parser.add_argument("--tokens", type=integer_list, default=[1, 4, 16, 32], help="(1,4,16,32)")
    parser.add_argument("--layers", type=at_least(1), default=24, help="(%(default)s)")
    parser.add_argument("--distinct", type=at_least(1), default=6, help="with weights of their own")
    parser.add_argument("--repeats", type=at_least(1), default=12, help="(%(default)s)")
    parser.add_argument("--capsule", metavar="DIR", help="write repro capsules into this folder")
    options = parser.parse_args(arguments)
    if not mx.cuda.is_available():
        print("MLX has no CUDA GPU here.", file=sys.stderr)
        return EXIT_USAGE
    if options.capsule:
        check_writable(options.capsule)
    rows, failed = [], False
    for name in options.shapes:
        base = SHAPES[name]
        for bits in options.bits if options.bits and base.mode == "affine" else [base.bits]:
            shape = base.with_format(bits=bits)
            chain = Chain(shape, options.layers, min(options.distinct, options.layers))
            results = [chain.measure(tokens, options.repeats) for tokens in options.tokens]
            rows += [_row(result, chain.length) for result in results]
            failed |= not all(result.equal for result in results)
            if options.capsule:
                write_capsule(_capsule(shape, chain, results), options.capsule)
    print("Microseconds a layer.")
    head = ["shape", "M", "stock", "patched", "ratio", "stock alone", "patched alone"]
    head += ["build", "submit", "TB/s", "equal"]
    print(*format_table(head, rows, range(1, 10)), sep="\n")
    return EXIT_FAIL if failed else 0

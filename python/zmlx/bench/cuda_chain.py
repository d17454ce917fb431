"""The experts of a chain of MoE layers on a CUDA GPU from C++: times without Python."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

from zmlx.arguments import EXIT_FAIL, EXIT_USAGE, at_least, integer_list, name_list
from zmlx.bench.shapes import SHAPES, LayerShape
from zmlx.capsule import check_writable, make_capsule, measurement, write_capsule
from zmlx.table import format_table

_DESCRIPTION = """\
Runs the C++ program cuda_chain (CMake: -DZMLX_BUILD_BENCHMARKS=ON), which times the experts of a
chain of layers as mlx-lm composes them and fused, in turns, each chain built while the GPU works on
the one before. Also shows the host's time of a fused call: built, and evaluated until MLX returns.
The experts have no biases and plain SwiGLU, whatever the model's have.
"""


def run_program(
    program: str, shape: LayerShape, tokens: int, layers: int, rounds: int
) -> dict[str, Any]:
    """What the program prints for one shape: seconds of whole chains, and whether bits are equal.

    Raises:
        ValueError: if it fails.
    """
    sizes = [shape.width, shape.expert_width, shape.experts, shape.top_k]
    form = [shape.mode, shape.bits, shape.group_size]
    command = [program, *map(str, [*sizes, *form, tokens, layers, rounds])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return json.loads(done.stdout)
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"'{program}' did not run: {error}") from None


def host_seconds(found: dict[str, Any]) -> float:
    """Of one fused call, built and evaluated."""
    busy = statistics.median(found["build"]) + statistics.median(found["submit"])
    return busy / (found["layers"] * found["calls"])


def holds(found: dict[str, Any]) -> bool:
    """Whether bits are equal, of numbers that have not vanished on their way."""
    return found["equal"] and 1e-3 < found["spread"] < 1e3


def _capsule(shape: LayerShape, results: dict[int, dict[str, Any]]) -> dict[str, Any]:
    measurements = [
        measurement(name, variant, "s", found[key], {"tokens": tokens})
        for tokens, found in results.items()
        for name, variant, key in (
            ("steady", "stock", "stock"),
            ("steady", "patched", "fused"),
            ("build", "patched", "build"),
            ("submit", "patched", "submit"),
        )
    ]
    return make_capsule(
        "cuda_chain",
        f"{shape.name}-{shape.format}",
        parameters={"layers": next(iter(results.values()))["layers"], "type": "bfloat16"},
        measurements=measurements,
        results={
            str(tokens): {
                "equal": found["equal"],
                "spread": found["spread"],
                "calls_per_layer": found["calls"],
                "host_seconds_per_call": host_seconds(found),
            }
            for tokens, found in results.items()
        },
        passed=all(map(holds, results.values())),
    )


def _row(shape: LayerShape, tokens: int, found: dict[str, Any]) -> list[str]:
    stock, fused = (
        1e6 * statistics.median(found[name]) / found["layers"] for name in ("stock", "fused")
    )
    return [
        f"{shape.name} {shape.format}",
        str(tokens),
        f"{stock:.1f}",
        f"{fused:.1f}",
        f"{stock / fused:.2f}",
        f"{1e6 * host_seconds(found):.2f}",
        "yes" if holds(found) else "NO",
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", help="path of cuda_chain")
    parser.add_argument(
        "--shapes", type=name_list(tuple(SHAPES)), default=list(SHAPES), help="(all)"
    )
    parser.add_argument("--bits", type=integer_list, help="of affine shapes (their own)")
    parser.add_argument("--tokens", type=integer_list, default=[1, 4, 16, 32], help="(1,4,16,32)")
    parser.add_argument("--layers", type=at_least(1), default=24, help="(%(default)s)")
    parser.add_argument("--rounds", type=at_least(1), default=12, help="(%(default)s)")
    parser.add_argument("--capsule", metavar="DIR", help="write repro capsules into this folder")
    options = parser.parse_args(arguments)
    rows, failed = [], False
    try:
        if options.capsule:
            check_writable(options.capsule)
        for name in options.shapes:
            base = SHAPES[name]
            for bits in options.bits if options.bits and base.mode == "affine" else [base.bits]:
                shape = base.with_format(bits=bits)
                results = {
                    tokens: run_program(
                        options.program, shape, tokens, options.layers, options.rounds
                    )
                    for tokens in options.tokens
                }
                rows += [_row(shape, tokens, found) for tokens, found in results.items()]
                failed |= not all(map(holds, results.values()))
                if options.capsule:
                    write_capsule(_capsule(shape, results), options.capsule)
    except ValueError as error:
        print(f"bench_cuda_chain: {error}", file=sys.stderr)
        return EXIT_USAGE
    print("Microseconds a layer; host: a fused call.")
    head = ["shape", "M", "stock", "fused", "ratio", "host", "equal"]
    print(*format_table(head, rows, range(1, 6)), sep="\n")
    return EXIT_FAIL if failed else 0

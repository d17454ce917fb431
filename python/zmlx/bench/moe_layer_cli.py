"""Command line of the layer benchmark: ``zmlx bench moe-layer``."""

from __future__ import annotations

import argparse
from typing import Any

from zmlx.arguments import at_least, guarded, integer_list, name_list, seconds
from zmlx.bench.options import add_run_options, begin_run, end_run
from zmlx.bench.shapes import SHAPES, LayerShape

_DESCRIPTION = """\
Times one MoE layer: mlx-lm's own SwitchGLU and weighted sum against the patched layer, interleaved
in one run, with the machine's read bandwidth measured in between. The experts rotate, so that
weights come from memory. Exits with 1 if a result is wrong, or if the patched layer is slower than
stock for many tokens.
"""
_DTYPES = ("bfloat16", "float16", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's options to ``parser``."""
    parser.description = _DESCRIPTION
    parser.add_argument(
        "--shapes",
        type=name_list((*SHAPES, "all")),
        default=["lfm2-8b-a1b"],
        help=f"named layers, comma-separated: {', '.join(SHAPES)}, or all (lfm2-8b-a1b)",
    )
    sizes = parser.add_argument_group("a layer of other sizes (all four are needed)")
    sizes.add_argument("--width", type=at_least(1), help="D, model width")
    sizes.add_argument("--expert-width", type=at_least(1), help="H, width of an expert")
    sizes.add_argument("--experts", type=at_least(1), help="E")
    sizes.add_argument("--top-k", type=at_least(1), help="K, experts per token")
    sizes.add_argument("--activation", choices=("swiglu", "swiglu_clamped"), default="swiglu")
    sizes.add_argument("--bias", action="store_true", help="experts with bias vectors")
    parser.add_argument(
        "--seq-lens", type=integer_list, default=[1, 4, 16, 64], help="M (1,4,16,64)"
    )
    parser.add_argument("--bits", type=integer_list, help="bits, comma-separated (the layer's own)")
    parser.add_argument("--group-size", type=at_least(1), help="(the layer's own)")
    parser.add_argument("--mode", choices=("affine", "mxfp4", "mxfp8", "nvfp4"))
    parser.add_argument(
        "--dtype", type=name_list(_DTYPES), default=["bfloat16"], help="types (bfloat16)"
    )
    parser.add_argument("--repeats", type=at_least(1), default=20, help="rounds (%(default)s)")
    parser.add_argument(
        "--seconds", type=seconds, default=20.0,
        help="for each M: rounds end after this much time in the patched layer (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--stock-seconds", type=seconds, default=20.0,
        help="for each M and type: stock is timed once, and again within this time (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--no-stock-bf16", type=int, metavar="M", dest="no_stock_16bit_above",
        help="do not run stock in 16-bit types beyond this M (on CPU it is very slow)",
    )  # fmt: skip
    parser.add_argument(
        "--memory", action=argparse.BooleanOptionalAction, default=None,
        help="measure peak memory at the largest M in fresh processes (if M is 64 or more)",
    )  # fmt: skip
    parser.add_argument("--plot", metavar="FILE", help="draw a roofline (needs matplotlib)")
    add_run_options(parser)


def shapes_of(arguments: argparse.Namespace) -> list[LayerShape]:
    """The layers that the arguments ask for, in every format asked for.

    Raises:
        ValueError: if sizes are incomplete or do not fit.
    """
    sizes = {
        name: getattr(arguments, name) for name in ("width", "expert_width", "experts", "top_k")
    }
    given = [name for name, size in sizes.items() if size is not None]
    if given and len(given) < len(sizes):
        missing = ", ".join("--" + name.replace("_", "-") for name in sizes if name not in given)
        raise ValueError(f"A layer of other sizes needs {missing} too.")
    if given:
        name = "d{width}-h{expert_width}-e{experts}-k{top_k}".format(**sizes)
        bases = [LayerShape(name, **sizes, activation=arguments.activation, bias=arguments.bias)]
    else:
        names = list(SHAPES) if "all" in arguments.shapes else arguments.shapes
        bases = [SHAPES[name] for name in names]
    shapes = [
        base.with_format(arguments.mode, bits, arguments.group_size)
        for base in bases
        for bits in arguments.bits or [None]
    ]
    for shape in shapes:
        shape.check()
    return shapes


def run(arguments: argparse.Namespace) -> int:
    """Runs the benchmark as the parsed arguments say; returns the exit code."""
    return guarded("zmlx bench moe-layer", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from zmlx.bench import roofline
    from zmlx.bench.moe_layer import Settings, bench_layer
    from zmlx.bench.moe_layer_report import result_capsule, result_text
    from zmlx.capsule import write_capsule

    shapes = shapes_of(arguments)
    if arguments.plot:
        roofline.require_matplotlib()
    threads = begin_run(arguments)
    settings = Settings(
        tokens=tuple(sorted(arguments.seq_lens)),
        dtypes=tuple(arguments.dtype),
        repeats=arguments.repeats,
        seconds=arguments.seconds,
        stock_seconds=arguments.stock_seconds,
        no_stock_16bit_above=arguments.no_stock_16bit_above,
        threads=threads,
        cpu_target=arguments.cpu_target or "",
        seed=arguments.seed,
    )
    results, failures = [], []
    for shape in shapes:
        result = bench_layer(shape, settings, progress=not arguments.no_progress)
        memory = _memory(result, arguments)
        print("\n" + result_text(result, memory), flush=True)
        if arguments.capsule:
            path = write_capsule(result_capsule(result, memory), arguments.capsule)
            print(f"Capsule {path}")
        results.append(result)
        failures += result.failures()
    if arguments.plot:
        roofline.plot(results, arguments.plot)
        print(f"Roofline {arguments.plot}")
    return end_run(failures)


def _memory(result: Any, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Peak memory of stock and patched at the largest M, each in a fresh process.

    In float32 on CPU, where stock's 16-bit types take minutes.
    """
    import mlx.core as mx

    from zmlx import lm
    from zmlx.bench.memory import layer_peak

    tokens = max(result.settings.tokens)
    wanted = tokens >= 64 if arguments.memory is None else arguments.memory
    if not wanted:
        return None
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    dtype = "float32" if on_cpu else result.settings.dtypes[0]
    shape = result.shape
    return {
        "tokens": tokens,
        "dtype": dtype,
        "combine_bytes": tokens * shape.top_k * shape.width * lm.parse_dtype(dtype).size,
        "peaks": {
            variant: layer_peak(shape, tokens, variant, dtype, result.settings.threads)
            for variant in ("stock", "patched")
        },
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``benchmarks/bench_moe_layer.py``; returns the exit code."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(argv))

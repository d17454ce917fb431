"""``zmlx bench decode``: a whole model, stored or with random weights, stock against patched."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from zmlx.arguments import at_least, guarded, name_list
from zmlx.bench import decode_random, decode_random_report, decode_stored
from zmlx.bench.options import add_run_options, begin_run, end_run
from zmlx.capsule import write_capsule
from zmlx.lm.known_configs import KNOWN_CONFIGS
from zmlx.lm.random_model import Format
from zmlx.validate.prompts import DEFAULT_PROMPTS

_DESCRIPTION = """\
Times greedy generation of a whole model, stock and patched in turns.

A stored model is measured with its peak memory, each variant in a fresh process. Exits with 1 if
the patched process needs more than 5 % above stock's.

With --random the model is built from its configuration alone, with random quantized weights, and
nothing is downloaded. That also shows the share of time in which the host builds and submits the
graph. Exits with 1 if tokens differ (on the CPU: in float32; its 16-bit kernels are no reference),
if the prompt is slower patched than stock by more than both spreads and 2 % (from 4 runs on), or if
MLX's peak memory is more than 5 % above stock's.
"""
_DTYPES = ("bfloat16", "float16", "float32")
_MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's options to ``parser``."""
    parser.description = _DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", nargs="?", help="model folder or hub name (the one in models/)")
    parser.add_argument("--max-tokens", type=at_least(2), default=64, help="(%(default)s)")
    parser.add_argument("--runs", type=at_least(1), default=5, help="(%(default)s)")
    parser.add_argument(
        "--dtype",
        type=name_list(_DTYPES),
        help="types (bfloat16,float32; with --random on a GPU: bfloat16)",
    )
    stored = parser.add_argument_group("stored models")
    stored.add_argument("--prompt", help="text to continue")
    stored.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    made = parser.add_argument_group("random weights")
    made.add_argument(
        "--random", metavar="CONFIG", help=f"{', '.join(KNOWN_CONFIGS)} or a config.json"
    )
    made.add_argument("--layers", type=at_least(1), help="shorten the model (all)")
    made.add_argument("--prompt-tokens", type=at_least(2), help="(512)")
    made.add_argument(
        "--cache-step", type=at_least(1), help="tokens that caches grow by (mlx-lm's own, 256)"
    )
    made.add_argument("--mode", choices=_MODES, help="of the weights (the model's, or affine)")
    made.add_argument("--bits", type=at_least(1), help="(the model's, or the mode's)")
    made.add_argument("--group-size", type=at_least(1), help="(the model's, or the mode's)")
    add_run_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the benchmark as the parsed arguments say; returns the exit code."""
    return guarded("zmlx bench decode", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    _check_combination(arguments)
    threads = begin_run(arguments)
    progress = not arguments.no_progress
    if arguments.random is None:
        settings = _stored_settings(arguments, threads)
        result = decode_stored.bench_stored(arguments.model, settings, progress=progress)
        reports: Any = decode_stored
    else:
        settings = _random_settings(arguments, threads)
        result = decode_random.bench_random(settings, progress=progress)
        reports = decode_random_report
    print("\n" + reports.result_text(result, settings))
    if arguments.capsule:
        path = write_capsule(reports.result_capsule(result, settings), arguments.capsule)
        print(f"Capsule {path}")
    return end_run(result.failures())


def _check_combination(arguments: argparse.Namespace) -> None:
    """Raises ValueError for options that do not belong together."""
    if arguments.random is None:
        for name in ("layers", "prompt_tokens", "cache_step", "mode", "bits", "group_size"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} needs --random.")
    elif arguments.model is not None:
        raise ValueError("--random builds a model of its own: name no other one.")
    elif arguments.prompt is not None:
        raise ValueError("--random has no tokenizer: use --prompt-tokens instead of --prompt.")


def _stored_settings(arguments: argparse.Namespace, threads: int) -> decode_stored.Settings:
    return decode_stored.Settings(
        max_tokens=arguments.max_tokens,
        runs=arguments.runs,
        dtypes=tuple(arguments.dtype or ("bfloat16", "float32")),
        prompt=DEFAULT_PROMPTS[2] if arguments.prompt is None else arguments.prompt,
        threads=threads,
        memory=arguments.memory,
        seed=arguments.seed,
    )


def _random_settings(arguments: argparse.Namespace, threads: int) -> decode_random.RandomSettings:
    import mlx.core as mx

    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    return decode_random.RandomSettings(
        model=arguments.random,
        form=_format(arguments),
        layers=arguments.layers,
        prompt_tokens=arguments.prompt_tokens or 512,
        max_tokens=arguments.max_tokens,
        cache_step=arguments.cache_step,
        runs=arguments.runs,
        dtypes=tuple(arguments.dtype or ("bfloat16", "float32")[: 2 if on_cpu else 1]),
        threads=threads,
        seed=arguments.seed,
    )


def _format(arguments: argparse.Namespace) -> Format | None:
    """The format that the options ask for; ``None`` if they leave it to the model."""
    given = {field.name: getattr(arguments, field.name) for field in fields(Format)}
    given = {name: value for name, value in given.items() if value is not None}
    return Format(**given) if given else None


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``benchmarks/bench_decode.py``; returns the exit code."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(argv))

"""Command line of ``python -m zmlx.validate`` and ``zmlx validate``."""

from __future__ import annotations

import argparse
import json

from zmlx.arguments import EXIT_FAIL, at_least, guarded, integer_list, name_list, seconds

_DESCRIPTION = """\
Generates greedily with the stock and with the patched model, compares token by token, and
measures how near both are to a float32 run of the model. Ends with PASS (exit 0) or FAIL (exit 1).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a validation to ``parser``."""
    parser.description = _DESCRIPTION
    parser.add_argument(
        "model", nargs="?", help="model folder or hub name (default: the small model in models/)"
    )
    parser.add_argument("--prompt", action="append", help="a prompt; may be given several times")
    parser.add_argument(
        "--prompts", metavar="FILE", help="prompts: one a line, or a JSON list of strings"
    )
    parser.add_argument(
        "--max-tokens", type=at_least(2), default=100, help="tokens for each prompt (%(default)s)"
    )
    parser.add_argument("--runs", type=at_least(1), default=3, help="repetitions (%(default)s)")
    parser.add_argument(
        "--near-tokens",
        type=at_least(1),
        default=32,
        help="generated tokens of each prompt over which the distance from float32 is measured, "
        "besides the prompt's own (%(default)s)",
    )
    parser.add_argument(
        "--own-seconds",
        type=seconds,
        default=30.0,
        help="CPU, 16-bit types: seconds of stock generation after which its timing is not "
        "repeated further (%(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="type to compute in instead of the model's own",
    )
    parser.add_argument(
        "--bits",
        type=integer_list,
        default=[],
        help="weight formats, such as 4,8: what the model is not stored in is made by requantizing "
        "in memory (default: as stored)",
    )
    parser.add_argument("--group-size", type=at_least(1), help="of the requantized formats")
    parser.add_argument(
        "--mode",
        choices=("affine", "mxfp4", "mxfp8", "nvfp4"),
        default="affine",
        help="of the requantized formats (%(default)s)",
    )
    parser.add_argument(
        "--numerics", choices=("exact", "fp32"), help="numerics of the fused primitives (GPUs)"
    )
    parser.add_argument(
        "--patterns", type=_pattern_list, help="patterns to patch, comma-separated (default: all)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="draws the order of stock and patched (%(default)s)"
    )
    parser.add_argument("--text", action="store_true", help="print the generated texts")
    parser.add_argument("--json", action="store_true", help="print the capsule instead of a report")
    parser.add_argument("--capsule", metavar="DIR", help="write a repro capsule into this folder")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")


def _pattern_list(text: str) -> list[str]:
    from zmlx.patch.patterns import PATTERNS

    return name_list(tuple(PATTERNS))(text)


def run(arguments: argparse.Namespace) -> int:
    """Validates as the parsed arguments say; returns the exit code."""
    return guarded("zmlx validate", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from zmlx.capsule import check_writable, write_capsule
    from zmlx.environment import environment_lines
    from zmlx.validate import validate
    from zmlx.validate.report import format_text, model_line, report_capsule, verdict_text

    if arguments.capsule:
        check_writable(arguments.capsule)
    show = _silent if arguments.json else _show
    show("\n".join(environment_lines()))
    report = validate(
        arguments.model,
        max_tokens=arguments.max_tokens,
        runs=arguments.runs,
        near_tokens=arguments.near_tokens,
        own_seconds=arguments.own_seconds,
        dtype=arguments.dtype,
        bits=arguments.bits,
        group_size=arguments.group_size,
        mode=arguments.mode,
        numerics=arguments.numerics,
        patterns=arguments.patterns,
        seed=arguments.seed,
        progress=not arguments.no_progress,
        on_load=lambda loaded: show(model_line(loaded)),
        on_format=lambda entry: show("\n" + format_text(entry, show_text=arguments.text) + "\n"),
        **_prompts(arguments),
    )
    capsule = report_capsule(report) if arguments.json or arguments.capsule else None
    if arguments.capsule:
        path = write_capsule(capsule, arguments.capsule)
        show(f"Capsule   {path}")
    if arguments.json:
        print(json.dumps(capsule, indent=2))
    show(verdict_text(report))
    return 0 if report.passed else EXIT_FAIL


def _show(text: str) -> None:
    print(text, flush=True)


def _silent(text: str) -> None:
    """With ``--json`` nothing but the capsule goes to stdout."""


def _prompts(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The prompts that were given, if any."""
    from zmlx.validate.prompts import read_prompts

    prompts = list(arguments.prompt or [])
    if arguments.prompts:
        prompts += read_prompts(arguments.prompts)
    return {"prompts": prompts} if prompts else {}


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m zmlx.validate``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m zmlx.validate")
    add_arguments(parser)
    return run(parser.parse_args(argv))

"""``make demo``: validates the small model in 4 and 8 bits, and shows what patching gains."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from zmlx.arguments import EXIT_FAIL, guarded
from zmlx.validate.prompts import DEFAULT_PROMPTS

if TYPE_CHECKING:
    from zmlx.validate.verdict import FormatReport

# 5 prompts of 100 tokens. Stock needs 50 ms a token in bfloat16 on CPU, so nearness to float32 is
# judged on fewer: enough to tell the two apart by far, and the demo stays below a minute.
_PROMPTS = DEFAULT_PROMPTS
_MAX_TOKENS = 100
_NEAR_TOKENS = 12
_OWN_DECODE_TOKENS = 12
_BITS = (4, 8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the demo's options to ``parser``."""
    parser.description = (
        "Proves on the small model in models/, in 4 and 8 bits, that patching leaves greedy "
        "decoding unchanged, and shows how much faster it is."
    )
    parser.add_argument("model", nargs="?", help="another model folder or hub name")
    parser.add_argument("--capsule", metavar="DIR", help="write a repro capsule into this folder")
    parser.add_argument("--no-progress", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Runs the demo; returns the exit code."""
    return guarded("zmlx demo", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from zmlx.capsule import check_writable, write_capsule
    from zmlx.environment import environment_lines
    from zmlx.validate import validate
    from zmlx.validate.report import format_text, model_line, report_capsule, verdict_text

    if arguments.capsule:
        check_writable(arguments.capsule)
    print("\n".join(environment_lines()), flush=True)
    shown = []

    def show_format(entry: FormatReport) -> None:
        # The texts of one format are enough to see that the model makes sense.
        print("\n" + format_text(entry, show_text=not shown) + "\n", flush=True)
        shown.append(entry.name)

    report = validate(
        arguments.model,
        prompts=_PROMPTS,
        max_tokens=_MAX_TOKENS,
        runs=1,
        near_tokens=_NEAR_TOKENS,
        own_decode_tokens=_OWN_DECODE_TOKENS,
        bits=_BITS,
        progress=not arguments.no_progress,
        on_load=lambda loaded: print(model_line(loaded), flush=True),
        on_format=show_format,
    )
    if arguments.capsule:
        print(f"Capsule   {write_capsule(report_capsule(report), arguments.capsule)}")
    print(verdict_text(report))
    return 0 if report.passed else EXIT_FAIL

"""Command line of ``zmlx evidence``."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zmlx.arguments import EXIT_FAIL, EXIT_INTERRUPT, guarded, name_list
from zmlx.evidence.steps import EXIT_SKIPPED, STEPS, Options, Step, checkout

_DESCRIPTION = """\
Runs the whole evidence on this machine's default device, a GPU if MLX has one: unit tests, fused
results against MLX's own ops, a validation of 500 tokens x 5 runs, and the layer benchmark. Each
step writes a repro capsule when it ends, so an interrupt loses only the step that it stops. Exits
with 0 only if every step passed; what cannot be run here has not passed, and --steps leaves it out.
"""


@dataclass
class Outcome:
    """What became of a step.

    Attributes:
        step: its name.
        result: "passed", "FAILED", "skipped", "interrupted" or "not run".
        seconds: that it took.
        capsules: names of the files that it wrote.
    """

    step: str
    result: str = "not run"
    seconds: float = 0.0
    capsules: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options to ``parser``."""
    parser.description = _DESCRIPTION
    parser.add_argument(
        "model", nargs="?", help="model to validate (default: the small one in models/)"
    )
    parser.add_argument("--quick", action="store_true", help="a few minutes instead of many")
    parser.add_argument(
        "--capsule", metavar="DIR", default=_default_folder(), help="for capsules (%(default)s)"
    )
    steps = ", ".join(f"{step.name} ({step.summary})" for step in STEPS.values())
    parser.add_argument(
        "--steps", type=name_list(tuple(STEPS)), default=list(STEPS), help=f"(all) {steps}"
    )
    parser.add_argument("--no-progress", action="store_true")


def _default_folder() -> str:
    """``benchmarks/repro_capsules`` of the checkout, or in the current folder without one."""
    return str((checkout() or Path()) / "benchmarks" / "repro_capsules")


def run(arguments: argparse.Namespace) -> int:
    """Runs the steps as the parsed arguments say; returns the exit code."""
    return guarded("zmlx evidence", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from zmlx.capsule import check_writable
    from zmlx.environment import environment_lines

    check_writable(arguments.capsule)
    print("\n".join(environment_lines()), flush=True)
    options = Options(
        arguments.capsule, arguments.quick, not arguments.no_progress, arguments.model
    )
    outcomes = run_steps([STEPS[name] for name in arguments.steps], options)
    path = _write_summary(outcomes, options)
    print("\n" + "\n".join(summary_lines(outcomes)))
    print(f"Capsule   {path}")
    if any(outcome.result == "interrupted" for outcome in outcomes):
        return EXIT_INTERRUPT
    passed = all(outcome.result == "passed" for outcome in outcomes)
    print("PASS" if passed else "FAIL")
    return 0 if passed else EXIT_FAIL


def run_steps(steps: list[Step], options: Options) -> list[Outcome]:
    """Runs the steps one after the other; after an interrupt none of the rest.

    Args:
        steps: what to run.
        options: what they are told.

    Returns:
        An outcome for each step.
    """
    outcomes = [Outcome(step.name) for step in steps]
    for number, (step, outcome) in enumerate(zip(steps, outcomes, strict=True), 1):
        print(f"\n== {number} of {len(steps)}: {step.summary} ==", flush=True)
        before, begin = _files(options.capsules), time.perf_counter()
        code = _wait(step.command(options))
        outcome.seconds = time.perf_counter() - begin
        outcome.capsules = sorted(_files(options.capsules) - before)
        results = {0: "passed", EXIT_SKIPPED: "skipped", EXIT_INTERRUPT: "interrupted"}
        outcome.result = results.get(code, "FAILED")
        if code == EXIT_INTERRUPT:
            break
    return outcomes


def _wait(command: list[str]) -> int:
    """Runs a command to its end. An interrupt is passed on to it, once, and it ends by itself.

    In a session of its own a terminal does not interrupt it a second time, while it cleans up.
    """
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        return EXIT_INTERRUPT
    finally:
        if process.poll() is None:  # interrupted again
            os.killpg(process.pid, signal.SIGKILL)


def _files(folder: str) -> set[str]:
    return {path.name for path in Path(folder).glob("*.json")}


def _write_summary(outcomes: list[Outcome], options: Options) -> Path:
    from zmlx.capsule import make_capsule, measurement, write_capsule

    ran = [outcome for outcome in outcomes if outcome.seconds > 0]
    capsule: dict[str, Any] = make_capsule(
        "evidence",
        "quick" if options.quick else "full",
        parameters={"quick": options.quick, "model": options.model},
        measurements=[measurement("step", each.step, "s", [each.seconds]) for each in ran],
        results={"steps": [asdict(outcome) for outcome in outcomes]},
        passed=all(outcome.result == "passed" for outcome in outcomes),
    )
    return write_capsule(capsule, options.capsules)


def summary_lines(outcomes: list[Outcome]) -> list[str]:
    """The table at the end: each step's result, time and capsules."""
    from zmlx.table import format_table

    rows = [
        [each.step, each.result, f"{each.seconds:.0f} s", ", ".join(each.capsules) or "-"]
        for each in outcomes
    ]
    return format_table(["step", "result", "time", "capsules"], rows, right=(2,))


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m zmlx.evidence``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m zmlx.evidence")
    add_arguments(parser)
    return run(parser.parse_args(argv))

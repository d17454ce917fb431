"""What the benchmarks' command lines have in common."""

from __future__ import annotations

import argparse
import sys

from zmlx.arguments import EXIT_FAIL, at_least


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds how to run and where to write: threads, SIMD target, seed, capsule, progress."""
    parser.add_argument("--threads", type=at_least(1), help="(all cores)")
    parser.add_argument("--cpu-target", help="SIMD target, such as AVX2 (the best)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--capsule", metavar="DIR", help="write repro capsules into this folder")
    parser.add_argument("--no-progress", action="store_true")


def begin_run(arguments: argparse.Namespace) -> int:
    """Acts on the options of :func:`add_run_options` and describes the machine.

    Returns:
        Threads to run with.

    Raises:
        OSError: if the capsule could not be written.
        ValueError: if there is no such SIMD target.
    """
    from zmlx import _ext
    from zmlx.capsule import check_writable
    from zmlx.environment import environment_lines

    if arguments.capsule:
        check_writable(arguments.capsule)
    if arguments.cpu_target:  # before the machine is described
        _ext.set_cpu_target(arguments.cpu_target)
    threads = arguments.threads or _ext.num_threads()
    _ext.set_num_threads(threads)
    print("\n".join(environment_lines()), flush=True)
    return threads


def end_run(failures: list[str]) -> int:
    """Prints what failed; returns the exit code."""
    for failure in failures:
        print(f"FAIL {failure}", file=sys.stderr)
    return EXIT_FAIL if failures else 0

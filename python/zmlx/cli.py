"""The console script ``zmlx``; also ``python -m zmlx``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from zmlx.arguments import EXIT_FAIL


def cmake_dir() -> Path:
    """Folder with ``zmlxConfig.cmake``, for ``cmake -Dzmlx_DIR=...``.

    Raises:
        FileNotFoundError: if this installation has no CMake package.
    """
    import zmlx

    for root in map(Path, zmlx.__path__):
        for found in sorted(root.rglob("zmlxConfig.cmake")):
            return found.parent.resolve()
    raise FileNotFoundError("This installation of ZMLX holds no zmlxConfig.cmake.")


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.version:
        from zmlx.capsule import software

        print(f"zmlx {software()['zmlx']['version']}")
        return 0
    if arguments.cmake_dir:
        try:
            print(cmake_dir())
        except FileNotFoundError as error:
            print(f"zmlx: {error}", file=sys.stderr)
            return EXIT_FAIL
        return 0
    if arguments.run is None:
        _parser().print_help()
        return 0
    return arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    from zmlx import demo
    from zmlx.bench import cli as bench
    from zmlx.evidence import cli as evidence
    from zmlx.validate import cli as validate

    parser = argparse.ArgumentParser(
        prog="zmlx", description="Fused mixture-of-experts primitives for MLX."
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument(
        "--cmake-dir", action="store_true", help="print the folder with zmlxConfig.cmake"
    )
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="")
    for name, module, summary in (
        ("demo", demo, "validate the small model in models/ and show the speed"),
        ("validate", validate, "is a patched model's output unchanged, and how fast is it?"),
        ("bench", bench, "measure stock and fused code side by side"),
        ("evidence", evidence, "everything that shows on this machine that ZMLX is right and fast"),
    ):
        command = commands.add_parser(name, help=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    info = commands.add_parser(
        "info",
        help="versions, machine, kernels and bandwidth",
        description="Prints versions, machine and kernels, and measures the memory's bandwidth.",
    )
    info.add_argument("--json", action="store_true", help="machine-readable")
    info.set_defaults(run=_info)
    return parser


def _info(arguments: argparse.Namespace) -> int:
    import json

    from zmlx import machine
    from zmlx.capsule import software
    from zmlx.environment import environment_lines

    threads = machine.describe_machine()["threads"]
    read, copy = machine.read_bandwidth(), machine.copy_bandwidth()
    if arguments.json:
        found = {
            **software(),
            "machine": machine.describe_machine(),
            "read_bytes_per_second": read,
            "copy_bytes_per_second": copy,
        }
        print(json.dumps(found, indent=2))
        return 0
    build = software()["zmlx"]["build"]
    print("\n".join(environment_lines()))
    print("ISA       " + " ".join(machine.describe_machine()["isa"]))
    print("Build     " + ", ".join(f"{key} {value}" for key, value in build.items() if value))
    print(
        f"Bandwidth read {read / 1e9:.1f} GB/s, copy {copy / 1e9:.1f} GB/s moved "
        f"({threads} threads)"
    )
    return 0

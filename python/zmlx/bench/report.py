"""The README's tables of measurements, made from repro capsules, so that no number is typed."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from pathlib import Path
from typing import Any

from zmlx.arguments import EXIT_FAIL, EXIT_USAGE
from zmlx.capsule import read_capsules
from zmlx.machine import machine_line
from zmlx.table import markdown_table

BEGIN = "<!-- capsules:begin -->"
END = "<!-- capsules:end -->"
_EMPTY = "No measurements are stored yet."


def newest_capsules(directory: str | os.PathLike) -> dict[str, list[tuple[Path, dict]]]:
    """The newest capsule of every kind and label in ``directory``, by the machine it is of.

    Raises:
        ValueError: if a file there is not a capsule.
    """
    newest: dict[tuple, tuple[Path, dict]] = {}
    for path, capsule in read_capsules(directory):
        newest[capsule["kind"], capsule["label"]] = (path, capsule)
    groups: dict[str, list[tuple[Path, dict]]] = {}
    for _, (path, capsule) in sorted(newest.items()):
        groups.setdefault(_where(capsule), []).append((path, capsule))
    return groups


def tables_of(entries: list[tuple[Path, dict]]) -> list[str]:
    """Blocks of Markdown for the capsules of one machine."""
    blocks = []
    for kind, (title, table) in _TABLES.items():
        found = [entry for entry in entries if entry[1]["kind"] == kind]
        if found:
            names = ", ".join(f"`{path.name}`" for path, _ in found)
            blocks.append(f"**{title}**")
            blocks.append("\n".join(table([capsule for _, capsule in found])))
            blocks.append(f"Capsules: {names}.")
    return blocks


def capsule_tables(directory: str | os.PathLike) -> str:
    """Markdown for the newest capsule of every kind and label in ``directory``.

    Raises:
        ValueError: if a file there is not a capsule.
    """
    groups = newest_capsules(directory)
    if not groups:
        return _EMPTY
    blocks = [block for where, found in groups.items() for block in (where, *tables_of(found))]
    return "\n\n".join(blocks)


def _where(capsule: dict[str, Any]) -> str:
    """Machine and software of a capsule; a forced SIMD target does not make another machine."""
    # The target is a column of the table.
    machine = {**capsule["machine"], "simd_target": None}
    compiler = capsule["zmlx"]["compiler"]
    software = f"MLX {capsule['mlx']['version']}" + (f", {compiler}" if compiler else "")
    return f"Measured on: {machine_line(machine)}; {software}."


def _layer_table(capsules: list[dict[str, Any]]) -> list[str]:
    header = ["Layer", "Weights", "SIMD", "Type", "M", "Time, ms", "GB/s", "of read bandwidth",
              "GFLOP/s", "vs MLX bfloat16", "vs MLX float32"]  # fmt: skip
    rows = []
    for capsule in capsules:
        shape = capsule["parameters"]["shape"]
        weights = f"affine {shape['bits']}-bit" if shape["mode"] == "affine" else shape["mode"]
        for case in capsule["results"]["cases"]:
            ratios = case["stock_over_patched"]
            rows.append(
                [
                    shape["name"],
                    weights,
                    f"{capsule['machine']['simd_target']}, {capsule['machine']['threads']} threads",
                    case["dtype"],
                    str(case["tokens"]),
                    f"{1e3 * case['seconds']:.2f}",
                    f"{case['bytes_per_second'] / 1e9:.1f}",
                    f"{100 * case['share_of_read_bandwidth']:.0f} %",
                    f"{case['flops_per_second'] / 1e9:.0f}",
                    _times(ratios.get("bfloat16")),
                    _times(ratios.get("float32")),
                ]
            )
    return markdown_table(header, rows, right=range(4, len(header)))


def _chain_table(capsules: list[dict[str, Any]]) -> list[str]:
    header = ["Layer", "Type", "M", "MLX, us", "Patched, us", "Ratio", "MLX alone, us",
              "Patched alone, us", "Same bits"]  # fmt: skip
    rows = []
    for capsule in capsules:
        micro = 1e6 / capsule["parameters"]["layers"]
        medians = {
            (m["name"], m["variant"], m["case"]["tokens"]): micro * m["median"]
            for m in capsule["measurements"]
            if m["name"] in ("steady", "alone")
        }
        for tokens, found in capsule["results"].items():
            times = [
                medians[what, variant, int(tokens)]
                for what in ("steady", "alone")
                for variant in ("stock", "patched")
            ]
            cells = [f"{time:.0f}" for time in times]
            cells.insert(2, _times(times[0] / times[1]))
            rows.append(
                [capsule["label"], capsule["parameters"]["type"], tokens, *cells]
                + ["yes" if found["equal"] else "no"]
            )
    return markdown_table(header, rows, right=range(2, len(header) - 1))


def _program_table(capsules: list[dict[str, Any]]) -> list[str]:
    header = ["Layer", "Type", "M", "MLX, us", "Fused, us", "Ratio", "Host a fused call, us",
              "Same bits"]  # fmt: skip
    rows = []
    for capsule in capsules:
        micro = 1e6 / capsule["parameters"]["layers"]
        medians = {
            (m["variant"], m["case"]["tokens"]): micro * m["median"]
            for m in capsule["measurements"]
            if m["name"] == "steady"
        }
        for tokens, found in capsule["results"].items():
            stock, fused = (medians[variant, int(tokens)] for variant in ("stock", "patched"))
            cells = [f"{stock:.0f}", f"{fused:.0f}", _times(stock / fused)]
            host = f"{1e6 * found['host_seconds_per_call']:.1f}"
            same = "yes" if found["equal"] else "no"
            label = [capsule["label"], capsule["parameters"]["type"], tokens]
            rows.append([*label, *cells, host, same])
    return markdown_table(header, rows, right=range(2, len(header) - 1))


def _norm_table(capsules: list[dict[str, Any]]) -> list[str]:
    header = ["Inputs", "Type", "Time, ms", "GB/s", "of copy bandwidth", "vs MLX"]
    rows = [
        [
            f"{capsule['parameters']['megabytes']} MiB",
            case["dtype"],
            f"{1e3 * case['seconds']:.2f}",
            f"{case['bytes_per_second'] / 1e9:.1f}",
            f"{100 * case['share_of_copy_bandwidth']:.0f} %",
            _times(case["stock_over_fused"]),
        ]
        for capsule in capsules
        for case in capsule["results"]["cases"]
    ]
    return markdown_table(header, rows, right=range(2, len(header)))


def _kernels_table(capsules: list[dict[str, Any]]) -> list[str]:
    header = ["Formula", "Inputs", "Time, ms", "GB/s", "Copy, GB/s", "of copy bandwidth",
              "of copy or arithmetic", "vs MLX"]  # fmt: skip
    # Runs of one formula next to each other.
    rows: dict[tuple[str, str], list[list[str]]] = {}
    for capsule in capsules:
        for case in capsule["results"]["cases"]:
            row = [
                case["formula"] + (f", rows of {case['length']}" if case["length"] else ""),
                f"{capsule['parameters']['megabytes']} MiB",
                f"{1e3 * case['seconds']:.2f}",
                f"{case['bytes_per_second'] / 1e9:.1f}",
                f"{case['copy_bytes_per_second'] / 1e9:.0f}",
                f"{100 * case['share_of_copy_bandwidth']:.0f} %",
                f"{100 * case['share_of_floor']:.0f} %",
                _times(case["stock_over_kernel"]),
            ]
            rows.setdefault((row[0], row[1]), []).append(row)
    return markdown_table(header, sum(rows.values(), []), right=range(2, len(header)))


def _kernels_gpu_table(capsules: list[dict[str, Any]]) -> list[str]:
    header = ["Formula", "Type", "Arrays", "Time, us", "GB/s", "of copy bandwidth", "vs MLX"]
    rows = []
    for capsule in capsules:
        parameters = capsule["parameters"]
        for case in capsule["results"]["cases"]:
            by_rows = f"{parameters['rows']} x {parameters['width']}"
            rows.append(
                [
                    case["formula"],
                    case["dtype"],
                    by_rows if case["length"] else f"{parameters['megabytes']} MiB",
                    f"{1e6 * case['seconds']:.0f}",
                    f"{case['bytes_per_second'] / 1e9:.0f}",
                    f"{100 * case['share_of_copy_bandwidth']:.0f} %",
                    f"{case['stock_over_kernel']:.2f}x",
                ]
            )
    return markdown_table(header, rows, right=range(3, len(header)))


def _decode_table(capsules: list[dict[str, Any]]) -> list[str]:
    header = ["Model", "Weights", "Type", "", "Stock, tokens/s", "Patched, tokens/s", "Ratio",
              "Peak memory", "Same tokens"]  # fmt: skip
    rows = []
    for capsule in capsules:
        results = capsule["results"]
        for case in results["cases"]:
            peaks = results["memory"].get(case["dtype"])
            memory = ""
            if peaks:
                # Processes of their own have a resident size, models in one process only MLX's.
                kind = "resident_bytes" if "resident_bytes" in peaks["stock"] else "mlx_bytes"
                ratio = peaks["patched"][kind] / peaks["stock"][kind]
                memory = f"{100 * (ratio - 1):+.1f} %"
            for phase in ("prompt", "decode"):
                rows.append(
                    [
                        capsule["parameters"]["model"],
                        results["format"],
                        case["dtype"],
                        phase,
                        f"{case[f'{phase}_stock']:.1f}",
                        f"{case[f'{phase}_patched']:.1f}",
                        _times(case[f"{phase}_ratio"]),
                        memory,
                        same_tokens_of(case),
                    ]
                )
    return markdown_table(header, rows, right=range(4, len(header) - 1))


def same_tokens_of(case: dict[str, Any]) -> str:
    """Where that was compared: how many of the generated tokens came before the first different one
    of their run."""
    if "tokens_compared" not in case or not case.get("same_tokens_judged", True):
        return "-"
    if case["same_tokens"]:
        return f"{case['tokens_compared']} of {case['tokens_compared']}"
    same = f"{case['tokens_compared']} of {case['tokens_generated']}"
    return same if case.get("stock_repeats_itself", True) else f"{same}; stock's own runs differ"


def _validate_table(capsules: list[dict[str, Any]]) -> list[str]:
    header = ["Model", "Weights", "Greedy tokens", "Type", "", "Mean KL to float32, nats",
              "Top-1 disagreements"]  # fmt: skip
    rows = []
    for capsule in capsules:
        for entry in capsule["results"]["formats"]:
            identity = entry["identity"]
            same = "identical" if identity["identical"] else "differ"
            tokens = f"{identity['tokens_compared']} {same} ({identity['dtype']})"
            for found in entry["nearness"]:
                fed = {"whole": "whole sequences", "steps": "one token at a time"}[found["feed"]]
                variant = {"yardstick": "stock, float32 products"}.get(
                    found["variant"], found["variant"]
                )
                rows.append(
                    [
                        capsule["parameters"]["model"],
                        entry["format"],
                        tokens,
                        entry["own_dtype"],
                        f"{variant}, {fed}",
                        f"{found['mean_kl_nats']:.2e}",
                        f"{found['top1_disagreements']} of {found['positions']}",
                    ]
                )
    return markdown_table(header, rows, right=(5, 6))


def _times(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.0f}x" if ratio >= 20 else f"{ratio:.1f}x"


_TABLES = {
    "cuda_layer": ("Experts of a chain of 24 layers on a GPU, a layer", _chain_table),
    "cuda_chain": ("Experts of a chain of 24 layers on a GPU, from C++, a layer", _program_table),
    "moe_layer": ("One MoE layer", _layer_table),
    "add_rms_norm": ("`add_rms_norm`", _norm_table),
    "kernels": ("Kernels made of formulas, float32", _kernels_table),
    "kernels_gpu": ("Kernels made of formulas on a GPU", _kernels_gpu_table),
    "decode": ("Decoding of a whole model", _decode_table),
    "validate": ("Validation", _validate_table),
}


def replace_block(text: str, block: str) -> str:
    """``text`` with what stands between the two markers replaced by ``block``.

    Raises:
        ValueError: if the markers are missing, or there are several.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"The file must hold one {BEGIN} and, after it, one {END}.")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n\n{block}\n\n{END}{rest.split(END)[1]}"


def main(argv: list[str] | None = None, capsules: Path | None = None) -> int:
    """Entry point of ``benchmarks/readme_table.py``; returns the exit code.

    Args:
        argv: the arguments; default: the process's.
        capsules: folder to read where the arguments name none.
    """
    parser = argparse.ArgumentParser(
        description="Prints the README's tables of measurements, made from repro capsules."
    )
    default = capsules or Path("benchmarks/repro_capsules")
    parser.add_argument(
        "--capsules", metavar="DIR", default=default, help="(benchmarks/repro_capsules)"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--check", metavar="FILE", help="exit with 1 if the block in FILE is not up to date"
    )
    action.add_argument("--write", metavar="FILE", help="bring the block in FILE up to date")
    arguments = parser.parse_args(argv)
    try:
        block = capsule_tables(arguments.capsules)
        target = arguments.check or arguments.write
        if not target:
            print(block)
            return 0
        before = Path(target).read_text(encoding="utf-8")
        after = replace_block(before, block)
        if arguments.write:
            Path(target).write_text(after, encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return EXIT_USAGE
    if arguments.write or before == after:
        return 0
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), target, "from capsules", lineterm=""
    )
    print("\n".join(lines))
    return EXIT_FAIL

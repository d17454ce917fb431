"""What a submitter of a primitive to MLX shows: correctness and speed, per backend and shape.

    python upstream/evidence.py gather_qmm_swiglu

prints Markdown made from the capsules in benchmarks/repro_capsules, with the commands that measured
them. It measures nothing; `make evidence` does, on the machine at hand.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from landing.change import GATHERING, PRIMITIVES
from landing.cpp import ROOT

sys.path.insert(0, str(ROOT / "python"))  # from a checkout, whether or not it is installed

from zmlx.bench.report import newest_capsules, same_tokens_of, tables_of  # noqa: E402
from zmlx.table import markdown_table  # noqa: E402

# The primitives that a capsule of a kind is evidence of.
_EVIDENCE_OF = {
    "cuda_chain": GATHERING,
    "cuda_layer": GATHERING,
    "moe_layer": GATHERING,
    "add_rms_norm": ("add_rms_norm",),
    "decode": PRIMITIVES,
    "validate": PRIMITIVES,
    "identity": PRIMITIVES,
    "unit_tests": PRIMITIVES,
}
_BACKENDS = ("CPU", "CUDA", "Metal")
_INTRODUCTION = """\
Measured with this project's library on MLX's wheel. On GPUs its kernels are those of the pull
request's tree. On the CPU they are not: the tree has MLX's SIMD types and one thread; its own
`benchmarks/python/*_bench.py --cpu` measure that."""


def backend_of(capsule):
    if capsule["mlx"]["device"] == "cpu":
        return "CPU"
    return "CUDA" if "NVIDIA" in (capsule["machine"]["gpu"] or "") else "Metal"


def _of_chain(results):
    return ", ".join(
        f"M = {tokens}: {'same bits' if found['equal'] else 'other bits'}"
        for tokens, found in results.items()
    )


def _of_decode(results):
    compared = [(case["dtype"], same_tokens_of(case)) for case in results["cases"]]
    return ", ".join(f"{dtype}: {same} tokens the same" for dtype, same in compared if same != "-")


def _of_validate(results):
    return ", ".join(
        f"{entry['format']}: {entry['identity']['tokens_compared']} tokens "
        + ("identical" if entry["identity"]["identical"] else "differ")
        for entry in results["formats"]
    )


def _of_identity(results):
    return f"{len(results['cases'])} cases, {len(results['failures'])} failures"


def _of_unit_tests(results):
    counts = [
        f"{runner}: " + ", ".join(f"{value} {name}" for name, value in tally.items() if value)
        for runner, tally in results.items()
        if isinstance(tally, dict)
    ]
    return "; ".join(counts)


_COMPARED = {
    "cuda_chain": _of_chain,
    "cuda_layer": _of_chain,
    "decode": _of_decode,
    "validate": _of_validate,
    "identity": _of_identity,
    "unit_tests": _of_unit_tests,
}


def _correctness(entries):
    header = ["Program", "Case", "Against MLX's own ops", "Its verdict"]
    verdicts = {True: "passed", False: "did not pass", None: "gives none"}
    rows = []
    for _, capsule in entries:
        compared = _COMPARED.get(capsule["kind"], lambda results: "")(capsule["results"])
        verdict = verdicts[capsule["passed"]]
        rows.append([capsule["kind"], capsule["label"], compared or "-", verdict])
    return "\n".join(markdown_table(header, rows))


def _commands(entries):
    lines = []
    for _, capsule in entries:
        commit = (capsule["zmlx"]["git_commit"] or "unknown commit")[:9]
        if capsule["zmlx"]["git_dirty"]:
            commit += " with changes"
        lines.append(f"python {shlex.join(capsule['command'])}  # at {commit}")
    return "\n".join(["```", *dict.fromkeys(lines), "```"])


def evidence(directory, primitives=PRIMITIVES):
    """Markdown of the newest capsules that are evidence of any of the primitives.

    Raises:
        ValueError: if a file there is not a capsule.
    """
    blocks, seen = [_INTRODUCTION], set()
    for where, found in newest_capsules(directory).items():
        entries = [
            entry
            for entry in found
            if set(_EVIDENCE_OF.get(entry[1]["kind"], ())) & set(primitives)
        ]
        for backend in _BACKENDS:
            own = [entry for entry in entries if backend_of(entry[1]) == backend]
            if not own:
                continue
            seen.add(backend)
            blocks += [f"## {backend}", where, "**Correctness**", _correctness(own)]
            blocks += [*tables_of(own), "**To reproduce**", _commands(own)]
    for backend in _BACKENDS:
        if backend not in seen:
            blocks += [f"## {backend}", "Nothing is measured yet."]
    return "\n\n".join(blocks)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="evidence.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("primitives", nargs="*", metavar="PRIMITIVE", help=", ".join(PRIMITIVES))
    default = ROOT / "benchmarks/repro_capsules"
    parser.add_argument("--capsules", metavar="DIR", type=Path, default=default)
    options = parser.parse_args(arguments)
    try:
        if wrong := set(options.primitives) - set(PRIMITIVES):
            raise ValueError(f"{', '.join(wrong)} is no primitive: {', '.join(PRIMITIVES)}")
        print(evidence(options.capsules, options.primitives or PRIMITIVES))
    except (OSError, ValueError) as error:
        print(f"evidence.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

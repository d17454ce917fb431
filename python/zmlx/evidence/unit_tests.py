"""The unit tests that depend on the device: Python's with pytest, C++'s, if built, with ctest."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from zmlx.arguments import EXIT_FAIL, guarded
from zmlx.evidence.steps import EXIT_SKIPPED, checkout

# Of tests/python. The others are about command lines and reports, or about what CPUs do.
_PATTERNS = ("test_cuda_*.py", "test_metal*.py", "test_moe_route.py", "test_patch*.py")
_QUICK = ("test_cuda_exact.py", "test_metal*.py", "test_moe_route.py", "test_patch.py")


@dataclass
class Tally:
    """How the tests of one runner went.

    Attributes:
        runner: "pytest" or "ctest".
        passed: how many.
        skipped: how many.
        failed: names of those that failed.
        seconds: that all took.
    """

    runner: str
    passed: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether some passed and none failed."""
        return self.passed > 0 and not self.failed


def read_junit(path: Path, runner: str, code: int, seconds: float) -> Tally:
    """Counts what a runner's JUnit file says.

    Args:
        path: the file; a runner that crashed has left none.
        runner: its name.
        code: its exit code. One that is not 0 is a failure even if no test is to blame.
        seconds: that it took.
    """
    tally = Tally(runner, seconds=seconds)
    if path.is_file():
        for case in ElementTree.parse(path).iter("testcase"):
            name = f"{case.get('classname', '')}.{case.get('name', '')}".strip(".")
            if case.find("failure") is not None or case.find("error") is not None:
                tally.failed.append(name)
            elif case.find("skipped") is not None:
                tally.skipped += 1
            else:
                tally.passed += 1
    if code != 0 and not tally.failed:
        tally.failed.append(f"{runner} ended with exit code {code}")
    return tally


def run_pytest(tests: Path, quick: bool) -> Tally:
    """Runs the Python tests in ``tests``."""
    files = sorted(
        {file for pattern in (_QUICK if quick else _PATTERNS) for file in tests.glob(pattern)}
    )
    return _run(
        "pytest",
        lambda report: [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            f"--junitxml={report}",
            *map(str, files),
        ],
    )


def run_ctest(build: Path) -> Tally:
    """Runs the C++ tests that were built in ``build``."""
    return _run(
        "ctest",
        lambda report: [
            *("ctest", "--test-dir", str(build), "--output-on-failure", "--progress"),
            *("--output-junit", str(report)),
        ],
    )


def _run(runner: str, command) -> Tally:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        begin = time.perf_counter()
        try:
            code = subprocess.run(command(report)).returncode
        except FileNotFoundError:
            code = 127
        return read_junit(report, runner, code, time.perf_counter() - begin)


def main(argv: list[str] | None = None) -> int:
    """Runs the tests of the checkout, writes their capsule, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m zmlx.evidence.unit_tests")
    parser.add_argument("--capsule", metavar="DIR", help="write a repro capsule into this folder")
    parser.add_argument("--quick", action="store_true", help="fewer files, and no C++")
    arguments = parser.parse_args(argv)
    return guarded("zmlx evidence", lambda: _main(arguments))


def _main(arguments: argparse.Namespace) -> int:
    from zmlx.capsule import make_capsule, measurement, write_capsule

    root = checkout()
    if root is None:
        print("The tests are in the sources of ZMLX: run this there.")
        return EXIT_SKIPPED
    tallies = [run_pytest(root / "tests" / "python", arguments.quick)]
    build = root / "build" / "release"
    if (build / "CTestTestfile.cmake").is_file() and not arguments.quick:
        tallies.append(run_ctest(build))
    for tally in tallies:
        print(f"{tally.runner}: {tally.passed} passed, {len(tally.failed)} failed, "
              f"{tally.skipped} skipped")  # fmt: skip
    passed = all(tally.sound for tally in tallies)
    if arguments.capsule:
        capsule = make_capsule(
            "unit_tests",
            "quick" if arguments.quick else "full",
            parameters={"quick": arguments.quick},
            measurements=[measurement(each.runner, "all", "s", [each.seconds]) for each in tallies],
            results={tally.runner: asdict(tally) for tally in tallies},
            passed=passed,
        )
        print(f"Capsule   {write_capsule(capsule, arguments.capsule)}")
    return 0 if passed else EXIT_FAIL


if __name__ == "__main__":
    sys.exit(main())

"""Checks a macOS wheel on Linux: that everything it asks for when it is loaded is there.

Installs the wheel with pip, as for macOS, beside MLX's and follows what dyld would do with it.

    usage: check.py WHEEL DEPS       (DEPS: the folder that deps.sh makes)

Exits with 1 and says what is wrong, or prints what was checked.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import nanobind
from libcxx import LIBCXX
from mach_o import Library, read

OLDEST = (14, 0)
PLATFORM = "macosx_14_0_arm64"
SYSTEM = {"/usr/lib/libSystem.B.dylib", LIBCXX}
# How nanobind names the ABI by which extensions share types.
_NANOBIND_ABI = re.compile(rb"nanobind_system_\w+")


class Checks:
    """What was found wrong, and in a few words what was right."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.passed = 0

    def expect(self, right: bool, wrong: str) -> None:
        """Notes ``wrong`` unless ``right``."""
        self.passed += bool(right)
        if not right:
            self.failures.append(wrong)


def install(wheel: Path, site: Path) -> None:
    """Unpacks the wheel as pip does on macOS; pip refuses tags that do not fit.

    Raises:
        subprocess.CalledProcessError: if pip refuses.
    """
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    pip += ["--no-deps", "--only-binary=:all:", "--platform", PLATFORM, "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True)


def resolve(library: Library, name: str) -> Path | None:
    """The file that dyld takes for an ``@rpath`` name; ``None`` if there is none."""
    for rpath in library.rpaths:
        folder = rpath.replace("@loader_path", str(library.path.parent))
        path = Path(name.replace("@rpath", folder))
        if path.is_file():
            return path.resolve()
    return None


def python_symbols() -> set[str]:
    """CPython's API: nanobind's list of what an extension may leave to the interpreter on macOS, of
    which this interpreter, of the same version, exports the rest."""
    listed = Path(nanobind.cmake_dir(), "darwin-ld-cpython.sym").read_text().split()
    return {name for name in listed if name != "-U" and hasattr(ctypes.pythonapi, name[1:])}


def check_library(library: Library, others: dict[str, set[str]], checks: Checks) -> None:
    """Checks one library of the wheel.

    Args:
        library: it.
        others: exports by install name, of each library that is not the system's.
        checks: receives the findings.
    """
    name = library.path.name
    oldest = ".".join(map(str, library.minimum))
    checks.expect(library.minimum == OLDEST, f"{name} is for macOS {oldest} and newer")
    checks.expect(library.signed, f"{name} has no signature that fits it")
    checks.expect(
        library.install_name == f"@rpath/{name}", f"{name} calls itself {library.install_name}"
    )
    for rpath in library.rpaths:
        checks.expect(rpath.startswith("@loader_path/"), f"{name} looks for libraries in {rpath}")
    for needed in library.libraries:
        there = needed in SYSTEM or resolve(library, needed) is not None
        checks.expect(there, f"{name} loads {needed}, which is not there")
    api = python_symbols() if name.startswith("_ext") else set()
    for symbol, source in library.imports.items():
        if source is None:
            checks.expect(symbol in api, f"{name}: {symbol} is not in CPython's API")
        elif source not in SYSTEM:
            checks.expect(symbol in others.get(source, ()), f"{name}: {source} has no {symbol}")


def nanobind_abi(path: Path) -> set[bytes]:
    """The names of ABIs in an extension."""
    return set(_NANOBIND_ABI.findall(path.read_bytes()))


def check_wheel(wheel: Path, deps: Path, site: Path) -> tuple[Checks, list[Library]]:
    """Installs and checks a wheel; see this file's beginning.

    Args:
        wheel: the file.
        deps: the folder that deps.sh makes.
        site: an empty folder to install into.
    """
    checks = Checks()
    install(wheel, site)
    (site / "mlx").symlink_to((deps / "site" / "mlx").resolve())
    files = [path for path in (site / "zmlx").rglob("*") if path.suffix in (".so", ".dylib")]
    suffix = f".cpython-{sys.version_info[0]}{sys.version_info[1]}-darwin.so"
    wanted = {f"_ext{suffix}", "libzmlx.dylib"}
    checks.expect({path.name for path in files} == wanted, f"libraries: {files}, not {wanted}")
    libraries = [read(path) for path in files]
    own = {f"@rpath/{library.path.name}": library.exports for library in libraries}
    # Which of MLX's wheels pip takes depends on the user's macOS.
    for mlx in sorted(deps.rglob("libmlx.dylib")):
        for library in libraries:
            check_library(library, {**own, "@rpath/libmlx.dylib": read(mlx).exports}, checks)
    ext = site / "zmlx" / f"_ext{suffix}"
    mlx_ext = deps / "site" / "mlx" / f"core{suffix}"
    checks.expect("_PyInit__ext" in own[f"@rpath/{ext.name}"], "the extension has no _PyInit__ext")
    checks.expect(
        nanobind_abi(ext) == nanobind_abi(mlx_ext) != set(),
        f"nanobind's ABI is {nanobind_abi(ext)} here and {nanobind_abi(mlx_ext)} in MLX",
    )
    return checks, libraries


def report(libraries: list[Library]) -> list[str]:
    """Lines on what each library takes from where."""
    lines = []
    for library in libraries:
        counts = Counter(library.imports.values())
        parts = [f"{count} from {source or 'CPython'}" for source, count in counts.most_common()]
        lines.append(f"{library.path.name}: {', '.join(parts)}")
    return lines


def main(wheel: Path, deps: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        checks, libraries = check_wheel(wheel, deps, Path(folder).resolve() / "site")
    for failure in checks.failures:
        print(f"FAIL {failure}", file=sys.stderr)
    print(*report(libraries), sep="\n")
    python = sorted(
        symbol[1:] for library in libraries for symbol, of in library.imports.items() if of is None
    )
    print("Left to the interpreter: " + " ".join(python))
    print(f"{wheel.name}: {checks.passed} checks passed, {len(checks.failures)} failed")
    return 1 if checks.failures else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))

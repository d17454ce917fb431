"""Writes libc++.tbd, which stands for Apple's libc++ when linking where there is no macOS SDK.

It lists what MLX's macOS libraries import from libc++, which macOS must therefore have, and what
``libcxx.txt`` beside the toolchain adds. Anything else is an undefined symbol to the linker. All
that Zig's own, newer libc++ defines would be too much: macOS 14's libraries bring some of it along.

    usage: libcxx.py MLX_FOLDER LIST OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from mach_o import read

LIBCXX = "/usr/lib/libc++.1.dylib"


def main(folder: Path, names: Path, output: Path) -> None:
    symbols = {line for line in names.read_text().splitlines() if line and not line.startswith("#")}
    for path in [*folder.rglob("*.dylib"), *folder.rglob("*.so")]:
        symbols |= {name for name, library in read(path).imports.items() if library == LIBCXX}
    listed = ",\n               ".join(f"'{symbol}'" for symbol in sorted(symbols))
    output.write_text(
        "--- !tapi-tbd\n"
        "tbd-version: 4\n"
        "targets: [ arm64-macos ]\n"
        f"install-name: '{LIBCXX}'\n"
        "exports:\n"
        "  - targets: [ arm64-macos ]\n"
        f"    symbols: [ {listed} ]\n"
        "...\n"
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

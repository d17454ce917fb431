#!/usr/bin/env python3
"""Runs the demo and puts what it prints into the README, between the marks for it."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a file with the marks")
    path = parser.parse_args().file
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        print(f"{path} has no {BEGIN} and {END}.", file=sys.stderr)
        return 2
    demo = subprocess.run(
        [sys.executable, "-m", "zmlx", "demo", "--no-progress"], stdout=subprocess.PIPE, text=True
    )
    if demo.returncode != 0:
        print(f"The demo failed with {demo.returncode}:\n{demo.stdout}", file=sys.stderr)
        return 1
    lines = "\n".join(line.rstrip() for line in demo.stdout.strip().splitlines())
    fold = "<details>\n<summary>What it printed</summary>\n\n"
    block = f"{BEGIN}\n{fold}```\n{lines}\n```\n\n</details>\n{END}"
    path.write_text(
        re.sub(re.escape(BEGIN) + ".*" + re.escape(END), lambda _: block, text, flags=re.S),
        encoding="utf-8",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

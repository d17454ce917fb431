#!/usr/bin/env python3
"""The README's tables of measurements, made from the capsules in ``repro_capsules``."""

import sys
from pathlib import Path

from zmlx.bench.report import main

if __name__ == "__main__":
    sys.exit(main(capsules=Path(__file__).with_name("repro_capsules")))

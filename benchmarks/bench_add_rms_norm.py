#!/usr/bin/env python3
"""add_rms_norm against stock and a copy's bandwidth; the same as ``zmlx bench add-rms-norm``."""

import sys

from zmlx.bench.add_rms_norm import main

if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Kernels of formulas against MLX and a copy's bandwidth; the same as ``zmlx bench kernels``."""

import sys

from zmlx.bench.kernels import main

if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Kernels of formulas on a GPU; the same as ``zmlx bench kernels-gpu``."""

import sys

from zmlx.bench.kernels_gpu import main

if __name__ == "__main__":
    sys.exit(main())

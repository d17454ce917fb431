#!/usr/bin/env python3
"""A chain of MoE layers on a CUDA GPU, stock against patched."""

import sys

from zmlx.bench.cuda_layer import main

if __name__ == "__main__":
    sys.exit(main())

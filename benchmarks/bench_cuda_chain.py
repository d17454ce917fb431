#!/usr/bin/env python3
"""The experts of a chain of MoE layers on a CUDA GPU, from C++."""

import sys

from zmlx.bench.cuda_chain import main

if __name__ == "__main__":
    sys.exit(main())

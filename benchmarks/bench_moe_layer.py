#!/usr/bin/env python3
"""One MoE layer, stock against patched; the same as ``zmlx bench moe-layer``."""

import sys

from zmlx.bench.moe_layer_cli import main

if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Decoding of a whole model, stock against patched; the same as ``zmlx bench decode``."""

import sys

from zmlx.bench.decode import main

if __name__ == "__main__":
    sys.exit(main())

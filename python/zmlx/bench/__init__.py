"""Benchmarks: the MoE layer, ``add_rms_norm``, and decoding of a whole model.

Every one measures stock and fused code side by side in one run, together with the machine's
bandwidth, and can write a repro capsule (:mod:`zmlx.capsule`).
"""

from zmlx.bench.compare import compare

__all__ = ["compare"]

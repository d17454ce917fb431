"""Fused primitives; names, argument order and defaults follow ``mx.gather_qmm`` and
``mx.fast.rms_norm``."""

from zmlx._ext.fast import (
    add_rms_norm,
    default_numerics,
    gather_qmm_combine,
    gather_qmm_swiglu,
    moe_route,
    quantized_matmul,
    rms_norm,
    set_default_numerics,
)

__all__ = [
    "add_rms_norm",
    "default_numerics",
    "gather_qmm_combine",
    "gather_qmm_swiglu",
    "moe_route",
    "quantized_matmul",
    "rms_norm",
    "set_default_numerics",
]

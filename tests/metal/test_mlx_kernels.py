"""MLX's own kernels run on the host without a fault and compute what they should."""

from functools import cache

import numpy as np
import pytest
from arrays import METAL_TYPES, Quantization, random_experts, rounded, to_float
from msl import Library, Options
from stock.sequence import Stock
from stock.wheel import include_folder

CHECKED = Options(checked=True)
TOLERANCES = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 2e-2}
QUANTIZATIONS = [
    Quantization("affine", 2, 32),
    Quantization("affine", 4, 64),
    Quantization("affine", 5, 128),
    Quantization("mxfp8", 8, 32),
    Quantization("nvfp4", 4, 16),
]


def _close(got, type_, exact):
    scale = np.sqrt(np.mean(exact**2))
    np.testing.assert_allclose(
        to_float(got, type_), exact, rtol=0, atol=8 * TOLERANCES[type_] * scale
    )


@pytest.mark.parametrize("variant", [0, 1])
@pytest.mark.parametrize("type_", METAL_TYPES)
@pytest.mark.parametrize("q", QUANTIZATIONS, ids=str)
@pytest.mark.parametrize("shape", [(512, 24), (384, 7), (384, 13)], ids=str)
def test_gather_qmv(q, type_, shape, variant):
    k, n = shape
    rng = np.random.default_rng(3)
    experts = random_experts(rng, q, type_, 3, n, k)
    x = rounded(rng.standard_normal((4, k)), type_)
    rows, indices = rng.integers(0, [[[4]], [[3]]], (2, 2, 3)).astype(np.uint32)
    y = Stock(CHECKED, variant).product(x, rows, experts, indices)
    dense = experts.dense()[indices].astype(np.float64)
    _close(y, type_, np.einsum("mkd,mkhd->mkh", to_float(x, type_)[rows], dense))


@cache
def _rhs_library(options):
    source = "".join(
        f'#include "mlx/backend/metal/kernels/{name}.h"\n'
        for name in ("utils", "steel/gemm/gemm", "quantized_utils", "quantized")
    )
    entries = [
        f"affine_gather_qmm_rhs<{t}, 64, 4, 16, 32, 32, 1, 2, true>" for t in METAL_TYPES.values()
    ]
    return Library(source, entries, include=[include_folder()], options=options)


@pytest.mark.parametrize("variant", [0, 1])
@pytest.mark.parametrize("type_", METAL_TYPES)
@pytest.mark.parametrize("shape", [(128, 64), (192, 40)], ids=str)
def test_gather_qmm_rhs(shape, type_, variant):
    """The product for sorted experts: simdgroup_matrix, threadgroup memory, loaders.

    Constants and grid as in `gather_qmm_rhs` of MLX's public quantized.cpp; `offsets`, where each
    expert's rows begin, as `schedule_row_tile` of the wheel's utils.h reads it.
    """
    k, n = shape
    rng = np.random.default_rng(5)
    counts = np.array([17, 0, 5, 32])
    experts = random_experts(rng, Quantization("affine", 4, 64), type_, len(counts), n, k)
    m = int(counts.sum())
    x = rounded(rng.standard_normal((m, k)), type_)
    y = np.zeros((m, n), x.dtype)
    offsets = (np.cumsum(counts) - counts).astype(np.int32)
    library = _rhs_library(CHECKED)
    library.set_constants(align_M=m % 16 == 0, align_N=n % 32 == 0, align_K=k % 32 == 0)
    tiles = int(np.sum((counts + 15) // 16))
    library(
        f"affine_gather_qmm_rhs<{METAL_TYPES[type_]}, 64, 4, 16, 32, 32, 1, 2, true>",
        [x, experts.w, experts.scales, experts.biases, offsets, y]
        + [np.array([v], np.int32) for v in (m, n, k, len(counts))],
        grid=(32 * ((n + 31) // 32), 2 * (tiles + 1), 1),
        threadgroup=(32, 2, 1),
        variant=variant,
    )
    which = np.repeat(np.arange(len(counts)), counts)
    dense = experts.dense()[which].astype(np.float64)
    _close(y, type_, np.einsum("mk,mnk->mn", to_float(x, type_).astype(np.float64), dense))


@pytest.mark.parametrize("variant", [0, 1])
@pytest.mark.parametrize("type_", METAL_TYPES)
def test_the_rest_of_the_sequence(type_, variant):
    stock = Stock(CHECKED, variant)
    rng = np.random.default_rng(9)
    gate, up = (rounded(rng.standard_normal((3, 7, 37)), type_) for _ in range(2))
    g, u = (to_float(a, type_).astype(np.float64) for a in (gate, up))
    _close(stock.swiglu(gate, up, type_), type_, g / (1 + np.exp(-g)) * u)
    for count in range(1, 11):
        y = rounded(rng.standard_normal((3, count, 37)), type_)
        weights = rounded(rng.uniform(0, 1, (3, count)), type_)
        exact = np.einsum("mkn,mk->mn", to_float(y, type_), to_float(weights, type_))
        _close(stock.weighted_sum(y, type_, weights, type_), type_, exact)
    x = to_float(gate[:, 0], type_).astype(np.float64)
    exact = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-5)
    _close(stock.rms_norm(gate[:, 0].copy(), None, 1e-5, type_), type_, exact)

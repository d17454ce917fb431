"""add_rms_norm computes, bit for bit, MLX's addition and its norm."""

from dataclasses import dataclass

import numpy as np
import pytest
from arrays import METAL_TYPES, rounded, to_float
from fused import FusedKernels, kernel_of
from identity import assert_same_bits
from msl import MslFault, Options
from stock.sequence import Stock

EPS = 1e-5


@dataclass(frozen=True)
class NormCase:
    type: str
    rows: int
    width: int
    weight: bool

    def __str__(self):
        return f"{self.type}-{self.rows}x{self.width}" + ("-weight" if self.weight else "")

    def kernel(self):
        call = dict(type=self.type, rows=self.rows, D=self.width, has_weight=self.weight, eps=EPS)
        return kernel_of("norm", **call)

    def inputs(self):
        rng = np.random.default_rng(self.width)
        # Small enough for eps to matter.
        x, residual = rng.standard_normal((2, self.rows, self.width)) * 1e-2
        weight = rounded(rng.standard_normal(self.width), self.type) if self.weight else None
        return rounded(x, self.type), rounded(residual, self.type), weight


WIDTHS = (1, 2, 5, 64, 127, 128, 130, 513, 1000, 2048, 2880, 4093, 4096)
NORM_CASES = [
    NormCase(type_, 1 + i % 5, width, i % 3 != 0)
    for type_ in METAL_TYPES
    for i, width in enumerate(WIDTHS)
]


def _stock(stock, case, x, residual, weight):
    total = stock.binary("Add", x, residual, case.type)
    return stock.rms_norm(total, weight, EPS, case.type), total


def _check(case, kernels, stock, variant):
    x, residual, weight = case.inputs()
    arrays = [x, residual] + ([] if weight is None else [weight])
    outputs = [((case.rows, case.width), case.type)] * 2
    normed, total = kernels.run(case.kernel(), arrays, outputs, variant)
    wanted_normed, wanted_total = _stock(stock, case, x, residual, weight)
    assert_same_bits(total, wanted_total, "sum")
    assert_same_bits(normed, wanted_normed, "normed")
    return total, normed, weight


def norm_calls(cases, options, change=lambda header: header):
    """Kernels of the cases, and functions (kernels, variant) that say whether a call passes."""
    kernels = FusedKernels([c.kernel() for c in cases], options, change)

    def call(case):
        def passes(kernels, variant):
            try:
                _check(case, kernels, Stock(variant=variant), variant)
            except (MslFault, AssertionError):
                return False
            return True

        return passes

    return kernels, [call(c) for c in cases]


@pytest.fixture(scope="module")
def kernels():
    modes = Options(), Options(contract=True), Options(checked=True)
    return {m: FusedKernels([c.kernel() for c in NORM_CASES], m) for m in modes}


@pytest.mark.parametrize("case", NORM_CASES, ids=str)
def test_same_bits(case, kernels):
    for options, compiled in kernels.items():
        stock_options = Options(contract=options.contract)
        for variant in (0, 1):
            total, normed, weight = _check(case, compiled, Stock(stock_options, variant), variant)
    x = to_float(total, case.type).astype(np.float64)
    exact = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + EPS)
    if weight is not None:
        exact *= to_float(weight, case.type)
    tolerance = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[case.type]
    np.testing.assert_allclose(to_float(normed, case.type), exact, rtol=tolerance, atol=tolerance)

"""What the sweep of test_identity.py leaves out: other launches, other numerics, bad indices."""

from dataclasses import replace

import fused
import numpy as np
import pytest
from arrays import Quantization, to_float
from cases import Case, sweep
from identity import assert_same_bits, exact_result, fused_result, stock_result
from msl import Options
from stock.sequence import Stock

CHECKED, CONTRACTED = Options(checked=True), Options(contract=True)
FEW = [
    Quantization("affine", 4, 64),
    Quantization("affine", 3, 32),
    Quantization("mxfp8", 8, 32),
    Quantization("nvfp4", 4, 16),
]
CASES = sweep(FEW, ("float32", "bfloat16"), full=False)[::2]


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_text_alone(case):
    """The text that MLX gets, as it is, on a machine like ours."""
    values = case.inputs()
    wanted = stock_result(Stock(CONTRACTED), case, values)
    got = fused_result(fused.alone(case.kernel(), CONTRACTED), case, values, variant=0)
    assert_same_bits(got, wanted, str(case))


@pytest.mark.parametrize(
    "tuning",
    [
        "swiglu_rows=1,swiglu_simdgroups=1,combine_rows=1,combine_simdgroups=1",
        "swiglu_rows=3,swiglu_simdgroups=4,combine_rows=2,combine_simdgroups=3",
        "swiglu_rows=8,swiglu_simdgroups=8,combine_rows=8,combine_simdgroups=16",
    ],
)
def test_launches_do_not_matter(tuning, monkeypatch):
    monkeypatch.setenv("ZMLX_METAL_TUNING", tuning)
    _new_describer()
    try:
        kernels = [case.kernel() for case in CASES]
        compiled = fused.FusedKernels(kernels, CHECKED)
        for case in CASES:
            values = case.inputs()
            wanted = stock_result(Stock(), case, values)
            assert_same_bits(fused_result(compiled, case, values, 0), wanted, f"{case}, {tuning}")
    finally:
        monkeypatch.undo()
        _new_describer()


def _new_describer():
    """Reads the environment again."""
    fused._describer.cache_clear()
    fused.kernel_of.cache_clear()


@pytest.mark.parametrize("variant", [0, 1])
def test_numerics_fp32(variant):
    """Its errors are those of the last rounding and of float32."""
    cases = [replace(c, exact=False) for c in CASES if c.type == "bfloat16"]
    compiled = fused.FusedKernels([c.kernel() for c in cases], CHECKED)
    for case in cases:
        values = case.inputs()
        type_ = case.weights_type if case.op == "combine" else case.type
        got = to_float(fused_result(compiled, case, values, variant), type_).astype(np.float64)
        wanted = exact_result(case, values)
        rounding = 2.0 ** {"bfloat16": -8, "float32": -24}[type_]
        scale = np.sqrt(np.mean(wanted**2))
        assert (np.abs(got - wanted) <= rounding * np.abs(wanted) + 1e-5 * scale).all(), case


@pytest.mark.parametrize("op", ["swiglu", "combine"])
def test_experts_that_do_not_exist(op):
    case = Case(op, FEW[0], "bfloat16", 192, 37, 3, 4, 2, True, False, "swiglu", "float32")
    values = case.inputs()
    clean = stock_result(Stock(), case, values)
    values["indices"][1, 2] = 2
    values["indices"][2, 0] = 0xFFFFFFFF
    compiled = fused.FusedKernels([case.kernel()], CHECKED)
    got = fused_result(compiled, case, values, variant=0)
    bad = np.zeros((3, 4), bool)
    bad[1, 2] = bad[2, 0] = True
    bad = bad if op == "swiglu" else bad.any(1)
    type_ = "float32" if op == "combine" else "bfloat16"
    assert np.isnan(to_float(got, type_)[bad]).all()
    assert_same_bits(got[~bad], clean[~bad], "the others")


def test_rows_that_do_not_exist():
    case = Case("swiglu", FEW[0], "float32", 192, 16, 3, 4, 2, False, True, "swiglu", "float32")
    values = case.inputs()
    clean = stock_result(Stock(), case, values)
    values["rows"][0, 1] = 3
    got = fused_result(fused.FusedKernels([case.kernel()], CHECKED), case, values, variant=0)
    assert np.isnan(got[0, 1]).all()
    assert_same_bits(got[1:], clean[1:], "the others")

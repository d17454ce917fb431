"""The kernels in the form in which upstream/apply.py writes them into MLX: MLX's own bits again."""

import re
import sys

import fused
import pytest
from arrays import Quantization
from cases import sweep
from fused import FusedKernels
from identity import assert_same_bits, fused_result, stock_result
from msl import Library, Options
from msl.library import ROOT
from stock.sequence import Stock
from stock.wheel import include_folder
from test_norm import NORM_CASES, _check
from test_router import CASES as ROUTE_CASES
from test_router import _check as _check_route

sys.path[:0] = [str(ROOT / "upstream"), str(ROOT / "tests/python")]

import apply  # noqa: E402
import mlx_tree  # noqa: E402
from landing.change import PRIMITIVES  # noqa: E402
from landing.rewrite import CLASSES  # noqa: E402

CHECKED = Options(checked=True)
FEW = [Quantization("affine", 4, 64), Quantization("affine", 5, 32), Quantization("nvfp4", 4, 16)]
CASES = sweep(FEW, ("float32", "bfloat16"), full=False)[::2]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = mlx_tree.write(tmp_path_factory.mktemp("mlx"))
    assert apply.main([str(folder), *PRIMITIVES]) == 0
    return folder


class LandedKernels(FusedKernels):
    """Kernels whose file is MLX's; what is made for a call has its namespace."""

    def __init__(self, kernels, tree):
        super().__init__([])
        for kernel in {k["text"]: k for k in kernels}.values():
            operation = next(op for op in PRIMITIVES if op in kernel["name"])
            own = re.sub(r"\bzmlx\b", "fused", fused.parts(kernel)[1])
            for ours, theirs in CLASSES.items():
                own = own.replace(ours, theirs)
            text = fused._PREAMBLE
            text += f'#include "mlx/backend/metal/kernels/fused/{operation}.h"\n' + own
            include = [include_folder(), tree]
            library = Library(text, [kernel["name"]], include=include, options=CHECKED)
            self._found[kernel["text"]] = (library, kernel["name"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_products(case, tree):
    values = case.inputs()
    wanted = stock_result(Stock(), case, values)
    got = fused_result(LandedKernels([case.kernel()], tree), case, values, variant=0)
    assert_same_bits(got, wanted, str(case))


@pytest.mark.parametrize("case", NORM_CASES[::9], ids=str)
def test_norm(case, tree):
    _check(case, LandedKernels([case.kernel()], tree), Stock(), variant=0)


@pytest.mark.parametrize("case", ROUTE_CASES[::12], ids=str)
def test_router(case, tree):
    _check_route(case, LandedKernels([case.kernel()], tree), CHECKED, variant=0)

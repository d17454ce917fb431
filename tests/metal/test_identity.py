"""Our Metal kernels compute, bit for bit, what MLX's own kernels compute one after the other.

Under both variants of what MSL leaves open and with and without contraction (see README.md), over
all quantizations and types. ZMLX_METAL_SWEEP=full draws six times as many calls.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import groupby

import numpy as np
import pytest
from arrays import to_float
from cases import sweep
from fused import FusedKernels
from identity import assert_same_bits, exact_result, fused_result, stock_result
from msl import Options
from stock import sequence
from stock.sequence import Stock

PLAIN, CONTRACTED, CHECKED = Options(), Options(contract=True), Options(checked=True)
CASES = sweep()
# MLX adds up x in its type for 1 bit.
TOLERANCES = {"float32": 1e-5, "float16": 0.01, "bfloat16": 0.05}


def _family(case):
    q = case.quantization
    return q.affine, q.bits, q.mode


FAMILIES = {f: list(cases) for f, cases in groupby(sorted(CASES, key=_family), key=_family)}


def _kernels(family, options):
    return FusedKernels([c.kernel() for c in FAMILIES[family]], options)


@cache
def compiled():
    """Everything that the cases need, compiled on two cores: a future each."""
    pool = ThreadPoolExecutor(2)
    jobs = {}
    for options in (PLAIN, CONTRACTED):
        for make in (sequence.elementwise_library, sequence.sum_library):
            jobs[make.__name__, options] = pool.submit(make, options)
    for family, cases in FAMILIES.items():
        q = cases[0].quantization
        for options in (PLAIN, CONTRACTED):
            arguments = (q.affine, q.bits, sequence.groups_of(q), options)
            jobs["product", family, options] = pool.submit(sequence.product_library, *arguments)
        for options in (PLAIN, CONTRACTED, CHECKED):
            jobs["fused", family, options] = pool.submit(_kernels, family, options)
    return jobs


def fused_kernels(case, options):
    return compiled()["fused", _family(case), options].result()


def wait_for_stock(case, options):
    for name, job in compiled().items():
        if name[-1] == options and (len(name) == 2 or name[:2] == ("product", _family(case))):
            job.result()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_bits(case):
    values = case.inputs()
    exact = exact_result(case, values)
    scale = np.sqrt(np.mean(exact**2))
    for options in (PLAIN, CONTRACTED):
        wait_for_stock(case, options)
        for variant in (0, 1):
            wanted = stock_result(Stock(options, variant), case, values)
            # That MLX's kernels run as they should: far below what any wrong element would give.
            type_ = case.weights_type if case.op == "combine" else case.type
            error = np.sqrt(np.mean((to_float(wanted, type_) - exact) ** 2))
            assert error < TOLERANCES[case.type] * scale
            got = fused_result(fused_kernels(case, options), case, values, variant)
            assert_same_bits(got, wanted, f"contract={options.contract}, variant={variant}")
            if not options.contract:
                got = fused_result(fused_kernels(case, CHECKED), case, values, variant)
                assert_same_bits(got, wanted, f"checked, variant={variant}")

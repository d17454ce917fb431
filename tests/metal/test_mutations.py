"""The sweep notices when a kernel is wrong: each of these changes of a kernel's text is caught.

A mutation counts as caught when a call of the sweep gives other bits than MLX's kernels, or the
host reports a fault.
"""

import shutil
from dataclasses import dataclass

import pytest
from cases import sweep
from fused import FusedKernels, kernel_of
from identity import assert_same_bits, fused_result, stock_result
from msl import MslFault, Options
from msl.library import ROOT
from stock.sequence import Stock
from test_identity import FAMILIES
from test_norm import NORM_CASES, norm_calls

SOURCES = ROOT / "src/metal"
CHECKED, CONTRACTED = Options(checked=True), Options(contract=True)


@dataclass
class Mutation:
    file: str
    text: str
    instead: str
    op: str  # whose calls notice


MUTATIONS = {
    "rows beyond the last are read": Mutation(
        "gather_qmm_swiglu.h",
        "row_or_last<C>(first + r / 2)",
        "first + r / 2",
        "swiglu",
    ),
    "gate and up are swapped": Mutation(
        "gather_qmm_swiglu.h", "activate<C, Y>(g, u)", "activate<C, Y>(u, g)", "swiglu"
    ),
    "missing barrier": Mutation(
        "gather_qmm_combine.h",
        "  threadgroup_barrier(mem_flags::mem_threadgroup);\n",
        "",
        "combine",
    ),
    "experts are added in another order": Mutation(
        "gather_qmm_combine.h",
        "sums[k % 8] = products[k * stride] + sums[k % 8]",
        "sums[k % 4] = products[k * stride] + sums[k % 4]",
        "combine",
    ),
    "columns beyond the last are written": Mutation(
        "gather_qmm_combine.h",
        "if (column >= kWidth || n >= C::N) return;",
        "if (column >= kWidth) return;",
        "combine",
    ),
    "weights of another slot": Mutation(
        "gather_qmm_combine.h",
        "k * long(C::kWeightSlotStride)",
        "(k ^ 1) * long(C::kWeightSlotStride)",
        "combine",
    ),
    "scale and bias are swapped": Mutation(
        "affine_product.h",
        "row.scale * accum + x.sum * row.bias",
        "row.bias * accum + x.sum * row.scale",
        "swiglu",
    ),
    "another product is fused with the sum": Mutation(
        "affine_product.h",
        "return row.scale * accum + x.sum * row.bias;",
        "return x.sum * row.bias + row.scale * accum;",
        "swiglu",
    ),
    "the scale of another group": Mutation(
        "product.h", "(k + first) / C::kGroup", "k / C::kGroup", "swiglu"
    ),
    "lanes beyond a row's end take part": Mutation(
        "product.h",
        "if (C::K % P::kStep != 0 && k + first >= C::K) break;",
        "",
        "combine",
    ),
    "signs of fp4 are lost": Mutation(
        "dequantize.h", "code & 8 ? -magnitude : magnitude", "magnitude", "swiglu"
    ),
    "wrong power of two": Mutation("dequantize.h", "half(256.0f)", "half(128.0f)", "combine"),
    "scales of mxfp4 and nvfp4 are swapped": Mutation(
        "fp_product.h", "C::kGroup == 16 ?", "C::kGroup != 16 ?", "combine"
    ),
    "silu(gate) * up is rounded in another order": Mutation(
        "activation.h",
        "const T silu = gate * s;\n  return silu * up;",
        "const T scaled = s * up;\n  return gate * scaled;",
        "swiglu",
    ),
    "no eps": Mutation(
        "add_rms_norm.h", "acc / width + as_type<float>(C::kEpsBits)", "acc / width", "norm"
    ),
    "the sum is not rounded": Mutation(
        "add_rms_norm.h",
        "value = added;",
        "value = float(x[first + i]) + float(residual[first + i]);",
        "norm",
    ),
}


@pytest.fixture
def mutated(request, tmp_path):
    """A folder with the Metal sources, one of them changed."""
    mutation = request.param
    shutil.copytree(SOURCES, tmp_path / "metal")
    file = tmp_path / "metal" / mutation.file
    text = file.read_text()
    assert text.count(mutation.text) >= 1, f"{mutation.file} no longer holds: {mutation.text}"
    file.write_text(text.replace(mutation.text, mutation.instead, 1))
    return mutation, tmp_path / "metal"


def _is_caught(kernels, options, case):
    values = case.inputs()
    wanted = stock_result(Stock(Options(contract=options.contract)), case, values)
    try:
        got = fused_result(kernels, kernel_of(case.op, **case.call()), case, values, variant=0)
        assert_same_bits(got, wanted, str(case))
    except (MslFault, AssertionError):
        return True
    return False


@pytest.mark.parametrize("mutated", MUTATIONS.values(), ids=MUTATIONS.keys(), indirect=True)
def test_is_caught(mutated):
    mutation, sources = mutated
    if mutation.op == "norm":
        kernels, calls = norm_calls(NORM_CASES, CHECKED, sources)
        assert any(not call(kernels, 0) for call in calls)
        return
    for cases in FAMILIES.values():
        cases = [c for c in cases if c.op == mutation.op]
        for options in (CHECKED, CONTRACTED):
            kernels = FusedKernels([kernel_of(c.op, **c.call()) for c in cases], options, sources)
            if any(_is_caught(kernels, options, case) for case in cases):
                return
    pytest.fail("no call of the sweep notices")


def test_sources_without_mutation_pass():
    """What is caught is the mutation, not the way in which it is looked for."""
    cases = [c for c in sweep(full=False) if c.quantization.group in (16, 32)][:8]
    for options in (CHECKED, CONTRACTED):
        kernels = FusedKernels([kernel_of(c.op, **c.call()) for c in cases], options)
        assert not any(_is_caught(kernels, options, case) for case in cases)

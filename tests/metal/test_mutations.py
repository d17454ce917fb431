"""The sweep notices when a kernel is wrong: each of these changes of a kernel's text is caught.

A mutation counts as caught when a call of the sweep gives other bits than MLX's kernels, or the
host reports a fault.
"""

from dataclasses import dataclass

import pytest
from cases import sweep
from fused import FusedKernels, replaced
from identity import assert_same_bits, fused_result, stock_result
from msl import MslFault, Options
from stock.sequence import Stock
from test_identity import FAMILIES
from test_norm import NORM_CASES, norm_calls
from test_router import CASES as ROUTES
from test_router import route_passes

CHECKED, CONTRACTED = Options(checked=True), Options(contract=True)


@dataclass
class Mutation:
    text: str
    instead: str
    op: str  # whose calls notice

    def change(self, header):
        return replaced(header, self.text, self.instead)


MUTATIONS = {
    "rows beyond the last are read": Mutation(
        "row_or_last<C>(first + r / 2)",
        "first + r / 2",
        "swiglu",
    ),
    "gate and up are swapped": Mutation("activate<C, Y>(g, u)", "activate<C, Y>(u, g)", "swiglu"),
    "missing barrier": Mutation(
        "  threadgroup_barrier(mem_flags::mem_threadgroup);\n",
        "",
        "combine",
    ),
    "experts are added in another order": Mutation(
        "sums[k % 8] = products[k * stride] + sums[k % 8]",
        "sums[k % 4] = products[k * stride] + sums[k % 4]",
        "combine",
    ),
    "columns beyond the last are written": Mutation(
        "if (column >= kWidth || n >= C::N) return;",
        "if (column >= kWidth) return;",
        "combine",
    ),
    "weights of another slot": Mutation(
        "k * long(C::kWeightSlotStride)",
        "(k ^ 1) * long(C::kWeightSlotStride)",
        "combine",
    ),
    "scale and bias are swapped": Mutation(
        "row.scale * accum + x.sum * row.bias",
        "row.bias * accum + x.sum * row.scale",
        "swiglu",
    ),
    "another product is fused with the sum": Mutation(
        "return row.scale * accum + x.sum * row.bias;",
        "return x.sum * row.bias + row.scale * accum;",
        "swiglu",
    ),
    "the scale of another group": Mutation("(k + first) / C::kGroup", "k / C::kGroup", "swiglu"),
    "lanes beyond a row's end take part": Mutation(
        "if (C::K % P::kStep != 0 && k + first >= C::K) break;",
        "",
        "combine",
    ),
    "signs of fp4 are lost": Mutation("code & 8 ? -magnitude : magnitude", "magnitude", "swiglu"),
    "wrong power of two": Mutation("half(256.0f)", "half(128.0f)", "combine"),
    "scales of mxfp4 and nvfp4 are swapped": Mutation(
        "C::kGroup == 16 ?", "C::kGroup != 16 ?", "combine"
    ),
    "silu(gate) * up is rounded in another order": Mutation(
        "const T silu = gate * s;\n  return silu * up;",
        "const T scaled = s * up;\n  return gate * scaled;",
        "swiglu",
    ),
    "of equal experts the other one is chosen": Mutation(
        "found = C::kAscending ? simd_max(found) : simd_min(found);",
        "found = simd_max(found);",
        "route",
    ),
    "scores are read before they are written": Mutation(
        "}\nthreadgroup_barrier(mem_flags::mem_threadgroup);\nif constexpr (C::kSoftmax) {",
        "}\nif constexpr (C::kSoftmax) {",
        "route",
    ),
    "no eps": Mutation("acc / width + as_type<float>(C::kEpsBits)", "acc / width", "norm"),
    "the sum is not rounded": Mutation(
        "value = added;",
        "value = float(x[first + i]) + float(residual[first + i]);",
        "norm",
    ),
}


def _is_caught(kernels, options, case):
    values = case.inputs()
    wanted = stock_result(Stock(Options(contract=options.contract)), case, values)
    try:
        got = fused_result(kernels, case, values, variant=0)
        assert_same_bits(got, wanted, str(case))
    except (MslFault, AssertionError):
        return True
    return False


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_is_caught(mutation):
    if mutation.op == "norm":
        kernels, calls = norm_calls(NORM_CASES, CHECKED, mutation.change)
        assert any(not call(kernels, 0) for call in calls)
        return
    if mutation.op == "route":
        kernels = FusedKernels([c.kernel() for c in ROUTES], CHECKED, mutation.change)
        assert not all(route_passes(c, kernels) for c in ROUTES)
        return
    for cases in FAMILIES.values():
        cases = [c for c in cases if c.op == mutation.op]
        for options in (CHECKED, CONTRACTED):
            kernels = FusedKernels([c.kernel() for c in cases], options, mutation.change)
            if any(_is_caught(kernels, options, case) for case in cases):
                return
    pytest.fail("no call of the sweep notices")


def test_sources_without_mutation_pass():
    """What is caught is the mutation, not the way in which it is looked for."""
    cases = [c for c in sweep(full=False) if c.quantization.group in (16, 32)][:8]
    for options in (CHECKED, CONTRACTED):
        kernels = FusedKernels([c.kernel() for c in cases], options)
        assert not any(_is_caught(kernels, options, case) for case in cases)
    kernels, calls = norm_calls(NORM_CASES, CHECKED)
    assert all(call(kernels, 0) for call in calls)
    kernels = FusedKernels([c.kernel() for c in ROUTES], CHECKED)
    assert all(route_passes(c, kernels) for c in ROUTES)


def test_a_text_that_is_gone_fails():
    gone = Mutation("no kernel holds this", "", "swiglu")
    with pytest.raises(ValueError, match="no longer holds"):
        FusedKernels([sweep()[0].kernel()], CHECKED, gone.change)

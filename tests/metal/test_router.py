"""moe_route chooses and weighs, bit for bit, as mlx-lm's sequence of MLX's kernels does."""

import zlib
from dataclasses import dataclass, replace

import numpy as np
import pytest
from arrays import METAL_TYPES, rounded
from fused import FusedKernels, kernel_of
from identity import assert_same_bits
from msl import MslFault, Options
from stock.router import Router, StockRouter


@dataclass(frozen=True)
class RouteCase:
    type: str
    rows: int
    experts: int
    router: Router
    bias_type: str = ""
    one_axis: bool = False

    def __str__(self):
        r = self.router
        words = [self.type, f"{self.rows}x{self.experts}", r.score, f"K{r.k}"]
        if r.groups > 1:
            words.append(f"G{r.topk_group}of{r.groups}")
        flags = dict(bias=self.bias_type, renormalize=r.renormalize, ascending=r.ascending)
        flags |= dict(max=r.group_max, precise=r.precise, axis=self.one_axis)
        return "-".join([*words, *(n for n, on in flags.items() if on)])

    def kernel(self):
        r = self.router
        return kernel_of(
            "route",
            type=self.type,
            rows=self.rows,
            E=self.experts,
            score=r.score,
            K=r.k,
            groups=r.groups,
            topk_group=r.topk_group,
            renormalize=r.renormalize,
            scale=r.scale,
            eps=r.eps,
            ascending=r.ascending,
            group_max=r.group_max,
            fill=r.fill,
            precise=r.precise,
            score_type=r.score_type,
            weights_type=r.weights_type,
            one_axis=self.one_axis,
            **({"bias": self.bias_type} if self.bias_type else {}),
        )

    def inputs(self):
        rng = np.random.default_rng(zlib.crc32(str(self).encode()))
        values = rng.standard_normal((self.rows, self.experts)) * 2
        values[rng.random(values.shape) < 0.2] = 0.5  # equal ones, whose order matters
        bias = (
            rounded(rng.standard_normal(self.experts), self.bias_type) if self.bias_type else None
        )
        return rounded(values, self.type), bias


def _routers(type_):
    """Those of mlx-lm's models, by name of one, and odd ones."""
    own = dict(score_type=type_, weights_type=type_)
    wide = dict(score_type="float32", weights_type="float32")
    yield 60, "", Router("softmax", 4, precise=True, renormalize=True, **own)  # qwen
    yield 128, "", Router("softmax", 8, precise=True, **own)
    yield 32, "", Router("topk_softmax", 4, ascending=True, precise=True, **own)  # gpt-oss
    yield 64, "", Router("softmax", 6, 8, 3, group_max=True, scale=16.0, precise=True, **own)
    yield 256, "float32", Router("sigmoid", 8, 8, 4, renormalize=True, eps=1e-20, scale=2.5, **wide)
    yield 128, type_, Router("sigmoid", 8, renormalize=True, eps=1e-20, **own)
    yield 33, "float32", Router("sigmoid", 10, renormalize=True, scale=1.5, **own)
    yield 300, "", Router("softmax", 10, renormalize=True, **own)
    yield 16, "", Router("softmax", 2, renormalize=True, **(own | dict(weights_type="float32")))
    yield 5, "", Router("softmax", 1, renormalize=True, ascending=True, **own)
    yield 1000, "", Router("topk_softmax", 32, renormalize=True, **own)


CASES = [
    RouteCase(type_, (1, 2, 3, 5, 8, 13, 32)[i % 7], experts, router, bias)
    for type_ in METAL_TYPES
    for i, (experts, bias, router) in enumerate(_routers(type_))
]
CASES += [replace(c, rows=1, one_axis=True) for c in CASES if c.router.renormalize][::2]


@pytest.fixture(scope="module")
def kernels():
    modes = Options(), Options(contract=True), Options(checked=True)
    return {m: FusedKernels([c.kernel() for c in CASES], m) for m in modes}


def _outputs(case):
    shape = (case.rows, case.router.k)
    return [(shape, "uint32"), (shape, case.router.weights_type)]


def _check(case, kernels, options, variant):
    logits, bias = case.inputs()
    arrays = [logits] + ([] if bias is None else [bias])
    stock = StockRouter(Options(contract=options.contract), variant)
    wanted = stock.route(logits, case.type, bias, case.bias_type, case.router, case.one_axis)
    got = kernels.run(case.kernel(), arrays, _outputs(case), variant)
    assert_same_bits(got[0], wanted[0], f"indices, {options}, variant {variant}")
    assert_same_bits(got[1], wanted[1], f"weights, {options}, variant {variant}")
    return wanted


def route_passes(case, kernels):
    """Whether a call, plainly compiled or checked, is as MLX's."""
    try:
        _check(case, kernels, Options(), 0)
    except (MslFault, AssertionError):
        return False
    return True


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_bits(case, kernels):
    logits, _ = case.inputs()
    for options, compiled in kernels.items():
        for variant in (0, 1):
            wanted = _check(case, compiled, options, variant)
    if not case.bias_type and case.router.groups == 1:  # those with the largest logits
        chosen = np.take_along_axis(logits, wanted[0].astype(np.int64), 1)
        values = logits if case.type != "bfloat16" else (logits.astype(np.uint32) << 16).view("f4")
        chosen = chosen if case.type != "bfloat16" else (chosen.astype(np.uint32) << 16).view("f4")
        np.testing.assert_array_equal(np.sort(chosen, -1), np.sort(values, -1)[:, -case.router.k :])


def test_not_a_number_is_last(kernels):
    case = next(c for c in CASES if c.router.score == "topk_softmax" and c.type == "bfloat16")
    logits, _ = case.inputs()
    logits[0, 3] = 0x7FC0
    for variant in (0, 1):
        wanted = StockRouter(variant=variant).route(logits, case.type, None, "", case.router)
        got = kernels[Options()].run(case.kernel(), [logits], _outputs(case), variant)
        assert_same_bits(got[0], wanted[0], "indices")

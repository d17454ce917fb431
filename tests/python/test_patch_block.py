"""Blocks of known code, made in one call, against mlx-lm's own."""

import copy

import mlx.core as mx
import mlx.nn as nn
import pytest
from patch_models import build
from zmlx.patch import moe_block as pattern
from zmlx.patch import patch, report, unpatch

FAMILIES = ("qwen3_moe", "mixtral", "lfm2_moe", "gpt_oss")
ON_GPU = mx.default_device() != mx.cpu


def block_of(model):
    """The first block that the pattern took, and its path."""
    path = next(r.path for r in report(model).replaced if r.pattern == "moe_block")
    return dict(model.named_modules())[path]


def patched_block(family, dtype=mx.float32):
    """A patched block, a copy of it that is stock, and a function that makes inputs."""
    model = build(family)
    model.set_dtype(dtype)
    stock = patch(copy.deepcopy(model))
    block = block_of(stock)
    twin = unpatch(copy.deepcopy(block))
    width = block[pattern_known(block).experts]["down_proj"]["weight"].shape[1]

    def inputs(*shape):
        return mx.random.normal((*shape, width), key=mx.random.key(sum(shape))).astype(dtype)

    return block, twin, inputs


def pattern_known(block):
    return block._zmlx_site.known


def assert_same(got, want):
    assert got.dtype == want.dtype and got.shape == want.shape
    if ON_GPU:
        assert mx.array_equal(got, want)
    else:
        assert mx.allclose(got, want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_stock(family):
    block, stock, inputs = patched_block(family, mx.bfloat16 if ON_GPU else mx.float32)
    for shape in ((1, 1), (1, 3), (2, 1), (3, 7), (1, 32), (1, 33)):
        x = inputs(*shape)
        assert_same(block(x), stock(x))


@pytest.mark.parametrize("family", FAMILIES)
def test_is_one_call(family):
    block, _, inputs = patched_block(family, mx.bfloat16)
    if not ON_GPU:  # there the small sizes of these models fall back
        assert block._zmlx_site.plan(inputs(1, 1)) is not None
    fused = block._zmlx_site.experts.fused
    block(inputs(1, 1))
    assert ON_GPU or block._zmlx_site.experts.fused == fused + 1


def test_gradients_take_the_blocks_own_code():
    block, stock, inputs = patched_block("qwen3_moe")
    x = inputs(1, 3)
    got, want = (mx.grad(lambda x, b=b: b(x).square().sum())(x) for b in (block, stock))
    assert mx.allclose(got, want, rtol=1e-4, atol=1e-6)


def test_compiling_takes_the_blocks_own_code():
    block, stock, inputs = patched_block("qwen3_moe")
    x = inputs(1, 3)
    assert_same(mx.compile(block)(x), stock(x))


def test_new_weights_are_read():
    block, stock, inputs = patched_block("qwen3_moe")
    x = inputs(1, 3)
    before = block(x)
    for b in (block, stock):
        b.gate.scales = 2 * b.gate.scales
        b.switch_mlp.up_proj.scales = b.switch_mlp.up_proj.scales * 0.5
    assert not mx.allclose(block(x), before)
    assert_same(block(x), stock(x))


def test_a_replaced_layer_is_noticed():
    block, _, inputs = patched_block("qwen3_moe")
    x = inputs(1, 3)
    y = block(x)

    class Louder(nn.QuantizedLinear):
        def __call__(self, x):
            return 2 * super().__call__(x)

    block.gate.__class__ = nn.QuantizedLinear
    louder = copy.deepcopy(block.gate)
    louder.__class__ = Louder
    plain, block.gate = block.gate, louder
    assert not mx.allclose(block(x), y)
    assert block._zmlx_site.plan is None
    block.gate = plain
    block(x)
    assert block._zmlx_site.plan is not None


def test_a_copy_is_a_block_of_its_own():
    block, _, inputs = patched_block("qwen3_moe")
    x = inputs(1, 3)
    y = block(x)
    twin = copy.deepcopy(block)
    assert mx.array_equal(twin(x), y)
    twin.switch_mlp.down_proj.scales = 2 * twin.switch_mlp.down_proj.scales
    assert not mx.allclose(twin(x), y)
    assert mx.array_equal(block(x), y)


def test_steps_aside_from_other_code(monkeypatch):
    monkeypatch.setattr(pattern, "_KNOWN", {})
    model = patch(build("qwen3_moe"))
    reasons = {s.reason for s in report(model).skipped if s.pattern == "moe_block"}
    assert reasons == {"its code is not known"}
    assert report(model).count("moe_experts") > 0


def test_steps_aside_where_experts_are_shared_out():
    model = build("qwen3_moe")
    for _, module in model.named_modules():
        if type(module).__name__ == "Qwen3MoeSparseMoeBlock":
            module.sharding_group = object()
    reasons = {s.reason for s in report(patch(model)).skipped if s.pattern == "moe_block"}
    assert reasons == {"its experts are shared out among machines"}

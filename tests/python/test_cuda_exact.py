"""On CUDA the fused primitives return bit for bit what mlx-lm's sequence of MLX ops returns."""

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import zmlx
from zmlx import fast
from zmlx._ext import MoeBlock

pytestmark = pytest.mark.skipif(not mx.cuda.is_available(), reason="MLX has no CUDA GPU here")

AFFINE4, AFFINE8 = ("affine", 64, 4), ("affine", 64, 8)
MXFP4, MXFP8, NVFP4 = ("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)


@mx.compile
def swiglu(gate, up):
    return nn.silu(gate) * up


@mx.compile
def swiglu_clamped(gate, up):
    gate = mx.clip(gate, a_min=None, a_max=7.0)
    up = mx.clip(up, a_min=-7.0, a_max=7.0)
    return gate * mx.sigmoid(1.702 * gate) * (up + 1)


class Experts:
    """Random quantized experts and the two ways to multiply by them."""

    def __init__(self, width, hidden, experts, quantization, dtype=mx.bfloat16, bias=False):
        self.mode, self.group_size, self.bits = quantization
        self.width, self.experts, self.dtype = width, experts, dtype
        self.clamped = bias
        rng = np.random.default_rng(width + hidden)
        self.gate, self.up, self.down = (
            self.projection(rng, *size, bias)
            for size in ((hidden, width), (hidden, width), (width, hidden))
        )

    def projection(self, rng, rows, columns, bias):
        w = rng.standard_normal((self.experts, rows, columns), dtype=np.float32) / columns**0.5
        packed = mx.quantize(
            mx.array(w).astype(self.dtype), self.group_size, self.bits, mode=self.mode
        )
        b = rng.standard_normal((self.experts, rows), dtype=np.float32) if bias else None
        arrays = [*packed, *[None] * (3 - len(packed))]
        arrays.append(None if b is None else mx.array(b / 8).astype(self.dtype))
        mx.eval([a for a in arrays if a is not None])
        return arrays

    def inputs(self, tokens, top_k, weight_type=None, strided=False):
        rng = np.random.default_rng(tokens)
        x = mx.array(2 * rng.standard_normal((1, tokens, self.width), dtype=np.float32))
        order = np.stack([rng.permutation(self.experts) for _ in range(tokens)])
        indices = mx.array(order[None].astype(np.uint32))
        mx.eval(indices)
        indices = indices[..., :top_k]
        scores = mx.softmax(mx.array(rng.standard_normal((1, tokens, top_k), dtype=np.float32)), -1)
        return (
            x.astype(self.dtype),
            indices if strided else mx.contiguous(indices),
            scores.astype(weight_type or self.dtype),
        )

    def product(self, x, projection, indices, is_sorted):
        w, scales, biases, bias = projection
        y = mx.gather_qmm(
            x, w, scales, biases, rhs_indices=indices, transpose=True, group_size=self.group_size,
            bits=self.bits, mode=self.mode, sorted_indices=is_sorted,
        )  # fmt: skip
        return y if bias is None else y + mx.expand_dims(bias[indices], -2)

    def stock(self, x, indices, scores):
        """mlx-lm's SwitchGLU and the weighted sum after it."""
        x = mx.expand_dims(x, (-2, -3))
        chosen, shape, is_sorted = indices, indices.shape, indices.size >= 64
        if is_sorted:
            flat = indices.flatten()
            order = mx.argsort(flat)
            inverse = mx.argsort(order)
            x = x.flatten(0, -3)[order // shape[-1]]
            chosen = flat[order]
        up = self.product(x, self.up, chosen, is_sorted)
        gate = self.product(x, self.gate, chosen, is_sorted)
        hidden = (swiglu_clamped if self.clamped else swiglu)(gate, up)
        y = self.product(hidden, self.down, chosen, is_sorted)
        if is_sorted:
            y, hidden = (mx.unflatten(a[inverse], 0, shape) for a in (y, hidden))
        return hidden, (y.squeeze(-2) * scores[..., None]).sum(axis=-2)

    def fused(self, x, indices, scores, **options):
        options.update(group_size=self.group_size, bits=self.bits, mode=self.mode)
        (gw, gs, gz, gb), (uw, us, uz, ub), (dw, ds, dz, db) = self.gate, self.up, self.down
        hidden = fast.gather_qmm_swiglu(
            mx.expand_dims(x, (-2, -3)), gw, gs, gz, uw, us, uz, None, indices, gate_bias=gb,
            up_bias=ub, activation="swiglu_clamped" if self.clamped else "swiglu", **options,
        )  # fmt: skip
        return hidden, fast.gather_qmm_combine(
            hidden, dw, ds, dz, indices, scores, bias=db, **options
        )

    def at_once(self, x, indices, scores):
        """The sum by `moe_experts`, which is one kernel where there is one."""
        owner = nn.Module()
        layers = []
        for name, arrays in zip(
            ("gate", "up", "down"), (self.gate, self.up, self.down), strict=True
        ):
            layer = nn.Module()
            for key, a in zip(("weight", "scales", "biases", "bias"), arrays, strict=True):
                if a is not None:
                    layer[key] = a
            owner[name] = layer
            layers.append((owner, name, layer, self.group_size, self.bits, self.mode))
        block = MoeBlock(
            owner,
            [layers[0], *layers],  # no router is asked
            score="softmax",
            k=indices.shape[-1],
            activation="swiglu_clamped" if self.clamped else "swiglu",
        )
        return block.experts(x, indices, scores)


def check(experts, inputs, kernels=None):
    """
    Args:
        kernels: how many `moe_experts` takes, if it is to be one or two.
    """
    for call in (experts.fused, experts.at_once):
        paths = zmlx.explain(call, *inputs)
        assert {(p.path, p.reason) for p in paths} == {("cuda", "")}
    assert kernels is None or len(paths) == kernels
    want = experts.stock(*inputs)
    made = (*experts.fused(*inputs), experts.at_once(*inputs))
    for got, stock in zip(made, (*want, want[1]), strict=True):
        assert got.dtype == stock.dtype and got.shape == stock.shape
        assert mx.array_equal(got, stock)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 9, 32])
def test_tokens(tokens, strided):
    experts = Experts(512, 384, 16, AFFINE4)
    check(experts, experts.inputs(tokens, 4, strided=strided), kernels=1)


@pytest.mark.parametrize("top_k", [1, 2, 6, 8, 10])
def test_experts_per_token(top_k):
    experts = Experts(512, 384, 16, AFFINE4)
    for tokens in (1, 2, 7, 12, 32):
        check(experts, experts.inputs(tokens, top_k))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_one_token_of_every_width(bits, dtype):
    for group_size, width in ((64, 512), (32, 544), (128, 640)):
        experts = Experts(width, 256, 8, ("affine", group_size, bits), dtype)
        check(experts, experts.inputs(1, 4), kernels=1)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("quantization", [AFFINE4, AFFINE8])
def test_tensor_cores(quantization, dtype):
    # Multiples of 128 rows are qmm_sm80's in MLX, others qmm_naive's.
    for width, hidden in ((512, 384), (576, 320)):
        experts = Experts(width, hidden, 8, quantization, dtype)
        for tokens in (2, 5, 16, 31):
            check(experts, experts.inputs(tokens, 4), kernels=1)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_rows_that_no_tile_divides(bits):
    experts = Experts(544, 288, 8, ("affine", 32, bits))
    check(experts, experts.inputs(5, 4))


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("quantization", [MXFP4, MXFP8, NVFP4])
def test_fp_modes(quantization, tokens):
    experts = Experts(1056, 544, 32, quantization)
    check(experts, experts.inputs(tokens, 4))


def test_gpt_oss():
    experts = Experts(2880, 2880, 4, MXFP4, bias=True)
    check(experts, experts.inputs(1, 4), kernels=1)


@pytest.mark.parametrize(
    "width, hidden, count, top_k, quantization",
    [
        (2048, 1792, 32, 4, AFFINE4),
        (2048, 768, 128, 8, AFFINE4),
        (2048, 1536, 64, 4, AFFINE4),
        (2048, 1792, 32, 4, AFFINE8),
        (4096, 512, 16, 10, AFFINE4),
    ],
)
def test_sizes_of_models(width, hidden, count, top_k, quantization):
    experts = Experts(width, hidden, count, quantization)
    for tokens in (1, 4, 9, 32):
        check(experts, experts.inputs(tokens, top_k))


@pytest.mark.parametrize("blocks", [1, 7])
def test_blocks_that_take_several_parts(blocks):
    """As beside other work on the GPU, where not all blocks of a kernel run at once."""
    program = (
        "from test_cuda_exact import *\n"
        "for form, counts in ((AFFINE4, (1, 2, 9)), (AFFINE8, (1, 9)), (MXFP4, (1,))):\n"
        "    experts = Experts(1088, 576, 16, form)\n"
        "    for tokens in counts:\n"
        "        for _ in range(3):\n"
        "            check(experts, experts.inputs(tokens, 6), kernels=1)\n"
    )
    environment = os.environ | {
        "ZMLX_CUDA_EXPERT_BLOCKS": str(blocks),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, timeout=240, check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize("tokens", [1, 6])
def test_float32_router_weights(tokens):
    experts = Experts(512, 384, 16, AFFINE4)
    check(experts, experts.inputs(tokens, 4, mx.float32))


def test_scales_that_codes_must_be_converted_for():
    """Above 2^-5 and for subnormal numbers the kernels take another way to the same weights."""
    experts = Experts(512, 384, 16, AFFINE4)
    for projection in (experts.gate, experts.up, experts.down):
        projection[1] = projection[1].at[:, ::3].multiply(64).at[:, 1::7].multiply(0)
    for tokens in (1, 4):
        check(experts, experts.inputs(tokens, 4))


def test_experts_in_one_array_with_others():
    """Views whose experts are further apart than they are large are read in place."""
    experts = Experts(512, 384, 16, AFFINE4)
    inputs = experts.inputs(3, 4)
    want = experts.stock(*inputs)[1]
    for projection in (experts.gate, experts.up, experts.down):
        for i, a in enumerate(projection[:3]):
            view = mx.concatenate([a, a], axis=1)[:, a.shape[1] :]
            mx.eval(view)
            projection[i] = view
    assert mx.array_equal(experts.fused(*inputs)[1], want)


@pytest.mark.parametrize("tokens, top_k", [(1, 4), (3, 2), (9, 4)])
def test_missing_experts_give_nan(tokens, top_k):
    experts = Experts(512, 384, 8, AFFINE4)
    x, indices, scores = experts.inputs(tokens, top_k)
    bad = np.array(indices)
    bad[0, 0, 1], bad[0, -1, 0] = 8, 2**32 - 1
    hidden, y = experts.fused(x, mx.array(bad), scores)
    assert mx.array_equal(experts.at_once(x, mx.array(bad), scores), y, equal_nan=True)
    want_hidden, want = experts.fused(x, indices, scores)
    missing = mx.array(bad >= 8)
    assert mx.array_equal(mx.isnan(hidden).all((-1, -2)), missing)
    there = mx.logical_not(missing)[..., None, None]
    assert mx.array_equal(mx.where(there, hidden, 0), mx.where(there, want_hidden, 0))
    lost = missing.any(-1)
    assert mx.array_equal(mx.isnan(y).all(-1), lost)
    assert mx.array_equal(mx.where(lost[..., None], 0, y), mx.where(lost[..., None], 0, want))


def test_fp32_is_nearer_to_the_exact_result():
    experts = Experts(1024, 512, 8, AFFINE4)
    inputs = experts.inputs(1, 4)
    x, indices, scores = (a.astype(mx.float32) if a.dtype == mx.bfloat16 else a for a in inputs)
    dense = [
        mx.dequantize(*(a.astype(mx.float32) if a.dtype == mx.bfloat16 else a for a in p[:3]))
        for p in (experts.gate, experts.up, experts.down)
    ]
    gate, up = (mx.expand_dims(x, (-2, -3)) @ w[indices].swapaxes(-1, -2) for w in dense[:2])
    y = (nn.silu(gate) * up) @ dense[2][indices].swapaxes(-1, -2)
    exact = (y.squeeze(-2) * scores[..., None]).sum(-2)

    def error(numerics):
        got = experts.fused(*inputs, numerics=numerics)[1].astype(mx.float32)
        return mx.sqrt(mx.mean(mx.square(got - exact))).item()

    assert error("fp32") < error("exact")


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize("width", [64, 640, 1536, 2048, 2880, 12288])
def test_add_rms_norm(width, dtype):
    rng = np.random.default_rng(width)
    x, residual, weight = (
        mx.array(3 * rng.standard_normal(shape, dtype=np.float32)).astype(dtype)
        for shape in ((2, 3, width), (2, 3, width), (width,))
    )
    assert [p.path for p in zmlx.explain(fast.add_rms_norm, x, residual, weight, 1e-5)] == ["cuda"]
    for w in (weight, None):
        normed, total = fast.add_rms_norm(x, residual, w, 1e-5)
        assert mx.array_equal(total, x + residual)
        assert mx.array_equal(normed, mx.fast.rms_norm(x + residual, w, 1e-5))


def test_falls_back_beyond_max_rows():
    experts = Experts(512, 384, 16, AFFINE4)
    inputs = experts.inputs(5, 4)
    paths = zmlx.explain(experts.fused, *inputs, max_rows=4)
    assert [(p.path, p.reason) for p in paths] == [("fallback", "more tokens than max_rows")] * 2
    got, want = experts.fused(*inputs, max_rows=4), experts.stock(*inputs)
    assert all(mx.array_equal(a, b) for a, b in zip(got, want, strict=True))

"""On CUDA `moe_route` returns bit for bit what mlx-lm's sequence of MLX ops returns.

The tests go step by step, so that the first that fails names the step that differs.
"""

import os

import mlx.core as mx
import numpy as np
import pytest
import zmlx
from route_models import F32, GROUPS, ROUTERS, keywords, random_bias, random_logits
from zmlx import fast

os.environ["ZMLX_CUDA"] = "1"  # read at the first call

pytestmark = pytest.mark.skipif(not mx.cuda.is_available(), reason="MLX has no CUDA GPU here")

TYPES = [mx.bfloat16, mx.float16, mx.float32]
# One warp of MLX's softmax, several, and numbers of experts that no vector divides.
EXPERTS = [8, 32, 60, 64, 128, 129, 160, 256, 384, 512, 1024]


def route(logits, k, **options):
    (path,) = zmlx.explain(lambda: fast.moe_route(logits, k, **options))
    assert (path.path, path.reason) == ("cuda", "")
    return fast.moe_route(logits, k, **options)


def same(got, want):
    assert got.dtype == want.dtype and got.shape == want.shape
    assert mx.array_equal(got, want, equal_nan=got.dtype != mx.uint32), (got, want)


def best(logits, **options):
    """As many experts as the kernel selects."""
    return route(logits, min(32, logits.shape[-1]), **options)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("experts", EXPERTS)
@pytest.mark.parametrize("order", ["descending", "ascending"])
def test_order_of_the_selected(order, experts, dtype):
    """MLX's sort, with ties; no arithmetic is involved."""
    k = min(8, experts)
    for scale in (2.0, 1.0):
        logits = random_logits((2, 3), experts, F32, scale)
        logits = (mx.round(logits) if scale == 1.0 else logits).astype(dtype)
        indices, _ = route(logits, k, score="topk_softmax", order=order)
        if order == "descending":
            want = mx.argpartition(-logits, k - 1, -1)[..., :k]
        else:
            want = mx.argpartition(logits, -k, -1)[..., -k:]
        same(indices, want)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("precise", [True, False])
@pytest.mark.parametrize("experts", EXPERTS)
def test_softmax(experts, precise, dtype):
    logits = random_logits((1, 5), experts, dtype)
    indices, weights = best(logits, score="softmax", precise=precise)
    scores = mx.softmax(logits, -1, precise=precise)
    same(weights, mx.take_along_axis(scores, indices, -1))


@pytest.mark.parametrize("experts", EXPERTS)
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_scores_in_float32(score, experts):
    logits = random_logits((1, 5), experts, mx.bfloat16)
    indices, weights = best(logits, score=score, score_dtype=F32)
    scores = {"softmax": lambda x: mx.softmax(x, -1), "sigmoid": mx.sigmoid}[score](
        logits.astype(F32)
    )
    same(weights, mx.take_along_axis(scores, indices, -1))


@pytest.mark.parametrize("dtype", TYPES)
def test_sigmoid(dtype):
    for scale in (0.1, 2.0, 30.0):
        logits = random_logits((4, 8), 32, dtype, scale)
        indices, weights = best(logits, score="sigmoid")
        same(weights, mx.take_along_axis(mx.sigmoid(logits), indices, -1))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("precise", [True, False])
@pytest.mark.parametrize("k", [1, 2, 4, 5, 8, 10, 17, 32])
def test_softmax_of_the_selected(k, precise, dtype):
    logits = random_logits((1, 6), 128, dtype)
    indices, weights = route(logits, k, score="topk_softmax", precise=precise)
    chosen = mx.take_along_axis(logits, indices, -1)
    same(weights, mx.softmax(chosen, -1, precise=precise))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (1, 1), (1, 7), (32,)])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6, 8, 9, 10, 16, 17, 22, 32])
def test_sum_of_the_weights(k, shape, dtype):
    logits = random_logits(shape, 64, dtype)
    _, plain = route(logits, k, score="sigmoid")
    _, weights = route(logits, k, score="sigmoid", renormalize=True)
    same(weights, plain / plain.sum(-1, keepdims=True))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("eps", [1e-6, 1e-20, 0.5])
def test_eps_and_scale(eps, dtype):
    logits = random_logits((2, 9), 64, dtype)
    _, plain = route(logits, 6, score="sigmoid")
    _, weights = route(logits, 6, score="sigmoid", renormalize=True, eps=eps, scale=2.446)
    same(weights, plain / (plain.sum(-1, keepdims=True) + eps) * 2.446)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("weights_dtype", TYPES)
def test_type_of_the_weights(weights_dtype, dtype):
    logits = random_logits((1, 4), 64, dtype)
    _, plain = route(logits, 6, score="softmax")
    _, weights = route(logits, 6, score="softmax", weights_dtype=weights_dtype)
    same(weights, plain.astype(weights_dtype))


@pytest.mark.parametrize("bias_type", TYPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_select_bias(dtype, bias_type):
    logits, bias = random_logits((1, 6), 60, dtype), random_bias(60, bias_type)
    indices, weights = route(logits, 6, score="sigmoid", select_bias=bias)
    scores = mx.sigmoid(logits)
    same(indices, mx.argpartition(-(scores + bias), 5, -1)[..., :6])
    same(weights, mx.take_along_axis(scores, indices, -1))


@pytest.mark.parametrize("fill", [0.0, float("-inf")])
@pytest.mark.parametrize("experts, groups", [(64, 4), (160, 8), (256, 8), (256, 32), (60, 30)])
def test_groups(experts, groups, fill):
    logits, bias = random_logits((2, 7), experts, F32), random_bias(experts) - 0.5
    kept = groups // 2
    indices, _ = route(
        logits, 8, score="sigmoid", select_bias=bias, n_group=groups, topk_group=kept,
        group_fill=fill,
    )  # fmt: skip
    scores = mx.unflatten(mx.sigmoid(logits) + bias, -1, (groups, -1))
    totals = mx.topk(scores, 2, axis=-1).sum(axis=-1, keepdims=True)
    worst = mx.argpartition(totals, groups - kept - 1, axis=-2)[..., : groups - kept, :]
    scores = mx.put_along_axis(scores, worst, mx.array(fill), axis=-2)
    same(indices, mx.argpartition(-mx.flatten(scores, -2, -1), 7, -1)[..., :8])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ROUTERS)
def test_models(name, dtype):
    for shape, experts, k in (((1, 1), 64, 6), ((2, 3), 60, 4), ((1, 32), 256, 8)):
        logits = random_logits(shape, experts, dtype)
        indices, weights = route(logits, k, **keywords(name, logits, k))
        want_indices, want = ROUTERS[name][0](logits, k)
        same(indices, want_indices)
        same(weights, want)


@pytest.mark.parametrize("name", ROUTERS)
def test_ties(name):
    """Few different values, so that equal scores straddle the last selected expert."""
    rounded = mx.round(random_logits((2, 5), 64, F32, 1.0)).astype(mx.bfloat16)
    for logits in (rounded, mx.zeros((1, 2, 64), mx.bfloat16)):
        indices, weights = route(logits, 8, **keywords(name, logits, 8))
        want_indices, want = ROUTERS[name][0](logits, 8)
        same(indices, want_indices)
        same(weights, want)


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen2_moe", "deepseek_v3", "lfm2_moe", "gpt_oss"])
@pytest.mark.parametrize("experts, k", [(1, 1), (8, 1), (8, 8), (32, 32), (512, 10), (1024, 32)])
def test_sizes(name, experts, k):
    logits = random_logits((1, 2), experts, mx.bfloat16)
    options = keywords(name, logits, k)
    if experts < 8:
        options |= {key: 1 for key in GROUPS}
    if name == "deepseek_v3" and experts < 8:
        pytest.skip("groups of less than two experts")
    indices, weights = route(logits, k, **options)
    want_indices, want = ROUTERS[name][0](logits, k)
    same(indices, want_indices)
    same(weights, want)


@pytest.mark.parametrize("name", ROUTERS)
def test_numbers_out_of_the_ordinary(name):
    values = np.array(random_logits((1, 5), 64, F32))
    values[0, 0, 3] = np.nan
    values[0, 1] = np.nan
    values[0, 2, 5] = np.inf
    values[0, 3] = -np.inf
    values[0, 4, ::2] = -np.inf
    for dtype in TYPES:
        logits = mx.array(values).astype(dtype)
        indices, weights = route(logits, 6, **keywords(name, logits, 6))
        assert indices.max().item() < 64
        want_indices, want = ROUTERS[name][0](logits, 6)
        same(indices, want_indices)
        same(weights, want)


def test_strided_logits():
    logits = random_logits((8, 2), 16, F32).transpose(1, 2, 0)
    mx.eval(logits)
    for got, want in zip(
        route(logits, 2, score="sigmoid"),
        route(mx.contiguous(logits), 2, score="sigmoid"),
        strict=True,
    ):
        same(got, want)


def test_fp32_rounds_once():
    logits = random_logits((1, 9), 128, mx.bfloat16)
    options = {"score": "softmax", "renormalize": True, "scale": 2.5}
    indices, weights = route(logits, 8, numerics="fp32", **options)
    scores = mx.softmax(logits.astype(F32), -1)
    chosen = mx.take_along_axis(scores, indices, -1)
    same(indices, mx.argpartition(-scores, 7, -1)[..., :8])
    same(weights, (chosen / chosen.sum(-1, keepdims=True) * 2.5).astype(mx.bfloat16))


def test_falls_back():
    def reason(logits, k, **options):
        (path,) = zmlx.explain(lambda: fast.moe_route(logits, k, score="softmax", **options))
        assert path.path == "fallback"
        return path.reason

    assert reason(mx.zeros((33, 64)), 8) == "more tokens than max_rows"
    assert reason(mx.zeros((3, 64)), 8, max_rows=2) == "more tokens than max_rows"
    assert reason(mx.zeros((1, 1025)), 8) == "more than 1024 experts"
    assert reason(mx.zeros((1, 64)), 33) == "more than 32 experts a token"
    assert reason(mx.zeros((0, 64)), 8) == "nothing to route"


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "deepseek_v3", "deepseek_v2 groups"])
def test_gradients(name):
    logits = random_logits((1, 3), 64, F32)
    target = mx.arange(6, dtype=F32)

    def loss(router):
        return lambda x: (router(x)[1] * target).sum()

    got = mx.grad(loss(lambda x: route(x, 6, **keywords(name, x, 6))))(logits)
    # mlx-lm compiles some of its routers, which may contract products and sums of the gradient.
    assert mx.allclose(got, mx.grad(loss(lambda x: ROUTERS[name][0](x, 6)))(logits), rtol=1e-5)


def test_indices_stop_gradients():
    """Else whatever takes the indices would be asked for a derivative by them."""
    logits, table = random_logits((1, 3), 64, F32), random_logits((64,), 4, F32)

    def loss(x):
        indices, weights = route(x, 6, score="softmax")
        return (table[indices] * weights[..., None]).sum()

    assert mx.grad(loss)(logits).shape == logits.shape


@pytest.mark.parametrize("axes", [(0, None), (1, None), (None, 0), (1, 1)])
def test_vmap(axes):
    logits = random_logits((4, 3), 16, F32)
    bias = mx.stack([random_bias(16) * i for i in range(3)], axis=axes[1] or 0)
    bias = bias if axes[1] is not None else random_bias(16)

    def one(x, b):
        return fast.moe_route(x, 4, score="sigmoid", select_bias=b, renormalize=True)

    got = mx.vmap(one, in_axes=axes)(logits, bias)
    for i in range(4 if axes[0] == 0 else 3):
        x = logits if axes[0] is None else mx.take(logits, i, axes[0])
        b = bias if axes[1] is None else mx.take(bias, i, axes[1])
        for a, want in zip(got, one(x, b), strict=True):
            same(a[i], want)


def test_jvp_is_refused():
    logits = random_logits((1, 3), 16, F32)
    with pytest.raises(ValueError, match=r"^\[moe_route\] has no forward-mode derivative"):
        mx.jvp(lambda x: route(x, 4, score="softmax")[1], [logits], [logits])


def test_within_compile():
    logits = random_logits((1, 3), 32, mx.bfloat16)
    compiled = mx.compile(lambda x: fast.moe_route(x, 4, score="softmax"))
    for got, want in zip(compiled(logits), route(logits, 4, score="softmax"), strict=True):
        same(got, want)

"""`moe_route` equals the routers of mlx-lm's models, bit for bit and in their order of experts."""

import mlx.core as mx
import numpy as np
import pytest
import zmlx
from route_models import ROUTERS, keywords, random_bias, random_logits
from zmlx import fast

pytestmark = pytest.mark.skipif(
    mx.default_device() != mx.cpu, reason="of the CPU; test_cuda_route.py is of the GPU"
)


def check(name, logits, k):
    indices, weights = fast.moe_route(logits, k, **keywords(name, logits, k))
    want_indices, want = ROUTERS[name][0](logits, k)
    assert indices.dtype == mx.uint32 and weights.dtype == want.dtype
    assert indices.shape == weights.shape == (*logits.shape[:-1], k)
    assert mx.array_equal(indices, want_indices)
    assert mx.array_equal(weights, want, equal_nan=True)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize("name", ROUTERS)
def test_models(name, dtype):
    for experts, k in ((64, 6), (60, 4)):
        check(name, random_logits((2, 3), experts, dtype), k)


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "lfm2_moe", "deepseek_v3", "olmoe"])
def test_ties(name):
    """Few different values, so that equal scores straddle the last selected expert."""
    logits = mx.round(random_logits((2, 5), 64, mx.float32, scale=1.0)).astype(mx.bfloat16)
    check(name, logits, 8)
    check(name, mx.zeros((1, 2, 64), mx.bfloat16), 8)


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "lfm2_moe", "glm4_moe", "gpt_oss"])
@pytest.mark.parametrize("experts, k", [(8, 1), (8, 8), (1, 1), (129, 32), (512, 10)])
def test_sizes(name, experts, k):
    check(name, random_logits((1, 2), experts, mx.bfloat16), k)


@pytest.mark.parametrize("name", ["qwen3_moe", "lfm2_moe", "deepseek_v3", "gpt_oss"])
def test_numbers_out_of_the_ordinary(name):
    logits = np.array(random_logits((1, 4), 64, mx.float32))
    logits[0, 0, 3] = np.nan
    logits[0, 1] = np.nan
    logits[0, 2, 5] = np.inf
    logits[0, 3] = -np.inf
    logits = mx.array(logits)
    options = keywords(name, logits, 6)
    indices, weights = fast.moe_route(logits, 6, **options)
    assert indices.max().item() < 64
    want_indices, want = ROUTERS[name][0](logits, 6)
    assert mx.array_equal(indices, want_indices)
    assert mx.array_equal(weights, want, equal_nan=True)


@pytest.mark.parametrize("shape", [(), (5,), (2, 1, 3)])
def test_batch_axes(shape):
    logits = random_logits(shape, 32, mx.float32)
    indices, weights = fast.moe_route(logits, 4, score="softmax")
    assert indices.shape == weights.shape == (*shape, 4)
    chosen = mx.take_along_axis(mx.softmax(logits, -1), indices, -1)
    assert mx.array_equal(weights, chosen)
    best = mx.sort(mx.softmax(logits, -1), -1)[..., -4:]
    assert mx.array_equal(mx.sort(weights, -1), best)


def test_no_tokens():
    logits = mx.zeros((1, 0, 16), mx.bfloat16)
    indices, weights = fast.moe_route(logits, 4, score="softmax", score_dtype=mx.float32)
    assert indices.shape == weights.shape == (1, 0, 4)
    assert indices.dtype == mx.uint32 and weights.dtype == mx.float32


def test_strided_logits():
    logits = random_logits((8, 3), 16, mx.float32).transpose(1, 2, 0)
    want = fast.moe_route(mx.contiguous(logits), 2, score="sigmoid")
    for got, w in zip(fast.moe_route(logits, 2, score="sigmoid"), want, strict=True):
        assert mx.array_equal(got, w)


def test_explain():
    logits = mx.zeros((1, 2, 16))
    (path,) = zmlx.explain(fast.moe_route, logits, 4, score="softmax")
    assert (path.op, path.path, path.reason) == (
        "moe_route",
        "fallback",
        "no kernel for this device",
    )
    (path,) = zmlx.explain(fast.moe_route, logits[:, :0], 4, score="softmax")
    assert path.reason == "nothing to route"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"logits": mx.array(1.0)}, "logits must have at least one axis"),
        ({"logits": mx.zeros((2, 16), mx.int32)}, "logits must be a float array"),
        ({"k": 0}, "k must be between 1 and the number of experts, 16"),
        ({"k": 17}, "k must be between 1 and the number of experts, 16"),
        ({"score": "relu"}, "score must be 'softmax', 'sigmoid' or 'topk_softmax'"),
        ({"select_bias": mx.zeros((1, 16))}, r"select_bias must have shape \(16,\)"),
        ({"select_bias": mx.zeros(16, mx.int32)}, "the type of select_bias must be a float type"),
        ({"n_group": 3}, "n_group must divide the number of experts, 16"),
        ({"n_group": 0}, "n_group must divide"),
        ({"n_group": 4, "topk_group": 5}, "topk_group must be between 1 and n_group, 4"),
        ({"topk_group": 0}, "topk_group must be between 1"),
        ({"n_group": 16}, "groups need two experts"),
        (
            {"n_group": 4, "group_score": "max", "select_bias": mx.zeros(16)},
            "group_score 'max' takes no select_bias",
        ),
        ({"order": "sorted"}, "order must be 'descending' or 'ascending'"),
        ({"group_score": "sum"}, "group_score must be 'top2' or 'max'"),
        ({"eps": -1.0}, "eps must not be negative"),
        ({"score_dtype": mx.int32}, "score_dtype must be a float type"),
        ({"weights_dtype": mx.uint8}, "weights_dtype must be a float type"),
        ({"numerics": "fast"}, "numerics must be 'exact' or 'fp32'"),
        ({"max_rows": -1}, "max_rows must not be negative"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"logits": mx.zeros((2, 16)), "k": 4, "score": "softmax"} | change
    with pytest.raises(ValueError, match=r"^\[moe_route\] .*" + message):
        fast.moe_route(arguments.pop("logits"), arguments.pop("k"), **arguments)


GRADIENTS = ["qwen3_moe", "mixtral", "deepseek_v3", "deepseek_v2 groups", "lfm2_moe"]


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name):
    logits = random_logits((1, 3), 64, mx.float32)
    target = mx.arange(6, dtype=mx.float32)

    def loss(route):
        return lambda x: (route(x)[1] * target).sum()

    got = mx.grad(loss(lambda x: fast.moe_route(x, 6, **keywords(name, x, 6))))(logits)
    assert mx.array_equal(got, mx.grad(loss(lambda x: ROUTERS[name][0](x, 6)))(logits))
    assert got.abs().max() > 0


def test_select_bias_has_no_gradient():
    logits, bias = random_logits((1, 3), 16, mx.float32), random_bias(16)

    def loss(b):
        return fast.moe_route(logits, 4, score="sigmoid", select_bias=b)[1].sum()

    assert mx.array_equal(mx.grad(loss)(bias), mx.zeros(16))


@pytest.mark.parametrize("axes", [(0, None), (1, None), (None, 0), (1, 1)])
def test_vmap(axes):
    logits = random_logits((4, 3), 16, mx.float32)
    bias = mx.stack([random_bias(16) * i for i in range(3)], axis=axes[1] or 0)
    bias = bias if axes[1] is not None else random_bias(16)

    def route(x, b):
        return fast.moe_route(x, 4, score="sigmoid", select_bias=b, renormalize=True)

    got = mx.vmap(route, in_axes=axes)(logits, bias)
    for i in range(4 if axes[0] == 0 else 3):
        x = logits if axes[0] is None else mx.take(logits, i, axes[0])
        b = bias if axes[1] is None else mx.take(bias, i, axes[1])
        for a, want in zip(got, route(x, b), strict=True):
            assert mx.array_equal(a[i], want)


def test_within_compile():
    logits = random_logits((1, 3), 32, mx.float32)
    route = mx.compile(lambda x: fast.moe_route(x, 4, score="softmax"))
    for got, want in zip(route(logits), fast.moe_route(logits, 4, score="softmax"), strict=True):
        assert mx.array_equal(got, want)

"""On CUDA the kernels of one decoded token return bit for bit what mlx-lm's modules return."""

import functools
import importlib
import os

import mlx.core as mx
import mlx.nn as nn
import pytest
import zmlx
from mlx.utils import tree_map
from mlx_lm.models.cache import ArraysCache, KVCache
from patch_models import build, tokens
from zmlx.patch import attention, patch
from zmlx.patch.seam import pending_sum

if mx.cuda.is_available():
    # From 256 keys on MLX lets cuDNN attend, which is not always equal to itself. MLX reads this
    # once.
    os.environ.setdefault("MLX_CUDA_USE_CUDNN_SDPA", "0")

pytestmark = pytest.mark.skipif(not mx.cuda.is_available(), reason="MLX has no CUDA GPU here")

EPS = 1e-5
FORMATS = [(4, 64), (4, 32), (8, 64), (8, 128), (2, 64), (3, 32), (5, 64), (6, 64)]
TYPES = [mx.bfloat16, mx.float16]


def normal(shape, dtype, key):
    return mx.random.normal(shape, key=mx.random.key(key)).astype(dtype)


def made(module, bits, group_size, dtype):
    """A module with random weights, quantized."""
    keys = iter(range(1000, 2000))
    module.update(
        tree_map(lambda a: 0.05 * normal(a.shape, dtype, next(keys)), module.parameters())
    )
    nn.quantize(module, group_size, bits)
    for _, m in module.named_modules():
        if isinstance(m, nn.RMSNorm):
            m.weight = 1 + 4 * m.weight
    module.apply(lambda a: a.astype(dtype) if a.dtype == mx.float32 else a)
    mx.eval(module.parameters())
    return module


def attention_of(name, width, heads, kv_heads, head_dim, form, dtype):
    module = importlib.import_module(f"mlx_lm.models.{name}")
    sizes = {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": 1e-6,
        "norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_traditional": False,
        "rope_scaling": None,
        "attention_bias": False,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }
    arguments = type("Arguments", (), sizes)()
    extra = () if name == "llama" else (0,) if name == "qwen3_moe" else ()
    return made(module.Attention(arguments, *extra), *form, dtype)


def conv_of(width, taps, form, dtype):
    from mlx_lm.models.lfm2_moe import ShortConv

    sizes = {"hidden_size": width, "conv_L_cache": taps, "conv_bias": False}
    return made(ShortConv(type("Arguments", (), sizes)(), 0), *form, dtype)


def equal(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and mx.array_equal(a, b).item()


def explained(function, *arguments):
    """The paths that a call takes, and its result."""
    result = []
    taken = zmlx.explain(lambda: result.append(function(*arguments)))
    return {(p.op, p.path, p.reason) for p in taken}, result[0]


def held(cache):
    return [cache.keys, cache.values] if isinstance(cache, KVCache) else cache.cache


def check_steps(module, width, dtype, new_cache, op, prompt=5, steps=12):
    """A prompt, then single tokens: the module with a norm before it, and the kernel."""
    build_call, reason = attention.builder(type(module))
    assert build_call is not None, reason
    theirs, ours = new_cache(), new_cache()
    x = normal((1, prompt, width), dtype, 1)
    mask = "causal" if isinstance(theirs, KVCache) else None
    mx.eval(module(x, mask, theirs))
    # MLX's products of 8 rows and more are not always equal to themselves.
    if isinstance(ours, KVCache):
        ours.keys, ours.values, ours.offset = theirs.keys + 0, theirs.values + 0, theirs.offset
    else:
        ours[0] = theirs[0] + 0
    weight = 1 + normal((width,), dtype, 2) / 4
    for n in range(steps):
        x, r = normal((1, 1, width), dtype, 10 + n), normal((1, 1, width), dtype, 100 + n)
        normed = mx.fast.rms_norm(x + r, weight, EPS)
        want = module(normed, None, theirs)
        if n % 3 == 2:  # the row as it is
            taken, got = explained(build_call, module, normed, None, ours)
        else:
            taken, pair = explained(build_call.after_sum, module, x, r, weight, EPS, None, ours)
            # Without a pair the cache has to grow first.
            got, total = pair or (build_call(module, normed, None, ours), x + r)
            assert equal(total, x + r)
        if not isinstance(ours, KVCache) or (prompt + n) % 256 != 0:
            assert (op, "cuda", "") in taken
        assert equal(got, want), n
        assert getattr(ours, "offset", 0) == getattr(theirs, "offset", 0)
        assert all(equal(a, b) for a, b in zip(held(ours), held(theirs), strict=True)), n


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("form", FORMATS)
def test_attention_formats(form, dtype):
    bits, group_size = form
    module = attention_of("qwen3_moe", 512, 4, 2, 128, (bits, group_size), dtype)
    check_steps(module, 512, dtype, KVCache, "attention_heads")


@pytest.mark.parametrize(
    "name,width,heads,kv_heads,head_dim",
    [
        ("qwen3_moe", 2048, 32, 4, 128),
        ("lfm2_moe", 2048, 32, 8, 64),
        ("llama", 1024, 8, 8, 128),
        ("llama", 640, 8, 2, 80),
        ("qwen3_moe", 768, 3, 1, 256),
        ("qwen3_moe", 4096, 8, 1, 96),
        ("qwen3_moe", 576, 4, 4, 32),
    ],
)
def test_attention_sizes(name, width, heads, kv_heads, head_dim):
    module = attention_of(name, width, heads, kv_heads, head_dim, (4, 64), mx.bfloat16)
    check_steps(module, width, mx.bfloat16, KVCache, "attention_heads")


def test_attention_over_a_growing_cache():
    module = attention_of("qwen3_moe", 512, 4, 2, 64, (4, 64), mx.bfloat16)
    check_steps(module, 512, mx.bfloat16, KVCache, "attention_heads", prompt=250, steps=20)
    check_steps(module, 512, mx.bfloat16, KVCache, "attention_heads", prompt=4000, steps=4)


def test_a_cache_that_somebody_holds_is_copied():
    module = attention_of("qwen3_moe", 512, 4, 2, 64, (4, 64), mx.bfloat16)
    build_call, _ = attention.builder(type(module))
    cache = KVCache()
    mx.eval(module(normal((1, 5, 512), mx.bfloat16, 1), "causal", cache))
    kept, before = mx.array(cache.keys), cache.keys + 0
    mx.eval(kept, before)
    cache.offset = 2
    x = normal((1, 1, 512), mx.bfloat16, 3)
    mx.eval(build_call(module, x, None, cache))
    assert equal(kept, before)
    assert not equal(cache.keys, before)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "width,taps,form", [(2048, 3, (4, 64)), (512, 3, (8, 64)), (576, 4, (4, 32)), (544, 2, (6, 32))]
)
def test_short_conv(width, taps, form, dtype):
    module = conv_of(width, taps, form, dtype)
    check_steps(module, width, dtype, lambda: ArraysCache(1), "short_conv", prompt=1)


BLOCKS = [
    ("qwen3_moe", {"hidden_size": 512, "num_experts": 128, "num_experts_per_tok": 8}),
    ("qwen3_moe", {"hidden_size": 320, "num_experts": 60, "num_experts_per_tok": 4}),
    ("qwen3_moe", {"hidden_size": 512, "num_experts": 200, "norm_topk_prob": False}),
    ("lfm2_moe", {"hidden_size": 512, "num_experts": 32, "num_experts_per_tok": 4}),
    ("mixtral", {"hidden_size": 512, "num_local_experts": 8, "num_experts_per_tok": 2}),
]


@pytest.mark.parametrize("name,sizes", BLOCKS)
@pytest.mark.parametrize("bits", [4, 8])
def test_blocks(name, sizes, bits):
    stock, twin = (build(name, bits=bits, dtype=mx.bfloat16, sizes=sizes) for _ in range(2))
    patch(twin, ["moe_experts", "moe_combine", "moe_block"])
    pairs = [
        (theirs, ours)
        for (_, theirs), (_, ours) in zip(stock.named_modules(), twin.named_modules(), strict=True)
        if hasattr(type(ours), "after_sum")
    ]
    assert pairs
    width = sizes["hidden_size"]
    norm = nn.RMSNorm(width, EPS)
    norm.weight = 1 + normal((width,), mx.bfloat16, 2) / 4
    for n in range(20):
        theirs, ours = pairs[n % len(pairs)]
        x, r = normal((1, 1, width), mx.bfloat16, n), normal((1, 1, width), mx.bfloat16, 50 + n)
        taken, (y, total) = explained(ours.after_sum, x, r, norm)
        assert ("norm_route", "cuda", "") in taken
        assert equal(total, x + r)
        assert equal(y, theirs(norm(x + r)))


@pytest.mark.parametrize("name", ["qwen3_moe", "lfm2_moe", "mixtral", "llama"])
def test_models(name):
    sizes = {"hidden_size": 512, "head_dim": 128} if name == "qwen3_moe" else {"hidden_size": 512}
    stock, twin = (build(name, bits=4, dtype=mx.bfloat16, sizes=sizes) for _ in range(2))
    patch(twin)
    caches = [[*m.make_cache()] if hasattr(m, "make_cache") else None for m in (stock, twin)]
    if caches[0] is None:
        caches = [[KVCache() for _ in stock.layers] for _ in range(2)]
    prompt = tokens(1, 3)
    want, got = (m(prompt, cache=c) for m, c in zip((stock, twin), caches, strict=True))
    assert equal(got, want)
    for n in range(40):
        token = mx.argmax(want[:, -1:], axis=-1)
        want = stock(token, cache=caches[0])
        taken, got = explained(functools.partial(twin, cache=caches[1]), token)
        assert equal(got, want), n
        assert ("attention_heads", "cuda", "") in taken
        assert (name != "lfm2_moe") or ("short_conv", "cuda", "") in taken


def test_a_norm_that_alone_is_traced_is_left_to_others():
    """The kernels have no derivative, and keep weights out of the graph."""
    sizes = {"hidden_size": 512, "num_experts": 32, "num_experts_per_tok": 4}
    model = build("lfm2_moe", bits=4, dtype=mx.bfloat16, sizes=sizes)
    patch(model, ["moe_experts", "moe_combine", "moe_block"])
    block = next(m for _, m in model.named_modules() if hasattr(type(m), "after_sum"))
    norm = nn.RMSNorm(512, EPS)
    x, r = normal((1, 1, 512), mx.bfloat16, 1), normal((1, 1, 512), mx.bfloat16, 2)
    weight = 1 + normal((512,), mx.bfloat16, 3) / 4
    mx.eval(x, r, weight)

    def total(weight):
        norm.weight = weight
        assert block.after_sum(x, r, norm) is None
        return block(norm(x + r)).astype(mx.float32).square().sum()

    assert mx.any(mx.grad(total)(weight) != 0)
    norm.weight = weight
    assert block.after_sum(x, r, norm) is not None


def test_a_sum_that_is_not_consumed_stays():
    a, b = normal((1, 1, 64), mx.bfloat16, 0), normal((1, 1, 64), mx.bfloat16, 1)
    total = pending_sum(a, b)
    assert total.consume(lambda x, y: None) is None
    assert equal(mx.array(total), a + b)

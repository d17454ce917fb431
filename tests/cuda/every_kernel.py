"""Runs every CUDA kernel of the library once, on small sizes, for a checker to watch:

    MLX_USE_CUDA_GRAPHS=0 compute-sanitizer --kernel-name kns=zmlx_kernel --error-exitcode 9 \
        python tests/cuda/every_kernel.py

Compares nothing: that is what the tests do. Prints what it ran.
"""

import sys
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import zmlx
from mlx.utils import tree_map
from mlx_lm.models.cache import ArraysCache, KVCache
from mlx_lm.models.lfm2_moe import ShortConv
from mlx_lm.models.qwen3_moe import Attention
from zmlx import fast
from zmlx.patch import attention

EPS = 1e-5


def experts(tokens, top_k, width, hidden, count, form, dtype, numerics="exact"):
    mode, group_size, bits = form
    options = {"mode": mode, "group_size": group_size, "bits": bits, "numerics": numerics}

    def stack(rows, columns):
        packed = mx.quantize(
            mx.random.normal((count, rows, columns)).astype(dtype), group_size, bits, mode=mode
        )
        return [*packed, *[None] * (3 - len(packed))]

    gate, up, down = stack(hidden, width), stack(hidden, width), stack(width, hidden)
    x = mx.random.normal((1, tokens, 1, 1, width)).astype(dtype)
    indices = mx.random.randint(0, count + 1, (1, tokens, top_k)).astype(mx.uint32)
    weights = mx.random.uniform(shape=(1, tokens, top_k)).astype(dtype)
    h = fast.gather_qmm_swiglu(x, *gate, *up, None, indices, **options)
    return fast.gather_qmm_combine(h, *down, indices, weights, **options)


def every_product():
    for dtype in (mx.bfloat16, mx.float16):
        for bits in (2, 3, 4, 5, 6, 8):
            yield experts(1, 4, 576, 352, 8, ("affine", 32, bits), dtype)
        for bits in (4, 8):
            for tokens in (1, 3, 9):
                yield experts(tokens, 8, 640, 384, 16, ("affine", 64, bits), dtype)
        for mode, group_size, bits in (("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)):
            yield experts(3, 4, 544, 608, 8, (mode, group_size, bits), dtype)
    yield experts(2, 3, 576, 384, 8, ("affine", 64, 4), mx.float32)
    yield experts(2, 4, 576, 384, 8, ("affine", 64, 4), mx.bfloat16, "fp32")


def every_norm_and_router():
    for width in (64, 640, 2048, 12288):
        x = mx.random.normal((3, width)).astype(mx.bfloat16)
        yield fast.add_rms_norm(x, x, mx.ones((width,), mx.bfloat16), EPS)
    for count, k in ((8, 2), (60, 4), (128, 8), (512, 10)):
        logits = mx.random.normal((3, count)).astype(mx.bfloat16)
        yield fast.moe_route(logits, k, score="softmax", renormalize=True)
        yield fast.moe_route(logits, k, score="sigmoid", select_bias=mx.zeros((count,)))
        yield fast.moe_route(logits, k, score="topk_softmax", order="ascending")
    yield fast.moe_route(mx.random.normal((2, 64)), 6, score="sigmoid", n_group=8, topk_group=3)


def quantized(module, form):
    module.update(tree_map(lambda a: mx.random.normal(a.shape) / 16, module.parameters()))
    module.set_dtype(mx.bfloat16)
    nn.quantize(module, *form)
    return module


def every_step():
    row = mx.random.normal((1, 1, 576)).astype(mx.bfloat16)
    norm = nn.RMSNorm(576, EPS)
    norm.weight = norm.weight.astype(mx.bfloat16)
    for head_dim, form in ((64, (64, 4)), (96, (32, 8)), (256, (64, 6))):
        sizes = {"hidden_size": 576, "num_attention_heads": 3, "num_key_value_heads": 1}
        sizes |= {"head_dim": head_dim, "rms_norm_eps": EPS, "rope_theta": 1e6}
        module = quantized(Attention(SimpleNamespace(**sizes), 0), form)
        build, _ = attention.builder(Attention)
        cache = KVCache()
        module(mx.random.normal((1, 254, 576)).astype(mx.bfloat16), "causal", cache)
        for _ in range(2):  # the second is the last for which the cache has room
            yield build.after_sum(module, row, row, norm["weight"], norm.eps, None, cache)
        cache.trim(3)
        yield build(module, row, None, cache)
    for taps, form in ((3, (64, 4)), (4, (32, 8))):
        sizes = {"hidden_size": 576, "conv_L_cache": taps, "conv_bias": False}
        module = quantized(ShortConv(SimpleNamespace(**sizes), 0), form)
        build, _ = attention.builder(ShortConv)
        cache = ArraysCache(1)
        cache[0] = mx.zeros((1, taps - 1, 576), mx.bfloat16)
        yield build.after_sum(module, row, row, norm["weight"], norm.eps, None, cache)
        yield build(module, row, None, cache)
    yield from every_block(row, norm)


def every_block(row, norm):
    from mlx_lm.models.qwen3_moe import Qwen3MoeSparseMoeBlock
    from zmlx.patch import patch

    for count, k, form in ((128, 8, (64, 8)), (60, 4, (32, 4)), (5, 2, (64, 4))):
        sizes = {"hidden_size": 576, "moe_intermediate_size": 128, "num_experts": count}
        sizes |= {"num_experts_per_tok": k, "norm_topk_prob": True}
        root = nn.Module()
        root.block = quantized(Qwen3MoeSparseMoeBlock(SimpleNamespace(**sizes)), form)
        patch(root)
        yield root.block.after_sum(row, row, norm)


def main():
    ran = []
    for source in (every_product, every_norm_and_router, every_step):
        results = []
        paths = zmlx.explain(lambda source=source, results=results: results.extend(source()))
        mx.eval([r for r in results if r is not None])
        fallbacks = [p for p in paths if p.path != "cuda"]
        if fallbacks:
            print("not a kernel:", fallbacks[:5])
            return 1
        ran += [p.op for p in paths]
    print({op: ran.count(op) for op in sorted(set(ran))})
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""mlx-lm's own model classes, small and random: patched against stock, and what was fused."""

from collections import Counter

import mlx.core as mx
import pytest
import zmlx
from patch_models import build, logits_of, tokens
from zmlx.patch import norm, patch, report, unpatch

# Steps in which a decoder layer adds twice and the model normalises once more at the end: a sum
# for every norm but the first. Calls of the model in `logits_of`: a prompt and two tokens.
CALLS = 3

# Model: modules with fused experts, with fused sums over them, residual sums per call, and dense
# layers with fused gate and up projections.
MODELS = {
    "lfm2_moe": (2, 2, 6, 1),
    "qwen3_moe": (2, 2, 4, 0),
    "qwen2_moe": (2, 2, 4, 2),
    "mixtral": (2, 2, 4, 0),
    "olmoe": (2, 2, 4, 0),
    "gpt_oss": (2, 2, 4, 0),
    "deepseek_v3": (1, 1, 4, 2),
    "glm4_moe": (1, 1, 4, 2),
    "granitemoe": (2, 2, 4, 0),
    "phimoe": (2, 2, 0, 0),  # nn.LayerNorm
    "dots1": (1, 1, 4, 2),
    "ernie4_5_moe": (2, 2, 4, 2),
    "minimax": (2, 2, 4, 0),
    "hunyuan": (2, 2, 4, 2),
    "gemma4_text": (2, 2, 2, 0),  # scales its layers' outputs
    "step3p5": (0, 1, 0, 0),  # an activation and a norm of its own
    "bailing_moe": (2, 0, 4, 2),  # sums in a compiled function
    "longcat_flash": (2, 0, 8, 4),  # sums with mx.sum
    "llama": (0, 0, 4, 2),
    "olmo2": (0, 0, 1, 2),  # normalises sublayers' outputs; only the last norm gets a sum
}

# Largest difference of float32 logits, relative to the largest logit. Sums of 32 to 96 products in
# another order differ by some 10 eps (1.2e-7 each); three layers and a head carry that on.
TOLERANCE = 5e-6


@pytest.fixture(autouse=True)
def fuse_small_sums(monkeypatch):
    monkeypatch.setattr(norm, "MIN_SIZE", 0)


def relative_difference(a, b):
    return (mx.abs(a - b).max() / mx.abs(a).max()).item()


@pytest.mark.parametrize("name", MODELS)
def test_patched_model_agrees_with_stock(name):
    experts, combines, sums, dense = MODELS[name]
    model = build(name)
    stock = {batch: logits_of(model, batch) for batch in (1, 3)}
    for batch, want in stock.items():
        patch(model)
        got = logits_of(model, batch)
        assert got.dtype == want.dtype
        assert relative_difference(want, got) < TOLERANCE
        assert relative_difference(want, mx.zeros_like(want)) == 1  # the tolerance can fail
        seen = report(model)
        assert seen.count("moe_experts") == experts
        assert seen.count("moe_combine") == combines
        assert seen.fused("moe_combine") == combines * CALLS
        assert seen.fused("add_rms_norm") == sums * CALLS
        assert seen.count("dense_swiglu") == dense
        assert seen.count("dense") > 0
    unpatch(model)
    assert mx.array_equal(logits_of(model, 3), stock[3])


@pytest.mark.skipif(mx.default_device() == mx.gpu, reason="about what runs on CPUs")
@pytest.mark.parametrize("name", MODELS)
def test_fused_kernels_run_on_the_cpu(name):
    experts, combines, sums, dense = MODELS[name]
    model = patch(build(name), exclude="moe_block")
    paths = zmlx.explain(lambda: model(tokens(1, 3)))
    assert {path.path for path in paths} == {"cpu"}, paths
    ops = Counter(path.op for path in paths)
    assert ops["gather_qmm_swiglu"] == experts + dense
    # Patched experts also have their outputs one by one, in case that nothing sums them.
    assert ops["gather_qmm_combine"] == max(experts, combines) + combines
    assert ops["add_rms_norm"] == sums
    assert ops["quantized_matmul"] > 0


FORMATS = [
    {"group_size": 64, "bits": 4},
    {"group_size": 32, "bits": 8},
    {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    {"group_size": 16, "bits": 4, "mode": "nvfp4"},
]


@pytest.mark.parametrize("quantization", FORMATS, ids=lambda q: "-".join(map(str, q.values())))
@pytest.mark.parametrize("name", ["lfm2_moe", "gpt_oss"])
def test_formats(name, quantization):
    wide = {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 64}
    model = build(name, sizes=wide, **quantization)
    want = logits_of(model)
    got = logits_of(patch(model))
    assert relative_difference(want, got) < TOLERANCE
    assert report(model).fused("moe_combine") == report(model).count("moe_experts") * CALLS


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("name", ["lfm2_moe", "gpt_oss", "deepseek_v3", "granitemoe"])
def test_16_bit_types(name, dtype):
    # Judged against the float32 run of the same weights: stock's 16-bit sums are no reference.
    model = build(name, dtype=dtype)
    stock = logits_of(model)
    patched = logits_of(patch(model))
    unpatch(model).set_dtype(mx.float32)
    exact = logits_of(model)
    assert patched.dtype == stock.dtype
    assert relative_difference(exact, patched) < 1.5 * relative_difference(exact, stock) + 0.01


def test_long_prompt():
    # More than 32 tokens, and more than 64 (token, expert) pairs, where stock sorts the tokens.
    model = build("qwen3_moe")
    want = logits_of(model, batch=2, prompt=70)
    assert relative_difference(want, logits_of(patch(model), batch=2, prompt=70)) < TOLERANCE
    assert report(model).fused("moe_combine") == 2 * CALLS


def test_compiled_block():
    # A block only: compiling a whole model takes the compiler many seconds on the CPU.
    block = build("mixtral").layers[0].block_sparse_moe
    x = mx.random.normal((2, 5, 64), key=mx.random.key(4))
    want = block(x)
    compiled = mx.compile(patch(block))
    assert relative_difference(want, compiled(x)) < TOLERANCE
    assert relative_difference(want, compiled(x)) < TOLERANCE
    assert report(block).fused("moe_combine") == 1  # traced once

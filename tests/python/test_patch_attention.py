"""Pattern "attention": bit for bit what mlx-lm's own modules compute, and when it steps aside."""

import copy
import functools

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import lfm2_moe, qwen3_moe
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)
from mlx_lm.models.rope_utils import Llama3RoPE
from mlx_lm.tuner.lora import LoRALinear
from patch_models import build, logits_of, tokens
from zmlx.patch import attention, patch, report, unpatch
from zmlx.patch.known_code import code_shape, roles
from zmlx.patch.seam import SeamArray

# Models, and arguments besides those of `patch_models`.
MODELS = {
    "qwen3_moe": {},
    "lfm2_moe": {},
    "qwen3": {"head_dim": 16},
    "lfm2": {
        "num_hidden_layers": 3,
        "norm_eps": 1e-5,
        "conv_bias": True,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_ff_dim": 96,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention", "conv"],
    },
    "llama": {"attention_bias": True},
    "mixtral": {},
    "qwen2_moe": {},
    "olmoe": {},
    "olmo2": {},
    "glm4_moe": {},
}
KINDS = [(4, mx.float32), (4, mx.bfloat16), (None, mx.float32), (None, mx.bfloat16)]

# Tokens of each call: a prompt in two chunks, then single ones over the 256 that a cache first has
# room for; "trim" forgets some.
SCRIPT = [200, 50, *[1] * 20, "trim", *[1] * 5, 7, 1]
SHORT = [9, *[1] * 20]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """There everything here has a kernel. `test_cuda_step.py` has the GPU's tests."""
    monkeypatch.setattr(attention, "ON_CPU", True)
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(device)


@functools.cache
def model_of(name, bits=4, dtype=mx.float32):
    return build(name, bits=bits, dtype=dtype, sizes=MODELS[name])


def attention_of(*arguments):
    return next(m for layer in model_of(*arguments).layers if (m := layer.get("self_attn")))


def conv_of(*arguments):
    return model_of(*arguments).layers[0].conv


def builder(module):
    build_call, reason = attention.builder(type(module))
    assert build_call is not None, reason
    return build_call


def usual_mask(length, offset, dtype):
    return "causal" if length > 1 else None


def no_mask(length, offset, dtype):
    return None


def bool_mask(length, offset, dtype):
    mask = mx.tri(length, offset + length, offset, dtype=mx.bool_)
    mask[:, 1] = False
    return mask


def additive_mask(length, offset, dtype):
    mask = bool_mask(length, offset, dtype)
    return mx.where(mask, mx.random.normal(mask.shape, key=mx.random.key(offset)), -1e4).astype(
        dtype
    )


def equal(a, b):
    return a.dtype == b.dtype and mx.array_equal(a, b).item()


def same_as_stock(module, script, batch, mask=usual_mask, dtype=mx.float32, new_cache=KVCache):
    """Plays a script with a module and with what is built for it, and compares all there is."""
    build_call = builder(module)
    theirs, ours = new_cache(), new_cache()
    for n, length in enumerate(script):
        if length == "trim":
            assert theirs.trim(9) == ours.trim(9) == 9
            continue
        x = mx.random.normal((batch, length, 64), dtype, key=mx.random.key(n))
        given = mask(length, getattr(theirs, "offset", 0), dtype)
        want = module(x, given, theirs)
        got = build_call(module, x, given, ours)
        if got is None and new_cache is not KVCache and n == 0:
            got = module(x, given, ours)
        assert got is not None
        assert equal(want, got), (n, length)
        if new_cache is KVCache:
            assert theirs.offset == ours.offset
            assert equal(theirs.keys, ours.keys) and equal(theirs.values, ours.values)
        else:
            assert equal(theirs[0], ours[0])


# --- Same results --------------------------------------------------------------------------------


@pytest.mark.parametrize("bits,dtype", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_attention_is_bit_identical(name, bits, dtype):
    same_as_stock(attention_of(name, bits, dtype), SHORT, 3, dtype=dtype)
    same_as_stock(attention_of(name, bits, dtype), SHORT, 1, dtype=dtype)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["qwen3_moe", "lfm2_moe", "olmoe"])
def test_growing_and_trimmed_caches(name, batch):
    same_as_stock(attention_of(name), SCRIPT, batch)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("mask", [no_mask, bool_mask, additive_mask])
def test_masks(mask, dtype):
    same_as_stock(attention_of("qwen3_moe", 4, dtype), SHORT, 3, mask=mask, dtype=dtype)


@pytest.mark.parametrize("mask", [None, "causal"])
def test_without_a_cache(mask):
    module = attention_of("lfm2_moe")
    x = mx.random.normal((2, 7, 64))
    assert equal(module(x, mask), builder(module)(module, x, mask, None))


@pytest.mark.parametrize("bits,dtype", KINDS)
@pytest.mark.parametrize("name", ["lfm2_moe", "lfm2"])
def test_short_convolution_is_bit_identical(name, bits, dtype):
    for batch in (1, 3):
        same_as_stock(
            conv_of(name, bits, dtype), SHORT, batch, no_mask, dtype, lambda: ArraysCache(1)
        )


def test_norms_that_are_off():
    module = build("glm4_moe", sizes={"use_qk_norm": False}).layers[0].self_attn
    same_as_stock(module, SHORT, 1)


@pytest.mark.parametrize("name", ["qwen3_moe", "lfm2_moe", "lfm2", "llama"])
def test_whole_models(name):
    model = build(name, sizes=MODELS[name])
    want = logits_of(model, batch=2, steps=20)
    patch(model, "attention")
    assert report(model).count("attention") == len(model.layers)
    assert equal(want, logits_of(model, batch=2, steps=20))


def test_generation():
    from mlx_lm.generate import generate_step

    model, prompt = build("lfm2_moe"), tokens(1, 7)[0]

    def greedy():
        return [token for token, _ in generate_step(prompt, model, max_tokens=12)]

    want = greedy()
    patch(model, "attention")
    assert greedy() == want


def test_gradients_and_compilation():
    model = build("lfm2_moe")
    x, weight = mx.random.normal((2, 5, 64)), mx.random.normal((2, 5, 64))

    def results():
        module = model.layers[1].self_attn
        grad = mx.grad(lambda x: (module(x, "causal") * weight).sum())(x)
        return grad, mx.compile(lambda x: module(x, "causal"))(x)

    want = results()
    patch(model, "attention")
    assert all(equal(a, b) for a, b in zip(want, results(), strict=True))


# --- In place ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["attention", "conv"])
def test_a_step_copies_no_cache(name):
    attends = name == "attention"
    module = attention_of("lfm2_moe") if attends else conv_of("lfm2_moe")
    build_call = builder(module)
    cache = KVCache() if attends else ArraysCache(1)
    if attends:
        cache.keys, cache.values = (mx.random.normal((1, 2, 40000, 16)) for _ in range(2))
        cache.offset = 5
        size = cache.keys.nbytes
    else:
        cache[0], size = mx.zeros((1, 2, 64)), 2**20
    x = mx.random.normal((1, 1, 64))
    mx.eval(x, cache.state)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for _ in range(6):
        mx.eval(build_call(module, x, None, cache))
    assert mx.get_peak_memory() - before < size // 4


def test_the_cache_keeps_its_array_objects():
    module, cache = attention_of("qwen3_moe"), KVCache()
    module(mx.zeros((1, 3, 64)), "causal", cache)
    keys, values = cache.keys, cache.values
    builder(module)(module, mx.zeros((1, 1, 64)), None, cache)
    assert cache.keys is keys and cache.values is values and type(cache.offset) is int


def test_changed_weights_are_seen():
    model = build("qwen3_moe")
    module = model.layers[0].self_attn
    x = mx.random.normal((1, 3, 64))
    patch(model, "attention")
    before = module(x)
    module.load_weights([("k_norm.weight", mx.arange(16.0))], strict=False)
    module.update({"o_proj": {"scales": 2 * module.o_proj.scales}})
    module.scale = 0.7
    module.q_proj = nn.Linear(64, 64)
    module.rope.base = 77.0
    after = module(x)
    assert not mx.allclose(before, after).item()
    unpatch(model)
    assert equal(after, module(x))


def test_unpatch_and_copies():
    model = build("lfm2_moe")
    stock = [type(m) for _, m in model.named_modules()]
    want = logits_of(model)
    patch(model, "attention")
    assert isinstance(model.layers[1].self_attn, lfm2_moe.Attention)
    assert type(model.layers[1].self_attn) is not lfm2_moe.Attention
    twin = copy.deepcopy(model)
    twin.layers[1].self_attn.out_proj.scales = 2 * twin.layers[1].self_attn.out_proj.scales
    assert not equal(want, logits_of(twin))
    assert equal(want, logits_of(model))
    unpatch(model)
    assert [type(m) for _, m in model.named_modules()] == stock
    assert equal(want, logits_of(model))


# --- Stepping aside ------------------------------------------------------------------------------


class OtherKVCache(KVCache):
    pass


@pytest.mark.parametrize(
    "new_cache",
    [
        lambda: RotatingKVCache(max_size=8),
        lambda: QuantizedKVCache(group_size=32),
        lambda: BatchKVCache([0, 0]),
        ConcatenateKVCache,
        OtherKVCache,
    ],
)
def test_other_caches(new_cache):
    model = build("qwen3_moe", sizes={"head_dim": 32})
    module = model.layers[0].self_attn
    x = mx.random.normal((2, 3, 64))

    def outputs():
        cache = new_cache()
        mask = cache.make_mask(3, return_array=False, window_size=None)
        return [module(x, mask, cache), module(x[:, :1], None, cache)]

    assert builder(module)(module, x, "causal", new_cache()) is None
    want = outputs()
    patch(model, "attention")
    assert all(equal(a, b) for a, b in zip(want, outputs(), strict=True))


def odd_cache(**attributes):
    cache = KVCache()
    cache.update_and_fetch(*[mx.zeros((1, 2, 1, 16))] * 2)
    for name, value in attributes.items():
        setattr(cache, name, value)
    return cache


@pytest.mark.parametrize(
    "x,mask,cache",
    [
        (None, None, None),
        (mx.zeros((3, 64)), None, None),
        (mx.zeros((1, 3, 64), mx.int32), None, None),
        (SeamArray(mx.zeros((1, 3, 64))), None, None),
        (mx.zeros((1, 3, 64)), "full", None),
        (mx.zeros((1, 3, 64)), [[True]], None),
        (mx.zeros((1, 1, 64)), None, "a cache"),
        (mx.zeros((1, 1, 64)), None, odd_cache(offset=mx.array(1))),
        (mx.zeros((1, 1, 64)), None, odd_cache(keys=None)),
        (mx.zeros((1, 1, 64)), None, odd_cache(values=(1, 2))),
        (mx.zeros((1, 1, 64)), None, odd_cache(keys=mx.zeros((2, 256, 16)))),
    ],
)
def test_unexpected_arguments(x, mask, cache):
    module = attention_of("qwen3_moe")
    state = dict(vars(cache)) if isinstance(cache, KVCache) else None
    assert builder(module)(module, x, mask, cache) is None
    assert state is None or vars(cache) == state


def break_projection(module):
    module.v_proj = LoRALinear.from_base(module.v_proj)


def break_projection_class(module):
    module.o_proj = type("Other", (nn.Linear,), {})(64, 64)


def break_rope(module):
    config = {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config["original_max_position_embeddings"] = 64
    module.rope = Llama3RoPE(16, scaling_config=config)


def break_rope_class(module):
    module.rope = type("Other", (nn.RoPE,), {})(16)


def break_norm(module):
    module.k_norm = nn.LayerNorm(16)


def break_norm_class(module):
    module.q_norm = type("Other", (nn.RMSNorm,), {})(16)


def break_scale(module):
    module.scale = mx.array(0.25)


@pytest.mark.parametrize(
    "change,reason",
    [
        (break_projection, "projection"),
        (break_projection_class, "projection"),
        (break_rope, "nn.RoPE"),
        (break_rope_class, "nn.RoPE"),
        (break_norm, "nn.RMSNorm"),
        (break_norm_class, "nn.RMSNorm"),
        (break_scale, "scale"),
    ],
)
def test_other_layers(change, reason):
    model = build("qwen3_moe")
    module, x = model.layers[0].self_attn, mx.random.normal((2, 3, 64))
    patch(model, "attention")
    change(module)
    assert builder(attention_of("qwen3_moe"))(module, x, None, None) is None
    got = module(x)
    patch(model, "attention")
    seen = report(model)
    assert seen.count("attention") == 1
    assert [s.path for s in seen.skipped] == ["model.layers.0.self_attn"]
    assert reason in seen.skipped[0].reason
    assert equal(module(x), got)


def test_short_convolution_steps_aside():
    module, build_call = conv_of("lfm2_moe"), builder(conv_of("lfm2_moe"))
    x = mx.random.normal((2, 3, 64))

    def filled(**kwargs):
        cache = ArraysCache(1, **kwargs)
        cache[0] = mx.zeros((2, 2, 64))
        return cache

    assert build_call(module, x, None, None) is None
    assert build_call(module, x, None, ArraysCache(1)) is None
    assert build_call(module, x, None, KVCache()) is None
    assert build_call(module, x, mx.ones((2, 3), mx.bool_), filled()) is None
    assert build_call(module, x, None, filled(left_padding=[1, 0])) is None
    padded = filled()
    padded.prepare(lengths=[2, 3])
    assert build_call(module, x, None, padded) is None
    assert build_call(module, x, None, filled()) is not None


def test_the_cpu_has_nothing_to_gain(monkeypatch):
    monkeypatch.setattr(attention, "ON_CPU", False)
    model = patch(build("lfm2_moe"), "attention")
    assert report(model).count("attention") == 0
    assert [s.reason for s in report(model).skipped] == ["the default device is the CPU"]


def test_code_that_is_not_known():
    model = patch(build("gpt_oss"), "attention")
    seen = report(model)
    assert seen.count("attention") == 0
    assert {s.reason for s in seen.skipped} == {"its code is none that is known"}
    assert {s.module_class for s in seen.skipped} == {"AttentionBlock"}


def test_a_cache_that_works_differently(monkeypatch):
    def update_and_fetch(self, keys, values):
        return stock(self, 2 * keys, values)

    stock = KVCache.update_and_fetch
    monkeypatch.setattr(KVCache, "update_and_fetch", update_and_fetch)
    build_call, reason = attention.builder.__wrapped__(qwen3_moe.Attention)
    assert build_call is None and "computes it differently" in reason


# --- The same code -------------------------------------------------------------------------------


def one(self, x):
    return mx.add(self.a(x), self.b(x, key=1, other=self.c), stream=None)


class Variants:
    def renamed(self, x: mx.array) -> mx.array:
        """Says something."""
        # And something else.
        return mx.add(self.left(x), self.right(x, other=self.third, key=1), stream=None)

    def merged(self, x):
        return mx.add(self.a(x), self.a(x, key=1, other=self.c), stream=None)

    def other_constant(self, x):
        return mx.add(self.a(x), self.b(x, key=2, other=self.c), stream=None)

    def other_function(self, x):
        return mx.subtract(self.a(x), self.b(x, key=1, other=self.c), stream=None)

    def other_default(self, x=None):
        return mx.add(self.a(x), self.b(x, key=1, other=self.c), stream=None)

    @functools.wraps(one)
    def wrapper(self, x):
        return None


ONE = {code_shape(one).digest: ("one", ("a", "b", "c"))}


def test_roles():
    parts = {"a": "left", "b": "right", "c": "third"}
    assert roles(Variants.renamed, ONE, {"mx": mx}) == ("one", parts)
    assert roles(one, ONE, {"mx": mx}) == ("one", {"a": "a", "b": "b", "c": "c"})


@pytest.mark.parametrize(
    "method",
    [
        Variants.merged,
        Variants.other_constant,
        Variants.other_function,
        Variants.other_default,
        Variants.wrapper,
        mx.add,
        None,
    ],
)
def test_other_code_has_no_roles(method):
    assert roles(method, ONE, {"mx": mx}) is None


def test_globals_have_to_be_the_same():
    assert roles(one, ONE, {"mx": nn}) is None
    assert roles(one, ONE, {}) is None


def test_known_code_is_that_of_mlx_lm():
    kind, names = roles(lfm2_moe.Attention.__call__, attention._KNOWN, attention._MEANT)
    assert kind == "heads"
    assert names["q_norm"] == "q_layernorm" and names["o_proj"] == "out_proj"

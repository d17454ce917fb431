"""Where patterns step aside, because a class, a layout or a device is not what they expect."""

import subprocess
import sys

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwiGLU, SwitchGLU
from patch_models import build, close, experts_module, logits_of
from zmlx.patch import dense, dense_swiglu, norm, patch, report, unpatch
from zmlx.patch.seam import ResidualSum


@pytest.fixture
def model():
    return build("lfm2_moe")


@pytest.fixture(autouse=True)
def fuse_small_sums(monkeypatch):
    monkeypatch.setattr(norm, "MIN_SIZE", 0)


class OwnSwiGLU(SwiGLU):
    def __call__(self, x, gate):
        return 2 * super().__call__(x, gate)


class OwnSwitchGLU(SwitchGLU):
    def __call__(self, x, indices):
        return 2 * super().__call__(x, indices)


class OwnQuantizedSwitchLinear(QuantizedSwitchLinear):
    pass


def _mixed_bits():
    module = experts_module(quantize=False)
    for name, bits in (("gate_proj", 4), ("up_proj", 8), ("down_proj", 4)):
        setattr(module, name, module[name].to_quantized(32, bits))
    return module


def _own_projection():
    module = experts_module()
    module.down_proj.__class__ = OwnQuantizedSwitchLinear
    return module


def _global_scale():
    module = experts_module(quantize=False)
    for name in ("gate_proj", "up_proj", "down_proj"):
        projection = module[name].to_quantized(16, 4, mode="nvfp4", global_scale=True)
        setattr(module, name, projection)
    return module


def _own_class():
    module = experts_module()
    module.__class__ = OwnSwitchGLU
    return module


def _mixed_down():
    module = experts_module(quantize=False)
    for name, bits in (("gate_proj", 4), ("up_proj", 4), ("down_proj", 8)):
        setattr(module, name, module[name].to_quantized(32, bits))
    return module


# Module: why its experts, and then its weighted sum, are left alone ("" if they are fused).
ASIDE = {
    "unquantized": (lambda: experts_module(quantize=False), "SwitchLinear", "SwitchLinear"),
    "own activation": (lambda: experts_module(OwnSwiGLU()), "OwnSwiGLU", ""),
    "a function": (lambda: experts_module(lambda x, g: x * g), "function", ""),
    "own class": (_own_class, "class is not SwitchGLU", "class is not SwitchGLU"),
    "own projection": (_own_projection, "OwnQuantized", "OwnQuantized"),
    "mixed bits": (_mixed_bits, "quantized differently", ""),
    "down in other bits": (_mixed_down, "", ""),
}


@pytest.mark.parametrize("case", ASIDE)
def test_steps_aside_and_says_so(case):
    make, why_experts, why_combine = ASIDE[case]
    module = make()
    x, indices = mx.random.normal((2, 3, 64)), mx.random.randint(0, 4, (2, 3, 2))
    scores = mx.random.uniform(shape=(2, 3, 2))

    def run():
        return (module(x, indices) * scores[..., None]).sum(axis=-2)

    want = run()
    patch(module)
    assert close(want, run())
    reasons = {s.pattern: s.reason for s in report(module).skipped}
    for pattern, why in (("moe_experts", why_experts), ("moe_combine", why_combine)):
        assert (why in reasons[pattern]) if why else pattern not in reasons
        assert report(module).count(pattern) == (not why)


def test_global_scale_steps_aside():
    module = patch(_global_scale())  # stock itself runs on GPUs only
    assert [s.reason for s in report(module).skipped] == ["its weights have a global scale"] * 2
    assert type(module) is SwitchGLU


class OwnRMSNorm(nn.RMSNorm):
    def __call__(self, x):
        return 2 * super().__call__(x)


class OwnQuantizedLinear(nn.QuantizedLinear):
    def __call__(self, x):
        return 2 * super().__call__(x)


def test_classes_derived_from_mlxs_keep_theirs(model):
    layer = model.layers[1]
    layer.ffn_norm.__class__ = OwnRMSNorm
    layer.feed_forward.gate.__class__ = OwnQuantizedLinear
    want = logits_of(model)
    patch(model)
    assert close(want, logits_of(model))
    assert type(layer.ffn_norm) is OwnRMSNorm
    assert type(layer.feed_forward.gate) is OwnQuantizedLinear
    skipped = {(s.path, s.pattern) for s in report(model).skipped}
    assert ("model.layers.1.ffn_norm", "rms_norm") in skipped
    assert ("model.layers.1.ffn_norm", "add_rms_norm") in skipped
    assert ("model.layers.1.feed_forward.gate", "dense") in skipped


def test_small_sums_are_not_fused_on_the_cpu(model, monkeypatch):
    monkeypatch.setattr(norm, "MIN_SIZE", 9 * 64)
    patch(model)
    logits_of(model, prompt=8)
    assert report(model).fused("add_rms_norm") == 0
    notes = {r.note for r in report(model).replaced if r.pattern == "add_rms_norm"}
    assert notes == {"no residual sum that gains seen yet"}
    logits_of(model, prompt=9)
    assert report(model).fused("add_rms_norm") == 6


@pytest.mark.parametrize("patterns", ["add_rms_norm", ("add_rms_norm", "rms_norm")])
def test_norms_read_the_fused_sum(patterns):
    model = patch(build("llama"), patterns)
    norm = model.layers[1].input_layernorm
    x = mx.random.normal((1, 2, 64))
    total = ResidualSum(mx.full(x.shape, float("nan")))  # an ordinary sum that must not be read
    total._memo = (x, x)
    want = mx.fast.rms_norm(2 * x, norm.weight, norm.eps)
    assert close(want, norm(total)) and close(want, norm(total))


def test_changed_mlx_lm_is_noticed(monkeypatch):
    from zmlx.patch import moe

    moe._switch_glu_is_known.cache_clear()
    stock = SwitchGLU.__call__
    monkeypatch.setattr(SwitchGLU, "__call__", lambda self, x, i: 1.5 * stock(self, x, i))
    module = patch(experts_module())
    assert "differently" in report(module).skipped[0].reason
    moe._switch_glu_is_known.cache_clear()


def test_without_mlx_lm():
    program = """
import sys
sys.modules["mlx_lm"] = None
import mlx.core as mx, mlx.nn as nn
from zmlx.patch import patch, report
model = nn.Sequential(nn.QuantizedLinear(64, 64), nn.RMSNorm(64))
want = model(mx.ones((1, 64)))
assert mx.allclose(patch(model)(mx.ones((1, 64))), want, atol=1e-5)
assert report(model).count("dense") == report(model).count("rms_norm") == 1
assert "cannot be imported" in report(model).skipped[0].reason
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_projection_replaced_after_patching():
    module = patch(experts_module())
    other = experts_module()
    x, indices = mx.random.normal((1, 2, 64)), mx.array([[[0, 1], [2, 3]]])
    for name, replacement in (
        ("up_proj", other.up_proj),
        ("gate_proj", experts_module(quantize=False).gate_proj),
    ):
        setattr(module, name, replacement)
        got = module(x, indices)
        assert close(SwitchGLU.__call__(module, x, indices), got)


def _mlp(gate_bits=4, bias=False):
    model = build("llama", sizes={"mlp_bias": bias})
    mlp = model.layers[0].mlp
    if gate_bits != 4:
        w = mx.random.normal((96, 64))
        linear = nn.Linear(64, 96, bias=False)
        linear.weight = w
        mlp.gate_proj = linear.to_quantized(32, gate_bits)
    return mlp


@pytest.mark.parametrize("bias", [False, True])
def test_dense_swiglu(bias):
    mlp = _mlp(bias=bias)
    cases = [mx.random.normal(shape) for shape in ((1, 1, 64), (2, 7, 64), (5, 64), (64,))]
    want = [mlp(x) for x in cases]
    patch(mlp, "dense_swiglu")
    assert report(mlp).count("dense_swiglu") == 1
    for x, expected in zip(cases, want, strict=True):
        got = mlp(x)
        assert got.shape == expected.shape and close(expected, got)


def test_dense_swiglu_steps_aside():
    mlp = patch(_mlp(gate_bits=8), "dense_swiglu")
    assert "quantized differently" in report(mlp).skipped[0].reason
    gemma = patch(build("gemma4_text"), "dense_swiglu")  # GELU
    assert report(gemma).replaced == [] and report(gemma).skipped == []


class OwnMLP(nn.Module):
    def __call__(self, x):
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


def swiglu(gate, x):
    """Another function of the name."""
    return gate + x


def test_dense_swiglu_knows_the_activation_by_identity():
    mlp, x = _mlp(), mx.random.normal((2, 64))
    mlp.__class__ = OwnMLP
    want = mlp(x)
    assert close(want, patch(mlp)(x))
    assert report(mlp).count("dense_swiglu") == 0


def test_dense_swiglu_with_projections_and_weights_replaced():
    mlp, other, x = _mlp(), _mlp(gate_bits=8), mx.random.normal((2, 3, 64))
    patch(mlp, "dense_swiglu")
    mlp(x)
    stock = type(unpatch(_mlp()))
    mlp.up_proj.weight = mlp.up_proj.weight ^ 0x11111111
    assert close(stock.__call__(mlp, x), mlp(x))
    mlp.gate_proj = other.gate_proj
    assert close(stock.__call__(mlp, x), mlp(x))


def test_weights_replaced_after_patching(model):
    patch(model)
    logits_of(model)
    other = build("lfm2_moe", seed=5)
    model.load_weights(tree_flatten(other.parameters()))
    assert close(logits_of(other), logits_of(model))


def test_unusual_shapes_of_experts():
    module = experts_module()
    cases = [
        (mx.random.normal((64,)), mx.array([0, 2])),
        (mx.random.normal((3, 64)), mx.random.randint(0, 4, (3, 2))),
        (mx.random.normal((2, 3, 4, 64)), mx.random.randint(0, 4, (2, 3, 4, 2))),
        (mx.random.normal((1, 64)), mx.random.randint(0, 4, (5, 2))),  # x is broadcast
        (mx.random.normal((5, 64)), mx.random.randint(0, 4, (1, 2))),  # indices are
        (mx.random.normal((0, 64)), mx.zeros((0, 2), mx.int32)),
    ]
    want = [module(*case) for case in cases]
    patch(module)
    for case, expected in zip(cases, want, strict=True):
        got = module(*case)
        assert got.shape == expected.shape
        assert got.size == 0 or close(expected, got)
        got = (got * mx.ones(got.shape[:-1])[..., None]).sum(axis=-2)
        assert got.size == 0 or close(expected.sum(axis=-2), got)


def test_random_state_is_left_alone(model):
    from zmlx.patch import moe

    moe._switch_glu_is_known.cache_clear()
    mx.random.seed(3)
    want = mx.random.normal((4,))
    mx.random.seed(3)
    patch(model)
    assert mx.array_equal(mx.random.normal((4,)), want)


# --- On a GPU: the choices there, made on the CPU ------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    from zmlx.patch import moe, session

    monkeypatch.setattr(session, "on_gpu", lambda: True)
    for module in (dense, dense_swiglu, norm):
        monkeypatch.setattr(module, "on_gpu", lambda: True)
    monkeypatch.setattr(moe, "_default_device", lambda: "a GPU")


def test_patterns_for_the_cpu_step_aside(gpu, model):
    want = logits_of(model)
    patch(model)
    assert close(want, logits_of(model))
    seen = report(model)
    for name in ("dense", "dense_swiglu", "rms_norm"):
        assert seen.count(name) == 0
        assert {s.reason for s in seen.skipped if s.pattern == name} == {
            "the default device is a GPU"
        }
    for name in ("moe_experts", "moe_combine", "add_rms_norm"):
        assert seen.count(name) > 0


# Tokens, patterns: whether the sum is fused. Two experts a token: from 32 tokens on stock sorts.
GPU_ROWS = [
    (1, None, True),
    (31, None, True),
    (32, None, True),
    (33, None, False),
    (31, "moe_combine", True),
    (32, "moe_combine", False),
    (32, "moe_experts", False),
]


@pytest.mark.parametrize(("rows", "patterns", "fused"), GPU_ROWS)
def test_rows_on_a_gpu(gpu, rows, patterns, fused):
    module = experts_module()
    x, indices = mx.random.normal((rows, 64)), mx.random.randint(0, 4, (rows, 2))
    scores = mx.random.uniform(shape=(rows, 2))
    want = module(x, indices)
    patch(module, patterns)
    got = module(x, indices)
    # What is not fused with the sum is bit for bit what stock computes, where stock sorts.
    assert close(want, got) and (rows < 32 or mx.array_equal(want, got))
    got = (got * scores[..., None]).sum(axis=-2)
    assert close((want * scores[..., None]).sum(axis=-2), got)
    assert report(module).fused("moe_combine") == fused

"""Decoder layers of known code, whose residual sums are fused with the norms after them."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.cache import make_prompt_cache
from patch_models import build, tokens
from zmlx.patch import norm, patch, report, unpatch

PATTERN = "add_rms_norm"


@pytest.fixture(autouse=True)
def like_on_a_gpu(monkeypatch):
    monkeypatch.setattr(norm, "on_gpu", lambda: True)


def logits_of(model):
    """Of a prompt and two more tokens, in batches of two."""
    cache = make_prompt_cache(model)
    steps = [tokens(2, 5), tokens(2, 1), tokens(2, 1)]
    return mx.concatenate([model(step, cache=cache) for step in steps], axis=1)


def fused(model):
    return {r.path: r.fused for r in report(model).replaced if r.pattern == PATTERN}


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "lfm2_moe", "olmoe", "llama"])
def test_equals_stock(name):
    model = build(name)
    want = logits_of(model)
    patch(model, PATTERN)
    got = logits_of(model)
    assert mx.abs(got - want).max() <= 1e-5 * mx.abs(want).max()
    # Every norm but the first of the model gets a sum, at each of the three calls.
    counts = fused(model)
    layers = len(model.layers)
    assert sorted(counts.values()) == [3] * (2 * layers)
    unpatch(model)
    assert mx.array_equal(logits_of(model), want)


def test_layers_of_other_code_stay_as_they_are():
    model = patch(build("granitemoe"), PATTERN)  # scales what it adds
    assert not fused(model)
    reasons = {s.reason for s in report(model).skipped if s.pattern == PATTERN}
    assert reasons == {"a GPU gains from layers of known code only"}


def test_a_replaced_norm_takes_the_layers_own_code():
    model = build("qwen3_moe")
    patch(model, PATTERN)

    class Doubled(nn.RMSNorm):
        def __call__(self, x):
            return 2 * super().__call__(x)

    layer = model.layers[0]
    doubled = Doubled(64)
    layer.input_layernorm = doubled
    got = logits_of(model)
    unpatch(model)
    assert type(layer.input_layernorm) is Doubled
    assert mx.abs(got - logits_of(model)).max() <= 1e-5


def test_gradients_flow_through_fused_layers():
    model = build("qwen3_moe")

    def loss(scale):
        model.layers[0].input_layernorm.weight = scale
        return model(tokens(1, 3)).square().mean()

    scale = model.layers[0].input_layernorm.weight
    want = mx.grad(loss)(scale)
    model.layers[0].input_layernorm.weight = scale
    patch(model, PATTERN)
    got = mx.grad(loss)(scale)
    assert mx.abs(want).max() > 0
    assert mx.allclose(got, want, rtol=1e-4, atol=1e-7)

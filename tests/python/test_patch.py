"""`patch`, `unpatch` and `report`: what they change, restore, leave alone and say."""

import copy
import json

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import SwitchGLU
from patch_models import build, close, experts_module, logits_of, tokens
from zmlx.patch import PATTERNS, norm, patch, report, unpatch

# "attention" is for GPUs.
CPU_PATTERNS = tuple(name for name in PATTERNS if name != "attention")


@pytest.fixture(autouse=True)
def fuse_small_sums(monkeypatch):
    monkeypatch.setattr(norm, "MIN_SIZE", 0)


def snapshot(model):
    """Everything that patching must not change, by identity where there is one."""
    return [
        (path, id(module), type(module), sorted(module.keys()), dict(module.__dict__))
        for path, module in model.named_modules()
    ]


def classes(model):
    return [type(module) for _, module in model.named_modules()]


@pytest.fixture
def model():
    return build("lfm2_moe")


def test_patch_returns_the_model_and_is_idempotent(model):
    assert patch(model) is model
    once, first = classes(model), report(model)
    assert patch(model) is model
    assert classes(model) == once
    assert report(model).as_dict() == first.as_dict()


def test_unpatch_restores_exactly(model):
    before, parameters = snapshot(model), dict(tree_flatten(model.parameters()))
    patch(model)
    logits_of(model)
    assert snapshot(model) != before
    assert unpatch(model) is model
    assert snapshot(model) == before
    after = dict(tree_flatten(model.parameters()))
    assert after.keys() == parameters.keys()
    assert all(after[name] is value for name, value in parameters.items())
    assert not any("zmlx" in str(type(m)) for _, m in model.named_modules())


def test_unpatch_of_a_stock_model_does_nothing(model):
    before = snapshot(model)
    assert unpatch(model) is model and snapshot(model) == before


def test_parameters_children_and_state_stay(model):
    parameters = dict(tree_flatten(model.parameters()))
    trainable = [name for name, _ in tree_flatten(model.trainable_parameters())]
    paths = [path for path, _ in model.named_modules()]
    patch(model)
    patched = dict(tree_flatten(model.parameters()))
    assert patched.keys() == parameters.keys()
    assert all(patched[name] is value for name, value in parameters.items())
    assert [name for name, _ in tree_flatten(model.trainable_parameters())] == trainable
    assert [path for path, _ in model.named_modules()] == paths
    experts = model.layers[1].feed_forward.switch_mlp
    assert isinstance(experts, SwitchGLU) and type(experts) is not SwitchGLU
    assert not any(key.startswith("_zmlx") for key in experts)


@pytest.mark.parametrize("name", CPU_PATTERNS)
def test_one_pattern_alone(model, name):
    want = logits_of(model)
    patch(model, patterns=name)
    assert close(want, logits_of(model))
    seen = report(model)
    assert seen.patterns == (name,) and seen.count(name) > 0
    assert {r.pattern for r in seen.replaced} == {name}


@pytest.mark.parametrize("name", CPU_PATTERNS)
def test_one_pattern_less(model, name):
    want = logits_of(model)
    patch(model, exclude=[name])
    assert close(want, logits_of(model))
    seen = report(model)
    assert {r.pattern for r in seen.replaced} == set(CPU_PATTERNS) - {name}


def test_no_patterns(model):
    stock = classes(model)
    assert classes(patch(model, patterns=())) == stock
    assert "not patched" in str(report(model))


def test_patching_again_changes_the_patterns(model):
    patch(model)
    patch(model, patterns=["dense"])
    assert report(model).patterns == ("dense",)
    assert type(model.layers[1].feed_forward.switch_mlp) is SwitchGLU


def test_combine_needs_no_fused_experts():
    model = build("qwen3_moe")
    want = logits_of(model, batch=2)
    patch(model, patterns="moe_combine")
    assert close(want, logits_of(model, batch=2))
    assert report(model).fused("moe_combine") == 6


def test_experts_without_combine():
    model = build("gpt_oss")
    want = logits_of(model, batch=2)
    patch(model, patterns="moe_experts")
    assert close(want, logits_of(model, batch=2))


def test_part_of_a_model():
    block = build("mixtral").layers[0].block_sparse_moe
    x = mx.random.normal((1, 4, 64))
    want = block(x)
    assert close(want, patch(block)(x))
    experts = block.switch_mlp
    indices = mx.array([[[0, 1]]])
    want = unpatch(experts)(x[:, :1], indices)
    assert close(want, patch(experts)(x[:, :1], indices))


@pytest.mark.parametrize("bad", [None, 3, [], "model"])
def test_not_a_module(bad):
    for function in (patch, unpatch):
        with pytest.raises(TypeError, match=r"model must be an mlx.nn.Module"):
            function(bad)


def test_unknown_pattern(model):
    stock = classes(model)
    with pytest.raises(ValueError, match=r"patterns names 'experts'.*moe_experts"):
        patch(model, patterns=["experts"])
    with pytest.raises(ValueError, match=r"exclude names 'moe'"):
        patch(model, exclude="moe")
    assert classes(model) == stock


# --- Report --------------------------------------------------------------------------------------


def test_report_prints_and_serialises(model, capsys):
    patch(model, verbose=True)
    text = capsys.readouterr().out
    for word in (*PATTERNS, "SwitchGLU", "QuantizedLinear", "RMSNorm"):
        assert word in text
    data = json.loads(json.dumps(report(model).as_dict()))
    paths = {r["path"] for r in data["replaced"] if r["pattern"] == "moe_experts"}
    assert paths == {f"model.layers.{n}.feed_forward.switch_mlp" for n in (1, 2)}


def test_report_of_a_stock_model(model):
    assert report(model).patterns == () and report(model).replaced == []
    assert "not patched" in str(report(model))


def test_report_predicts_and_then_observes():
    model = patch(build("bailing_moe"))
    before = [s for s in report(model).skipped if s.pattern == "moe_combine"]
    assert len(before) == 2 and "aggregate_expert_outputs" in before[0].reason
    model = patch(build("qwen3_moe"))
    combine = [r for r in report(model).replaced if r.pattern == "moe_combine"]
    assert len(combine) == 2 and "not called yet" in combine[0].note
    logits_of(model)
    combine = [r for r in report(model).replaced if r.pattern == "moe_combine"]
    assert [(r.calls, r.fused) for r in combine] == [(3, 3)] * 2


def test_observation_beats_prediction():
    class Block(nn.Module):
        def __init__(self, experts):
            super().__init__()
            self.experts = experts
            self.helper = lambda y, s: (y * s[..., None]).sum(axis=-2)

        def __call__(self, x, indices, scores):
            return self.helper(self.experts(x, indices), scores)

    block = patch(Block(experts_module()))
    assert report(block).count("moe_combine") == 0
    x, indices = mx.random.normal((1, 3, 64)), mx.array([[[0, 1], [2, 3], [1, 1]]])
    block(x, indices, mx.ones((1, 3, 2)))
    assert report(block).count("moe_combine") == 1


def test_observation_beats_a_hopeful_prediction():
    class Block(nn.Module):
        def __init__(self, experts):
            super().__init__()
            self.experts = experts

        def __call__(self, x, indices, scores, usual=False):
            y = self.experts(x, indices)
            if usual:
                return (y * scores[..., None]).sum(axis=-2)
            return y.mean(axis=-2)

    block = patch(Block(experts_module()))
    assert report(block).count("moe_combine") == 1
    x, indices = mx.random.normal((1, 3, 64)), mx.array([[[0, 1], [2, 3], [1, 1]]])
    block(x, indices, mx.ones((1, 3, 2)))
    assert report(block).count("moe_combine") == 0
    reasons = [s.reason for s in report(block).skipped if s.pattern == "moe_combine"]
    assert reasons == ["no weighted sum over the experts followed"]


# --- Transforms and copies -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen3_moe", "granitemoe", "gpt_oss"])
def test_gradient_with_respect_to_the_input(name):
    model = build(name)
    layer = model.layers[1]
    x = mx.random.normal((2, 5, 64), key=mx.random.key(2))
    weight = mx.random.normal((2, 5, 64), key=mx.random.key(3))

    def loss(x):
        return (layer(x, "causal") * weight).sum()

    want = mx.grad(loss)(x)
    patch(model)
    value, got = mx.value_and_grad(loss)(x)
    assert close(want, got, 1e-4)
    assert report(model).fused("moe_combine") >= 1
    (cotangent,) = mx.vjp(lambda x: layer(x, "causal"), [x], [weight])[1]
    assert close(want, cotangent, 1e-4)


def test_gradient_does_not_flow_through_indices():
    module = experts_module()
    x = mx.random.normal((2, 3, 64))

    def loss(x):
        indices = mx.argpartition(x[..., :4], kth=2, axis=-1)[..., :2]  # not stopped by the block
        return (module(x, indices) ** 2).sum()

    want = mx.grad(loss)(x)
    patch(module)
    assert close(want, mx.grad(loss)(x), 1e-4)


def test_deep_copy(model):
    patch(model)
    twin = copy.deepcopy(model)
    want = logits_of(model)
    unpatch(model)
    assert close(want, logits_of(twin))
    assert report(twin).count("moe_experts") == 2
    assert close(want, logits_of(unpatch(twin)))


def test_generation(model):
    from mlx_lm.generate import generate_step

    prompt = tokens(1, 7)[0]

    def greedy():
        return [token for token, _ in generate_step(prompt, model, max_tokens=12)]

    want = greedy()
    patch(model)
    assert greedy() == want


def test_save_and_load(model, tmp_path):
    from mlx_lm.utils import save_model

    patch(model)
    save_model(tmp_path, model)
    saved = mx.load(str(tmp_path / "model.safetensors"))
    assert saved.keys() == dict(tree_flatten(model.parameters())).keys()


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="huge pages are for the CPU's weights")
def test_huge_pages_hold_large_weights_and_change_nothing():
    model = nn.Sequential(nn.QuantizedLinear(4096, 4096, bias=False), nn.RMSNorm(4096))
    x = mx.random.normal((1, 4096))
    mx.eval(model.parameters(), x)
    patch(model, use_huge_pages=False)
    want = model(x)
    mx.eval(want)
    assert report(model).huge_bytes == 0 and "huge" not in str(report(model))
    patch(model)
    seen = report(model)
    weights = model.layers[0].weight.nbytes
    # 8 MiB of weights hold three whole huge pages wherever they begin; scales are too small.
    assert seen.huge_bytes in (0, *range(6 << 20, weights + 1, 2 << 20))
    assert ("huge pages" in str(seen)) == (seen.huge_bytes > 0)
    assert mx.array_equal(model(x), want)

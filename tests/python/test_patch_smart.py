"""`smart_patch`: what it keeps for given timings, and that it really times."""

import mlx.core as mx
import pytest
from patch_models import build, logits_of, tokens
from zmlx.patch import PATTERNS, Timing, report, smart, smart_patch

MOE = ("moe_experts", "moe_combine")


@pytest.fixture(scope="module")
def model():
    return build("qwen3_moe")


@pytest.fixture
def seconds(monkeypatch):
    """Replaces the clock: `seconds(f)` makes a variant take f(patterns) = (prompt, token)."""

    def use(cost):
        monkeypatch.setattr(smart._Trial, "_run", lambda self, variant: cost(set(variant)))

    return use


def run(model, **options):
    return report(smart_patch(model, [1, 2, 3], repeats=3, decode_steps=1, **options))


def test_keeps_what_helps(model, seconds):
    def cost(patterns):
        prompt, token = 10.0, 2.0
        token -= 0.5 * ("moe_experts" in patterns)  # helps one, does not matter to the other
        prompt += 1.0 * ("dense" in patterns)  # helps one, hurts the other
        token -= 0.5 * ("dense" in patterns)
        token += 0.1 * ("rms_norm" in patterns)  # hurts
        return prompt, token  # add_rms_norm: does not matter

    seconds(cost)
    seen = run(model)
    assert seen.patterns == MOE
    assert [(t.pattern, t.kept) for t in seen.timings] == [
        ("moe_experts+moe_combine", True),
        ("moe_block", False),
        ("dense", False),
        ("rms_norm", False),
        ("add_rms_norm", False),
        ("all kept, against stock", True),
    ]
    first = seen.timings[0]
    assert (first.decode_without, first.decode_with, first.decode_ratio) == (2.0, 1.5, 0.75)
    assert "kept" in str(seen) and "dropped" in str(seen)
    assert seen.count("moe_experts") == 2


def test_differences_within_noise_are_not_kept(model, seconds):
    seconds(lambda patterns: (1.0, 1.0 - 0.001 * len(patterns)))
    assert run(model).patterns == ()


@pytest.mark.parametrize("bearable", [0, 1, 2, 3, 4])
def test_never_slower_than_stock(model, monkeypatch, bearable):
    # Each pattern seems to help, as drifts of a machine may make it seem; but together more than
    # so many groups are slower than stock.
    groups = (MOE, ("moe_block",), ("dense",), ("rms_norm",), ("add_rms_norm",))

    def compare(self, name, without, with_):
        slow = not without and with_ not in [sum(groups[:n], ()) for n in range(1, bearable + 1)]
        ratio = 1.2 if slow and name.startswith("all kept") else 0.9
        return Timing(name, False, 1.0, ratio, ratio, 1.0, 1.0, 1.0)

    monkeypatch.setattr(smart._Trial, "compare", compare)
    seen = run(model)
    kept = set(sum(groups[:bearable], ()))
    assert set(seen.patterns) == kept
    assert seen.timings[-1].kept == bool(kept)
    patched = any("zmlx" in str(type(module)) for _, module in model.named_modules())
    assert patched == bool(kept)


def test_candidates(model, seconds):
    seconds(lambda patterns: (1.0, 1.0 / (1 + len(patterns))))
    assert run(model, patterns="dense").patterns == ("dense",)
    absent = (*MOE, "dense_swiglu", "attention")  # no dense layers, and no GPU
    assert run(model, exclude=MOE).patterns == tuple(n for n in PATTERNS if n not in absent)
    dense_only = run(build("llama"))
    assert not set(MOE) & set(dense_only.patterns)


def test_with_a_real_clock(model):
    want = logits_of(model)
    smart_patch(model, tokens(1, 12), decode_steps=2, repeats=2)
    seen = report(model)
    assert seen.timings and all(t.prefill_with > 0 and t.decode_with > 0 for t in seen.timings)
    if seen.patterns:
        assert seen.timings[-1].kept
    assert (mx.abs(logits_of(model) - want).max() / mx.abs(want).max()).item() < 1e-5


def test_text_needs_a_tokenizer(model, seconds):
    class Tokenizer:
        def encode(self, text):
            return [ord(c) % 90 for c in text]

    seconds(lambda patterns: (1.0, 1.0))
    smart_patch(model, "some text", Tokenizer())
    with pytest.raises(TypeError, match="needs a tokenizer"):
        smart_patch(model, "some text")


@pytest.mark.parametrize("sample", [[], [[1, 2], [3, 4]], [0.5, 1.5], 3])
def test_bad_samples(model, sample):
    with pytest.raises(ValueError, match="non-empty sequence of token ids"):
        smart_patch(model, sample)


def test_bad_arguments(model):
    with pytest.raises(TypeError, match="smart_patch"):
        smart_patch("model", [1])
    with pytest.raises(ValueError, match="moe_expert"):
        smart_patch(model, [1], patterns="moe")
    for bad in ({"repeats": 0}, {"decode_steps": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            smart_patch(model, [1], **bad)

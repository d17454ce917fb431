"""Validation of the small model: sound kernels pass, broken ones of either type fail."""

import math

import mlx.core as mx
import numpy as np
import pytest
from test_capsule import check_schema
from zmlx import lm
from zmlx.patch import dense, moe, moe_block
from zmlx.validate import validate
from zmlx.validate.report import format_text, report_capsule, verdict_text

# Stock takes 50 ms a token in bfloat16 on CPU, so few tokens are judged in it.
SETTINGS = {
    "prompts": ["def fibonacci(n):\n", "The three states of matter are"],
    "max_tokens": 24,
    "runs": 1,
    "near_tokens": 8,
    "own_decode_tokens": 2,
}

# One prompt is enough to see that something is broken.
BRIEF = {**SETTINGS, "prompts": SETTINGS["prompts"][1:], "near_tokens": 12}


def replace_kernel(monkeypatch, module, name, dtype, damage, rows=None):
    """Makes a fused primitive's result go through ``damage`` where it has the type ``dtype``.

    ``rows``: only calls of that many tokens. Blocks that are one call take the primitives one by
    one instead.
    """
    monkeypatch.setattr(moe_block, "_make", lambda block, known: None)
    sound = getattr(module, name)

    def broken(x, *arguments, **keywords):
        y = sound(x, *arguments, **keywords)
        tokens = math.prod(x.shape[:2])
        return damage(y) if y.dtype == dtype and rows in (None, tokens) else y

    monkeypatch.setattr(module, name, broken)


def wrong_lane(y):
    """One output of eight with the wrong sign."""
    sign = mx.array([1, 1, 1, -1, 1, 1, 1, 1], dtype=y.dtype)
    return (y.reshape(*y.shape[:-1], -1, 8) * sign).reshape(y.shape)


def truncated(y):
    """Three bits of the fraction instead of bfloat16's seven, without rounding."""
    return (y.view(mx.uint16) & 0xFFF0).view(mx.bfloat16)


def bad_feeds(entry):
    """How the tokens of the blocks that are too far off were fed."""
    return {rounding.feed for rounding in entry.roundings if not rounding.ok}


def test_a_sound_patch_passes():
    report = validate(**SETTINGS)
    (entry,) = report.formats
    assert report.passed, entry.failures()
    assert (entry.name, entry.own_dtype) == ("4-bit", "bfloat16")
    assert entry.identity.dtype == "float32"
    assert entry.identity.compared == 2 * 24
    assert [(c.feed, c.patched.variant, c.stock.variant) for c in entry.comparisons] == [
        ("whole", "patched", "stock"),
        ("steps", "patched", "stock"),
    ]
    for comparison in entry.comparisons:
        # Sums in float32 bring the model far nearer to float32 than sums in bfloat16.
        assert comparison.patched.mean_divergence < comparison.stock.mean_divergence / 2
    assert len(entry.roundings) == 2 * (6 * 4 + 2)
    for rounding in entry.roundings:
        # One rounding of bfloat16 is 2e-3; a block rounds a few times.
        assert 1e-3 < rounding.patched < 2e-2
        assert rounding.ratio < 1.3, rounding
    assert {speed.dtype for speed in entry.speeds} == {"bfloat16", "float32"}
    assert entry.peak_bytes["stock"] > entry.weight_bytes
    check_schema(report_capsule(report))
    text = format_text(entry, show_text=True)
    assert "def fibonacci(n):" in text
    assert "48 of 48 identical" in text
    assert verdict_text(report).splitlines()[-1] == "PASS"


def test_a_broken_float32_kernel_fails(monkeypatch):
    replace_kernel(monkeypatch, moe, "_gather_qmm_swiglu", mx.float32, wrong_lane)
    report = validate(**BRIEF)
    (entry,) = report.formats
    assert not report.passed
    found = entry.identity.divergence
    assert found is not None
    assert found.stock_token != found.patched_token
    assert found.stock_margin >= 0
    assert found.patched_margin >= 0
    stock = entry.identity.stock[found.run][found.prompt].tokens
    patched = entry.identity.patched[found.run][found.prompt].tokens
    assert stock[: found.position] == patched[: found.position]
    assert (stock[found.position], patched[found.position]) == (
        found.stock_token,
        found.patched_token,
    )
    # bfloat16 is sound, and is not blamed.
    assert all(comparison.ok for comparison in entry.comparisons)
    text = format_text(entry)
    assert f"prompt {found.prompt + 1}, token {found.position + 1}" in text
    assert "logit margin" in text
    assert verdict_text(report).splitlines()[-1] == "FAIL"
    check_schema(report_capsule(report))


def test_a_broken_block_fails(monkeypatch):
    make = moe_block._make

    def make_broken(block, known):
        sound = make(block, known)
        return lambda x: wrong_lane(sound(x))

    monkeypatch.setattr(moe_block, "_make", make_broken)
    report = validate(**BRIEF)
    (entry,) = report.formats
    assert not report.passed
    assert entry.identity.divergence is not None
    assert bad_feeds(entry) == {"whole", "steps"}


@pytest.mark.parametrize(
    ("module", "name", "damage", "nearer_than_stock"),
    [
        (moe, "_gather_qmm_combine", wrong_lane, False),
        (dense, "_quantized_matmul", truncated, False),
        # Stock sums in 16 bits on CPU, and is farther off even than this.
        (moe, "_gather_qmm_swiglu", truncated, True),
    ],
)
def test_a_broken_bfloat16_kernel_fails(monkeypatch, module, name, damage, nearer_than_stock):
    replace_kernel(monkeypatch, module, name, mx.bfloat16, damage)
    report = validate(**BRIEF)
    (entry,) = report.formats
    assert entry.identity.ok
    assert not report.passed
    assert [comparison.divergence_ok for comparison in entry.comparisons] == [nearer_than_stock] * 2
    assert bad_feeds(entry) == {"whole", "steps"}
    assert all("bfloat16" in failure for failure in entry.failures())
    assert "less exact than float32 products rounded once" in format_text(entry)
    assert verdict_text(report).splitlines()[-1] == "FAIL"
    check_schema(report_capsule(report))


def test_a_bfloat16_kernel_broken_for_single_tokens_fails(monkeypatch):
    replace_kernel(monkeypatch, moe, "_gather_qmm_combine", mx.bfloat16, wrong_lane, rows=1)
    (entry,) = validate(**BRIEF).formats
    assert [comparison.divergence_ok for comparison in entry.comparisons] == [True, False]
    assert bad_feeds(entry) == {"steps"}
    assert not entry.passed


def test_a_bfloat16_kernel_broken_for_many_tokens_fails(monkeypatch):
    def only_many(y):
        return wrong_lane(y) if y.size // y.shape[-1] > 8 else y

    replace_kernel(monkeypatch, moe, "_gather_qmm_combine", mx.bfloat16, only_many)
    (entry,) = validate(**BRIEF).formats
    assert [comparison.divergence_ok for comparison in entry.comparisons] == [False, True]
    assert bad_feeds(entry) == {"whole"}
    assert not entry.passed


def test_nan_fails(monkeypatch):
    replace_kernel(monkeypatch, moe, "_gather_qmm_combine", mx.bfloat16, lambda y: y * float("nan"))
    (entry,) = validate(**BRIEF).formats
    assert not entry.passed
    assert [comparison.ok for comparison in entry.comparisons] == [False, False]
    assert bad_feeds(entry) == {"whole", "steps"}


def test_another_format_is_made_by_requantizing():
    settings = {**BRIEF, "max_tokens": 8, "near_tokens": 4, "prompts": ["class Stack:\n"]}
    seen = []
    report = validate(**{**settings, "runs": 2}, bits=[8, 4], on_format=seen.append)
    assert [entry.name for entry in report.formats] == ["8-bit", "4-bit"]
    assert seen == report.formats
    assert report.passed
    eight, four = report.formats
    assert "dequantized from 4-bit" in eight.note
    assert four.note == "as stored"
    assert 1.6 * four.weight_bytes < eight.weight_bytes < 2 * four.weight_bytes
    assert len(eight.identity.stock) == len(eight.identity.patched) == 2
    assert len(eight.speeds[1].decode["patched"]) == 2


def test_only_some_patterns_can_be_validated():
    settings = {**BRIEF, "max_tokens": 8}
    (entry,) = validate(**settings, patterns=["moe_experts", "moe_combine"]).formats
    assert entry.passed, entry.failures()
    assert entry.patched == ["Patched modules by pattern: moe_experts 4, moe_combine 4"]
    # Only blocks that hold experts are judged alone; the dense layers are stock's.
    assert {rounding.path for rounding in entry.roundings} == {
        f"model.layers.{layer}.feed_forward" for layer in (2, 3, 4, 5)
    }


def test_a_model_in_float32_is_judged_by_its_tokens_alone():
    settings = {**BRIEF, "dtype": "float32", "max_tokens": 8}
    (entry,) = validate(**settings).formats
    assert entry.passed
    assert entry.comparisons == []
    assert [speed.dtype for speed in entry.speeds] == ["float32"]


def test_the_model_is_left_as_it_was():
    loaded = lm.load()
    before = {name: id(module) for name, module in loaded.model.named_modules()}
    classes = {name: type(module) for name, module in loaded.model.named_modules()}
    scales = loaded.model.layers[2].feed_forward.switch_mlp.gate_proj.scales
    with lm.in_dtype(loaded.model, mx.float32):
        inside = loaded.model.layers[2].feed_forward.switch_mlp.gate_proj.scales
        assert inside.dtype == mx.float32
        assert lm.model_dtype(loaded.model) == mx.float32
    assert lm.model_dtype(loaded.model) == mx.bfloat16
    after = loaded.model.layers[2].feed_forward.switch_mlp.gate_proj.scales
    assert after.dtype == mx.bfloat16
    assert np.array_equal(np.array(scales.view(mx.uint16)), np.array(after.view(mx.uint16)))
    assert before == {name: id(module) for name, module in loaded.model.named_modules()}
    assert classes == {name: type(module) for name, module in loaded.model.named_modules()}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_tokens": 1}, "max_tokens"),
        ({"runs": 0}, "runs"),
        ({"near_tokens": 0}, "near_tokens"),
        ({"prompts": []}, "prompts"),
        ({"prompts": "text"}, "prompts"),
        ({"prompts": ["text", ""]}, "prompts"),
        ({"dtype": "float64"}, "dtype"),
        ({"numerics": "sloppy"}, "numerics"),
        ({"patterns": ["nothing"], "max_tokens": 2}, "nothing"),
        ({"bits": [7]}, "bits"),
    ],
)
def test_unusable_settings_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        validate(**settings)

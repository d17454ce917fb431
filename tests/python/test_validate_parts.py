"""The parts of a validation: comparison, divergence, blocks, yardstick, prompts, loading."""

import random

import mlx.core as mx
import numpy as np
import pytest
from patch_models import build
from zmlx import lm
from zmlx.patch import dense
from zmlx.validate.agreement import (
    Agreement,
    Comparison,
    agreement,
    log_softmax,
)
from zmlx.validate.identity import alternate, first_difference
from zmlx.validate.patching import patch_report, patcher, replaced_products
from zmlx.validate.prompts import DEFAULT_PROMPTS, read_prompts
from zmlx.validate.rounding import BlockRounding, measure_rounding, patched_blocks
from zmlx.validate.verdict import worst_rounding
from zmlx.validate.yardstick import float32_products


def logits_of(*rows):
    return [np.log(np.array(rows, dtype=np.float32))]


def measured(*divergence):
    return Agreement("any", "whole", np.array(divergence), np.ones(len(divergence), dtype=bool))


def test_log_softmax_is_that_of_the_logits_however_large():
    assert np.exp(log_softmax(np.array([[1e4, 1e4, -1e4]])))[0] == pytest.approx([0.5, 0.5, 0])


def test_divergence_is_kl_of_float32_against_the_variant():
    truth, own = logits_of([0.5, 0.5], [0.9, 0.1]), logits_of([0.25, 0.75], [0.9, 0.1])
    found = agreement("patched", "whole", truth, own)
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert found.divergence == pytest.approx([expected, 0], abs=1e-6)
    assert found.mean_divergence == pytest.approx(expected / 2, abs=1e-6)
    assert found.positions == 2


def test_disagreements_count_other_most_likely_tokens():
    truth = logits_of([0.6, 0.4], [0.9, 0.1], [0.2, 0.8])
    own = logits_of([0.4, 0.6], [0.8, 0.2], [0.3, 0.7])
    assert agreement("stock", "steps", truth, own).disagreements == 1


def compare(truth, stock, patched):
    return Comparison(
        "whole",
        agreement("stock", "whole", truth, stock),
        agreement("patched", "whole", truth, patched),
    )


def test_equal_is_no_worse():
    truth = logits_of([0.5, 0.3, 0.2], [0.1, 0.2, 0.7])
    stock = logits_of([0.4, 0.4, 0.2], [0.1, 0.3, 0.6])
    assert compare(truth, stock, stock).ok


def test_farther_is_worse_even_where_the_most_likely_token_agrees():
    truth = logits_of(*[[0.5, 0.3, 0.2]] * 4)
    near = logits_of(*[[0.49, 0.31, 0.2], [0.485, 0.315, 0.2]] * 2)
    far = logits_of(*[[0.48, 0.32, 0.2], [0.475, 0.325, 0.2]] * 2)
    assert compare(truth, far, near).ok
    worse = compare(truth, near, far)
    assert (worse.divergence_ok, worse.agreement_ok) == (False, True)
    assert not worse.ok


@pytest.mark.parametrize(("excess", "ok"), [(-1.0, True), (0.0, True), (1.9, True), (2.1, False)])
def test_an_excess_counts_above_two_standard_errors(excess, ok):
    scatter = np.tile([-1.0, 1.0], 50)
    error = scatter.std(ddof=1) / 10
    comparison = Comparison(
        "whole", measured(*[5.0] * 100), measured(*(5 + scatter + excess * error))
    )
    assert comparison.difference == pytest.approx((excess * error, error))
    assert comparison.divergence_ok is ok


@pytest.mark.parametrize(
    ("only_patched", "only_stock", "ok"),
    [(0, 0, True), (0, 9, True), (4, 0, True), (5, 0, False), (30, 20, True), (36, 20, False)],
)
def test_disagreeing_more_often_counts_above_two_standard_deviations(only_patched, only_stock, ok):
    both = np.arange(100)
    stock = Agreement("stock", "whole", np.zeros(100), both >= only_stock)
    patched = Agreement("patched", "whole", np.zeros(100), both < 100 - only_patched)
    comparison = Comparison("whole", stock, patched)
    assert comparison.discordant == (only_patched, only_stock)
    assert comparison.agreement_ok is ok
    assert comparison.ok is ok


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_worse(value):
    truth = logits_of([0.5, 0.3, 0.2], [0.1, 0.2, 0.7])
    stock = logits_of([0.4, 0.4, 0.2], [0.1, 0.3, 0.6])
    patched = [truth[0].copy()]
    patched[0][1, 0] = value
    assert not compare(truth, stock, patched).ok


def test_the_difference_comes_with_its_standard_error():
    truth = logits_of([0.5, 0.5], [0.5, 0.5])
    stock, patched = logits_of([0.4, 0.6], [0.5, 0.5]), truth
    comparison = compare(truth, stock, patched)
    paired = comparison.patched.divergence - comparison.stock.divergence
    mean, error = comparison.difference
    assert mean == pytest.approx(paired.mean())
    assert mean < 0
    assert error == pytest.approx(abs(paired[0] - paired[1]) / 2)


@pytest.mark.parametrize(
    ("patched", "yardstick", "ok"),
    [(2e-3, 2e-3, True), (0.0, 0.0, True), (2.9e-3, 2e-3, True), (3.1e-3, 2e-3, False),
     (1e-9, 0.0, False), (np.nan, 2e-3, False), (2e-3, np.nan, False)],
)  # fmt: skip
def test_a_block_is_too_far_off_above_the_limit(patched, yardstick, ok):
    assert BlockRounding("block", "whole", patched, yardstick).ok is ok


def test_the_worst_block_is_named_and_nan_is_worst():
    blocks = [
        BlockRounding(name, "whole", error, 1e-3)
        for name, error in (("fine", 1e-3), ("odd", np.nan), ("bad", 1.0))
    ]
    assert worst_rounding(blocks).path == "odd"
    assert worst_rounding(blocks[::2]).path == "bad"


def test_blocks_are_children_of_layers_and_what_lies_outside_them():
    model = lm.load().model
    blocks = patched_blocks(
        model,
        [
            "model.layers.2.feed_forward.switch_mlp",
            "model.layers.2.feed_forward.gate",
            "model.layers.0.conv.in_proj",
            "model.embed_tokens",
        ],
    )
    assert blocks == {
        "model.layers.2.feed_forward": model.layers[2].feed_forward,
        "model.layers.0.conv": model.layers[0].conv,
        "model.embed_tokens": model.model.embed_tokens,
    }


def test_the_yardstick_is_stock_wherever_products_are_in_float32_anyway():
    loaded = lm.load()
    model, tokens = loaded.model, loaded.tokenizer.encode("def f(x):\n    return")
    classes = [type(module) for _, module in model.named_modules()]
    with lm.in_dtype(model, mx.float32):
        stock = lm.sequence_logits(model, tokens)
        with float32_products(model, dict(model.named_modules())):
            assert [type(module) for _, module in model.named_modules()] != classes
            assert np.array_equal(stock, lm.sequence_logits(model, tokens))
    assert [type(module) for _, module in model.named_modules()] == classes


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "deepseek_v3", "step3p5", "llama"])
def test_blocks_of_other_models_are_as_exact_as_the_yardstick(monkeypatch, name):
    model = build(name)
    model.set_dtype(mx.bfloat16)
    sequences = [list(range(1, 24)), list(range(40, 60))]
    found = patch_report(model, patcher())

    def ratios():
        blocks = measure_rounding(model, sequences, mx.bfloat16, found, patcher())
        assert {block.feed for block in blocks} == {"whole", "steps"}
        return [block.ratio for block in blocks]

    assert max(ratios()) < 1.2
    sound = dense._quantized_matmul
    monkeypatch.setattr(dense, "_quantized_matmul", lambda *a, **k: 1.02 * sound(*a, **k))
    assert max(ratios()) > 2


def test_the_yardstick_covers_the_products_that_are_replaced_and_no_others():
    model = lm.load().model
    experts = {f"model.layers.{layer}.feed_forward.switch_mlp" for layer in (2, 3, 4, 5)}
    down = {f"{path}.down_proj" for path in experts}
    assert replaced_products(patch_report(model, patcher(["moe_combine"]))) == down
    assert replaced_products(patch_report(model, patcher(["moe_experts"]))) == down | {
        f"{path}.{name}" for path in experts for name in ("gate_proj", "up_proj")
    }
    everything = replaced_products(patch_report(model, patcher()))
    assert {"model.layers.2.feed_forward.gate", "model.embed_tokens"} | down < everything
    assert "model.layers.2.ffn_norm" not in everything


@pytest.mark.parametrize(
    ("stock", "patched", "position"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 3], [1, 9, 3], 1),
        ([1, 2, 3], [1, 2], 2),
        ([], [], None),
    ],
)
def test_first_difference(stock, patched, position):
    assert first_difference(stock, patched) == position


def test_each_run_calls_both_in_an_order_that_the_seed_draws():
    def orders(seed):
        calls = []
        alternate(
            20,
            random.Random(seed),
            lambda run: calls.append((run, "stock")),
            lambda run: calls.append((run, "patched")),
        )
        return calls

    calls = orders(0)
    assert calls == orders(0)
    assert {frozenset(calls[2 * run : 2 * run + 2]) for run in range(20)} == {
        frozenset({(run, "stock"), (run, "patched")}) for run in range(20)
    }
    assert {variant for _, variant in calls[::2]} == {"stock", "patched"}


def test_prompts_come_from_lines_or_json(tmp_path):
    lines, listed = tmp_path / "lines.txt", tmp_path / "list.json"
    lines.write_text("one\n\n  two\n")
    listed.write_text('["def f():\\n", " "]')
    assert read_prompts(lines) == ["one", "  two"]
    assert read_prompts(listed) == ["def f():\n"]
    assert len(DEFAULT_PROMPTS) >= 4


@pytest.mark.parametrize("text", ["", "\n \n", "[1]", "[", "[]"])
def test_a_file_without_prompts_is_refused(tmp_path, text):
    path = tmp_path / "prompts"
    path.write_text(text)
    with pytest.raises(ValueError, match="prompts"):
        read_prompts(path)
    with pytest.raises(ValueError, match="nowhere"):
        read_prompts(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~nobody", "a/b/c", "name/"])
def test_a_path_that_does_not_exist_is_not_looked_up_on_the_hub(name):
    with pytest.raises(lm.ModelError, match="There is no model at"):
        lm.load(name)


def test_a_folder_that_is_no_model_is_described(tmp_path):
    with pytest.raises(lm.ModelError, match="holds no config"):
        lm.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(lm.ModelError, match="holds no weights"):
        lm.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 16)
    with pytest.raises(lm.ModelError, match="Cannot load the model") as error:
        lm.load(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(lm.ModelError, match="is a file"):
        lm.load(tmp_path / "config.json")
    with pytest.raises(lm.ModelError, match="empty"):
        lm.load("")


def test_without_a_model_beside_the_sources_one_must_be_given(tmp_path, monkeypatch):
    monkeypatch.setattr(lm.loading, "DEMO_MODEL", "another")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lm.ModelError, match="No model was given"):
        lm.load()


def test_every_mode_can_be_requantized():
    for mode, bits, group in (
        ("affine", 8, 64),
        ("affine", 3, 32),
        ("mxfp4", 4, 32),
        ("mxfp8", 8, 32),
        ("nvfp4", 4, 16),
    ):
        loaded = lm.load()
        wanted = {"bits": bits, "group_size": group} if mode == "affine" else {}
        assert lm.requantize(loaded.model, mode=mode, **wanted) == 35
        assert lm.precision.weight_format(loaded.model) == (mode, bits, group)
        # The routers are stored with more bits than the rest, and stay so.
        gate = loaded.model.layers[2].feed_forward.gate
        assert (gate.mode, gate.bits) == ("affine", 8)
        logits = lm.sequence_logits(loaded.model, [5]) if bits == 8 else None
        assert logits is None or np.isfinite(logits).all()

"""The decode benchmark of models with random weights: verdicts, host times, capsule, CLI."""

import json

import pytest
from test_capsule import check_schema
from zmlx import lm
from zmlx.bench import decode, decode_random, decode_random_report, report
from zmlx.bench.decode_random import RandomCase, RandomSettings
from zmlx.bench.host_time import StepTimes, measure_steps
from zmlx.capsule import write_capsule
from zmlx.lm import Generation
from zmlx.lm.random_model import Format, build_random
from zmlx.patch import moe, moe_block
from zmlx.validate.identity import Identity
from zmlx.validate.verdict import Speed

TINY = {
    "model_type": "lfm2_moe", "num_hidden_layers": 6, "hidden_size": 128,
    "intermediate_size": 192, "moe_intermediate_size": 64, "num_dense_layers": 1,
    "num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True, "use_expert_bias": True,
    "num_attention_heads": 4, "num_key_value_heads": 2, "conv_L_cache": 3, "conv_bias": False,
    "norm_eps": 1e-5, "max_position_embeddings": 512, "vocab_size": 512,
    "layer_types": ["conv", "full_attention", "conv", "conv", "full_attention", "conv"],
}  # fmt: skip


@pytest.fixture
def tiny(tmp_path):
    """Path of a configuration that builds at once."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return str(path)


def options(tiny, *more):
    sizes = ["--layers", "3", "--prompt-tokens", "20", "--max-tokens", "6", "--dtype", "float32"]
    return ["--random", tiny, *sizes, "--threads", "1", "--no-progress", *more]


def test_the_command_measures_both_and_writes_a_capsule(tiny, tmp_path, capsys):
    folder = tmp_path / "capsules"
    # 3 runs: too few to judge the prompt, whose times are noisy on a busy machine.
    assert decode.main(options(tiny, "--runs", "3", "--capsule", str(folder))) == 0
    out = capsys.readouterr().out
    assert "tiny, random weights, 3 layers, 4-bit" in out
    assert "Tokens, float32: identical 18 of 18" in out
    assert "Prompt, float32: not judged: it takes 4 runs" in out
    assert "weights not copied" in out
    assert "host share" in out
    (path,) = folder.iterdir()
    capsule = json.loads(path.read_text())
    check_schema(capsule)
    assert capsule["passed"] is True
    assert capsule["label"] == "tiny-random-3-layers-4-bit-prompt-20"
    found = {(entry["name"], entry["variant"]) for entry in capsule["measurements"]}
    names = {"prompt", "decode", "step_build", "step_submit", "step_busy", "step_total"}
    names |= {"peak_mlx_bytes"}
    assert found == {(name, variant) for name in names for variant in ("stock", "patched")}
    form = {"mode": "affine", "bits": 4, "group_size": 64}
    assert capsule["results"]["quantization"] == form
    (case,) = capsule["results"]["cases"]
    assert case["decode_ratio"] == pytest.approx(case["decode_patched"] / case["decode_stock"])
    assert case["same_tokens"] is True
    assert case["weights_copied"] is False
    assert 0 < case["busy_share"]["stock"] <= case["host_share"]["stock"] * 1.05
    assert any("moe_experts 2" in line for line in case["patched"])
    table = report.capsule_tables(folder)
    assert "| tiny, random weights, 3 layers, prompt of 20 | 4-bit | float32 | decode |" in table


def test_modes_and_formats_are_taken(tiny, capsys):
    for form in (["--mode", "nvfp4"], ["--bits", "8", "--group-size", "32"]):
        assert decode.main(options(tiny, "--runs", "1", *form)) == 0
        name = "nvfp4" if "nvfp4" in form else "8-bit"
        assert f"random weights, 3 layers, {name}" in capsys.readouterr().out


def break_sums(monkeypatch):
    sound = moe._gather_qmm_combine
    monkeypatch.setattr(moe, "_gather_qmm_combine", lambda *a, **k: -3 * sound(*a, **k))
    # Blocks that are one call take it, too.
    monkeypatch.setattr(moe_block, "_make", lambda block, known: None)


def test_other_tokens_fail(tiny, monkeypatch, capsys):
    break_sums(monkeypatch)
    assert decode.main(options(tiny, "--runs", "1")) == 1
    captured = capsys.readouterr()
    assert "FAIL float32: first divergence: prompt 1, token" in captured.err
    assert "identical 6 of 6" not in captured.out


def test_16_bit_tokens_are_not_judged_on_the_cpu(tiny, monkeypatch, capsys):
    break_sums(monkeypatch)
    assert decode.main(options(tiny, "--runs", "1", "--dtype", "bfloat16")) == 0
    assert "not judged: MLX's 16-bit CPU path is no reference" in capsys.readouterr().out


def test_timed_steps_generate_what_mlx_lm_does(tiny):
    model = build_random(tiny).model
    prompt = [3, 1, 4, 1, 5]
    steps = measure_steps(model, prompt, 7)
    assert steps.tokens == lm.greedy(model, prompt, 7).tokens
    assert measure_steps(model, prompt[:1], 7).tokens == lm.greedy(model, prompt[:1], 7).tokens
    assert 0 < steps.build < steps.total
    assert 0 < steps.submit < steps.total
    assert 0 < steps.host_share < 1.5


def made_case(stock_prompt, patched_prompt, *, tokens=(1, 2), peak=(1000, 1000), held=0):
    """A case with chosen prompt seconds, tokens of the patched model, peaks and held bytes."""

    def runs(seconds, tokens):
        return [[Generation(list(tokens), 100, second, 0.1, 0)] for second in seconds]

    identity = Identity("float32", runs(stock_prompt, (1, 2)), runs(patched_prompt, tokens))
    identity.compared = 2 * len(stock_prompt) if tokens == (1, 2) else 0
    steps = [StepTimes([1, 2], 0.1, 0.1, 0.1, 0.4)]
    return RandomCase(
        Speed.of(identity), identity, True, {"stock": steps, "patched": steps},
        dict(zip(("stock", "patched"), peak, strict=True)), held, [],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("stock", "patched", "expected"),
    [
        ([1.0] * 4, [1.1] * 4, True),
        ([1.0] * 4, [1.015] * 4, False),  # less than any two series differ by
        ([1.0] * 4, [0.5] * 4, False),
        ([0.8, 0.9, 1.1, 1.3], [0.9, 1.0, 1.2, 1.4], False),  # within the spreads
        ([1.0] * 3, [2.0] * 3, None),
    ],
)
def test_a_slower_prompt_fails_beyond_the_noise(stock, patched, expected):
    case = made_case(stock, patched)
    assert case.slower_prompt() is expected
    assert bool(case.failures()) is (expected is True)


def test_more_memory_and_copies_are_told():
    assert made_case([1.0], [1.0], peak=(1000, 1050)).failures() == []
    assert "1.051 times" in made_case([1.0], [1.0], peak=(1000, 1051)).failures()[0]
    assert made_case([1.0], [1.0], held=11).copies_weights(1000)
    assert not made_case([1.0], [1.0], held=10).copies_weights(1000)
    assert made_case([1.0], [1.0], tokens=(1, 3)).failures() == ["float32: no tokens"]


def test_other_tokens_are_excused_if_stock_differs_from_itself():
    case = made_case([1.0] * 2, [1.0] * 2, tokens=(1, 3))
    assert case.identity.stock_repeats and case.failures()
    case.identity.stock[1][0] = Generation([1, 4], 100, 1.0, 0.1, 0)
    assert not case.identity.stock_repeats
    assert case.failures() == []


def test_the_environment_that_chooses_kernels_is_kept(monkeypatch, tmp_path):
    for name in decode_random_report.SWITCHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ZMLX_CUDA", "1")
    monkeypatch.setenv("ZMLX_OTHER", "/some/folder")
    result = decode_random.RandomResult("tiny", Format("affine", 4, 64), 3, 1000, 1.0)
    result.cases.append(made_case([1.0], [1.0]))
    capsule = decode_random_report.result_capsule(result, RandomSettings("/a/folder/tiny.json"))
    check_schema(capsule)
    assert capsule["parameters"]["environment"] == {"ZMLX_CUDA": "1"}
    assert "/a/folder" not in write_capsule(capsule, tmp_path).read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "4"], "--bits needs --random"),
        (["--prompt-tokens", "9"], "--prompt-tokens needs --random"),
        (["--random", "gpt-6"], "'gpt-6' is neither one of qwen3-30b-a3b"),
        (["--random", "qwen3-30b-a3b", "models"], "name no other"),
        (["--random", "qwen3-30b-a3b", "--prompt", "x"], "--prompt-tokens"),
        (["--random", "qwen3-30b-a3b", "--layers", "49"], "48 layers"),
    ],
)
def test_unusable_options_are_named(capsys, arguments, message):
    assert decode.main([*arguments, "--no-progress"]) == 2
    assert message in capsys.readouterr().err

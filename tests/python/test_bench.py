"""The layer benchmark: its layers, its rotation of experts, its measurements and its verdicts."""

import itertools
import json
import sys
import time

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from test_capsule import check_schema
from zmlx import lm
from zmlx.bench import memory, moe_layer, moe_layer_cli, roofline
from zmlx.bench.layer import Rotation, build_layer, in_type, inputs, layers_needed
from zmlx.bench.moe_layer_report import result_capsule, result_text
from zmlx.bench.shapes import SHAPES, LayerShape
from zmlx.bench.timing import Bandwidth, Series, slower
from zmlx.patch import moe

TINY = LayerShape("tiny", 256, 128, 16, 4)
QUICK = moe_layer.Settings(
    tokens=(1, 24), repeats=3, burst=2, stock_seconds=0.1, threads=1, no_stock_16bit_above=1
)


@pytest.fixture
def small_cache(monkeypatch):
    """As if the last-level cache held 64 KiB, so that few layers are enough."""
    monkeypatch.setattr(moe_layer, "last_level_cache_bytes", lambda: 64 << 10)
    monkeypatch.setattr(moe_layer, "bandwidth_buffer_bytes", lambda: 8 << 20)


@pytest.mark.parametrize(
    "shape",
    [
        TINY,
        TINY.with_format(bits=8),
        TINY.with_format(bits=3, group_size=32),
        TINY.with_format("mxfp4"),
        TINY.with_format("mxfp8"),
        TINY.with_format("nvfp4"),
    ],
    ids=lambda shape: shape.format,
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_bytes_of_an_expert_are_those_of_its_arrays(shape, dtype):
    kind = lm.parse_dtype(dtype)
    layer = build_layer(shape, kind)
    size = sum(array.nbytes for _, array in tree_flatten(layer.parameters()))
    assert size == shape.experts * shape.expert_bytes(kind.size)


def test_a_layer_has_the_weights_of_its_shape():
    shape = LayerShape("odd", 96, 64, 5, 2, "mxfp4", 4, 32, "swiglu_clamped", True)
    layer = build_layer(shape, mx.bfloat16)
    switch = layer.switch_mlp
    assert (switch.gate_proj.input_dims, switch.gate_proj.output_dims) == (96, 64)
    assert (switch.down_proj.input_dims, switch.down_proj.output_dims) == (64, 96)
    assert switch.up_proj.bias.shape == (5, 64)
    assert type(switch.activation).__name__ == "SwigluOAI"
    # Experts differ, and lie in memory of their own.
    weights = np.array(switch.gate_proj.weight)
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(weights, 2))
    _, arguments = next(inputs(Rotation(shape, 3, 1), mx.bfloat16, range(1)))
    y = layer(*arguments)
    assert y.shape == (3, 96)
    assert np.isfinite(np.array(y.astype(mx.float32))).all()


def test_another_type_shares_the_quantized_weights():
    layer = build_layer(TINY, mx.bfloat16)
    wide = in_type(layer, mx.float32)
    assert wide.switch_mlp.gate_proj.scales.dtype == mx.float32
    assert wide.switch_mlp.gate_proj.weight is layer.switch_mlp.gate_proj.weight


def test_experts_rotate_through_all_of_them():
    rotation = Rotation(TINY, 3, 2)
    used = {0: [], 1: []}
    for call in range(2 * 16):
        layer, indices = rotation.indices(call)
        assert layer == call % 2
        assert indices.shape == (3, 4)
        assert all(len(set(row)) == 4 for row in indices.tolist())
        assert np.unique(indices).size == rotation.distinct == 12
        used[layer] += indices.ravel().tolist()
    for sequence in used.values():
        assert np.bincount(sequence).tolist() == [12] * 16


@pytest.mark.parametrize(("tokens", "layers"), [(1, 1), (1, 3), (3, 1), (4, 2), (7, 1), (64, 2)])
def test_reuse_is_the_least_read_between_two_uses_of_an_expert(tokens, layers):
    rotation = Rotation(TINY, tokens, layers)
    reads = []
    for call in range(200):
        layer, indices = rotation.indices(call)
        reads += [(layer, expert) for expert in sorted(set(indices.ravel().tolist()))]
    least = min(
        reads.index(key, position + 1) - position - 1
        for position, key in enumerate(reads[: len(reads) // 2])
    )
    assert rotation.reuse_bytes(1000) == 1000 * least


def test_layers_are_built_until_no_cache_can_follow():
    wanted = 10 << 20
    layers = layers_needed(TINY, [1, 4, 24], 2, wanted)
    size = TINY.expert_bytes(2)
    reuse = [Rotation(TINY, tokens, layers).reuse_bytes(size) for tokens in (1, 4, 24)]
    fewer = [Rotation(TINY, tokens, layers - 1).reuse_bytes(size) for tokens in (1, 4, 24)]
    assert min(reuse) >= wanted > min(fewer)
    assert layers_needed(SHAPES["lfm2-8b-a1b"], [1], 2, 128 << 20) == 1
    with pytest.raises(ValueError, match="too small"):
        layers_needed(LayerShape("dust", 64, 64, 1, 1), [1], 2, 1 << 30)


def test_named_shapes_are_those_of_the_models():
    lfm2 = SHAPES["lfm2-8b-a1b"]
    assert (lfm2.width, lfm2.expert_width, lfm2.experts, lfm2.top_k) == (2048, 1792, 32, 4)
    # 24.8 MB of weights for one token.
    assert lfm2.top_k * lfm2.expert_bytes(2) == pytest.approx(24.8e6, rel=0.01)
    assert SHAPES["gpt-oss-20b"].format == "mxfp4"
    assert SHAPES["gpt-oss-20b"].bias
    assert lfm2.flops(1) == 2 * 3 * 2048 * 1792 * 4
    for shape in SHAPES.values():
        shape.check()


def test_a_run_measures_every_case(small_cache):
    result = moe_layer.bench_layer(TINY, QUICK)
    assert [case.tokens for case in result.cases] == [1, 24]
    few, many = result.cases
    assert len(few.patched["bfloat16"].seconds) == 6
    assert set(few.stock) == {"bfloat16", "float32"}
    assert set(many.stock) == {"float32"}
    assert few.reuse_bytes >= 4 * (64 << 10)
    assert result.weight_bytes(few, "bfloat16") == 4 * TINY.expert_bytes(2)
    assert result.weight_bytes(many, "bfloat16") == 16 * TINY.expert_bytes(2)
    assert result.share(few, "bfloat16") == pytest.approx(
        4 * TINY.expert_bytes(2) / few.patched["bfloat16"].median
        / result.bandwidth.bytes_per_second
    )  # fmt: skip
    assert 0 < few.errors["bfloat16"] < 0.02
    assert any("gather_qmm_combine" in path for path in few.paths["bfloat16"])
    assert result.failures() == []
    text = result_text(result, None)
    assert "M = 24: stock bfloat16 was left out as asked" in text
    capsule = result_capsule(result, None)
    check_schema(capsule)
    names = {(entry["name"], entry["variant"]) for entry in capsule["measurements"]}
    assert names == {("layer", "patched"), ("layer", "stock"), ("read_bandwidth", "machine")}
    assert capsule["passed"] is True


def test_a_wrong_result_fails(small_cache, monkeypatch):
    sound = moe._gather_qmm_combine
    monkeypatch.setattr(moe, "_gather_qmm_combine", lambda *a, **k: 1.05 * sound(*a, **k))
    result = moe_layer.bench_layer(TINY, QUICK)
    assert len(result.failures()) == 2
    assert "differs from stock float32" in result.failures()[0]


def test_a_slower_prompt_fails(small_cache, monkeypatch):
    sound = moe._gather_qmm_combine

    def slow(x, *arguments, **keywords):
        time.sleep(0.05)
        return sound(x, *arguments, **keywords)

    monkeypatch.setattr(moe, "_gather_qmm_combine", slow)
    result = moe_layer.bench_layer(TINY, QUICK)
    (failure,) = result.failures()  # decoding is not what this guards
    assert "M = 24" in failure
    assert "patched takes" in failure


@pytest.mark.parametrize(
    ("patched", "stock", "expected"),
    [
        ([2.0] * 4, [1.0] * 4, True),
        ([1.0] * 4, [2.0] * 4, False),
        ([1.0] * 4, [1.0] * 4, False),
        ([0.8, 0.9, 1.1, 1.3], [0.8, 0.9, 1.05, 1.3], False),
    ],
)
def test_slower_means_by_more_than_the_spread(patched, stock, expected):
    assert slower(Series(patched), Series(stock)) is expected


def test_bandwidth_counts_a_copy_twice():
    read, copy = Bandwidth("read", 1, 1 << 20), Bandwidth("copy", 1, 1 << 20)
    for bandwidth in (read, copy):
        bandwidth.sample(3)
        assert len(bandwidth.series.seconds) == 3
    assert read.bytes_per_second == (1 << 20) / read.series.median
    assert copy.bytes_per_second == (2 << 20) / copy.series.median


def test_peak_memory_is_what_a_call_needs_beyond_what_was_there():
    ballast = mx.zeros(4 << 20)
    mx.eval(ballast)
    peak = memory.measure_peak(lambda: mx.zeros(8 << 20) + 1.0)
    assert 32 << 20 <= peak["mlx_bytes"] < 80 << 20
    if sys.platform == "linux":
        assert 24 << 20 <= peak["resident_bytes"] < 90 << 20


def test_the_command_writes_tables_capsule_and_memory(small_cache, capsys, tmp_path):
    sizes = ["--width", "256", "--expert-width", "128", "--experts", "16", "--top-k", "4"]
    sizes += ["--seq-lens", "64", "--dtype", "float32", "--repeats", "3", "--no-stock-bf16", "1"]
    sizes += ["--no-progress", "--threads", "1", "--stock-seconds", "0.1"]
    assert moe_layer_cli.main([*sizes, "--capsule", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "d256-h128-e16-k4: D 256, H 128, E 16, K 4, affine4" in out
    assert "Peak memory of one call beyond the weights, M = 64, float32" in out
    (path,) = tmp_path.iterdir()
    capsule = json.loads(path.read_text())
    check_schema(capsule)
    peaks = capsule["results"]["memory"]["peaks"]
    assert peaks["patched"]["mlx_bytes"] < peaks["stock"]["mlx_bytes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "256"], "--expert-width"),
        (["--width", "100", "--expert-width", "64", "--experts", "2", "--top-k", "1"], "width"),
        (["--width", "64", "--expert-width", "64", "--experts", "2", "--top-k", "3"], "top_k"),
        (["--cpu-target", "ABACUS"], "ABACUS"),
    ],
)
def test_unusable_sizes_are_named(capsys, arguments, message):
    assert moe_layer_cli.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--shapes", "gpt-6"], ["--seq-lens", "0"], ["--dtype", "int8"]]
)
def test_unknown_names_are_refused_by_the_parser(capsys, arguments):
    with pytest.raises(SystemExit):
        moe_layer_cli.main(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_a_missing_matplotlib_is_said_before_the_work(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert moe_layer_cli.main(["--plot", str(tmp_path / "roofline.png")]) == 2
    captured = capsys.readouterr()
    assert captured.err.strip() == (
        "zmlx bench moe-layer: --plot needs matplotlib: pip install matplotlib"
    )
    assert captured.out == ""


def test_the_roofline_is_drawn(small_cache, tmp_path):
    pytest.importorskip("matplotlib")
    result = moe_layer.bench_layer(TINY, QUICK)
    roofline.plot([result], tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")

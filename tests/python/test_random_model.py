"""Models with random weights: the arrays that mlx-lm would make, sane values, little memory."""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import _get_classes, get_total_parameters
from patch_models import CONFIGS
from zmlx import lm
from zmlx.lm import random_model
from zmlx.lm.known_configs import KNOWN_CONFIGS, read_config, shorten
from zmlx.lm.loading import ModelError
from zmlx.lm.precision import quantized_layers
from zmlx.lm.random_model import Format, build_random, unfilled_model
from zmlx.lm.random_weights import random_codes, random_scales

# Parameters of the published models, in billions.
SIZES = {"qwen3-30b-a3b": 30.5, "lfm2-8b-a1b": 8.3, "gpt-oss-20b": 20.9, "glm-4.7-flash": 29.9}
FORMATS = [
    *(("affine", bits, 64) for bits in (1, 2, 3, 4, 5, 6, 8)),
    ("mxfp4", 4, 32),
    ("mxfp8", 8, 32),
    ("nvfp4", 4, 16),
]


def small_config(name):
    """A known configuration with few layers, experts and tokens, and its own sizes otherwise."""
    config = shorten(KNOWN_CONFIGS[name], 2)
    experts = next(
        key for key in ("num_experts", "num_local_experts", "n_routed_experts") if key in config
    )
    return {**config, "vocab_size": 256, experts: 8}


@pytest.fixture
def config_file(tmp_path):
    """Writes a configuration into a file and gives its path."""

    def write(config):
        path = tmp_path / "small.json"
        path.write_text(json.dumps(config))
        return str(path)

    return write


def shapes(model):
    return {path: (a.shape, a.dtype) for path, a in tree_flatten(model.parameters())}


def reference_shapes(config):
    """What mlx-lm's model and ``nn.quantize`` give, with every weight quantized for real."""
    model_class, arguments = _get_classes(config)
    model = model_class(arguments.from_dict(config))
    keep_type = getattr(model, "cast_predicate", lambda path: True)
    own = getattr(model, "quant_predicate", lambda path, module: True)
    mxfp4 = config["model_type"] == "gpt_oss"

    def predicate(path, module):
        if not hasattr(module, "to_quantized"):
            return False
        if mxfp4 and ".experts." not in path:
            return {"bits": 8, "group_size": 64}
        return own(path, module)

    form = {"group_size": 32, "bits": 4, "mode": "mxfp4"} if mxfp4 else {"group_size": 64}
    nn.quantize(model, class_predicate=predicate, **form)
    return {
        path: (a.shape, mx.bfloat16 if a.dtype == mx.float32 and keep_type(path) else a.dtype)
        for path, a in tree_flatten(model.parameters())
    }


@pytest.mark.parametrize("name", KNOWN_CONFIGS)
def test_arrays_are_those_that_mlx_lm_makes(name, config_file):
    config = small_config(name)
    built = build_random(config_file(config))
    assert shapes(built.model) == reference_shapes(config)
    assert built.bytes == sum(a.nbytes for _, a in tree_flatten(built.model.parameters()))


@pytest.mark.parametrize("name", KNOWN_CONFIGS)
def test_activations_stay_sane(name, config_file):
    built = build_random(config_file(small_config(name)))
    with lm.in_dtype(built.model, mx.float32):
        cache = make_prompt_cache(built.model)
        logits = np.array(built.model(mx.array([[1, 2, 3, 5]]), cache=cache).astype(mx.float32))
    assert 0.5 < logits.std() < 2
    assert abs(logits.mean()) < 0.5


@pytest.mark.parametrize("name", KNOWN_CONFIGS)
def test_known_sizes_are_those_of_the_models(name):
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    model, _ = unfilled_model(KNOWN_CONFIGS[name], None)
    assert get_total_parameters(model) / 1e9 == pytest.approx(SIZES[name], rel=0.01)
    assert mx.get_peak_memory() - before < 1 << 20  # nothing was computed


def test_gpt_oss_has_mxfp4_experts_and_8_bits_elsewhere():
    model, form = unfilled_model(small_config("gpt-oss-20b"), None)
    assert form == Format("mxfp4", 4, 32)
    layers = dict(quantized_layers(model))
    assert {layer.mode for path, layer in layers.items() if ".experts." in path} == {"mxfp4"}
    rest = [layer for path, layer in layers.items() if ".experts." not in path]
    assert {(layer.mode, layer.bits, layer.group_size) for layer in rest} == {("affine", 8, 64)}


def test_a_format_counts_for_all_but_the_router(config_file):
    path = config_file(small_config("qwen3-30b-a3b"))
    built = build_random(path, form=Format("mxfp8"))
    assert built.format == Format("mxfp8", 8, 32)
    for name, layer in quantized_layers(built.model):
        wanted = ("affine", 8) if name.endswith("mlp.gate") else ("mxfp8", 8)
        assert (layer.mode, layer.bits) == wanted, name


@pytest.mark.parametrize(("mode", "bits", "group"), FORMATS)
def test_weights_have_the_deviation_that_was_asked_for(mode, bits, group):
    inputs = 2048
    weight = random_codes((64, inputs * bits // 32), mode, mx.random.key(1))
    deviation = inputs**-0.5
    scales = random_scales(
        (64, inputs // group), mode, bits, deviation, mx.float32, mx.random.key(2)
    )
    biases = -(2**bits - 1) / 2 * scales if mode == "affine" else None
    values = np.array(
        mx.dequantize(weight, scales, biases, group, bits, mode=mode).astype(mx.float32)
    )
    assert np.isfinite(values).all()
    assert values.std() == pytest.approx(deviation, rel=0.05)
    assert abs(values.mean()) < 0.02 * deviation
    assert len(np.unique(np.array(scales.astype(mx.float32)))) > 1


def test_the_seed_decides(config_file):
    path = config_file(small_config("lfm2-8b-a1b"))
    first, again, other = (
        dict(tree_flatten(build_random(path, seed=seed).model.parameters())) for seed in (1, 1, 2)
    )
    for name, array in first.items():
        assert mx.array_equal(array, again[name]), name
        if "norm" not in name:
            assert not mx.array_equal(array, other[name]), name


def test_a_twin_shares_every_array(config_file):
    built = build_random(config_file(small_config("glm-4.7-flash")))
    before = mx.get_active_memory()
    twin = built.twin()
    own = dict(tree_flatten(built.model.parameters()))
    assert all(own.pop(path) is array for path, array in tree_flatten(twin.parameters()))
    assert not own
    assert mx.get_active_memory() == before


def test_memory_stays_near_the_size_of_the_weights(config_file):
    config = {**small_config("qwen3-30b-a3b"), "num_experts": 32}
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    built = build_random(config_file(config))
    largest = max(a.nbytes for _, a in tree_flatten(built.model.parameters()))
    assert mx.get_peak_memory() - before < built.bytes + 4 * largest


def test_a_short_model_keeps_experts_and_kinds_of_layers():
    lfm2 = KNOWN_CONFIGS["lfm2-8b-a1b"]
    assert shorten(lfm2, 2)["layer_types"] == ["conv", "full_attention"]
    assert shorten(lfm2, 2)["num_dense_layers"] == 1
    assert shorten(lfm2, 12)["layer_types"] == lfm2["layer_types"][:12]
    assert shorten(lfm2, 12)["num_dense_layers"] == 2
    assert shorten(KNOWN_CONFIGS["glm-4.7-flash"], 1)["first_k_dense_replace"] == 0
    assert lfm2["num_hidden_layers"] == 24
    with pytest.raises(ValueError, match="24 layers"):
        shorten(lfm2, 25)
    with pytest.raises(ValueError, match="2 kinds"):
        shorten(lfm2, 1)


def test_a_stored_configuration_decides_the_format(config_file):
    config = small_config("lfm2-8b-a1b")
    config["quantization"] = {"group_size": 32, "bits": 8, "model.embed_tokens": {"bits": 6}}
    layers = dict(quantized_layers(build_random(config_file(config)).model))
    assert layers["model.embed_tokens"].bits == 6
    assert layers["model.layers.0.conv.in_proj"].bits == 8
    assert layers["model.layers.0.conv.in_proj"].group_size == 32


@pytest.mark.parametrize("content", ["{", "[]", '{"hidden_size": 1}', '{"model_type": "gpt_oss"'])
def test_what_is_no_configuration_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ModelError, match="config.json"):
        read_config(str(path))


def test_unknown_models_are_named(config_file):
    with pytest.raises(ModelError, match="qwen3-30b-a3b"):
        read_config("gpt-6")
    with pytest.raises((ModelError, ValueError), match="gpt_6"):
        build_random(config_file({"model_type": "gpt_6", "num_hidden_layers": 1}))
    incomplete = {"model_type": "qwen3_moe", "num_hidden_layers": 1}
    with pytest.raises(ModelError, match="cannot build 'qwen3_moe'"):
        random_model.unfilled_model(incomplete, None)


def test_other_models_can_be_built(config_file):
    config = {"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 64,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
              "vocab_size": 96, **CONFIGS["mixtral"]}  # fmt: skip
    built = build_random(config_file(config), form=Format(group_size=32))
    assert np.isfinite(np.array(built.model(mx.array([[1, 2]])).astype(mx.float32))).all()

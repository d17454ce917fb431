"""The published sizes of known mixture-of-experts models, as their ``config.json`` has them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from zmlx.lm.loading import ModelError

# Where models say how many of their first layers are dense.
_DENSE_KEYS = ("num_dense_layers", "first_k_dense_replace")

_QWEN3_30B_A3B = {
    "model_type": "qwen3_moe",
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 40960,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}

_LFM2_ATTENTION = (2, 6, 10, 14, 18, 21)
_LFM2_8B_A1B = {
    "model_type": "lfm2_moe",
    "num_hidden_layers": 24,
    "layer_types": ["full_attention" if n in _LFM2_ATTENTION else "conv" for n in range(24)],
    "hidden_size": 2048,
    "intermediate_size": 7168,
    "moe_intermediate_size": 1792,
    "num_dense_layers": 2,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "use_expert_bias": True,
    "routed_scaling_factor": 1.0,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "conv_L_cache": 3,
    "conv_bias": False,
    "norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 128000,
    "vocab_size": 65536,
}

# The experts are published in mxfp4; the conversions of the rest that are used have 8 bits.
_GPT_OSS_REST = {
    "model.embed_tokens",
    "lm_head",
    *(f"model.layers.{n}.self_attn.{name}_proj" for n in range(24) for name in "qkvo"),
}
_GPT_OSS_20B = {
    "model_type": "gpt_oss",
    "num_hidden_layers": 24,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "sliding_window": 128,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
    "max_position_embeddings": 131072,
    "vocab_size": 201088,
    "quantization": {
        "mode": "mxfp4",
        "bits": 4,
        "group_size": 32,
        **{path: {"bits": 8, "group_size": 64} for path in sorted(_GPT_OSS_REST)},
    },
}

_GLM_47_FLASH = {
    "model_type": "glm4_moe_lite",
    "num_hidden_layers": 47,
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "moe_intermediate_size": 1536,
    "first_k_dense_replace": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.8,
    "num_attention_heads": 20,
    "num_key_value_heads": 20,
    "q_lora_rank": 768,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "attention_bias": False,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 202752,
    "vocab_size": 154880,
    "tie_word_embeddings": False,
}

KNOWN_CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3-30b-a3b": _QWEN3_30B_A3B,
    "lfm2-8b-a1b": _LFM2_8B_A1B,
    "gpt-oss-20b": _GPT_OSS_20B,
    "glm-4.7-flash": _GLM_47_FLASH,
}


def read_config(name_or_path: str) -> tuple[str, dict[str, Any]]:
    """A short name and the configuration of a known model, a ``config.json`` or its folder.

    Raises:
        ModelError: if there is no such model or file, or it is no configuration.
    """
    if name_or_path in KNOWN_CONFIGS:
        return name_or_path, copy.deepcopy(KNOWN_CONFIGS[name_or_path])
    path = Path(name_or_path).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ModelError(
            f"'{name_or_path}' is neither one of {', '.join(KNOWN_CONFIGS)} nor a config.json."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"'{name_or_path}' is not JSON: {error}") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"'{name_or_path}' is no model's configuration: it has no model_type.")
    return path.resolve().parent.name if path.stem == "config" else path.stem, config


def shorten(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """The same model with its first ``layers`` layers only.

    At least one layer keeps its experts, and every kind of layer that the model has stays, because
    mlx-lm's models look for one of each: the last layers take the kinds that would be missing.

    Raises:
        ValueError: if the model has fewer layers, or more kinds of them.
    """
    total = config["num_hidden_layers"]
    if not 1 <= layers <= total:
        raise ValueError(f"The model has {total} layers; it cannot be given {layers}.")
    short = {**copy.deepcopy(config), "num_hidden_layers": layers}
    if config.get("layer_types"):
        short["layer_types"] = _shorten_kinds(config["layer_types"], layers)
        short.pop("full_attn_idxs", None)  # mlx-lm works them out from the types
    for key in _DENSE_KEYS:
        if short.get(key):
            short[key] = min(short[key], layers - 1)
    return short


def _shorten_kinds(kinds: list[str], layers: int) -> list[str]:
    if len(set(kinds)) > layers:
        raise ValueError(f"The model has {len(set(kinds))} kinds of layers; {layers} are too few.")
    kept = kinds[:layers]
    for missing in sorted(set(kinds) - set(kept)):
        spare = max(n for n, kind in enumerate(kept) if kept.count(kind) > 1)
        kept[spare] = missing
    return kept

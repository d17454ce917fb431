"""Small random instances of mlx-lm's own model classes, for the tests of `zmlx.patch`."""

import importlib

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.switch_layers import SwiGLU, SwitchGLU

VOCABULARY = 96

_COMMON = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "attention_bias": False,
}

_GROUPED = {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
}

_MLA = {
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
}

_GRANITE = {
    "logits_scaling": 2.0,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.25,
    "num_local_experts": 4,
}

# What each model's arguments have besides _COMMON (names that a model does not know are left out).
CONFIGS = {
    "lfm2_moe": {
        "num_hidden_layers": 3,
        "num_experts": 8,
        "use_expert_bias": True,
        "num_dense_layers": 1,
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "layer_types": ["conv", "full_attention", "conv"],
    },
    "qwen3_moe": {
        "num_experts": 8,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "head_dim": 16,
    },
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 64},
    "mixtral": {"num_local_experts": 4},
    "olmoe": {"num_experts": 8},
    "gpt_oss": {
        "num_local_experts": 4,
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "deepseek_v3": {**_GROUPED, **_MLA, "num_key_value_heads": 4},
    "glm4_moe": {
        **_GROUPED,
        "head_dim": 16,
        "rope_scaling": None,
        "use_qk_norm": True,
        "partial_rotary_factor": 0.5,
    },
    "granitemoe": _GRANITE,
    "phimoe": {
        "num_local_experts": 4,
        "rope_scaling": {
            "long_factor": [1.0] * 8,
            "short_factor": [1.0] * 8,
            "long_mscale": 1.0,
            "short_mscale": 1.0,
        },
    },
    "dots1": {**_GROUPED, "head_dim": 16},
    "ernie4_5_moe": {
        "use_bias": False,
        "moe_num_experts": 4,
        "moe_intermediate_size": 64,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
    },
    "minimax": {
        "num_local_experts": 4,
        "shared_intermediate_size": 64,
        "rotary_dim": 8,
        "head_dim": 16,
    },
    "hunyuan": {
        "num_experts": 4,
        "moe_topk": 2,
        "num_shared_expert": 1,
        "use_mixed_mlp_moe": True,
        "use_qk_norm": True,
        "use_cla": False,
        "cla_share_factor": 1,
        "rope_scaling": {"alpha": 1.0, "factor": 1.0, "type": "dynamic"},
    },
    "gemma4_text": {
        "head_dim": 16,
        "global_head_dim": 16,
        "vocab_size_per_layer_input": VOCABULARY,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "use_double_wide_mlp": False,
        "tie_word_embeddings": True,
    },
    "bailing_moe": {
        "num_experts": 4,
        "num_shared_experts": 1,
        "first_k_dense_replace": 0,
    },
    "longcat_flash": {
        **_MLA,
        "attention_method": "MLA",
        "zero_expert_type": "identity",
        "ffn_hidden_size": 96,
        "moe_topk": 2,
        "expert_ffn_hidden_size": 64,
        "n_routed_experts": 4,
        "zero_expert_num": 2,
        "num_layers": 2,
        "routed_scaling_factor": 1.5,
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
    },
    "step3p5": {
        "num_attention_groups": 2,
        "head_dim": 16,
        "moe_num_experts": 4,
        "moe_top_k": 2,
        "share_expert_dim": 64,
        "moe_layers_enum": "1",
        "swiglu_limits": [0, 7.0],
    },
    "llama": {},
    "olmo2": {},
}


def build(name, *, group_size=32, bits=4, mode="affine", dtype=mx.float32, seed=0, sizes=None):
    """A random model of `mlx_lm.models.<name>`, quantized unless `bits` is None, with weights that
    make its routers and norms do something. `sizes` overrides arguments."""
    mx.random.seed(seed)
    module = importlib.import_module(f"mlx_lm.models.{name}")
    arguments = {"model_type": name, **_COMMON, **CONFIGS.get(name, {}), **(sizes or {})}
    model = module.Model(module.ModelArgs.from_dict(arguments))
    model.update(_scrambled(model))
    if bits is not None:
        nn.quantize(model, group_size, bits, mode=mode)
    model.set_dtype(dtype)
    mx.eval(model.parameters())
    return model


def _scrambled(model):
    """Parameters with norms and biases away from their initial ones and zeros."""
    changed = [
        (path, value + 0.2 * mx.random.normal(value.shape))
        for path, value in tree_flatten(model.parameters())
        if value.ndim == 1 or path.endswith("bias") or "sinks" in path
    ]
    return tree_unflatten(changed)


def tokens(batch, length, seed=1):
    return mx.random.randint(0, VOCABULARY, (batch, length), key=mx.random.key(seed))


def logits_of(model, batch=1, prompt=9, steps=2):
    """Logits of a prompt and of a few single tokens after it, with a cache."""
    cache = make_prompt_cache(model)
    inputs = tokens(batch, prompt + steps)
    chunks = [model(inputs[:, :prompt], cache=cache)]
    for n in range(prompt, prompt + steps):
        chunks.append(model(inputs[:, n : n + 1], cache=cache))
    logits = mx.concatenate(chunks, axis=1)
    mx.eval(logits)
    return logits


def experts_module(activation=None, quantize=True, **quantization):
    """A `SwitchGLU` of four experts, 64 wide."""
    module = SwitchGLU(64, 64, 4, activation=SwiGLU() if activation is None else activation)
    if quantize:
        nn.quantize(module, **({"group_size": 32, "bits": 4} | quantization))
    return module


def close(a, b, tolerance=1e-5):
    """Whether two float32 results agree, relative to the largest value."""
    return (mx.abs(a - b).max() / mx.abs(a).max()).item() < tolerance

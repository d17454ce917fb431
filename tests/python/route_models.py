"""The routers of mlx-lm's models, by their own code, and the keywords of `moe_route` for each."""

import importlib
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

F32 = mx.float32


def random_logits(rows, experts, dtype, scale=2.0):
    """Logits of shape (*rows, experts)."""
    rng = np.random.default_rng(experts)
    values = scale * rng.standard_normal((*rows, experts))
    return mx.array(values.astype(np.float32)).astype(dtype)


def random_bias(experts, dtype=F32):
    rng = np.random.default_rng(experts)
    return mx.array(0.1 * rng.standard_normal(experts).astype(np.float32)).astype(dtype)


class Experts:
    """Stands for SwitchGLU and its result: keeps the indices and the weights it meets."""

    def __init__(self, dtype):
        self.dtype, self.indices, self.weights = dtype, None, None

    def __call__(self, x, indices):
        self.indices = indices
        return self

    def __mul__(self, weights):
        if self.weights is None:
            self.weights = weights[..., 0]
        return self

    def same(self, *args, **options):
        return self

    sum = astype = reshape = __add__ = same


class Hidden:
    """Stands for the input of routers that multiply it by a matrix themselves."""

    def __init__(self, logits):
        self.logits, self.shape, self.dtype = logits, logits.shape, logits.dtype

    def __matmul__(self, weight):
        return self.logits


def module(name, cls, **attributes):
    """An instance of a class of mlx_lm.models with just these attributes."""
    made = (cls := getattr(importlib.import_module(f"mlx_lm.models.{name}"), cls)).__new__(cls)
    nn.Module.__init__(made)
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


def block(name, cls, logits, k, bias=None, **attributes):
    """What a whole mixture-of-experts block makes of the logits."""
    experts = Experts(logits.dtype)

    def gate(x):
        return logits.reshape(*x.shape[:-1], -1).astype(x.dtype)

    options = {key: k for key in ("top_k", "num_experts_per_tok", "k")}
    options |= {key: gate for key in ("gate", "router")}
    options |= {key: experts for key in ("switch_mlp", "experts")}
    options |= {
        key: (lambda x: x)
        for key in ("shared_expert", "shared_experts", "shared_expert_gate", "shared_mlp")
    }
    options |= {"coefficient": lambda x: x[..., :2], "sharding_group": None}
    options |= {"expert_bias": bias, "e_score_correction_bias": bias, "use_shared_mlp": False}
    options |= {"num_local_experts": logits.shape[-1], "norm_topk_prob": True}
    options["args"] = SimpleNamespace(num_shared_experts=0)
    module(name, cls, **(options | attributes))(mx.zeros((*logits.shape[:-1], 4), logits.dtype))
    shape = (*logits.shape[:-1], k)
    return experts.indices.reshape(shape), experts.weights.reshape(shape)


def gate(name, cls, logits, k, bias=None, **attributes):
    """What a gate that returns indices and weights makes of the logits."""
    options = {"top_k": k, "weight": mx.zeros((1, 1)), "e_score_correction_bias": bias}
    options |= {key: (lambda x: logits) for key in ("layer", "proj", "classifier", "gate_proj")}
    options |= {"expert_bias": bias, "norm_topk_prob": True}
    return module(name, cls, **(options | attributes))(attributes.get("x", Hidden(logits)))


def function(name, attribute, *arguments):
    return getattr(importlib.import_module(f"mlx_lm.models.{name}"), attribute)(*arguments)


GROUPS = {"n_group": 4, "topk_group": 2}
V3 = {"score": "sigmoid", "score_dtype": F32, "scale": 2.5, "renormalize": True}
QWEN3 = {"score": "softmax", "order": "ascending", "renormalize": True}
MIXTRAL = {"score": "topk_softmax"}


def group_expert_select(name, groups, **options):
    def stock(logits, k):
        bias = random_bias(logits.shape[-1])
        n_group, topk_group = groups.values()
        return function(
            name, "group_expert_select", logits, bias, k, n_group, topk_group, 2.5, True
        )

    return stock, V3 | groups | {"select_bias": random_bias} | options


def by_block(name, cls, keywords, bias=False, **attributes):
    def stock(logits, k):
        b = random_bias(logits.shape[-1]) if bias else None
        return block(name, cls, logits, k, b, **attributes)

    return stock, keywords | ({"select_bias": random_bias} if bias else {})


def by_gate(name, cls, keywords, bias=False, **attributes):
    def stock(logits, k):
        b = random_bias(logits.shape[-1]) if bias else None
        return gate(name, cls, logits, k, b, **attributes)

    return stock, keywords | ({"select_bias": random_bias} if bias else {})


def bailing(name, score, groups, **options):
    def stock(logits, k):
        bias = random_bias(logits.shape[-1])
        n_group, topk_group = groups.values()
        return function(
            name, "group_expert_select", logits, bias, k, n_group, topk_group, 2.5, True, score
        )

    # The weights get the logits' type back.
    options = {"score": score, "select_bias": random_bias, "weights_dtype": None} | options
    return stock, V3 | groups | options


def bailing_v3():
    def stock(logits, k):
        bias = random_bias(logits.shape[-1])
        return function("bailing_moe_v3", "_group_expert_select", logits, bias, k, 4, 2, 2.5)

    options = {"select_bias": random_bias, "eps": 1e-20, "group_fill": float("-inf")}
    return stock, V3 | GROUPS | options


def bailing_hybrid():
    def stock(logits, k):
        made = module(
            "bailing_hybrid", "Gate", top_k=k, gate_proj=lambda x: logits, n_group=4, topk_group=2,
            expert_bias=random_bias(logits.shape[-1]), score_function="sigmoid",
            norm_topk_prob=True, routed_scaling_factor=2.5,
        )  # fmt: skip
        return made(Hidden(logits))

    options = {"eps": 1e-20, "group_fill": float("-inf"), "weights_dtype": None}
    return stock, V3 | GROUPS | options | {"select_bias": random_bias}


def kimi_linear(groups):
    def stock(logits, k):
        bias = random_bias(logits.shape[-1])
        return function(
            "kimi_linear", "_group_expert_select", logits, bias, k, *groups.values(), 2.5, True,
            "sigmoid",
        )  # fmt: skip

    options = {"score": "sigmoid", "renormalize": True, "eps": 1e-20, "scale": 2.5}
    # The bias is cast to the scores' type.
    return stock, options | groups | {"select_bias": random_bias, "cast_bias": True}


def kimi_k3():
    def stock(logits, k):
        bias = random_bias(logits.shape[-1])
        return function("kimi_k3", "_group_expert_select", logits, bias, k, 4, 2, 2.5, True)

    options = {"select_bias": random_bias, "eps": 1e-20, "weights_dtype": None}
    return stock, V3 | GROUPS | options


def mistral4(groups):
    def stock(logits, k):
        return function(
            "mistral4", "mistral4_expert_select", logits, k, *groups.values(), 2.5, True
        )

    return stock, V3 | groups | {"score": "softmax", "eps": 1e-20}


def step3p5():
    def stock(logits, k):
        bias = random_bias(logits.shape[-1])
        return function("step3p5", "moe_gate_select", logits, bias, k, 2.5, True)

    return stock, V3 | {"select_bias": random_bias, "eps": 1e-20}


def gemma4(logits, k):
    experts = logits.shape[-1]
    return module(
        "gemma4_text", "Router", config=SimpleNamespace(top_k_experts=k), eps=1e-6, _root_size=1.0,
        scale=mx.ones((4,)), proj=lambda x: logits,
        per_expert_scale=mx.ones((experts,), logits.dtype),
    )(mx.zeros((*logits.shape[:-1], 4)))  # fmt: skip


ONE_GROUP = {"n_group": 1, "topk_group": 1}
LFM2 = {"score": "sigmoid", "order": "ascending", "renormalize": True, "eps": 1e-6, "scale": 1.5}
F32_SOFTMAX = {"score": "softmax", "score_dtype": F32, "renormalize": True}
GROUPED_MAX = {"group_score": "max", "score": "softmax", "scale": 16.0}
LONGCAT = {"score": "softmax", "order": "ascending", "precise": False, "scale": 6.0}

# Name: (what mlx-lm computes from logits and k, keywords of moe_route). A select_bias is a function
# of the number of experts; weights_dtype None is the logits' type.
ROUTERS = {
    "Klear": by_block(
        "Klear", "KlearSparseMoeBlock",
        {"score": "sigmoid", "score_dtype": F32, "renormalize": True, "weights_dtype": None}, True,
    ),
    "afmoe": by_block(
        "afmoe", "AfmoeMoE", V3 | GROUPS, True, score_func="sigmoid", route_norm=True,
        route_scale=2.5, **GROUPS,
    ),
    "bailing_hybrid": bailing_hybrid(),
    "bailing_moe sigmoid": bailing("bailing_moe", "sigmoid", GROUPS, eps=1e-20, order="ascending"),
    "bailing_moe softmax": bailing(
        "bailing_moe", "softmax", ONE_GROUP, eps=1e-20, order="ascending"
    ),
    "bailing_moe_linear": bailing("bailing_moe_linear", "sigmoid", GROUPS),
    "bailing_moe_v3": bailing_v3(),
    "deepseek": by_gate("deepseek", "MoEGate", {"score": "softmax"}),
    "deepseek_v2": by_gate(
        "deepseek_v2", "MoEGate", {"score": "softmax", "scale": 16.0}, topk_method="greedy",
        routed_scaling_factor=16.0,
    ),
    "deepseek_v2 groups": by_gate(
        "deepseek_v2", "MoEGate", GROUPED_MAX | GROUPS, topk_method="group_limited_greedy",
        routed_scaling_factor=16.0, **GROUPS,
    ),
    "deepseek_v3": group_expert_select("deepseek_v3", GROUPS),
    "deepseek_v3 one group": group_expert_select("deepseek_v3", ONE_GROUP),
    "deepseek_v32": group_expert_select("deepseek_v32", GROUPS),
    "dots1": group_expert_select("dots1", ONE_GROUP),
    "ernie4_5_moe": by_block(
        "ernie4_5_moe", "Ernie4_5_MoeMLP", F32_SOFTMAX,
        gate_act=lambda x: mx.softmax(x, axis=-1), shared_experts=None,
    ),
    "exaone_moe": group_expert_select("exaone_moe", GROUPS, eps=1e-20),
    "gemma4_text": (gemma4, MIXTRAL | {"order": "ascending", "precise": False}),
    "glm4_moe": group_expert_select("glm4_moe", ONE_GROUP),
    "glm4_moe_lite": group_expert_select("glm4_moe_lite", ONE_GROUP, eps=1e-20),
    "gpt_oss": by_block("gpt_oss", "MLPBlock", MIXTRAL | {"order": "ascending"}),
    "granitemoe": by_gate(
        "granitemoe", "GraniteMoeTopKGating",
        MIXTRAL | {"order": "ascending", "score_dtype": F32},
    ),
    "granitemoehybrid": by_gate(
        "granitemoehybrid", "GraniteMoeHybridTopKGating", MIXTRAL | {"order": "ascending"}
    ),
    "hunyuan": by_block("hunyuan", "MoeBlock", {"score": "softmax", "weights_dtype": F32}),
    "jamba": by_block("jamba", "JambaSparseMoeBlock", MIXTRAL),
    "kimi_k3": kimi_k3(),
    "kimi_linear": kimi_linear(ONE_GROUP),
    "kimi_linear groups": kimi_linear(GROUPS),
    "laguna": by_gate(
        "laguna", "MoEGate", {"score": "sigmoid", "score_dtype": F32, "renormalize": True}, True,
        softcap=0.0, score_func="sigmoid",
    ),
    "lfm2_moe": by_block(
        "lfm2_moe", "Lfm2MoeSparseMoeBlock", LFM2, True, use_expert_bias=True,
        routed_scaling_factor=1.5,
    ),
    "lfm2_moe no bias": by_block(
        "lfm2_moe", "Lfm2MoeSparseMoeBlock", LFM2, use_expert_bias=False,
        routed_scaling_factor=1.5,
    ),
    "longcat_flash": by_gate(
        "longcat_flash", "LongcatFlashTopkRouter", LONGCAT, True, norm_topk_prob=False,
        routed_scaling_factor=6.0,
    ),
    "mellum": by_block("mellum", "MellumSparseMoeBlock", QWEN3),
    "mimo_v2_flash": group_expert_select("mimo_v2_flash", ONE_GROUP, eps=1e-20),
    "minimax": by_block(
        "minimax", "MiniMaxSparseMoeBlock",
        V3 | {"eps": 1e-20, "scale": 1.0, "weights_dtype": None}, True,
    ),
    "mistral4": mistral4(ONE_GROUP),
    "mistral4 groups": mistral4(GROUPS),
    "mixtral": by_block("mixtral", "MixtralSparseMoeBlock", MIXTRAL),
    "nemotron_h": group_expert_select("nemotron_h", ONE_GROUP, eps=1e-20),
    "olmoe": by_block("olmoe", "OlmoeSparseMoeBlock", {"score": "softmax", "renormalize": True}),
    "phixtral": by_block("phixtral", "MOE", MIXTRAL),
    "qwen2_moe": by_block("qwen2_moe", "Qwen2MoeSparseMoeBlock", {"score": "softmax"}),
    "qwen3_moe": by_block("qwen3_moe", "Qwen3MoeSparseMoeBlock", QWEN3),
    "qwen3_moe not renormalized": by_block(
        "qwen3_moe", "Qwen3MoeSparseMoeBlock", {"score": "softmax", "order": "ascending"},
        norm_topk_prob=False,
    ),
    "qwen3_next": by_block("qwen3_next", "Qwen3NextSparseMoeBlock", QWEN3),
    "step3p5": step3p5(),
}  # fmt: skip


def keywords(name, logits, k):
    """The keywords of a router for these logits."""
    options = dict(ROUTERS[name][1])
    if "select_bias" in options:
        options["select_bias"] = options["select_bias"](logits.shape[-1])
        if options.pop("cast_bias", False):
            options["select_bias"] = options["select_bias"].astype(logits.dtype)
    if "weights_dtype" in options:
        options["weights_dtype"] = options["weights_dtype"] or logits.dtype
    if name.startswith(RENORMALIZE_ONLY_SEVERAL) and k == 1:
        options["renormalize"] = False
    return options


# These divide by the sum of the weights only if there are several.
RENORMALIZE_ONLY_SEVERAL = (
    "afmoe", "bailing_hybrid", "bailing_moe ", "bailing_moe_linear", "deepseek_v3", "dots1",
    "exaone_moe", "glm4_moe", "kimi_", "mimo_v2_flash", "nemotron_h",
)  # fmt: skip

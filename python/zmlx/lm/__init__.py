"""What validation and benchmarks share: loading mlx-lm models, their precision, generation."""

from zmlx.lm.generation import Generation, greedy, sequence_logits, step_logits
from zmlx.lm.loading import LoadedModel, ModelError, default_model_path, load
from zmlx.lm.precision import dtype_name, in_dtype, model_dtype, parse_dtype, requantize

__all__ = [
    "Generation",
    "LoadedModel",
    "ModelError",
    "default_model_path",
    "dtype_name",
    "greedy",
    "in_dtype",
    "load",
    "model_dtype",
    "parse_dtype",
    "requantize",
    "sequence_logits",
    "step_logits",
]

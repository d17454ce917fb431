"""Models of any size with random quantized weights, made from a configuration alone.

Speed and memory depend on the sizes and formats of the weights, not on their values, so a model
can be measured where its weights are not to be had. MLX is lazy: mlx-lm builds the model and
quantizes it as ever, but nothing of that is computed. It only tells which arrays there are to be;
each is then drawn directly in its quantized form, so that memory never holds much more than the
finished model.
"""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from zmlx.lm.known_configs import read_config, shorten
from zmlx.lm.loading import ModelError
from zmlx.lm.random_weights import fill_at_random

_FORMAT_KEYS = ("mode", "bits", "group_size")


@dataclass(frozen=True)
class Format:
    """How weights are quantized; ``None`` is the default of the mode.

    Attributes:
        mode: ``"affine"``, ``"mxfp4"``, ``"mxfp8"`` or ``"nvfp4"``.
        bits: of a weight.
        group_size: weights that share a scale.
    """

    mode: str = "affine"
    bits: int | None = None
    group_size: int | None = None


@dataclass
class RandomModel:
    """An mlx-lm model with random weights.

    Attributes:
        name: short name of the configuration.
        config: the configuration, shortened.
        model: the ``mlx.nn.Module``.
        format: of the weights, but for layers of which the configuration or mlx-lm say otherwise.
        bytes: of all parameters.
        seconds: time that building took.
    """

    name: str
    config: dict[str, Any]
    model: Any
    format: Format
    bytes: int
    seconds: float
    _asked: Format | None

    @property
    def layers(self) -> int:
        """How many layers it has."""
        return self.config["num_hidden_layers"]

    def twin(self) -> Any:
        """Another model with the very same arrays, as they are now; it takes no further memory."""
        other, _ = unfilled_model(self.config, self._asked)
        other.update(self.model.parameters())
        other.eval()
        return other


def build_random(
    name_or_path: str,
    *,
    form: Format | None = None,
    layers: int | None = None,
    seed: int = 0,
    dtype: mx.Dtype = mx.bfloat16,
) -> RandomModel:
    """Builds a model from its configuration.

    Args:
        name_or_path: one of :data:`zmlx.lm.known_configs.KNOWN_CONFIGS`, or a ``config.json``.
        form: how to quantize all layers but those of which mlx-lm's model says otherwise; default:
            what the configuration says, or else affine with 4 bits and groups of 64.
        layers: shortens the model; default: all.
        seed: of the weights.
        dtype: of scales, biases and what is not quantized.

    Raises:
        ModelError: if there is no such configuration, or mlx-lm has no such model.
        ValueError: if the model cannot be shortened or quantized like that.
    """
    tic = time.perf_counter()
    name, config = read_config(name_or_path)
    config = config if layers is None else shorten(config, layers)
    mx.random.seed(seed)
    model, found = unfilled_model(config, form)
    fill_at_random(model, dtype, seed)
    model.eval()
    size = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    return RandomModel(name, config, model, found, size, time.perf_counter() - tic, form)


def unfilled_model(config: dict[str, Any], form: Format | None) -> tuple[Any, Format]:
    """The model as mlx-lm builds and quantizes it, with none of its arrays computed; its format."""
    from mlx_lm.utils import _get_classes, quantize_model

    try:
        model_class, arguments_class = _get_classes(config)
        model = model_class(arguments_class.from_dict(config))
    except (ImportError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(f"mlx-lm cannot build '{config['model_type']}': {error}") from error
    stored = (config.get("quantization") or {}) if form is None else {}
    form = form or Format(**{key: stored[key] for key in _FORMAT_KEYS if key in stored})
    own_predicate = getattr(model, "quant_predicate", None)

    def predicate(path: str, module: Any) -> bool | dict[str, Any]:
        if path in stored:
            return stored[path]
        return True if own_predicate is None else own_predicate(path, module)

    with contextlib.redirect_stdout(io.StringIO()):  # it prints the bits per weight
        model, quantized = quantize_model(
            model, {}, form.group_size, form.bits, mode=form.mode, quant_predicate=predicate
        )
    return model, Format(**{key: quantized["quantization"][key] for key in _FORMAT_KEYS})

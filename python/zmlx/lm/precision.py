"""The floating-point type that a model computes in, and the format of its quantized weights."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def parse_dtype(name: str) -> mx.Dtype:
    """``"float32"``, ``"float16"`` or ``"bfloat16"`` as MLX's type.

    Raises:
        ValueError: for any other name.
    """
    if name not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, but is '{name}'.")
    return _DTYPES[name]


def dtype_name(dtype: mx.Dtype) -> str:
    """``mlx.core.bfloat16`` as ``"bfloat16"``."""
    return str(dtype).rsplit(".", 1)[-1]


def model_dtype(model: Any) -> mx.Dtype:
    """The type that the model computes in: the one most of its floating-point parameters have."""
    elements: Counter = Counter()
    for _, array in tree_flatten(model.parameters()):
        if mx.issubdtype(array.dtype, mx.floating):
            elements[array.dtype] += array.size
    return elements.most_common(1)[0][0] if elements else mx.float32


@contextlib.contextmanager
def in_dtype(model: Any, dtype: mx.Dtype) -> Iterator[None]:
    """Computes in ``dtype`` inside the ``with`` block, and restores the very same arrays after it.

    The quantized weights stay as they are; scales, biases, norms and other floating-point
    parameters are cast. To float32, every 16-bit parameter is. To a 16-bit type, only the
    parameters of the model's own type are, so what the model keeps in float32 stays there.
    The model must not be patched when the block is entered or left.
    """
    own = model_dtype(model)
    keep = getattr(model, "cast_predicate", None) or (lambda path: True)
    sources = (mx.float16, mx.bfloat16) if dtype == mx.float32 else (own,)
    original = [
        (path, array)
        for path, array in tree_flatten(model.parameters())
        if array.dtype in sources
        and array.dtype != dtype
        and (dtype == mx.float32 or own != mx.float32 or keep(path))
    ]
    cast = [(path, array.astype(dtype)) for path, array in original]
    mx.eval([array for _, array in cast])
    if cast:
        model.update(tree_unflatten(cast))
    del cast
    try:
        yield
    finally:
        if original:
            model.update(tree_unflatten(original))


def weight_format(model: Any) -> tuple[str, int, int] | None:
    """``(mode, bits, group_size)`` of most quantized weights, or ``None`` if none are quantized."""
    sizes: Counter = Counter()
    for _, module in quantized_layers(model):
        sizes[(module.mode, module.bits, module.group_size)] += module.weight.size
    return sizes.most_common(1)[0][0] if sizes else None


def format_name(mode: str, bits: int) -> str:
    """How reports name a weight format: ``4-bit`` for affine, else the mode, ``mxfp4``."""
    return f"{bits}-bit" if mode == "affine" else mode


def requantize(
    model: Any, *, bits: int | None = None, group_size: int | None = None, mode: str = "affine"
) -> int:
    """Dequantizes the quantized weights and quantizes them again in another format, in place.

    Layers stored with more bits than most (routers often are) keep their format. The new weights
    hold what the stored ones hold, so a wider format is no more precise than the model was.

    Args:
        bits: of the new format; default: the mode's.
        group_size: of the new format; default: the mode's.
        mode: ``"affine"``, ``"mxfp4"``, ``"mxfp8"`` or ``"nvfp4"``.

    Returns:
        How many layers were changed.

    Raises:
        ValueError: if the model has no quantized weights, if a layer has a global scale, or if
            MLX has no such format.
    """
    stored = weight_format(model)
    if stored is None:
        raise ValueError("[requantize] The model has no quantized weights.")
    default_group = {"affine": 64, "nvfp4": 16}.get(mode, 32)
    default_bits = {"affine": stored[1], "mxfp8": 8}.get(mode, 4)
    bits, group_size = bits or default_bits, group_size or default_group
    changed = 0
    for path, module in quantized_layers(model):
        if (module.mode, module.bits) != stored[:2]:
            continue
        if module.get("global_scale") is not None:
            raise ValueError(f"[requantize] '{path}' has a global scale.")
        dtype = module.scales.dtype if module.mode == "affine" else model_dtype(model)
        weight = mx.dequantize(
            module.weight, module.scales, module.get("biases"), module.group_size, module.bits,
            module.mode,
        )  # fmt: skip
        weight, scales, *biases = mx.quantize(weight.astype(dtype), group_size, bits, mode=mode)
        mx.eval(weight, scales, *biases)
        module.weight, module.scales = weight, scales
        module.biases = biases[0] if biases else None
        module.bits, module.group_size, module.mode = bits, group_size, mode
        changed += 1
    return changed


def quantized_layers(model: Any) -> list[tuple[str, Any]]:
    """Path and module of every layer with quantized weights."""
    return [
        (path, module)
        for path, module in model.named_modules()
        if "scales" in module and hasattr(module, "bits") and hasattr(module, "mode")
    ]

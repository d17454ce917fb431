"""Loading a model by path or hub name, with one clear sentence where that fails."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEMO_MODEL = "lfm2-moe-tiny-4bit"


class ModelError(Exception):
    """A model that cannot be read; the text is one sentence for the user."""


@dataclass
class LoadedModel:
    """An mlx-lm model with its tokenizer.

    Attributes:
        name: last part of the path, or the hub name.
        model: the ``mlx.nn.Module``.
        tokenizer: mlx-lm's tokenizer.
        config: the model's ``config.json``.
        seconds: time that loading took.
    """

    name: str
    model: Any
    tokenizer: Any
    config: dict[str, Any]
    seconds: float


def default_model_path() -> Path:
    """Folder of the small model that comes with the sources.

    Raises:
        ModelError: if it is neither beside this package's checkout nor in the current folder.
    """
    checkout = Path(__file__).resolve().parents[3]
    for root in (checkout, Path.cwd()):
        if (root / "models" / DEMO_MODEL / "config.json").is_file():
            return root / "models" / DEMO_MODEL
    raise ModelError(
        f"No model was given, and models/{DEMO_MODEL} is not here: run this in a checkout of "
        "ZMLX, or name a model folder or a hub model."
    )


def load(path_or_name: str | os.PathLike | None = None) -> LoadedModel:
    """Loads a model with mlx-lm.

    Args:
        path_or_name: a folder, or a model's name on the hub; default: the small model in
            ``models/``.

    Raises:
        ModelError: if there is no such model, or mlx-lm cannot load it.
    """
    source = str(default_model_path() if path_or_name is None else path_or_name)
    if not source.strip():
        raise ModelError("The model's path is empty.")
    folder = Path(source).expanduser()
    if folder.exists():
        _check_folder(folder)
        source, name = str(folder), folder.resolve().name
    elif _looks_like_path(source):
        raise ModelError(f"There is no model at '{source}'.")
    else:
        name = source

    from mlx_lm import load as mlx_lm_load

    tic = time.perf_counter()
    try:
        model, tokenizer, config = mlx_lm_load(source, return_config=True)
    except Exception as error:  # whatever mlx-lm, the hub client or a damaged file raise
        detail = " ".join(str(error).split()) or type(error).__name__
        # One sentence: a hub client's error runs over many lines.
        detail = detail if len(detail) <= 200 else detail[:197] + "..."
        raise ModelError(f"Cannot load the model '{path_or_name or name}': {detail}") from error
    return LoadedModel(name, model, tokenizer, config, time.perf_counter() - tic)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"'{folder}' is a file; a model is a folder with config.json and weights.")
    for pattern, what in (("config.json", "config.json"), ("model*.safetensors", "weights")):
        if not any(folder.glob(pattern)):
            raise ModelError(f"'{folder}' is not a model: it holds no {what} ({pattern}).")


def _looks_like_path(source: str) -> bool:
    """Hub names are ``name`` or ``owner/name``; anything else can only be meant as a path."""
    return source.startswith((".", "/", "~")) or source.count("/") != 1 or source.endswith("/")

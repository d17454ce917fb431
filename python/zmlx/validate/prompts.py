"""The prompts that a model continues when none are given."""

from __future__ import annotations

import json
import os
from pathlib import Path

# Kinds that exercise different experts: a function, a class, a module, prose, facts. The module is
# longer, so that a prompt's speed is measured as well.
DEFAULT_PROMPTS = (
    "def fibonacci(n):\n",
    "class Stack:\n    def __init__(self):\n",
    '"""Prints the mean of each column of a table."""\n\n'
    "import csv\nimport sys\n\n\ndef read_rows(path):\n",
    "Once upon a time there was",
    "The three states of matter are",
)


def read_prompts(path: str | os.PathLike) -> list[str]:
    """Prompts from a file: a JSON list of strings, or one prompt a line (empty lines skipped).

    Raises:
        ValueError: if the file cannot be read or holds no prompt.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Cannot read the prompts in '{path}': {error}") from None
    if text.lstrip().startswith("["):
        try:
            prompts = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"The prompts in '{path}' are not JSON: {error}") from None
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(f"The prompts in '{path}' must be a JSON list of strings.")
    else:
        prompts = text.splitlines()
    prompts = [prompt for prompt in prompts if prompt.strip()]
    if not prompts:
        raise ValueError(f"There is no prompt in '{path}'.")
    return prompts

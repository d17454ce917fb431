"""Patches an mlx-lm model in place and generates with it.

usage: python examples/python/patch_model.py [MODEL] [PROMPT]
"""

import sys
from pathlib import Path

from mlx_lm import generate, load
from zmlx.patch import patch, report

model_path = sys.argv[1] if len(sys.argv) > 1 else None
if model_path is None:
    model_path = str(Path(__file__).parents[2] / "models" / "lfm2-moe-tiny-4bit")
prompt = sys.argv[2] if len(sys.argv) > 2 else "def fibonacci(n):\n"

model, tokenizer = load(model_path)
patch(model)
print(report(model))
generate(model, tokenizer, prompt=prompt, max_tokens=60, verbose=True)

"""Loads a model, stock or patched, generates a little, and prints the process's peak memory.

The decode benchmark runs this file by its path: a stock process must not load this package, or the
two would start from different sizes.
"""

import json
import resource
import sys
from pathlib import Path


def peak_resident_bytes() -> int:
    """Largest resident size of this process."""
    # Linux: ru_maxrss starts from the size of the process that started this one, VmHWM does not.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(model_path: str, variant: str, dtype: str, max_tokens: int, prompt: str) -> None:
    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm.generate import generate_step

    model, tokenizer = load(model_path)
    if dtype != "own":
        # What validation's in_dtype casts, without importing this package.
        model.set_dtype(getattr(mx, dtype))
    if variant == "patched":
        from zmlx.patch import patch

        patch(model)
    tokens = mx.array(tokenizer.encode(prompt))
    generated = [token for token, _ in generate_step(tokens, model, max_tokens=max_tokens)]
    print(
        json.dumps(
            {
                "resident_bytes": peak_resident_bytes(),
                "mlx_bytes": mx.get_peak_memory(),
                "tokens": len(generated),
            }
        )
    )


if __name__ == "__main__":
    # Python puts this file's folder first, where its neighbours could hide other modules.
    sys.path.pop(0)
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])

"""Peak memory of one piece of work, in a process of its own.

Run as ``python -m zmlx.bench.memory`` by the benchmarks: a process that already ran something else
has a peak of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx

from zmlx.bench.decode_memory import peak_resident_bytes
from zmlx.bench.shapes import LayerShape


def reset_peak() -> bool:
    """Forgets the peaks so far; returns whether the system can forget the resident one (Linux)."""
    mx.clear_cache()
    mx.reset_peak_memory()
    # Freed memory that the C library keeps would be used again without showing in the peak. Other
    # C libraries than glibc have no such call.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def measure_peak(work: Callable[[], Any]) -> dict[str, int | None]:
    """Bytes that ``work`` needs at its peak, beyond what was there before.

    Returns:
        ``mlx_bytes``: of MLX's allocator; ``resident_bytes``: of the process, or ``None`` where the
        system cannot tell.
    """
    can_reset = reset_peak()
    before = peak_resident_bytes() if can_reset else 0
    active = mx.get_active_memory()
    mx.eval(work())
    resident = peak_resident_bytes() - before if can_reset else None
    return {"mlx_bytes": mx.get_peak_memory() - active, "resident_bytes": resident}


def layer_peak(shape: LayerShape, tokens: int, variant: str, dtype: str, threads: int) -> dict:
    """Peak memory of one call of a layer, stock or patched, in a fresh process.

    Args:
        shape: of the layer.
        tokens: M.
        variant: ``"stock"`` or ``"patched"``.
        dtype: of activations and scales.
        threads: of the kernels.

    Returns:
        What :func:`measure_peak` returns.

    Raises:
        RuntimeError: if that process fails.
    """
    job = {
        "shape": asdict(shape),
        "tokens": tokens,
        "variant": variant,
        "dtype": dtype,
        "threads": threads,
    }
    command = [sys.executable, "-m", "zmlx.bench.memory", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Measuring the memory of {shape.name} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def _run_job(job: dict[str, Any]) -> dict[str, int | None]:
    from zmlx import _ext
    from zmlx.bench.layer import build_layer
    from zmlx.lm import parse_dtype

    shape, dtype = LayerShape(**job["shape"]), parse_dtype(job["dtype"])
    _ext.set_num_threads(job["threads"])
    layer = build_layer(shape, dtype)
    if job["variant"] == "patched":
        from zmlx.patch import patch

        patch(layer)
    # A call of one token first: starting threads is not what the measured call needs.
    mx.eval(layer(*_arguments(shape, 1, dtype)))
    arguments = _arguments(shape, job["tokens"], dtype)
    return measure_peak(lambda: layer(*arguments))


def _arguments(shape: LayerShape, tokens: int, dtype: mx.Dtype) -> tuple:
    from zmlx.bench.layer import Rotation, inputs

    return next(inputs(Rotation(shape, tokens, 1), dtype, range(1)))[1]


if __name__ == "__main__":
    print(json.dumps(_run_job(json.loads(sys.argv[1]))))

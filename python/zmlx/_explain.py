"""Which paths calls take."""

from __future__ import annotations

from zmlx import _ext


def explain(f, *args, **kwargs) -> list[_ext.Path]:
    """Runs ``f(*args, **kwargs)`` and returns the paths that the fused primitives called in it
    take, in order: records with ``op``, ``path`` ("cpu", or "fallback": composed of MLX's ops) and
    ``reason`` (why the fallback). Paths are chosen when the graph is built, so nothing is evaluated
    for it. The environment variable ``ZMLX_VERBOSE=1`` prints each distinct path once instead.
    """
    _ext.begin_recording()
    try:
        f(*args, **kwargs)
    finally:
        paths = _ext.end_recording()
    return paths

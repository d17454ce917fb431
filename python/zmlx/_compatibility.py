"""Checks at import that the extension fits the MLX that is installed.

MLX promises no stable C++ interface, and its Python bindings exchange arrays with an extension only
if both were built with one ABI of nanobind. A mismatch would show as a ``TypeError`` on every call,
or worse, so it is found here and said in one sentence.
"""

from __future__ import annotations

import re
import sys


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def check_mlx_present() -> None:
    """Raises ImportError, saying what to install, if MLX cannot be imported."""
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:
        wheel = "mlx" if sys.platform == "darwin" else "mlx[cpu]' or 'mlx[cuda13]"
        raise ImportError(
            f"zmlx needs MLX, which could not be imported ({error}): pip install '{wheel}'"
        ) from error


def check_versions(built: str, installed: str) -> None:
    """Raises ImportError unless ``installed`` MLX has the minor version of ``built``."""
    if _minor(built) != _minor(installed):
        raise ImportError(
            f"zmlx was built against MLX {built}, but MLX {installed} is installed: "
            f"pip install 'mlx~={built}', or reinstall zmlx from source"
        )


def check_bindings(ext) -> None:
    """Raises ImportError unless MLX's bindings and the extension's exchange arrays."""
    import mlx.core as mx

    try:
        ext.fast.rms_norm(mx.zeros((1,)), None, 1e-5)
    except TypeError as error:
        raise ImportError(
            f"zmlx was built with nanobind {ext.build_info()['nanobind']}, whose ABI is not that "
            f"of MLX {mx.__version__}: reinstall zmlx from source beside this MLX"
        ) from error

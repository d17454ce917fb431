"""Fused mixture-of-experts primitives for MLX, ``patch`` to put them under mlx-lm's models, and
kernels made of formulas."""

from zmlx import _compatibility

_compatibility.check_mlx_present()

import mlx.core as _mx  # noqa: E402

try:
    from zmlx import _ext
except ImportError as error:
    # An undefined symbol is how another MLX shows up before its version can be compared.
    raise ImportError(
        f"zmlx's extension does not load beside MLX {_mx.__version__}: {error}. "
        "Reinstall zmlx from source beside this MLX, or install the MLX it was built against."
    ) from error

_compatibility.check_versions(_ext.build_info()["mlx_version"], _mx.__version__)
_compatibility.check_bindings(_ext)

from zmlx import fast, registry, testing  # noqa: E402
from zmlx._explain import explain  # noqa: E402
from zmlx.autotuning import autotune  # noqa: E402
from zmlx.kernel import Kernel, elementwise, map_reduce, reduce  # noqa: E402
from zmlx.kernel_jit import jit  # noqa: E402
from zmlx.kernel_raw import cuda_kernel, metal_kernel  # noqa: E402

__version__ = _ext.build_info()["version"]

__all__ = [
    "Kernel",
    "__version__",
    "autotune",
    "cuda_kernel",
    "elementwise",
    "explain",
    "fast",
    "jit",
    "map_reduce",
    "metal_kernel",
    "reduce",
    "registry",
    "testing",
]

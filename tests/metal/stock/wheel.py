"""MLX's Metal sources, out of its macOS wheel. Nothing of it is kept but in the build folder."""

import subprocess
import sys
import zipfile
from functools import cache

from msl.library import BUILD

WHEEL = "mlx-metal==0.32.4"
_KERNELS = "mlx/include/mlx/backend/metal/kernels/"


@cache
def include_folder():
    """The folder that `#include "mlx/backend/metal/kernels/utils.h"` is relative to."""
    folder = BUILD / WHEEL.replace("==", "-")
    if not (folder / _KERNELS).exists():
        packed = folder / "packed"
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        command += ["--platform", "macosx_15_0_arm64", "--only-binary=:all:", "--no-deps"]
        subprocess.run([*command, WHEEL, "-d", packed], check=True)
        (wheel,) = packed.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [n for n in archive.namelist() if n.startswith(_KERNELS)])
        wheel.unlink()
    return folder / "mlx/include"

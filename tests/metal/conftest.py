import os
import platform
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "python")]


def _obstacle():
    from msl.library import clang

    linux = sys.platform == "linux" and platform.machine() == "x86_64"
    if not linux or "avx2" not in Path("/proc/cpuinfo").read_text():
        return "the Metal host needs Linux on x86-64 with AVX2"
    try:
        clang()
    except FileNotFoundError as error:
        return str(error)
    return None


def pytest_collection_modifyitems(items):
    obstacle = None if os.environ.get("ZMLX_METAL_REQUIRED") else _obstacle()
    if obstacle:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=obstacle))

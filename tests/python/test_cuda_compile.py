"""The CUDA kernels compile for every architecture that MLX's wheels serve. Needs nvcc, no GPU."""

import shutil
import subprocess
from pathlib import Path

import pytest
from nvrtc import compile_log, nvrtc_library

ROOT = Path(__file__).parents[2]
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
ARCHITECTURES = ("80", "90", "100", "120")


FAMILIES = ("rows", "mma", "experts", "route", "steps")


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_compile(family, tmp_path):
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    done = subprocess.run(
        [NVCC, "-std=c++17", "-c", "-Werror=all-warnings", "-Xptxas=-v", "--threads=2", *targets]
        + ["-I", ROOT / "src/cuda", "-o", tmp_path / "out.o", ROOT / f"tests/cuda/{family}.cu"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    spills = [line for line in done.stderr.splitlines() if "spill stores" in line]
    assert spills
    assert all(" 0 bytes spill stores" in line for line in spills), "registers spill"


@pytest.mark.skipif(nvrtc_library() is None, reason="NVRTC is not installed")
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_compile_with_nvrtc(family):
    text = (ROOT / f"tests/cuda/{family}.cu").read_text()
    status, log = compile_log(text, (ROOT / "src/cuda", ROOT / "tests/cuda"))
    assert status == 0, log[:4000]
    assert "warning" not in log, log[:4000]


def test_sources_suit_embedding():
    """What `kernel_source` (src/fast/kernel_source.cpp) takes for granted of the files."""
    files = sorted((ROOT / "src/cuda").glob("*.cuh"))
    assert files
    names = {file.name for file in files}
    for file in files:
        text = file.read_text()
        assert "/*" not in text and ")zmlx" not in text, file.name
        for line in text.splitlines():
            if line.startswith('#include "'):
                assert line.split('"')[1] in names, f"{file.name}: {line}"
            else:  # no comment sign within a string
                assert line.split("//")[0].count('"') % 2 == 0, f"{file.name}: {line}"

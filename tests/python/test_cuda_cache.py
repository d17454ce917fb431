"""Compiled CUDA kernels are kept in files, and files that are damaged are compiled anew."""

import os
import subprocess
import sys

import mlx.core as mx
import pytest

pytestmark = pytest.mark.skipif(not mx.cuda.is_available(), reason="MLX has no CUDA GPU here")

PROGRAM = """
import mlx.core as mx
from zmlx import fast
x = mx.arange(512, dtype=mx.float32).reshape(2, 256)
normed, total = fast.add_rms_norm(x, x, mx.ones((256,)), 1e-5)
assert mx.array_equal(normed, mx.fast.rms_norm(x + x, mx.ones((256,)), 1e-5))
"""


def run(folder):
    subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, env={**os.environ, "ZMLX_CACHE_DIR": folder}
    )


def test_kernels_are_kept(tmp_path):
    run(str(tmp_path))
    (file,) = (tmp_path / "cuda").iterdir()
    whole, written = file.read_bytes(), file.stat().st_mtime_ns
    run(str(tmp_path))
    assert file.stat().st_mtime_ns == written
    for damaged in (b"", whole[: len(whole) // 3], whole[:-100], b"x" + whole[1:]):
        file.write_bytes(damaged)
        run(str(tmp_path))
        assert file.read_bytes() == whole


def test_without_a_folder(tmp_path):
    run("")
    (tmp_path / "file").touch()
    run(str(tmp_path / "file"))

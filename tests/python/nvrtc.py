"""NVRTC, which compiles what the library launches on CUDA; it is stricter than nvcc."""

import ctypes
from pathlib import Path

import mlx.core as mx


def nvrtc_library():
    """NVRTC with the folder of its headers, of a CUDA toolkit or the wheels that MLX needs."""
    packages = Path(mx.__file__).parents[1] / "nvidia"
    for root in (*sorted(Path("/usr/local").glob("cuda*"), reverse=True), *packages.glob("cu*")):
        for library in sorted(root.glob("lib*/libnvrtc.so.*")):
            if (root / "include/cuda_fp16.h").exists():
                return library, root / "include"
    return None


def compile_log(text, folders=()):
    """Compiles as src/cuda/host/module.cpp does. Returns (status, log); status 0 is success."""
    library, include = nvrtc_library()
    nvrtc = ctypes.CDLL(str(library))
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    source = text.encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"zmlx.cu", 0, None, None) == 0
    options = ["--gpu-architecture=sm_90", "--std=c++17"]
    options += [f"--include-path={folder}" for folder in (include, *folders)]
    listed = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), listed)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status, log.value.decode()

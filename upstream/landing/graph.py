"""Layer 2: the functions and primitives, in MLX's fast.h, fast_primitives.h and fast.cpp."""

import re

from . import places
from .change import GATHERING, PRIMITIVES, cpp_file, in_namespace
from .cpp import all_of, take
from .fold import condition
from .functions import block
from .primitive import primitive
from .rewrite import edit, host

NAMESPACE = "mlx::core::fast"
INPUTS_H = "mlx/fast_inputs.h"
EXPERTS_H, EXPERTS_CPP = "mlx/fast_experts.h", "mlx/fast_experts.cpp"
_QUANTIZATION = "src/fast/quantization.cpp"


def _brief(declaration):
    """Without the description of each parameter, which the Python documentation gives."""
    kept, skipping = [], False
    for line in declaration.splitlines():
        comment = line.startswith("///")
        skipping = comment and (skipping or line.startswith("/// @"))
        if not skipping:
            kept.append(line)
    return re.sub(r"(?:///\n)+(?!///)", "", "\n".join(kept))


def _declaration(operation):
    text = edit(_brief(take("include/zmlx/fast.h", operation)[0]), ("ZMLX_API", "MLX_API"))
    if "max_rows" in text:
        text = edit(text, ('const std::string& numerics = "", int max_rows = 32, ', ""))
    return host(text)


def _inputs(change):
    kernel_float = edit(
        take("src/fast/quantization.cpp", "kernel_float")[0],
        ("bool kernel_float", "inline bool kernel_float"),
    )
    all_floats = """/// Whether kernels read the types of all arrays.
inline bool all_floats(const std::vector<mx::array>& arrays) {
  for (const auto& a : arrays) {
    if (!kernel_float(a.dtype())) return false;
  }
  return true;
}"""
    comment = "/// Whether kernels read the type: float32, float16 or bfloat16.\n"
    reader = take("src/fast/inputs.h", "InputReader")[0]
    change.add_file(
        INPUTS_H,
        cpp_file(
            ["<optional>", "<vector>", "mlx/array.h"],
            NAMESPACE,
            *(host(t) for t in (reader, comment + kernel_float, all_floats)),
            header=True,
        ),
    )


def _cpu_obstacle():
    text = edit(
        take(_QUANTIZATION, "kernel_obstacle")[0],
        ("const auto backend = backend_of(s);", ""),
        ("kernel_obstacle(const mx::Stream& s, ", "cpu_obstacle("),
    )
    for backend in ("cuda", "metal"):
        text = condition(text, f"backend == Backend::{backend}", False)
    return text


def _experts(change):
    """What the gathering operations share before any arithmetic."""
    declared = edit(
        take("src/fast/quantization.h", "kernel_obstacle")[0],
        ("the kernels of the stream's device cannot", "the CPU's kernels cannot"),
        ("kernel_obstacle(const mx::Stream& s, ", "cpu_obstacle("),
    )
    header = [
        *all_of("src/fast/quantization.h", without=("mx", "kernel_obstacle", "kernel_float")),
        declared,
        *all_of("src/fast/vmap.h", without=("mx",)),
    ]
    anonymous = ("fail", "check_scales")
    body = all_of(_QUANTIZATION, without=(*anonymous, "kernel_obstacle", "kernel_float"))
    if not change.has_global_scale:
        without = ("q.mode, std::nullopt, sorted_indices", "q.mode, sorted_indices")
        body = [edit(t, without) if "mx::gather_qmm(" in t else t for t in body]
    body += [_cpu_obstacle(), *all_of("src/fast/vmap.cpp")]
    change.add_file(
        EXPERTS_H,
        cpp_file(
            ["<optional>", "<string>", INPUTS_H, "mlx/utils.h"],
            NAMESPACE,
            *(host(t) for t in header),
            header=True,
        ),
    )
    change.add_file(
        EXPERTS_CPP,
        cpp_file(
            ["<algorithm>", "<limits>", "<sstream>", "<stdexcept>", EXPERTS_H, "mlx/ops.h"],
            NAMESPACE,
            host(in_namespace("", *take(_QUANTIZATION, *anonymous))),
            *(host(t) for t in body),
        ),
    )


def add(change, chosen):
    if chosen:
        _inputs(change)
    if set(chosen) & set(GATHERING):
        _experts(change)
    change.insert(
        "mlx/CMakeLists.txt",
        places.after_source("target_sources", "fast.cpp"),
        "          ${CMAKE_CURRENT_SOURCE_DIR}/fast_experts.cpp\n",
        GATHERING,
    )
    header, source = "mlx/fast_primitives.h", "mlx/fast.cpp"
    include = f'#include "{EXPERTS_H}"\n'
    change.insert(header, places.after_includes("mlx/backend/"), include, GATHERING)
    end = places.before_namespace_end(NAMESPACE)
    for operation in PRIMITIVES:
        owner = (operation,)
        change.insert("mlx/fast.h", end, _declaration(operation) + "\n\n", owner)
        change.insert(header, end, host(primitive(operation)).strip() + "\n\n", owner)
        change.insert(source, end, block(operation) + "\n\n", owner)
    change.insert(source, places.after_includes("mlx/fast.h"), f'#include "{INPUTS_H}"\n')

"""A small tree of MLX's shape, with only what upstream/apply.py looks at."""

_NAMESPACE = """// A file.

{head}
namespace mlx::core{inner} {{

{body}

}} // namespace mlx::core{inner}
"""


def _cpp(head, body, inner="::fast"):
    return _NAMESPACE.format(head=head, body=body, inner=inner)


def _list(*names):
    lines = "\n          ".join(f"${{CMAKE_CURRENT_SOURCE_DIR}}/{name}.cpp" for name in names)
    return f"target_sources(\n  mlx\n  PRIVATE {lines})\n"


_FALLBACKS = _cpp('#include "mlx/fast_primitives.h"\n', "namespace fast {\nNO_GPU(Norm)\n}", "")

FILES = {
    ".clang-format": "BasedOnStyle: Google\n...\n",
    ".pre-commit-config.yaml": "-   repo: https://x/mirrors-clang-format\n    rev: v21.1.8\n",
    "mlx/ops.h": "array gather_qmm(const array& x, std::optional<array> global_scale);\n",
    "mlx/fast.h": _cpp("#pragma once\n", "array norm(const array& x);"),
    "mlx/fast_primitives.h": _cpp(
        '#include "mlx/backend/common/kernel.h"\n', "class Norm : public Custom {};"
    ),
    "mlx/fast.cpp": _cpp(
        '#include "mlx/fast.h"\n#include "mlx/ops.h"\n', "array norm(const array& x) { return x; }"
    ),
    "mlx/CMakeLists.txt": _list("array", "fast", "ops"),
    "mlx/backend/cpu/CMakeLists.txt": _list("binary", "encoder", "fft"),
    "mlx/backend/no_cpu/primitives.cpp": _FALLBACKS,
    "mlx/backend/no_gpu/primitives.cpp": _FALLBACKS,
    "mlx/backend/metal/CMakeLists.txt": "make_jit_source(utils)\nmake_jit_source(hadamard)\n\n"
    + _list("allocator", "custom_kernel", "device"),
    "mlx/backend/metal/jit/includes.h": _cpp(
        "#pragma once\n", "const char* utils();", inner="::metal"
    ),
    "mlx/backend/cuda/CMakeLists.txt": _list("allocator", "custom_kernel", "device"),
    "mlx/backend/cuda/jit_module.cpp": _cpp(
        '#define INCLUDE_PREFIX "mlx/backend/cuda/device/"\n',
        'constexpr const char* g_include_names[] = {\n    INCLUDE_PREFIX "utils.cuh",\n};\n\n'
        "constexpr const char* g_headers[] = {\n    jit_source_utils,\n};",
        inner="::cu",
    ),
    "python/src/fast.cpp": "void init_fast(nb::module_& parent) {\n  auto m = parent;\n"
    '  m.def("norm", &mx::fast::norm);\n}\n',
    "docs/src/python/fast.rst": ".. autosummary::\n  :toctree: x\n\n  rms_norm\n"
    "  scaled_dot_product_attention\n",
    "tests/CMakeLists.txt": "target_sources(\n  tests\n  PRIVATE a_tests.cpp\n"
    "          fft_tests.cpp\n          b_tests.cpp)\n",
}


def write(folder):
    for path, text in FILES.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}

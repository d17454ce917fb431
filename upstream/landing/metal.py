"""Layer 3 on Metal: kernels that MLX compiles at run time, for each kind of call."""

import re

from . import fallback, kernels, places
from .change import GATHERING, PRIMITIVES, cpp_file, in_namespace, stored
from .cpp import ROOT, take
from .gpu import ARRAYS_H, CONFIG_H, ROUTE_H, add_operations, host_of_kernels, operation_file
from .graph import EXPERTS_H
from .primitive import CLASS_OF
from .rewrite import edit

FOLDER = "mlx/backend/metal/"
KERNELS = FOLDER + "kernels/fused/"
_HOST = "src/fast/eval_metal.cpp"
_PATH_H, _PATH = "src/fast/metal_path.h", "src/fast/metal_path.cpp"
_CALLS = {"gather_qmm_swiglu": "SwigluCall", "gather_qmm_combine": "CombineCall"}


def _tuned(text):
    """The defaults in place of what only this project lets one set."""
    header = (ROOT / "src/fast/metal_tuning.h").read_text()

    def value(found):
        return re.search(rf"int {found.group(1)} = (\d+);", header).group(1)

    return re.sub(r"metal_tuning\(\)\.(\w+)", value, text)


def _source(text):
    """Kernels are named by the functions that return their text."""
    return re.sub(r'"(\w+)\.h"', r"metal::\1()", text)


def _fused_kernel(change):
    kernel = edit(
        take("src/fast/metal_kernel.h", "MetalKernel")[0],
        ("///< MLX puts it into the function's name", ""),
        (
            "std::string file;    ///< in src/metal",
            "const char* source; // text of a file of kernels/fused",
        ),
        (
            "/// Metal's attributes do, say `thread_index_in_simdgroup`: MLX makes parameters of "
            "those it\n  /// finds.",
            "/// Metal's attributes do, say `thread_index_in_simdgroup`.",
        ),
    )
    launch = edit(
        take("src/fast/metal_kernel.h", "launch_metal")[0],
        ("/// For `Primitive::eval_gpu` on a wheel with Metal.\n", ""),
    )
    text = edit(
        take("src/fast/metal_kernel.cpp", "metal_kernel_text")[0],
        ("header_of(kernel) +", "kernel.source + kernel.config +"),
    )
    name = edit(
        take("src/fast/metal_kernel.cpp", "metal_kernel_name")[0],
        ('"custom_kernel_" + kernel.name', "kernel.name"),
    )
    types = take("src/fast/metal_kernel.cpp", "types_of", "metal_type", "Attribute", "kAttributes")
    types = [re.sub(r"\bmetal_type\b", "parameter_type", t) for t in types]
    name, text = (re.sub(r"\bmetal_type\b", "parameter_type", t) for t in (name, text))
    config = [
        t.replace("refuse_metal", "refuse")
        for t in take("src/fast/metal_config.h", "kMetalConstant", "metal_type", "refuse_metal")
    ]
    template = edit(take(_HOST, "launch")[0], ("void launch(", "void launch_call("))
    change.add_file(
        FOLDER + "fused_kernel.h",
        cpp_file(
            [
                "<functional>",
                "<stdexcept>",
                "<string>",
                "<tuple>",
                "<vector>",
                CONFIG_H,
                "mlx/array.h",
                FOLDER + "jit/includes.h",
            ],
            "mlx::core::fast",
            *(host_of_kernels(t) for t in [kernel, launch, *config, template]),
            header=True,
        ),
    )
    change.add_file(
        FOLDER + "fused_kernel_text.h",
        cpp_file(
            ["<stdexcept>", "<string>", "<vector>", FOLDER + "fused_kernel.h"],
            "mlx::core::fast",
            *(
                host_of_kernels(
                    re.sub(
                        r"^(std::string|std::vector|const char\*|constexpr)",
                        r"inline \1",
                        t,
                        flags=re.M,
                        count=1,
                    )
                    if "struct " not in t
                    else host_of_kernels(t)
                )
                for t in [*types, name, text]
            ),
            header=True,
        ),
    )
    change.add_file(FOLDER + "fused_kernel.cpp", stored(FOLDER + "fused_kernel.cpp"))


def _products(change, chosen):
    names = [
        ("plan_metal_swiglu", "gather_qmm_swiglu"),
        ("plan_metal_combine", "gather_qmm_combine"),
    ]
    plans = [name for name, operation in names if operation in chosen]
    header = take(
        _PATH_H, "MetalCall", "MetalPlan", *plans, "metal_call", "metal_obstacle", "metal_readable"
    )
    if "gather_qmm_combine" not in chosen:
        header[1] = edit(
            header[1],
            (
                " ///< of a threadgroup; in the combine of one of its tiles",
                " ///< of a threadgroup",
            ),
            (
                "  int tiles = 1;       ///< of `rows` elements that a threadgroup of the "
                "combine makes\n",
                "\n",
            ),
        )
    inline = take(_HOST, "kPositions", "ceil_div", "aligned", "Gather")
    inline = [
        re.sub(r"^(int|bool|constexpr)", r"inline \1", t, flags=re.M, count=1)
        if "struct" not in t
        else t
        for t in inline
    ]
    body = take(_PATH, *plans, "metal_call", "metal_readable", "metal_obstacle")
    change.add_file(
        FOLDER + "expert_products.h",
        cpp_file(
            ["<string>", "<utility>", "<vector>", ARRAYS_H, FOLDER + "fused_kernel.h", EXPERTS_H],
            "mlx::core::fast",
            *(host_of_kernels(t) for t in [*header, *inline]),
            header=True,
        ),
    )
    change.add_file(
        FOLDER + "expert_products.cpp",
        cpp_file(
            ["<algorithm>", FOLDER + "expert_products.h"],
            "mlx::core::fast",
            host_of_kernels(
                in_namespace("", *take(_PATH, "kSorted", "pack", "stock_is_fast", "plan_product"))
            ),
            *(host_of_kernels(_tuned(t)) for t in body),
        ),
    )


def _gathering(operation):
    call = _source(take(_HOST, _CALLS[operation])[0].replace("refuse_metal", "refuse"))
    helpers, method = fallback.gathering(operation, "metal")
    return _file(operation, [FOLDER + "expert_products.h"], [call, *helpers], method)


def _add_rms_norm():
    call = _source(take(_HOST, "NormCall")[0].replace("refuse_metal", "refuse"))
    helpers, method = fallback.add_rms_norm("metal")
    limits = [_tuned(t) for t in take(_PATH, "metal_norm_obstacle", "metal_norm_simdgroups")]
    limits[0] = edit(
        limits[0],
        (
            "metal_norm_obstacle(int width) {\n  // Beyond, MLX launches as many "
            "threads as the GPU allows its kernel.\n",
            "metal_norm_obstacle(int width) {\n",
        ),
    )
    own = [*take(_HOST, "kPositions"), *limits, call, *helpers]
    return _file("add_rms_norm", ["<algorithm>", FOLDER + "fused_kernel.h"], own, method)


def _moe_route():
    path = "src/fast/moe_route_metal.cpp"
    kernel = _source(take(path, "metal_kernel_of")[0])
    helpers, method = fallback.moe_route("metal")
    own = [
        *take(_PATH_H, "MetalRoute"),
        *take(_PATH, "metal_route_obstacle"),
        *take(path, "config_text", "strided", "rows_of"),
        kernel,
        *helpers,
    ]
    evaluation = edit(take(path, "MoeRoute::eval_metal")[0], ("::eval_metal(", "::eval_gpu("))
    return _file("moe_route", [ROUTE_H, FOLDER + "fused_kernel.h"], own, method, evaluation)


def _file(operation, includes, own, method, evaluation=None):
    if not evaluation:
        evaluation = edit(
            take(_HOST, f"{CLASS_OF[operation]}::eval_metal")[0],
            ("::eval_metal(", "::eval_gpu("),
            ("  launch(", "  launch_call("),
        )
    return operation_file(includes, own, method, evaluation)


FILES = {
    "gather_qmm_swiglu": lambda: _gathering("gather_qmm_swiglu"),
    "add_rms_norm": _add_rms_norm,
    "gather_qmm_combine": lambda: _gathering("gather_qmm_combine"),
    "moe_route": _moe_route,
}


def _kernels(change, chosen):
    owners = {}
    for operation in PRIMITIVES:
        for name in kernels.closure("src/metal", (f"{operation}.h",)):
            owners.setdefault(name, []).append(operation)
    for name, of in owners.items():
        if set(of) & set(chosen):
            change.add_file(KERNELS + name, kernels.text("src/metal", name, lambda n: KERNELS + n))
    for operation in PRIMITIVES:
        needed = kernels.closure("src/metal", (f"{operation}.h",))[:-1]
        change.insert(
            FOLDER + "CMakeLists.txt",
            places.after_call("make_jit_source(hadamard)"),
            _jit_source(operation, needed),
            (operation,),
        )
        change.insert(
            FOLDER + "jit/includes.h",
            places.before_namespace_end("mlx::core::metal"),
            f"const char* {operation}();\n",
            (operation,),
        )


def _jit_source(operation, needed):
    """As cmake-format breaks it."""
    head, lines = f"make_jit_source(fused/{operation}", []
    names = [f"kernels/fused/{name}" for name in needed]
    line, indent = head, " " * len("make_jit_source(")
    for name in names:
        if len(line) + 1 + len(name) + (name == names[-1]) > 80:
            lines.append(line)
            line = indent + name
        else:
            line += " " + name
    lines.append(line)
    if len(lines) > 2:
        lines = ["make_jit_source(", f"  fused/{operation}", *(f"  {name}" for name in names)]
    return "\n".join(lines) + ")\n"


def add(change, chosen):
    if chosen:
        _fused_kernel(change)
    if set(chosen) & set(GATHERING):
        _products(change, chosen)
    add_operations(change, chosen, FOLDER, FILES)
    _kernels(change, chosen)

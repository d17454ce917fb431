"""Layer 3 on CUDA: kernels that MLX compiles at run time (`cu::get_jit_module`)."""

import re

from . import fallback, kernels, places
from .change import GATHERING, PRIMITIVES, cpp_file, in_namespace, stored
from .cpp import take
from .gpu import ARRAYS_H, CONFIG_H, ROUTE_H, add_operations, host_of_kernels, operation_file
from .graph import EXPERTS_H
from .primitive import CLASS_OF
from .rewrite import edit

FOLDER = "mlx/backend/cuda/"
DEVICE = FOLDER + "device/"
_HOST = "src/fast/eval_cuda.cpp"
_PATH_H, _PATH = "src/fast/cuda_path.h", "src/fast/cuda_path.cpp"
_SIZES = "src/fast/cuda_sizes.h"

_CAPABILITY = """int cuda_compute_capability(int device) {
  auto& d = cu::device(device);
  return 10 * d.compute_capability_major() + d.compute_capability_minor();
}"""

SOURCES = {
    "gather_qmm_swiglu": ("gather_qmm_swiglu_rows.cuh", "gather_qmm_swiglu_mma.cuh"),
    "add_rms_norm": ("add_rms_norm.cuh",),
    "gather_qmm_combine": ("gather_qmm_combine_rows.cuh", "gather_qmm_combine_mma.cuh"),
    "moe_route": ("moe_route.cuh",),
}


def device_name(name):
    """A kernel file's name in MLX, where all lie in one folder."""
    return name if any(name in files for files in SOURCES.values()) else f"fused_{name}"


def _inline(text):
    return (
        text
        if "struct " in text or re.search(r"^(?:template|inline|\[\[)", text, re.M)
        else re.sub(r"^((?://[^\n]*\n)*)", r"\1inline ", text, count=1)
    )


def _fused_kernel(change):
    kernel = edit(
        take("src/fast/cuda_kernel.h", "CudaKernel")[0], ("///< in src/cuda", "// in device/")
    )
    launch = take("src/fast/cuda_kernel.h", "launch_cuda")[0]
    launch = edit(
        launch,
        (
            "/// Allocates those outputs that have no memory yet and launches",
            "/// Allocates the outputs and launches",
        ),
        (" For `Primitive::eval_gpu`.", ""),
        (
            "/// @param numbers  values of this call for the kernel's numbers, if they differ from "
            "call to call.\n",
            "",
        ),
        ("std::span<const mx::array> inputs", "const std::vector<mx::array>& inputs"),
        (",\n                 std::initializer_list<int> numbers = {}", ""),
    )
    text = edit(
        take("src/fast/cuda_kernel.cpp", "cuda_kernel_text")[0],
        (
            "kernel_source(kCudaSources, kernel.file) +",
            '"#include \\"mlx/backend/cuda/device/" + kernel.file + "\\"\\n\\n" +',
        ),
        ("kCudaKernelName", "kernel_name(kernel)"),
    )
    types = take("src/fast/cuda_kernel.cpp", "parameter_type")
    names = [
        "// The kernel function's name: that of the file.\n"
        "std::string kernel_name(const CudaKernel& kernel) {"
        " return kernel.file.substr(0, kernel.file.rfind('.')); }"
    ]
    config = take("src/fast/cuda_config.h", "type_name", "qualified", "refuse")
    change.add_file(
        FOLDER + "fused_kernel.h",
        cpp_file(
            [
                "<cstring>",
                "<functional>",
                "<stdexcept>",
                "<string>",
                "<tuple>",
                "<utility>",
                "<vector>",
                CONFIG_H,
                "mlx/array.h",
            ],
            "mlx::core::fast",
            *(host_of_kernels(t) for t in [kernel, launch, *config]),
            header=True,
        ),
    )
    change.add_file(
        FOLDER + "fused_kernel_text.h",
        cpp_file(
            ["<stdexcept>", "<string>", "<vector>", FOLDER + "fused_kernel.h"],
            "mlx::core::fast",
            *(_inline(host_of_kernels(t)) for t in [*types, *names, text]),
            header=True,
        ),
    )
    change.add_file(FOLDER + "fused_kernel.cpp", stored(FOLDER + "fused_kernel.cpp"))


def _products(change, chosen):
    plans = [
        f"plan_{name}"
        for name, operation in (("swiglu", "gather_qmm_swiglu"), ("combine", "gather_qmm_combine"))
        if operation in chosen
    ]
    header = take(
        _PATH_H,
        "CudaProduct",
        "CudaCall",
        "CudaPlan",
        *plans,
        "cuda_call",
        "cuda_shared_limit",
        "cuda_compute_capability",
        "cuda_obstacle",
        "cuda_readable",
    )
    header = [t.replace(", or 0 if MLX has no CUDA backend here", "") for t in header]
    header = [edit(t, ("lanes,  ///<", "lanes, ///<")) if "enum class" in t else t for t in header]
    anonymous = take(_SIZES, "ceil_div", "RowSizes", "MmaSizes", "kStageBytes") + take(
        _PATH,
        "kMaxPairs",
        "stock_uses_mma",
        "choose_exact",
        "dense",
        "copied_codes",
        "bound_pairs",
        "fits",
    )
    body = take(_PATH, *plans, "cuda_call", "cuda_shared_limit", "cuda_readable")
    obstacle = edit(
        take(_PATH, "cuda_obstacle")[0],
        (
            "if (auto obstacle = cuda_device_obstacle(s); !obstacle.empty()) return obstacle;",
            "if (cuda_compute_capability(s.device.index) < 80) "
            '{ return "the GPU is older than compute capability 8.0"; }',
        ),
    )
    rename = [
        (r"\bcuda_product\(c, ", "choose_product(c, "),
        (r"\bchoose_exact\b", "choose_product"),
    ]

    def named(text):
        for old, new in rename:
            text = re.sub(old, new, text)
        return host_of_kernels(text)

    inline = take("src/fast/cuda_config.h", "experts_text") + take(_HOST, "add_call", "blocks")
    change.add_file(
        FOLDER + "expert_products.h",
        cpp_file(
            ["<string>", ARRAYS_H, FOLDER + "fused_kernel.h", EXPERTS_H],
            "mlx::core::fast",
            *(named(t) for t in header),
            *(_inline(named(t)) for t in inline),
            header=True,
        ),
    )
    change.add_file(
        FOLDER + "expert_products.cpp",
        cpp_file(
            ["<algorithm>", FOLDER + "expert_products.h", FOLDER + "device.h"],
            "mlx::core::fast",
            named(in_namespace("", *anonymous)),
            *(named(t) for t in body),
            _CAPABILITY,
            named(obstacle),
        ),
    )


def _gathering(operation):
    helpers, method = fallback.gathering(operation, "cuda")
    return _file(operation, ["<cstring>", FOLDER + "expert_products.h"], helpers, method)


def _capability():
    """For files that have no need of expert_products.h."""
    return _CAPABILITY.replace("(int device)", "(int device = 0)")


def _add_rms_norm():
    helpers, method = fallback.add_rms_norm("cuda")
    own = [*take(_SIZES, "ceil_div"), *take(_PATH, "rms_norm_threads"), _capability(), *helpers]
    return _file("add_rms_norm", [FOLDER + "device.h", FOLDER + "fused_kernel.h"], own, method)


def _moe_route():
    path = "src/fast/moe_route_cuda.cpp"
    helpers, method = fallback.moe_route("cuda")
    routes = take(path, "add_route")
    routes[1] = edit(routes[1], (" + 32 * o.exact", ""))
    own = [
        *take(_PATH_H, "CudaRoute"),
        *take(_PATH, "cuda_route_obstacle", "row_sum_reads"),
        *take("src/fast/moe_route_cuda.h", "RouteCall"),
        _capability(),
        *routes,
        *helpers,
    ]
    evaluation = edit(take(path, "MoeRoute::eval_cuda")[0], ("::eval_cuda(", "::eval_gpu("))
    return _file(
        "moe_route",
        [ROUTE_H, FOLDER + "device.h", FOLDER + "fused_kernel.h"],
        own,
        method,
        evaluation,
    )


def _file(operation, includes, own, method, evaluation=None):
    if not evaluation:
        evaluation = edit(
            take(_HOST, f"{CLASS_OF[operation]}::eval_cuda")[0], ("::eval_cuda(", "::eval_gpu(")
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
        for name in kernels.closure("src/cuda", SOURCES[operation]):
            owners.setdefault(name, []).append(operation)
    module = FOLDER + "jit_module.cpp"
    # With a comment among them, clang-format leaves each entry on a line of its own.
    change.insert(module, places.before_array_end("g_include_names"), "    // Fused kernels.\n")
    change.insert(module, places.before_array_end("g_headers"), "    // Of fused kernels.\n")
    for name, of in owners.items():
        theirs = device_name(name)
        if set(of) & set(chosen):
            change.add_file(
                DEVICE + theirs, kernels.text("src/cuda", name, lambda n: DEVICE + device_name(n))
            )
        change.insert(
            module,
            places.before_array_end("g_include_names"),
            f'    INCLUDE_PREFIX "{theirs}",\n',
            of,
        )
        change.insert(
            module,
            places.before_array_end("g_headers"),
            f"    jit_source_{theirs.removesuffix('.cuh')},\n",
            of,
        )


def add(change, chosen):
    if chosen:
        _fused_kernel(change)
    if set(chosen) & set(GATHERING):
        _products(change, chosen)
    add_operations(change, chosen, FOLDER, FILES)
    _kernels(change, chosen)

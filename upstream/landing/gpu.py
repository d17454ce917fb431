"""What both GPU backends' host code shares, and what a build without GPUs has instead."""

import re

from . import places
from .change import GATHERING, PRIMITIVES, cpp_file, in_namespace
from .cpp import all_of, take
from .graph import EXPERTS_H, NAMESPACE
from .primitive import CLASS_OF, USE_FALLBACK, final
from .rewrite import CLASSES, host

CONFIG_H = "mlx/backend/common/fused_config.h"
ARRAYS_H = "mlx/backend/common/expert_arrays.h"
ROUTE_H = "mlx/backend/common/route_types.h"
KERNELS = "fused"  # the kernels' namespace


def host_of_kernels(text):
    """Host code that writes kernels' text: theirs is another namespace within its literals."""

    def renamed(found):
        return re.sub(r"\bzmlx\b", KERNELS, found.group().replace("zmlx_", ""))

    text = text.replace("src/cuda", "device/")
    return host(re.sub(r'"(?:\\.|[^"\\\n])*"', renamed, final(text)))


def add(change, chosen):
    if chosen:
        _shared(change, chosen)
    for operation in PRIMITIVES:
        cls = CLASS_OF[operation]
        unnamed = re.sub(r" (?:a|arguments|options|inputs|s)\b(?=,|$)", "", USE_FALLBACK[operation])
        text = f"bool {cls}::use_fallback({unnamed}) {{ return true; }}"
        change.insert(
            "mlx/backend/no_gpu/primitives.cpp",
            places.before_namespace_end("fast"),
            host(text) + f"\nNO_GPU_MULTI({CLASSES[cls]})\n",
            (operation,),
        )


def operation_file(includes, own, method, evaluation):
    """The text of an operation's file in a backend's folder: its helpers, then two methods."""
    parts = [in_namespace("", *own), method, evaluation]
    # MLX's fast_primitives.h can be included once only, and ROUTE_H includes it.
    primitives = [] if ROUTE_H in includes else ["mlx/fast_primitives.h"]
    return cpp_file(
        [*includes, *primitives], "mlx::core::fast", *(host_of_kernels(p) for p in parts)
    )


def add_operations(change, chosen, folder, files):
    """The operations' host code in a backend's folder, and all of its new sources in its build.

    Args:
        files: functions that make the text of an operation's file, by operation.
    """
    listed = places.after_source("target_sources", "custom_kernel.cpp")

    def build(source, *of):
        line = f"          ${{CMAKE_CURRENT_SOURCE_DIR}}/{source}.cpp\n"
        change.insert(folder + "CMakeLists.txt", listed, line, *of)

    for operation in PRIMITIVES:
        if operation in chosen:
            change.add_file(f"{folder}{operation}.cpp", files[operation]())
        build(operation, (operation,))
    build("expert_products", GATHERING)
    build("fused_kernel")


def _shared(change, chosen):
    operations = take("src/fast/launch_key.h", "Operation")[0]
    operations = re.sub(r"\{.*\}", "{ swiglu, combine, norm, route }", operations)
    key = [t for t in all_of("src/fast/launch_key.h", without=("mx", "Operation"))]
    change.add_file(
        CONFIG_H,
        cpp_file(
            ["<array>", "<cstdint>", "<cstdio>", "<cstring>", "<string>", "mlx/dtype.h"],
            NAMESPACE,
            "// Tokens up to which fused kernels run.\ninline constexpr int kMaxRows = 32;",
            *(
                host_of_kernels(t)
                for t in [*take("src/fast/kernel_config.h", "bits_of", "Config"), operations, *key]
            ),
            header=True,
        ),
    )
    if set(chosen) & set(GATHERING):
        change.add_file(
            ARRAYS_H,
            cpp_file(
                ["<cstdint>", "<string>", "<vector>", CONFIG_H, EXPERTS_H],
                NAMESPACE,
                *(host(t) for t in all_of("src/fast/expert_arrays.h")),
                header=True,
            ),
        )
    if "moe_route" in chosen:
        change.add_file(
            ROUTE_H,
            cpp_file(
                [CONFIG_H, "mlx/fast_primitives.h"],
                NAMESPACE,
                *(host_of_kernels(t) for t in all_of("src/fast/route_types.h")),
                header=True,
            ),
        )

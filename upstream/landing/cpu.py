"""Layer 3 on the CPU: this project's structures, with arithmetic in MLX's SIMD types.

This project's arithmetic is Highway's, which MLX does not have. What takes its place is stored in
`files/`, and sums in the same order.
"""

import re

from . import places
from .change import GATHERING, cpp_file, in_namespace, stored
from .cpp import all_of, take
from .graph import EXPERTS_H, INPUTS_H
from .primitive import final
from .rewrite import fold, host

FOLDER = "mlx/backend/cpu/"
_EVAL = "src/fast/eval_cpu.cpp"
EVALUATED = {
    "gather_qmm_swiglu": "GatherQmmSwiglu",
    "gather_qmm_combine": "GatherQmmCombine",
    "add_rms_norm": "AddRmsNorm",
}


def _cpu(text):
    text = text.replace("mx::cpu::", "cpu::").replace(", Scratch& scratch)", ")")
    return host(re.sub(r"\bsize_of\(from_type\)", "cpu::size_of(from_type)", text))


def _without_scratch(text):
    text = re.sub(r" *MlxScratch scratch;\n", "", text).replace("(args, scratch)", "(args)")
    text = re.sub(
        r"\ballocate\((\w+)\);", r"\1.set_data(mx::allocator::malloc(\1.nbytes()));", text
    )
    text = re.sub(r"(?<![:\w])size_of\(weight_type\)", "cpu::size_of(weight_type)", text)
    return re.sub(r"(?<![:\w])Encoder&", "mx::cpu::CommandEncoder&", text)


def _experts(change, chosen):
    """What the evaluations share: arrays as pointers and strides, and pairs by their experts."""
    gathering = bool(set(chosen) & set(GATHERING))
    header = all_of("src/cpu/quantized.h")
    if gathering:
        header += take(
            "src/cpu/expert_groups.h",
            "ExpertGroup",
            "ExpertGroups",
            "group_by_expert",
            "Activations",
        )
    change.add_file(
        FOLDER + "experts.h",
        cpp_file(
            ["<cstddef>", "<cstdint>", "<vector>"],
            "mlx::core::cpu",
            host("\n\n".join(header)),
            header=True,
        ),
    )
    if gathering:
        change.add_file(
            FOLDER + "experts.cpp",
            cpp_file(
                ["<algorithm>", FOLDER + "experts.h"],
                "mlx::core::cpu",
                in_namespace("", *take("src/cpu/expert_groups.cpp", "kMaxGroupRows")),
                *take("src/cpu/expert_groups.cpp", "group_by_expert"),
            ),
        )
    for name in ("expert_product.h", "expert_product.cpp"):
        change.add_file(FOLDER + name, stored(FOLDER + name))
    change.insert(
        FOLDER + "CMakeLists.txt",
        _list(),
        "          ${CMAKE_CURRENT_SOURCE_DIR}/expert_product.cpp\n",
        EVALUATED,
    )
    change.insert(
        FOLDER + "CMakeLists.txt",
        _list(),
        "          ${CMAKE_CURRENT_SOURCE_DIR}/experts.cpp\n",
        GATHERING,
    )


def _list():
    return places.after_source("target_sources", "encoder.cpp")


def _arrays(change, chosen):
    """Arrays to the kernels' structures, as `eval_cpu` of each primitive needs them."""
    names = ["scalar_of"]
    if set(chosen) & set(GATHERING):
        names += [
            "format_of",
            "offsets_of",
            "with_contiguous_rows",
            "experts_of",
            "gather",
            "leading_axes",
        ]
    if "add_rms_norm" in chosen:
        names += ["contiguous_as"] if "offsets_of" in names else ["offsets_of", "contiguous_as"]
    parts = [_cpu(_without_scratch(t)) for t in take(_EVAL, *names)]
    declarations = []
    for text in parts:
        comment = "".join(re.findall(r"^//[^\n]*\n", text, re.M))
        declarations.append(comment + text[len(comment) :].split(" {\n", 1)[0] + ";")
    inputs = EXPERTS_H if set(chosen) & set(GATHERING) else INPUTS_H
    includes = [FOLDER + "encoder.h", FOLDER + "expert_product.h", inputs]
    change.add_file(
        FOLDER + "expert_arrays.h",
        cpp_file(
            ["<vector>", *includes, "mlx/array.h"], "mlx::core::fast", *declarations, header=True
        ),
    )
    bodies = [t[len("".join(re.findall(r"^//[^\n]*\n", t.split("{")[0], re.M))) :] for t in parts]
    change.add_file(
        FOLDER + "expert_arrays.cpp",
        cpp_file(
            ["<cstring>", "<tuple>", "<utility>", FOLDER + "expert_arrays.h", "mlx/allocator.h"],
            "mlx::core::fast",
            *bodies,
        ),
    )
    change.insert(
        FOLDER + "CMakeLists.txt",
        _list(),
        "          ${CMAKE_CURRENT_SOURCE_DIR}/expert_arrays.cpp\n",
        EVALUATED,
    )


def _evaluation(operation, cls):
    structures = all_of(f"src/cpu/{operation}.h", without=(operation,))
    function = _cpu(take(f"src/cpu/{operation}.h", operation)[0])
    comment = "".join(re.findall(r"^//[^\n]*\n", function, re.M))
    arithmetic = stored(f"{FOLDER}{operation}.inc")
    arithmetic = arithmetic.replace(f"void {operation}(", f"{comment}void {operation}(", 1)
    # One name an idea: the graph level has the same enumeration.
    evaluation = fold(take(_EVAL, f"{cls}::eval_cpu")[0], has_residual=True)
    evaluation = _cpu(final(_without_scratch(evaluation)))
    includes = {
        "gather_qmm_swiglu": ["<limits>", "<utility>", "<vector>", FOLDER + "activations.h"],
        "gather_qmm_combine": ["<algorithm>", "<limits>", "<utility>", "<vector>"],
        "add_rms_norm": ["<cmath>", "<vector>"],
    }[operation]
    includes += [FOLDER + "expert_arrays.h", "mlx/allocator.h", "mlx/fast_primitives.h"]
    return cpp_file(
        includes,
        "mlx::core",
        in_namespace("cpu", *(host(s) for s in structures), arithmetic),
        in_namespace("fast", evaluation),
    )


def add(change, chosen):
    evaluated = [op for op in EVALUATED if op in chosen]
    if evaluated:
        _experts(change, chosen)
        _arrays(change, chosen)
    if "gather_qmm_swiglu" in chosen:
        change.add_file(FOLDER + "activations.h", stored(FOLDER + "activations.h"))
    for operation, cls in EVALUATED.items():
        if operation in chosen:
            change.add_file(f"{FOLDER}{operation}.cpp", _evaluation(operation, cls))
        change.insert(
            FOLDER + "CMakeLists.txt",
            _list(),
            f"          ${{CMAKE_CURRENT_SOURCE_DIR}}/{operation}.cpp\n",
            (operation,),
        )
        change.insert(
            "mlx/backend/no_cpu/primitives.cpp",
            places.before_namespace_end("fast"),
            f"NO_CPU_MULTI({host(cls)})\n",
            (operation,),
        )

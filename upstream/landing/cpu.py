"""Layer 3 on the CPU: this project's structures, with arithmetic in MLX's SIMD types.

This project's arithmetic is Highway's, which MLX does not have. What takes its place is stored in
`files/`, and sums in the same order.
"""

import re

from . import places
from .change import GATHERING, cpp_file, in_namespace, stored
from .cpp import all_of, take
from .fold import fold
from .graph import EXPERTS_H, INPUTS_H
from .primitive import CLASS_OF, final
from .rewrite import host

FOLDER = "mlx/backend/cpu/"
EVALUATED = ("gather_qmm_swiglu", "add_rms_norm", "gather_qmm_combine")
_EVAL = "src/fast/eval_cpu.cpp"

_INCLUDES = {
    "gather_qmm_swiglu": ["<limits>", "<utility>", "<vector>", FOLDER + "activations.h"],
    "gather_qmm_combine": ["<algorithm>", "<limits>", "<utility>", "<vector>", FOLDER + "lanes.h"],
    "add_rms_norm": ["<algorithm>", "<cmath>", "<vector>", FOLDER + "lanes.h"],
}


def _moved(text):
    """Structures and evaluations, which need no working memory of their own kind here."""
    text = text.replace(", Scratch& scratch)", ")").replace("(args, scratch)", "(args)")
    text = re.sub(r" *MlxScratch scratch;\n", "", text)
    data = r"\1.set_data(mx::allocator::malloc(\1.nbytes()));"
    text = re.sub(r"\ballocate\((\w+)\);", data, text)
    text = re.sub(r"(?<![:\w])size_of\((\w+_type)\)", r"cpu::size_of(\1)", text)
    text = re.sub(r"(?<![:\w])Encoder&", "mx::cpu::CommandEncoder&", text)
    return host(text.replace("mx::cpu::", "cpu::"))


def _split_comment(text):
    comment = "".join(re.findall(r"^//[^\n]*\n", text.split("{")[0], re.M))
    return comment, text[len(comment) :]


def _scalars(change):
    change.add_file(
        FOLDER + "scalars.h",
        cpp_file(
            ["<cstddef>", "<cstdint>"],
            "mlx::core::cpu",
            *(host(t) for t in take("src/cpu/quantized.h", "Scalar", "size_of")),
            stored(FOLDER + "scalars.inc"),
            header=True,
        ),
    )
    for name in ("scalars.cpp", "lanes.h"):
        change.add_file(FOLDER + name, stored(FOLDER + name))


def _experts(change):
    """What the gathering operations share: quantized matrices, and pairs by their experts."""
    groups = ("ExpertGroup", "ExpertGroups", "group_by_expert", "Activations")
    header = [
        *all_of("src/cpu/quantized.h", without=("Scalar", "size_of")),
        *take("src/cpu/expert_groups.h", *groups),
    ]
    change.add_file(
        FOLDER + "experts.h",
        cpp_file(
            ["<vector>", FOLDER + "scalars.h"],
            "mlx::core::cpu",
            *(host(t) for t in header),
            header=True,
        ),
    )
    path = "src/cpu/expert_groups.cpp"
    change.add_file(
        FOLDER + "experts.cpp",
        cpp_file(
            ["<algorithm>", FOLDER + "experts.h"],
            "mlx::core::cpu",
            host(in_namespace("", *take(path, "kMaxGroupRows"))),
            host(take(path, "group_by_expert")[0]),
        ),
    )
    for name in ("expert_product.h", "expert_product.cpp"):
        change.add_file(FOLDER + name, stored(FOLDER + name))


def _arrays(change, chosen):
    """Arrays to the kernels' structures, as `eval_cpu` of each primitive needs them."""
    gathering = bool(set(chosen) & set(GATHERING))
    names = ["scalar_of", "offsets_of"]
    if gathering:
        names += ["format_of", "with_contiguous_rows", "experts_of", "gather", "leading_axes"]
    if "add_rms_norm" in chosen:
        names.append("contiguous_as")
    declarations, definitions = [], []
    for text in take(_EVAL, *names):
        comment, body = _split_comment(_moved(text))
        declarations.append(comment + body.split(" {\n", 1)[0] + ";")
        definitions.append(body)
    own = [FOLDER + "experts.h", EXPERTS_H] if gathering else [FOLDER + "scalars.h", INPUTS_H]
    change.add_file(
        FOLDER + "kernel_arrays.h",
        cpp_file(
            ["<vector>", FOLDER + "encoder.h", *own, "mlx/array.h"],
            "mlx::core::fast",
            *declarations,
            header=True,
        ),
    )
    change.add_file(
        FOLDER + "kernel_arrays.cpp",
        cpp_file(
            ["<cstring>", "<tuple>", "<utility>", FOLDER + "kernel_arrays.h", "mlx/allocator.h"],
            "mlx::core::fast",
            *definitions,
        ),
    )


def _evaluation(operation):
    header = f"src/cpu/{operation}.h"
    structures = all_of(header, without=(operation,))
    comment, _ = _split_comment(_moved(take(header, operation)[0]))
    arithmetic = stored(f"{FOLDER}{operation}.inc")
    arithmetic = arithmetic.replace(f"void {operation}(", f"{comment}void {operation}(", 1)
    evaluation = take(_EVAL, f"{CLASS_OF[operation]}::eval_cpu")[0]
    evaluation = _moved(final(fold(evaluation, has_residual=True)))
    includes = [*_INCLUDES[operation], FOLDER + "kernel_arrays.h", "mlx/allocator.h"]
    if operation in GATHERING:
        includes.append(FOLDER + "expert_product.h")
    else:
        includes.append("mlx/types/half_types.h")
    return cpp_file(
        [*includes, "mlx/fast_primitives.h"],
        "mlx::core",
        in_namespace("cpu", *(host(s) for s in structures), arithmetic),
        in_namespace("fast", evaluation),
    )


def add(change, chosen):
    if set(chosen) & set(EVALUATED):
        _scalars(change)
        _arrays(change, chosen)
    if set(chosen) & set(GATHERING):
        _experts(change)
    if "gather_qmm_swiglu" in chosen:
        change.add_file(FOLDER + "activations.h", stored(FOLDER + "activations.h"))
    listed = [("scalars", EVALUATED), ("kernel_arrays", EVALUATED)]
    listed += [("experts", GATHERING), ("expert_product", GATHERING)]
    for name, owners in [*listed, *((op, (op,)) for op in EVALUATED)]:
        change.insert(
            FOLDER + "CMakeLists.txt",
            places.after_source("target_sources", "encoder.cpp"),
            f"          ${{CMAKE_CURRENT_SOURCE_DIR}}/{name}.cpp\n",
            owners,
        )
    for operation in EVALUATED:
        if operation in chosen:
            change.add_file(f"{FOLDER}{operation}.cpp", _evaluation(operation))
        change.insert(
            "mlx/backend/no_cpu/primitives.cpp",
            places.before_namespace_end("fast"),
            f"NO_CPU_MULTI({host(CLASS_OF[operation])})\n",
            (operation,),
        )

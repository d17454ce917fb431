"""What decides on a GPU whether a kernel takes a call."""

from .cpp import take
from .fold import condition, fold
from .primitive import ARGUMENTS_OF, CLASS_OF
from .rewrite import edit


def _for_backend(text, backend):
    for other in ("cpu", "metal", "cuda"):
        comparison = f"backend == Backend::{other}"
        if comparison in text:
            text = condition(text, comparison, other == backend)
    return text.replace(", Backend backend)", ")").replace(
        ",\n                              Backend backend)", ")"
    )


def _too_old(stream):
    return f"""if (cuda_compute_capability({stream}.device.index) < 80) {{
    return "the GPU is older than compute capability 8.0";
  }}"""


def gathering(operation, backend):
    """`use_fallback` of a gathering operation, and the functions that it calls."""
    name, path = CLASS_OF[operation], f"src/fast/{operation}.cpp"
    helpers = {
        "gather_qmm_swiglu": ["rows_fit", "gpu_call_obstacle"],
        "gather_qmm_combine": [f"{backend}_call_obstacle", "gpu_call_obstacle"],
    }[operation]
    calls = [_for_backend(text, backend) for text in take(path, *helpers)]
    calls[-1] = edit(
        calls[-1],
        ("> options.max_rows", "> kMaxRows"),
        ("more tokens than max_rows", "more tokens than fused kernels take"),
    )
    stream = "s, " if backend == "cuda" else ""
    whole = edit(
        _for_backend(take(path, "obstacle")[0], backend),
        ("const auto backend = backend_of(s);", ""),
        (", options, backend)", ", options)"),
        ("kernel_obstacle(s, ", f"{backend}_obstacle({stream}"),
    )
    if backend == "metal":
        whole = edit(whole, (", const mx::Stream& s) {", ") {"))
    method = f"""bool {name}::use_fallback(const {ARGUMENTS_OF[operation]}& arguments,
    const Options& options, mx::Stream{" s" if stream else ""}) {{
  return !obstacle(arguments, options{", s" if stream else ""}).empty();
}}"""
    return [*calls, whole], method


def add_rms_norm(backend):
    """The same of add_rms_norm."""
    path = "src/fast/add_rms_norm.cpp"
    helpers = []
    if backend == "cuda":
        # What this project's kernels write lies in a pool of its own, which has an end.
        helpers = [
            edit(
                take(path, "cuda_call_obstacle")[0],
                ('if (x.nbytes() > kMaxCudaBytes) return "arrays beyond 1 MiB";', ""),
            )
        ]
    whole = edit(
        take(path, "gpu_obstacle")[0],
        ("const bool metal = backend == Backend::metal;", ""),
        ("Backend backend, bool has_residual,", ""),
    )
    whole = fold(whole, metal=backend == "metal", has_residual=True)
    whole = edit(
        whole,
        (
            f"auto obstacle = {backend}_device_obstacle(s);\n"
            "  if (!obstacle.empty()) return obstacle;",
            "" if backend == "metal" else _too_old("s"),
        ),
    )
    if backend == "metal":
        whole = edit(whole, ("(const mx::Stream& s, ", "("))
    stream = "" if backend == "metal" else "s"
    method = f"""bool AddRmsNorm::use_fallback(
    const std::vector<mx::array>& inputs, mx::Stream {stream}) {{
  return !all_floats(inputs) || !gpu_obstacle({stream}{"," * bool(stream)} inputs).empty();
}}"""
    return [*helpers, whole], method


def moe_route(backend):
    """The same of moe_route."""
    metal = backend == "metal"
    text = edit(
        take("src/fast/moe_route.cpp", "obstacle")[0],
        ("const bool metal = backend_of(s) == Backend::metal;", ""),
        ("> o.max_rows", "> kMaxRows"),
        ("more tokens than max_rows", "more tokens than fused kernels take"),
    )
    text = fold(text, metal=metal)
    text = edit(
        text,
        (f"auto reason = {backend}_device_obstacle(s);\n  if (!reason.empty()) return reason;", ""),
    )
    if metal:
        text = edit(text, ("(const mx::Stream& s, ", "("))
    else:
        text = edit(
            text,
            ("bool has_float16 = false, has_bfloat16 = false;", ""),
            ("has_float16 |= type == mx::float16;", ""),
            ("has_bfloat16 |= type == mx::bfloat16;", ""),
        )
    method = f"""bool MoeRoute::use_fallback(const std::vector<mx::array>& inputs,
    const Options& options, mx::Stream{"" if metal else " s"}) {{
  return !obstacle({"" if metal else "s, "}inputs, options).empty();
}}"""
    return [text], method

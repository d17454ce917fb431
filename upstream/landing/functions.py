"""The public functions with their primitives' methods, which MLX keeps in fast.cpp."""

import re

from .change import in_namespace
from .cpp import take
from .fold import condition, fold
from .primitive import CLASS_OF, derivatives, equivalence, final
from .rewrite import edit, host

_CHECK = ((", int max_rows) {", ") {"), (" check_max_rows(kOp, max_rows);", ""))


def _cpu_obstacle(text):
    """A gathering operation's `obstacle` for the CPU."""
    return edit(
        condition(text, "backend == Backend::cpu", True),
        ("const auto backend = backend_of(s);", ""),
        ("kernel_obstacle(s, ", "cpu_obstacle("),
        (", const mx::Stream& s) {", ") {"),
    )


def _choosing(text, operation, shape):
    """A gathering operation's function, which ends with the choice of a path."""
    name = CLASS_OF[operation]
    begin = text.index("  if (const auto reason = obstacle(")
    text = f"""{text[:begin].rstrip()}
  auto fallback = [options, s](const std::vector<mx::array>& inputs) {{
    return std::vector<mx::array>{{compose(inputs, options, s)}};
  }};
  const bool on_cpu = s.device == mx::Device::cpu;
  if (on_cpu ? !obstacle(arguments, options).empty()
             : {name}::use_fallback(arguments, options, s)) {{
    return fallback(pack(arguments))[0];
  }}
  auto shape = {shape};
  return mx::array(std::move(shape), type,
                   std::make_shared<{name}>(s, fallback, std::move(options)), pack(arguments));
}}"""
    return edit(
        text,
        ('const bool exact = resolve_numerics(kOp, numerics) == "exact";', ""),
        ("const std::string& numerics, int max_rows, ", ""),
        ("transpose, max_rows);", "transpose);"),
    )


def _gathering(operation, path, helpers, shape, changes, vmap_changes, methods=()):
    name = CLASS_OF[operation]
    anonymous = [
        *take(path, *helpers),
        edit(take(path, "check")[0], *_CHECK),
        _cpu_obstacle(take(path, "obstacle")[0]),
        *take(path, "pack", *methods),
    ]
    function = _choosing(take(path, operation)[0], operation, shape)
    return [
        in_namespace("", *anonymous),
        edit(function, *changes),
        *derivatives(operation),
        edit(take(path, f"{name}::vmap")[0], *vmap_changes),
        *take(path, f"{name}::output_shapes"),
        equivalence(operation),
    ]


def _gather_qmm_swiglu():
    return _gathering(
        "gather_qmm_swiglu",
        "src/fast/gather_qmm_swiglu.cpp",
        ("activation_name", "activate", "compose", "output_shape"),
        "output_shape(x, gate_w, rhs, arguments.lhs, options)",
        [("type, exact, max_rows, false};", "type};")],
        [(', options_.exact ? "exact" : "fp32", options_.max_rows, s);', ", s);")],
        ("parse_activation",),
    )


def _gather_qmm_combine():
    return _gathering(
        "gather_qmm_combine",
        "src/fast/gather_qmm_combine.cpp",
        ("pair_shape", "output_shape", "compose"),
        "output_shape(x, w, rhs, weights, options.transpose)",
        [("type, exact, max_rows};", "type};")],
        [(', options_.exact ? "exact" : "fp32", options_.max_rows, s);', ", s);")],
    )


def _add_rms_norm():
    path = "src/fast/add_rms_norm.cpp"
    build = edit(
        take(path, "build")[0],
        ("const char* op, ", ""),
        ("const std::optional<mx::array>& residual", "const mx::array& residual"),
        ("residual ? mx::result_type(x, *residual) : x.dtype()", "mx::result_type(x, residual)"),
        ("residual.has_value(), ", ""),
        ("inputs{x};\n  if (residual) inputs.push_back(*residual);", "inputs{x, residual};"),
        (
            "if (!obstacle(op, s, options.has_residual, inputs).empty()) "
            "return compose(inputs, options, s);",
            """auto fallback = [options, s](const std::vector<mx::array>& inputs) {
    return compose(inputs, options, s);
  };
  // The two outputs of a long prompt are new memory, which takes longer to get than to fill.
  constexpr size_t kMaxCpuBytes = 1 << 20;
  const bool on_cpu = s.device == mx::Device::cpu;
  if (on_cpu ? !all_floats(inputs) || x.nbytes() >= kMaxCpuBytes
             : AddRmsNorm::use_fallback(inputs, s)) {
    return fallback(inputs);
  }""",
        ),
        (
            "std::make_shared<AddRmsNorm>(s, options)",
            "std::make_shared<AddRmsNorm>(s, fallback, options)",
        ),
        (
            "if (!residual) return {mx::array(x.shape(), normed_type, primitive, "
            "std::move(inputs))};",
            "",
        ),
    )
    function = edit(
        take(path, "add_rms_norm")[0],
        ('check("add_rms_norm", ', "check("),
        ('build("add_rms_norm", ', "build("),
    )
    check = edit(
        take(path, "check")[0], ("const char* op, ", ""), ('"[" << op << "] "', '"[add_rms_norm] "')
    )
    vmap = edit(
        take(path, "AddRmsNorm::vmap")[0],
        ("auto residual = options_.has_residual ? std::optional(folded[1]) : std::nullopt;", ""),
        ("build(name(), folded[0], residual, ", "build(folded[0], folded[1], "),
    )
    parts = [
        in_namespace("", check, *take(path, "compose"), build),
        function,
        *derivatives("add_rms_norm"),
        vmap,
        *take(path, "AddRmsNorm::output_shapes"),
        equivalence("add_rms_norm"),
    ]
    return [fold(part, has_residual=True) for part in parts]


def _moe_route():
    path = "src/fast/moe_route.cpp"
    helpers = take(
        path,
        "fail",
        "parse_score",
        "parse_second",
        "check_float",
        "check_arrays",
        "check_options",
        "slice_axis",
        "fill_dropped_groups",
        "choose",
        "compose",
        "result_shape",
    )
    build = edit(
        take(path, "build")[0],
        ('const auto reason = empty ? "nothing to route" : obstacle(s, inputs, o);', ""),
        (
            "detail::note_path({kOp, reason.empty() ? name_of(backend_of(s)) : "
            '"fallback", reason});',
            """auto fallback = [o, s](const std::vector<mx::array>& inputs) {
    return compose(inputs, o, s);
  };""",
        ),
        (
            "if (!reason.empty()) return compose(inputs, o, s);",
            "if (s.device == mx::Device::cpu || MoeRoute::use_fallback(inputs, o, s)) "
            "return fallback(inputs);",
        ),
        ("std::make_shared<MoeRoute>(s, o)", "std::make_shared<MoeRoute>(s, fallback, o)"),
    )
    resolved = take(path, "resolve_route")[0].split("{", 1)[1].rsplit("}", 1)[0]
    resolved = edit(
        resolved,
        ("value_or(logits)", "value_or(logits.dtype())"),
        ("return {parse_score", "MoeRoute::Options options{parse_score"),
        (" has_bias,", " select_bias.has_value(),"),
        (', resolve_numerics(kOp, numerics) == "exact", 32}', "}"),
    ).replace("route.", "")
    function = take(path, "moe_route")[0]
    begin = function.index("  auto options = resolve_route(")
    end = function.index("  check_options(options")
    function = edit(
        function[:begin] + resolved + function[end:],
        ("const std::string& numerics, int max_rows, ", ""),
        ("check_max_rows(kOp, max_rows);", ""),
    )
    vjp, jvp = take(path, "MoeRoute::vjp", "MoeRoute::jvp")
    parts = [
        in_namespace("", *helpers, build),
        function,
        edit(vjp, ("fallback(inputs)[1]", "fallback_(inputs)[1]")),
        jvp,
        *take(path, "MoeRoute::vmap", "MoeRoute::output_shapes"),
        equivalence("moe_route"),
    ]
    return [re.sub(r"\bfail\(", "route_error(", part) for part in parts]


_BLOCKS = {
    "gather_qmm_swiglu": _gather_qmm_swiglu,
    "add_rms_norm": _add_rms_norm,
    "gather_qmm_combine": _gather_qmm_combine,
    "moe_route": _moe_route,
}


def block(operation):
    """What fast.cpp gets for an operation."""
    text = final("\n\n".join(_BLOCKS[operation]()))
    # Each of this project's files has a constant for the operation's name.
    return host(re.sub(r"\bkOp\b", f'"{operation}"', text))

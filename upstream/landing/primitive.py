"""A primitive's class, as MLX derives its own from `fast::Custom`."""

import re

from .cpp import blanked, closing, member, take
from .fold import fold
from .rewrite import edit

CLASS_OF = {
    "gather_qmm_swiglu": "GatherQmmSwiglu",
    "add_rms_norm": "AddRmsNorm",
    "gather_qmm_combine": "GatherQmmCombine",
    "moe_route": "MoeRoute",
}
ARGUMENTS_OF = {
    "gather_qmm_swiglu": "SwigluArguments",
    "gather_qmm_combine": "CombineArguments",
}
USE_FALLBACK = {
    "gather_qmm_swiglu": "const SwigluArguments& arguments, const Options& options, mx::Stream s",
    "gather_qmm_combine": "const CombineArguments& arguments, const Options& options, mx::Stream s",
    "add_rms_norm": "const std::vector<mx::array>& inputs, mx::Stream s",
    "moe_route": "const std::vector<mx::array>& inputs, const Options& options, mx::Stream s",
}
_ENUMERATION_OF = {"gather_qmm_swiglu": "Activation", "moe_route": "RouteScore"}

_EVAL = "const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs"
_VJP = (
    "const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents, "
    "const std::vector<int>& argnums, const std::vector<mx::array>& outputs"
)
_JVP = (
    "const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents, "
    "const std::vector<int>& argnums"
)


def final(text):
    """Without the options that MLX does not get: its primitives have one numerics, "exact"."""
    text = re.sub(r' *config\.flag\("kExact", call\.exact\);\n', "", text)
    text = re.sub(r",\s*(?:bool\s+)?(?:\w+(?:\.|->))*exact\b(?=\s*[,)}])", "", text)
    return fold(text, exact=True, x_is_tokens=False)


def _options(operation, class_text):
    text = fold(member(class_text, "Options"), exact=True, x_is_tokens=False, max_rows=True)
    if operation == "add_rms_norm":
        text = edit(text, ("bool has_residual, has_weight;", "bool has_weight;"))
    return text.strip()


def primitive(operation):
    """The class, with the types that it needs before it."""
    name = CLASS_OF[operation]
    text = take("src/fast/primitives.h", name)[0]
    comment = "".join(re.findall(r"^///[^\n]*\n", text, re.M)[:1])
    comment = (
        edit(comment, ("[residual]", "residual"), (", and with a residual the sum", ", sum"))
        if (operation == "add_rms_norm")
        else comment
    )
    eval_cpu = f"void eval_cpu({_EVAL}) override;"
    if operation == "moe_route":
        eval_cpu = eval_cpu.replace(";", ' { throw std::runtime_error("NYI"); }')
    jvp = "" if operation == "add_rms_norm" else f"std::vector<mx::array> jvp({_JVP}) override;"
    needed = [n for n in (_ENUMERATION_OF.get(operation), ARGUMENTS_OF.get(operation)) if n]
    before = "\n\n".join(take("src/fast/primitives.h", *needed))
    return f"""{before}

{comment}class {name} : public Custom {{
 public:
  {_options(operation, text)}

  {name}(
      mx::Stream stream,
      std::function<std::vector<mx::array>(std::vector<mx::array>)> fallback,
      Options options)
      : Custom(stream, std::move(fallback)), options_(std::move(options)) {{}}

  static bool use_fallback({USE_FALLBACK[operation]});

  {eval_cpu}
  void eval_gpu({_EVAL}) override;

  std::vector<mx::array> vjp({_VJP}) override;
  {jvp}
  {member(text, "vmap").strip()}

  {member(text, "output_shapes").strip()}

  DEFINE_NAME({name})
  bool is_equivalent(const Primitive& other) const override;

 private:
  Options options_;
}};
"""


def _body(text):
    code = blanked(text)
    start = code.index("{", code.index(")"))
    return text[start : closing(code, start) + 1]


def derivatives(operation):
    """vjp and jvp, which most of this project's primitives have from their base."""
    name = CLASS_OF[operation]
    base = take("src/fast/fused_primitive.h", "FusedPrimitive")[0]
    body = edit(_body(member(base, "vjp")), ("fallback(inputs)", "fallback_(inputs)"))
    unused = _VJP.replace(" outputs", "")
    vjp = (
        "// Only by what is asked for: MLX refuses to differentiate by integers.\n"
        f"std::vector<mx::array> {name}::vjp({unused}) {body}"
    )
    if operation == "add_rms_norm":
        return [vjp]
    body = edit(
        _body(member(base, "jvp")),
        ('"[" + std::string(name()) + "] has no', f'"[{operation}] has no'),
    )
    unused = re.sub(r" (?:primals|tangents|argnums)\b", "", _JVP)
    return [vjp, f"std::vector<mx::array> {name}::jvp({unused}) {body}"]


def equivalence(operation):
    name = CLASS_OF[operation]
    return f"""bool {name}::is_equivalent(const Primitive& other) const {{
  return options_ == static_cast<const {name}&>(other).options_;
}}"""

// Elementwise kernels for GPUs, in whatever language.

#include "kernel/emit_body.h"

namespace zmlx::kernel {

namespace {

/// Above this many operations a formula is called, so that its text is compiled once.
constexpr size_t kInlined = 400;

class ElementwiseText {
 public:
  ElementwiseText(const ElementwiseFormula& formula, const ElementwiseForm& form, const Gpu& g)
      : gpu(g), f_(formula), form_(form) {
    text_.inputs = numbered_names("in", form.inputs.size());
    text_.outputs = numbered_names("out", form.outputs.size());
    text_.functions = formula_function(
        formula.tree, formula.roots, formula.types, form.outputs,
        formula.tree.size() > kInlined ? gpu.function_prefix(false) : gpu.function_prefix(true),
        gpu);
  }

  /// A group computes a tile of `vectors` times its threads, all loaded before the first is used;
  /// the last group also what is no whole vector.
  KernelText run() {
    auto& body = text_.body;
    const auto threads = std::to_string(form_.threads), tile = std::to_string(form_.vectors);
    const auto width = std::to_string(form_.width);
    body += "const int whole = size / " + width + ";\n";
    body += "const int first = " + gpu.group() + " * " +
            std::to_string(form_.threads * form_.vectors) + " + " + gpu.thread() + ";\n";
    const auto loop = gpu.unroll() + "for (int u = 0; u < " + tile +
                      "; ++u) {\n  const int i = " + "first + u * " + threads + ";\n";
    for (size_t i = 0; i < form_.inputs.size(); ++i) {
      if (!form_.single[i]) {
        body += gpu.vector(form_.inputs[i], form_.width) + " v" + std::to_string(i) + "[" + tile +
                "];\n";
      }
    }
    body += loop;
    for (size_t i = 0; i < form_.inputs.size(); ++i) {
      if (form_.single[i]) continue;
      body += "  if (i < whole) v" + std::to_string(i) +
              "[u] = " + gpu.vector_at(form_.inputs[i], form_.width, text_.inputs[i], "i", true) +
              ";\n";
    }
    body += "}\n" + loop + "  if (i < whole) {\n";
    vector();
    body += "  }\n}\n";
    if (form_.width > 1) {
      body += "if (" + gpu.group() + " == " + gpu.groups() + " - 1 && " + gpu.thread() +
              " < size % " + width + ") {\n  const int i = whole * " + width + " + " +
              gpu.thread() + ";\n";
      body += element(
          "  ", [&](size_t i) { return text_.inputs[i] + "[i]"; },
          [&](size_t o) { return text_.outputs[o] + "[i]"; });
      body += "}\n";
    }
    return text_;
  }

 private:
  /// Statements for vector u of this thread, number i of all.
  void vector() {
    auto& body = text_.body;
    for (size_t o = 0; o < form_.outputs.size(); ++o) {
      body += "    " + gpu.vector(form_.outputs[o], form_.width) + " w" + std::to_string(o) + ";\n";
    }
    if (form_.width > 1) {
      body +=
          gpu.unroll() + "    for (int j = 0; j < " + std::to_string(form_.width) + "; ++j) {\n";
    }
    body += element(
        "      ",
        [&](size_t i) { return gpu.lane(form_.width, "v" + std::to_string(i) + "[u]", "j"); },
        [&](size_t o) { return gpu.lane(form_.width, "w" + std::to_string(o), "j"); });
    if (form_.width > 1) body += "    }\n";
    for (size_t o = 0; o < form_.outputs.size(); ++o) {
      body += "    " + gpu.vector_at(form_.outputs[o], form_.width, text_.outputs[o], "i", false) +
              " = w" + std::to_string(o) + ";\n";
    }
  }

  /// Statements for one element: `at(input)` is its place, `to(output)` that of a result.
  template <typename At, typename To>
  std::string element(const std::string& indent, const At& at, const To& to) const {
    std::string text, arguments;
    for (size_t i = 0; i < form_.inputs.size(); ++i) {
      const auto place = form_.single[i] ? text_.inputs[i] + "[0]" : at(i);
      arguments += (i ? ", " : "") + gpu.loaded(form_.inputs[i], f_.types[i], place);
    }
    for (size_t o = 0; o < form_.outputs.size(); ++o) {
      const auto name = "y" + std::to_string(o);
      text += indent + gpu.type(value_type(form_.outputs[o])) + " " + name + ";\n";
      arguments += ", " + name;
    }
    text += indent + "formula(" + arguments + ");\n";
    for (size_t o = 0; o < form_.outputs.size(); ++o) {
      text +=
          indent + to(o) + " = " + gpu.stored(form_.outputs[o], "y" + std::to_string(o)) + ";\n";
    }
    return text;
  }

  const Gpu& gpu;
  const ElementwiseFormula& f_;
  const ElementwiseForm& form_;
  KernelText text_;
};

}  // namespace

KernelText elementwise_text(const ElementwiseFormula& formula, const ElementwiseForm& form,
                            const Gpu& gpu) {
  return ElementwiseText(formula, form, gpu).run();
}

}  // namespace zmlx::kernel

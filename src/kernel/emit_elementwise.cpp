// Elementwise kernels for GPUs, in whatever language.

#include <algorithm>

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
    const auto threads = text_of(form_.threads), tile = text_of(form_.vectors);
    const auto width = text_of(form_.width);
    body += "const int whole = size / " + width + ";\n";
    body += "const int first = " + gpu.group() + " * " + text_of(form_.threads * form_.vectors) +
            " + " + gpu.thread() + ";\n";
    if (form_.axes > 1) {
      body += "const int per = n" + text_of(form_.axes - 1) + " / " + width + ";\n";
    }
    const auto loop = gpu.unroll() + "for (int u = 0; u < " + tile +
                      "; ++u) {\n  const int i = " + "first + u * " + threads +
                      ";\n  if (i < whole) {\n";
    for (size_t i = 0; i < form_.inputs.size(); ++i) {
      if (form_.readings[i] == Reading::single) continue;
      body +=
          gpu.vector(form_.inputs[i], loaded_width(i)) + " v" + text_of(i) + "[" + tile + "];\n";
    }
    body += loop;
    load();
    body += "  }\n}\n" + loop;
    vector();
    body += "  }\n}\n";
    // Vectors that divide an axis leave nothing.
    if (form_.width > 1 && form_.axes < 2) {
      body += "if (" + gpu.group() + " == " + gpu.groups() + " - 1 && " + gpu.thread() +
              " < size % " + width + ") {\n  const int i = whole * " + width + " + " +
              gpu.thread() + ";\n";
      body += element(
          "  ", [&](size_t i) { return place(i, "i"); },
          [&](size_t o) { return text_.outputs[o] + "[i]"; });
      body += "}\n";
    }
    return text_;
  }

 private:
  static std::string text_of(size_t number) { return std::to_string(number); }

  int loaded_width(size_t i) const { return form_.readings[i] == Reading::same ? 1 : form_.width; }

  /// Where an input with gaps has the element of coordinates c<axis>; the last is for the caller to
  /// add unless vectors start there.
  std::string offset(size_t i) const {
    std::string sum = "o" + text_of(i);
    for (int axis = 0; axis < form_.axes; ++axis) {
      const auto coordinate = "c" + text_of(axis);
      if (axis + 1 == form_.axes && form_.readings[i] == Reading::same) break;
      sum += " + " + coordinate;
      if (axis + 1 == form_.axes && form_.readings[i] == Reading::run) break;
      sum += " * s" + text_of(i) + "_" + text_of(axis);
    }
    return sum;
  }

  /// An input's element of an index, where there is one axis at most.
  std::string place(size_t i, const std::string& index) const {
    const auto number = text_of(i);
    switch (form_.readings[i]) {
      case Reading::run:
        return text_.inputs[i] + "[o" + number + " + " + index + "]";
      case Reading::same:
        return text_.inputs[i] + "[o" + number + "]";
      case Reading::gathered:
        return text_.inputs[i] + "[o" + number + " + " + index + " * s" + number + "_0]";
      default:
        return text_.inputs[i] + "[" + index + "]";
    }
  }

  /// Coordinates of the first element of vector i, as far as they are needed.
  std::string coordinates() const {
    if (form_.axes == 0) return "";
    const auto last = "    const int c" + text_of(form_.axes - 1) + " = ";
    const auto width = text_of(form_.width);
    const bool moves = std::any_of(
        form_.readings.begin(), form_.readings.end(),
        [](Reading reading) { return reading == Reading::run || reading == Reading::gathered; });
    if (form_.axes == 1) return moves ? last + "i * " + width + ";\n" : "";
    std::string text = "    int rest = i / per;\n";
    if (moves) text += last + "(i - rest * per) * " + width + ";\n";
    for (int axis = form_.axes - 2; axis > 0; --axis) {
      const auto length = "n" + text_of(axis);
      text += "    const int c" + text_of(axis) + " = rest % " + length +
              ";\n    rest /= " + length + ";\n";
    }
    return text + "    const int c0 = rest;\n";
  }

  /// Statements that load vector i of all as number u of this thread.
  void load() {
    auto& body = text_.body;
    body += coordinates();
    for (size_t i = 0; i < form_.inputs.size(); ++i) {
      const auto reading = form_.readings[i];
      if (reading == Reading::single) continue;
      const auto number = text_of(i), to = "v" + number + "[u]";
      if (reading == Reading::gathered) {
        const auto last = "s" + number + "_" + text_of(form_.axes - 1);
        body += "    const int at" + number + " = " + offset(i) + ";\n";
        if (form_.width == 1) {
          body += "    " + to + " = " + text_.inputs[i] + "[at" + number + "];\n";
        } else {
          body += gpu.unroll() + "    for (int j = 0; j < " + text_of(form_.width) + "; ++j) {\n" +
                  "      " + gpu.lane(form_.width, to, "j") + " = " + text_.inputs[i] + "[at" +
                  number + " + j * " + last + "];\n    }\n";
        }
        continue;
      }
      const auto pointer = reading == Reading::run && form_.width > 1
                               ? text_.inputs[i] + " + " + offset(i)
                               : text_.inputs[i];
      const auto index = reading == Reading::whole                    ? std::string("i")
                         : reading == Reading::run && form_.width > 1 ? std::string("0")
                                                                      : offset(i);
      body += "    " + to + " = " +
              gpu.vector_at(form_.inputs[i], loaded_width(i), pointer, index, true) + ";\n";
    }
  }

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
        [&](size_t i) { return gpu.lane(loaded_width(i), "v" + text_of(i) + "[u]", "j"); },
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
      const auto place = form_.readings[i] == Reading::single ? text_.inputs[i] + "[0]" : at(i);
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

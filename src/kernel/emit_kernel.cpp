// The bodies of kernels for GPUs, in whatever language.

#include <algorithm>

#include "kernel/emit_body.h"

namespace zmlx::kernel {

namespace {

std::string text_of(int64_t number) { return std::to_string(number); }

/// Statements for one element: `at(input)` is its place in memory, `to(output)` that of a result.
template <typename At, typename To>
std::string element(const Gpu& gpu, const std::vector<Storage>& inputs,
                    const std::vector<Type>& types, const std::vector<Storage>& outputs,
                    const std::string& indent, const At& at, const To& to) {
  std::string text, arguments;
  for (size_t o = 0; o < outputs.size(); ++o) {
    text += indent + gpu.type(value_type(outputs[o])) + " y" + text_of(o) + ";\n";
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    arguments += (i ? ", " : "") + gpu.loaded(inputs[i], types[i], at(i));
  }
  for (size_t o = 0; o < outputs.size(); ++o) arguments += ", y" + text_of(o);
  text += indent + "formula(" + arguments + ");\n";
  for (size_t o = 0; o < outputs.size(); ++o) {
    text += indent + to(o) + " = " + gpu.stored(outputs[o], "y" + text_of(o)) + ";\n";
  }
  return text;
}

}  // namespace

KernelText elementwise_text(const ElementwiseFormula& formula, const ElementwiseForm& form,
                            const Gpu& gpu) {
  const size_t inputs = form.inputs.size(), outputs = form.outputs.size();
  KernelText text;
  text.inputs = numbered_names("in", inputs);
  text.outputs = numbered_names("out", outputs);
  text.functions = formula_function(formula.tree, formula.roots, formula.types, form.outputs, gpu);
  const auto single = [&](size_t i) { return text.inputs[i] + "[0]"; };
  std::string& body = text.body;
  body = "const int stride = " + gpu.all_threads() + ";\nconst int first = " + gpu.thread_of_all() +
         ";\n";
  if (form.vectors) {
    body += "for (int i = first; i < size / 4; i += stride) {\n";
    for (size_t i = 0; i < inputs; ++i) {
      if (form.single[i]) continue;
      body += "  const " + gpu.vector(form.inputs[i]) + " v" + text_of(i) + " = " +
              gpu.vector_at(form.inputs[i], text.inputs[i], "i", true) + ";\n";
    }
    for (size_t o = 0; o < outputs; ++o) {
      body += "  " + gpu.vector(form.outputs[o]) + " w" + text_of(o) + ";\n";
    }
    body += gpu.unroll() + "  for (int j = 0; j < 4; ++j) {\n";
    body += element(
        gpu, form.inputs, formula.types, form.outputs, "    ",
        [&](size_t i) { return form.single[i] ? single(i) : gpu.lane("v" + text_of(i), "j"); },
        [&](size_t o) { return gpu.lane("w" + text_of(o), "j"); });
    body += "  }\n";
    for (size_t o = 0; o < outputs; ++o) {
      body += "  " + gpu.vector_at(form.outputs[o], text.outputs[o], "i", false) + " = w" +
              text_of(o) + ";\n";
    }
    body += "}\n";
  }
  const std::string begin = form.vectors ? "size / 4 * 4 + first" : std::string("first");
  body += "for (int i = " + begin + "; i < size; i += stride) {\n";
  body += element(
      gpu, form.inputs, formula.types, form.outputs, "  ",
      [&](size_t i) { return form.single[i] ? single(i) : text.inputs[i] + "[i]"; },
      [&](size_t o) { return text.outputs[o] + "[i]"; });
  body += "}\n";
  return text;
}

namespace {

/// Writes the body of a row kernel: a block walks a row, or in order a thread does.
class RowText {
 public:
  RowText(const RowFormula& formula, const RowForm& form, const Gpu& g)
      : gpu(g),
        f_(formula),
        form_(form),
        names_(row_variables(formula)),
        ordered_(in_order(formula)) {
    text_.inputs = numbered_names("in", form.inputs.size());
    text_.outputs = numbered_names("out", form.outputs.size());
    text_.functions = combine_functions(formula, gpu);
  }

  KernelText run() {
    auto& body = text_.body;
    if (!ordered_) {
      for (auto type : {Type::int32, Type::uint32, Type::float32}) {
        if (uses(type)) {
          body += gpu.shared_memory() + gpu.type(type) + " " + shared(type) + "[32];\n";
        }
      }
    }
    body += "for (int row = " + (ordered_ ? gpu.thread_of_all() : gpu.group()) +
            "; row < rows; row += " + (ordered_ ? gpu.all_threads() : gpu.groups()) + ") {\n";
    body += "  const " + gpu.wide_int() + " base = static_cast<" + gpu.wide_int() +
            ">(row) * length;\n";
    for (size_t n = 0; n < form_.inputs.size(); ++n) {
      if (f_.per_row[n]) {
        body += "  const " + type_of(f_.types[n]) + " " + names_[n] + " = " +
                gpu.loaded(form_.inputs[n], f_.types[n], text_.inputs[n] + "[row]") + ";\n";
      }
    }
    for (const auto& group : pass_groups(f_)) passes(group);
    elements();
    rows();
    body += "}\n";
    return text_;
  }

 private:
  std::string type_of(Type type) const { return gpu.type(type); }
  std::string shared(Type type) const {
    return std::string("shared_") + (type == Type::float32 ? "float"
                                     : type == Type::int32 ? "int"
                                                           : "uint");
  }
  bool uses(Type type) const {
    for (const auto& pass : f_.passes) {
      if (pass.type == type) return true;
    }
    return false;
  }

  /// A loop over the row's elements; `each` are the statements, with inputs as x<n> and the index
  /// j.
  std::string loop(const std::string& each) const {
    const std::string start = ordered_ ? "0" : gpu.thread(), step = ordered_ ? "1" : gpu.threads();
    std::string reads;
    const bool vectors = form_.vectors && !ordered_;
    for (size_t n = 0; n < form_.inputs.size(); ++n) {
      if (f_.per_row[n]) continue;
      const auto place = vectors ? gpu.lane("v" + text_of(n), "k") : text_.inputs[n] + "[base + j]";
      reads += "      const " + type_of(f_.types[n]) + " " + names_[n] + " = " +
               gpu.loaded(form_.inputs[n], f_.types[n], place) + ";\n";
    }
    if (!vectors) {
      return "  for (int j = " + start + "; j < length; j += " + step + ") {\n" + reads + each +
             "  }\n";
    }
    std::string text = "  for (int q = " + start + "; q < length / 4; q += " + step + ") {\n";
    for (size_t n = 0; n < form_.inputs.size(); ++n) {
      if (f_.per_row[n]) continue;
      text += "    const " + gpu.vector(form_.inputs[n]) + " v" + text_of(n) + " = " +
              gpu.vector_at(form_.inputs[n], text_.inputs[n] + " + base", "q", true) + ";\n";
    }
    text += before_vector_ + gpu.unroll() + "    for (int k = 0; k < 4; ++k) {\n" + reads + each +
            "    }\n" + after_vector_ + "  }\n";
    return text;
  }

  void passes(const std::vector<size_t>& group) {
    auto& body = text_.body;
    Tree tree = f_.tree;
    std::vector<NodeId> roots;
    for (size_t k : group) {
      const auto& pass = f_.passes[k];
      body += "  " + type_of(pass.type) + " acc" + text_of(k) + " = " +
              gpu.number(ordered_ ? pass.init : start_of(pass), pass.type) + ";\n";
      roots.push_back(pass.op ? pass.element : pass.update);
    }
    const auto printed = print(tree, roots, names_, gpu, "t", "      ");
    std::string each = printed.statements;
    for (size_t i = 0; i < group.size(); ++i) {
      const auto acc = "acc" + text_of(group[i]);
      each += "      " + acc + " = " +
              (f_.passes[group[i]].op
                   ? "combine" + text_of(group[i]) + "(" + acc + ", " + printed.results[i] + ")"
                   : printed.results[i]) +
              ";\n";
    }
    body += loop(each);
    for (size_t k : group) result(k);
  }

  void result(size_t k) {
    const auto& pass = f_.passes[k];
    const auto number = text_of(k), type = type_of(pass.type);
    std::string value = "acc" + number;
    if (!ordered_) {
      text_.body += gpu.reduce("acc" + number, gpu.number(start_of(pass), pass.type),
                               shared(pass.type), type, "combine" + number, "  ");
      if (pass.op && pass.init != start_of(pass)) {
        value = "combine" + number + "(" + gpu.number(pass.init, pass.type) + ", " + value + ")";
      }
    }
    text_.body += "  const " + type + " s" + number + " = " + value + ";\n";
  }

  void elements() {
    Tree tree = f_.tree;
    std::vector<NodeId> roots;
    std::vector<size_t> which;
    for (size_t o = 0; o < f_.outputs.size(); ++o) {
      if (f_.outputs[o].per_row) continue;
      roots.push_back(tree.cast(f_.outputs[o].root, value_type(form_.outputs[o])));
      which.push_back(o);
    }
    if (which.empty()) return;
    const auto printed = print(tree, roots, names_, gpu, "t", "      ");
    std::string each = printed.statements;
    const bool vectors = form_.vectors && !ordered_;
    for (size_t i = 0; i < which.size(); ++i) {
      const auto o = which[i];
      const auto type = gpu.vector(form_.outputs[o]);
      each += "      " +
              (vectors ? gpu.lane("w" + text_of(o), "k") : text_.outputs[o] + "[base + j]") +
              " = " + gpu.stored(form_.outputs[o], printed.results[i]) + ";\n";
      before_vector_ += "    " + type + " w" + text_of(o) + ";\n";
      after_vector_ += "    " +
                       gpu.vector_at(form_.outputs[o], text_.outputs[o] + " + base", "q", false) +
                       " = w" + text_of(o) + ";\n";
    }
    text_.body += loop(each);
    before_vector_.clear();
    after_vector_.clear();
  }

  void rows() {
    Tree tree = f_.tree;
    for (size_t o = 0; o < f_.outputs.size(); ++o) {
      if (!f_.outputs[o].per_row) continue;
      const NodeId root = tree.cast(f_.outputs[o].root, value_type(form_.outputs[o]));
      const auto printed = print(tree, {root}, names_, gpu, "r" + text_of(o) + "_", "    ");
      text_.body += "  " + (ordered_ ? "{\n" : "if (" + gpu.thread() + " == 0) {\n") +
                    printed.statements + "    " + text_.outputs[o] +
                    "[row] = " + gpu.stored(form_.outputs[o], printed.results[0]) + ";\n  }\n";
    }
  }

  const Gpu& gpu;
  const RowFormula& f_;
  const RowForm& form_;
  const std::vector<std::string> names_;
  const bool ordered_;
  KernelText text_;
  std::string before_vector_, after_vector_;
};

}  // namespace

KernelText rows_text(const RowFormula& formula, const RowForm& form, const Gpu& gpu) {
  return RowText(formula, form, gpu).run();
}

}  // namespace zmlx::kernel

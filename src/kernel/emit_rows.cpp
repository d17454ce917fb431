// Row kernels for GPUs, in whatever language.

#include <algorithm>
#include <cctype>

#include "kernel/emit_body.h"

namespace zmlx::kernel {

namespace {

/// Whether a text has an identifier in it.
bool mentions(const std::string& text, const std::string& name) {
  const auto part_of_name = [&](size_t i) {
    return i < text.size() && (std::isalnum(static_cast<unsigned char>(text[i])) || text[i] == '_');
  };
  for (auto at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    if (!(at > 0 && part_of_name(at - 1)) && !part_of_name(at + name.size())) return true;
  }
  return false;
}

/// Writes the body of a row kernel: 32 threads or a group walk a row, or in order a thread does.
/// What a thread holds of its row is loaded once, before anything is computed.
class RowText {
 public:
  RowText(const RowFormula& formula, const RowForm& form, const Gpu& g)
      : gpu(g),
        f_(formula),
        form_(form),
        tree_(formula.tree),
        names_(row_variables(formula)),
        ordered_(in_order(formula)),
        width_(ordered_ ? 1 : form.width),
        held_(ordered_ ? 0 : form.held) {
    text_.inputs = numbered_names("in", form.inputs.size());
    text_.outputs = numbered_names("out", form.outputs.size());
    text_.functions = combine_functions(formula, gpu);
    find_steps();
  }

  KernelText run() {
    auto& body = text_.body;
    for (size_t k = 0; k < f_.passes.size() && many_simdgroups(); ++k) {
      body += gpu.shared_memory() + type_of(f_.passes[k].type) + " shared" + text_of(k) + "[" +
              text_of(form_.lanes / 32) + "];\n";
    }
    rows_loop();
    body += "  const " + gpu.wide_int() + " base = static_cast<" + gpu.wide_int() +
            ">(row) * length;\n";
    for (size_t n = 0; n < form_.inputs.size(); ++n) {
      if (f_.per_row[n]) {
        body += "  const " + type_of(f_.types[n]) + " " + names_[n] + " = " +
                gpu.loaded(form_.inputs[n], f_.types[n], text_.inputs[n] + "[row]") + ";\n";
      }
    }
    if (held_ > 0) hold();
    for (size_t step = 0; step < groups_.size(); ++step) passes(step);
    elements();
    rows();
    // With two passes or more the barriers of one guard the memory of another.
    if (many_simdgroups() && f_.passes.size() == 1) body += "  " + gpu.barrier() + "\n";
    body += "}\n";
    return text_;
  }

 private:
  static std::string text_of(int64_t number) { return std::to_string(number); }
  std::string type_of(Type type) const { return gpu.type(type); }
  bool many_simdgroups() const { return !ordered_ && form_.lanes > 32; }

  /// The roots of each walk over a row, the last that of the outputs; and what is kept of one for
  /// later ones.
  void find_steps() {
    groups_ = pass_groups(f_);
    for (const auto& group : groups_) {
      auto& roots = steps_.emplace_back();
      for (size_t k : group) {
        roots.push_back(f_.passes[k].op ? f_.passes[k].element : f_.passes[k].update);
      }
    }
    auto& roots = steps_.emplace_back();
    for (size_t o = 0; o < f_.outputs.size(); ++o) {
      if (f_.outputs[o].per_row) continue;
      roots.push_back(tree_.cast(f_.outputs[o].root, value_type(form_.outputs[o])));
      element_outputs_.push_back(o);
    }
    varies_ = varies_along_rows(f_, tree_);
    if (held_ > 0) kept_ = shared_nodes(f_, tree_, steps_, kMostKept);
  }

  void rows_loop() {
    const auto lanes = text_of(form_.lanes), rows = text_of(form_.rows);
    const auto threads = text_of(form_.threads());
    std::string first = gpu.group(), step = gpu.groups();
    if (ordered_) {
      first += " * " + threads + " + " + gpu.thread();
      step += " * " + threads;
    } else if (form_.rows > 1) {
      first += " * " + rows + " + " + gpu.thread() + " / " + lanes;
      step += " * " + rows;
    }
    if (!ordered_) {
      text_.body += "const int lane = " + gpu.thread() +
                    (form_.rows > 1 ? " % " + lanes : std::string()) + ";\n";
    }
    text_.body += "for (int row = " + first + "; row < rows; row += " + step + ") {\n";
  }

  void hold() {
    auto& body = text_.body;
    for (size_t n = 0; n < form_.inputs.size(); ++n) {
      if (f_.per_row[n]) continue;
      body += "  " + gpu.vector(form_.inputs[n], width_) + " v" + text_of(n) + "[" +
              text_of(held_) + "];\n";
    }
    for (size_t i = 0; i < kept_.size(); ++i) {
      body += "  " + type_of(tree_.type(kept_[i].first)) + " kept" + text_of(i) + "[" +
              text_of(held_ * width_) + "];\n";
    }
    std::string loads;
    for (size_t n = 0; n < form_.inputs.size(); ++n) {
      if (f_.per_row[n]) continue;
      loads += "    v" + text_of(n) +
               "[u] = " + vector_of_row(form_.inputs[n], text_.inputs[n], true) + ";\n";
    }
    body += held_loop(loads);
  }

  std::string vector_of_row(Storage storage, const std::string& pointer, bool read) const {
    return gpu.vector_at(storage, width_, pointer + " + base", "q", read);
  }

  /// A loop over the vectors that a thread holds, u, which are number q of the row.
  std::string held_loop(const std::string& each) const {
    const auto length = width_ == 1 ? std::string("length") : "length / " + text_of(width_);
    std::string text = gpu.unroll() + "  for (int u = 0; u < " + text_of(held_) + "; ++u) {\n";
    const auto inner = (form_.whole ? "" : "    if (q >= " + length + ") break;\n") + each;
    if (mentions(inner, "q")) {
      text += "    const int q = lane + u * " + text_of(form_.lanes) + ";\n";
    }
    return text + inner + "  }\n";
  }

  /// A loop over the row's elements with the statements `each`; inputs are x<n>.
  std::string loop(const std::string& each, const std::string& before, const std::string& after) {
    std::string reads, loads;
    for (size_t n = 0; n < form_.inputs.size(); ++n) {
      if (f_.per_row[n] || !mentions(each, names_[n])) continue;
      const auto name = "v" + text_of(n) + (held_ > 0 ? "[u]" : "");
      reads += "      const " + type_of(f_.types[n]) + " " + names_[n] + " = " +
               gpu.loaded(form_.inputs[n], f_.types[n], gpu.lane(width_, name, "k")) + ";\n";
      loads += "    const " + gpu.vector(form_.inputs[n], width_) + " " + name + " = " +
               vector_of_row(form_.inputs[n], text_.inputs[n], true) + ";\n";
    }
    std::string inner = before;
    if (width_ > 1) {
      inner += gpu.unroll() + "    for (int k = 0; k < " + text_of(width_) + "; ++k) {\n" + reads +
               each + "    }\n";
    } else {
      inner += reads + each;
    }
    inner += after;
    if (held_ > 0) return held_loop(inner);
    const auto length = width_ == 1 ? std::string("length") : "length / " + text_of(width_);
    const auto first = ordered_ ? std::string("0") : "lane";
    return "  for (int q = " + first + "; q < " + length +
           "; q += " + text_of(ordered_ ? 1 : form_.lanes) + ") {\n" + loads + inner + "  }\n";
  }

  /// What a step's statements may take as known: kept expressions, and what is the same for all of
  /// the row's elements, which is computed here, before the loop.
  Known known_before(size_t step) {
    Known known;
    for (size_t i = 0; i < kept_.size(); ++i) {
      if (kept_[i].second < step) known.values[kept_[i].first] = kept_name(i);
    }
    std::vector<bool> needed(tree_.size(), false);
    std::vector<NodeId> uniform, divisors;
    const auto need = [&](NodeId id) {
      needed[id] = varies_[id];
      if (!varies_[id] && arity(tree_[id].op) > 0) uniform.push_back(id);
    };
    for (NodeId id : steps_[step]) need(id);
    for (auto id = static_cast<NodeId>(tree_.size()) - 1; id >= 0; --id) {
      if (!needed[id] || known.values.contains(id)) continue;
      const Node& node = tree_[id];
      for (int i = 0; i < arity(node.op); ++i) {
        const bool divisor =
            i == 1 && node.op == Op::divide && node.type == Type::float32 && !varies_[node.args[1]];
        need(node.args[i]);
        if (divisor) divisors.push_back(node.args[1]);
      }
    }
    hoist(step, uniform, divisors, known);
    return known;
  }

  void hoist(size_t step, const std::vector<NodeId>& uniform, const std::vector<NodeId>& divisors,
             Known& known) {
    const auto number = text_of(step);
    const auto printed = print(tree_, uniform, names_, gpu, "h" + number + "_", "  ");
    text_.body += printed.statements;
    for (size_t i = 0; i < uniform.size(); ++i) {
      if (known.values.contains(uniform[i])) continue;
      const auto name = "u" + number + "_" + text_of(i);
      text_.body += "  const " + type_of(tree_.type(uniform[i])) + " " + name + " = " +
                    printed.results[i] + ";\n";
      known.values[uniform[i]] = name;
    }
    for (NodeId id : divisors) {
      if (known.divisors.contains(id)) continue;
      const auto name = "d" + number + "_" + text_of(known.divisors.size());
      const auto value = known.values.contains(id)
                             ? known.values[id]
                             : print(tree_, {id}, names_, gpu, "t", "").results[0];
      text_.body +=
          "  const " + gpu.divisor_type() + " " + name + " = " + gpu.divisor(value) + ";\n";
      known.divisors[id] = name;
    }
  }

  std::string kept_name(size_t i) const {
    return "kept" + text_of(i) +
           (width_ > 1 ? "[u * " + text_of(width_) + " + k]" : std::string("[u]"));
  }

  /// Prints a step's roots and, behind them, what is kept of it.
  Printed print_step(size_t step) {
    const auto known = known_before(step);
    auto roots = steps_[step];
    std::vector<size_t> kept;
    for (size_t i = 0; i < kept_.size(); ++i) {
      if (kept_[i].second != step) continue;
      kept.push_back(i);
      roots.push_back(kept_[i].first);
    }
    auto printed = print(tree_, roots, names_, gpu, "t", "      ", known);
    for (size_t i = 0; i < kept.size(); ++i) {
      const auto& value = printed.results[steps_[step].size() + i];
      printed.statements += "      " + kept_name(kept[i]) + " = " + value + ";\n";
    }
    return printed;
  }

  void passes(size_t step) {
    auto& body = text_.body;
    const auto& group = groups_[step];
    for (size_t k : group) {
      const auto& pass = f_.passes[k];
      body += "  " + type_of(pass.type) + " acc" + text_of(k) + " = " +
              gpu.number(ordered_ ? pass.init : start_of(pass), pass.type) + ";\n";
    }
    const auto printed = print_step(step);
    std::string each = printed.statements;
    for (size_t i = 0; i < group.size(); ++i) {
      const auto acc = "acc" + text_of(group[i]);
      each += "      " + acc + " = " +
              (f_.passes[group[i]].op
                   ? "combine" + text_of(group[i]) + "(" + acc + ", " + printed.results[i] + ")"
                   : printed.results[i]) +
              ";\n";
    }
    body += loop(each, "", "");
    for (size_t k : group) result(k);
  }

  void result(size_t k) {
    const auto& pass = f_.passes[k];
    const auto number = text_of(k);
    std::string value = "acc" + number;
    if (!ordered_) {
      text_.body += gpu.reduce(value, "shared" + number, form_.lanes, "combine" + number, "  ");
      if (pass.op && pass.init != start_of(pass)) {
        value = "combine" + number + "(" + gpu.number(pass.init, pass.type) + ", " + value + ")";
      }
    }
    text_.body += "  const " + type_of(pass.type) + " s" + number + " = " + value + ";\n";
  }

  void elements() {
    if (element_outputs_.empty()) return;
    const auto printed = print_step(groups_.size());
    std::string each = printed.statements, before, after;
    for (size_t i = 0; i < element_outputs_.size(); ++i) {
      const auto storage = form_.outputs[element_outputs_[i]];
      const auto number = text_of(element_outputs_[i]);
      each += "      " + gpu.lane(width_, "w" + number, "k") + " = " +
              gpu.stored(storage, printed.results[i]) + ";\n";
      before += "    " + gpu.vector(storage, width_) + " w" + number + ";\n";
      after += "    " + vector_of_row(storage, text_.outputs[element_outputs_[i]], false) + " = w" +
               number + ";\n";
    }
    text_.body += loop(each, before, after);
  }

  void rows() {
    for (size_t o = 0; o < f_.outputs.size(); ++o) {
      if (!f_.outputs[o].per_row) continue;
      Tree tree = f_.tree;
      const NodeId root = tree.cast(f_.outputs[o].root, value_type(form_.outputs[o]));
      const auto printed = print(tree, {root}, names_, gpu, "r" + text_of(o) + "_", "    ");
      text_.body += std::string("  ") + (ordered_ ? "{\n" : "if (lane == 0) {\n") +
                    printed.statements + "    " + text_.outputs[o] +
                    "[row] = " + gpu.stored(form_.outputs[o], printed.results[0]) + ";\n  }\n";
    }
  }

  const Gpu& gpu;
  const RowFormula& f_;
  const RowForm& form_;
  Tree tree_;
  const std::vector<std::string> names_;
  const bool ordered_;
  const int width_, held_;
  std::vector<std::vector<size_t>> groups_;  ///< passes, by the walk that they are part of
  std::vector<std::vector<NodeId>> steps_;
  std::vector<size_t> element_outputs_;
  std::vector<bool> varies_;
  std::vector<std::pair<NodeId, size_t>> kept_;
  KernelText text_;
};

}  // namespace

KernelText rows_text(const RowFormula& formula, const RowForm& form, const Gpu& gpu) {
  return RowText(formula, form, gpu).run();
}

}  // namespace zmlx::kernel

#include "kernel/emit_body.h"

#include <algorithm>

namespace zmlx::kernel {

std::vector<std::string> numbered_names(const char* letter, size_t count) {
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) names.push_back(letter + std::to_string(i));
  return names;
}

std::string Gpu::vector(Storage storage, int width) const {
  return width == 1 ? memory_type(storage) : vector_type(memory_type(storage), width);
}

std::string Gpu::vector_at(Storage storage, int width, const std::string& pointer,
                           const std::string& index, bool read) const {
  if (width == 1) return "(" + pointer + ")[" + index + "]";
  return "reinterpret_cast<" + std::string(read ? "const " : "") + address_space() +
         vector(storage, width) + "*>(" + pointer + ")[" + index + "]";
}

std::string Gpu::lane(int width, const std::string& vector, const std::string& index) const {
  return width == 1 ? vector : lane_of(vector, index);
}

Type value_type(Storage storage) {
  if (storage == Storage::i32) return Type::int32;
  return storage == Storage::u32 ? Type::uint32 : Type::float32;
}

std::string formula_function(const Tree& tree, const std::vector<NodeId>& roots,
                             const std::vector<Type>& types, const std::vector<Storage>& outputs,
                             const std::string& prefix, const Gpu& gpu) {
  const auto names = numbered_names("x", types.size());
  std::string parameters;
  for (size_t i = 0; i < types.size(); ++i) {
    parameters += std::string(i ? ", " : "") + gpu.type(types[i]) + " " + names[i];
  }
  Tree typed = tree;
  std::vector<NodeId> cast;
  for (size_t o = 0; o < roots.size(); ++o) {
    const Type type = value_type(outputs[o]);
    cast.push_back(typed.cast(roots[o], type));
    parameters += ", " + gpu.reference(type) + " y" + std::to_string(o);
  }
  const auto printed = print(typed, cast, names, gpu, "t", "  ");
  std::string text = prefix + "void formula(" + parameters + ") {\n" + printed.statements;
  for (size_t o = 0; o < roots.size(); ++o) {
    text += "  y" + std::to_string(o) + " = " + printed.results[o] + ";\n";
  }
  return text + "}\n";
}

std::vector<std::vector<size_t>> pass_groups(const RowFormula& formula) {
  std::vector<std::vector<size_t>> groups;
  const auto levels = pass_levels(formula);
  for (size_t k = 0; k < levels.size(); ++k) {
    if (static_cast<size_t>(levels[k]) >= groups.size()) groups.resize(levels[k] + 1);
    groups[levels[k]].push_back(k);
  }
  return groups;
}

bool in_order(const RowFormula& formula) {
  return std::any_of(formula.passes.begin(), formula.passes.end(),
                     [](const Pass& pass) { return !pass.op && pass.combine < 0; });
}

std::string combine_functions(const RowFormula& formula, const Gpu& gpu) {
  std::string text;
  for (size_t k = 0; k < formula.passes.size(); ++k) {
    const auto& pass = formula.passes[k];
    if (!pass.op && pass.combine < 0) continue;
    Tree tree = formula.tree;
    std::vector<std::string> names(formula.variables());
    names[formula.left(k)] = "a";
    names[formula.right(k)] = "b";
    const NodeId root = pass.op ? tree.make(*pass.op, tree.variable(formula.left(k), pass.type),
                                            tree.variable(formula.right(k), pass.type))
                                : pass.combine;
    const std::string type = gpu.type(pass.type);
    const auto printed = print(tree, {root}, names, gpu, "t", "  ");
    text += gpu.function_prefix(true) + type + " combine" + std::to_string(k) + "(" + type +
            " a, " + type + " b) {\n" + printed.statements + "  return " + printed.results[0] +
            ";\n}\n";
  }
  return text;
}

double start_of(const Pass& pass) { return pass.op ? identity_of(*pass.op, pass.type) : pass.init; }

std::vector<std::string> row_variables(const RowFormula& formula) {
  auto names = numbered_names("x", formula.names.size());
  for (size_t k = 0; k < formula.passes.size(); ++k) {
    const auto number = std::to_string(k);
    names.insert(names.end(), {"s" + number, "acc" + number, "a" + number, "b" + number});
  }
  return names;
}

}  // namespace zmlx::kernel

#include "kernel/row_plan.h"

#include <algorithm>

namespace zmlx::kernel {

namespace {

bool is_function(Op op) {
  return (op >= Op::power && op <= Op::softplus && op != Op::copy_sign) || op == Op::divide;
}

/// The nodes that an evaluation of `roots` computes for each element.
std::vector<bool> varying_nodes(const RowFormula& formula, const Tree& tree,
                                const std::vector<NodeId>& roots) {
  auto needed = reachable(tree, roots);
  const auto varies = varies_along_rows(formula, tree);
  for (size_t id = 0; id < tree.size(); ++id) needed[id] = needed[id] && varies[id];
  return needed;
}

class Planner {
 public:
  Planner(const RowFormula& formula, const std::vector<Type>& stored)
      : formula_(formula), stored_(stored), tree_(formula.tree) {
    for (bool row : formula.per_row) varying_.push_back(!row);
    varying_.resize(formula.variables(), false);
  }

  RowPlan run() {
    plan_.first_buffer = static_cast<int>(formula_.variables());
    const auto levels = pass_levels(formula_);
    const int last = levels.empty() ? -1 : *std::max_element(levels.begin(), levels.end());
    std::vector<std::vector<NodeId>> steps;
    for (int level = 0; level <= last; ++level) {
      Sweep sweep;
      std::vector<NodeId> roots;
      for (size_t k = 0; k < levels.size(); ++k) {
        if (levels[k] != level) continue;
        sweep.passes.push_back(k);
        roots.push_back(formula_.passes[k].element);
      }
      steps.push_back(roots);
      plan_.sweeps.push_back(std::move(sweep));
    }
    std::vector<NodeId> element_roots, row_roots;
    for (size_t o = 0; o < formula_.outputs.size(); ++o) {
      const auto& output = formula_.outputs[o];
      (output.per_row ? row_roots : element_roots).push_back(tree_.cast(output.root, stored_[o]));
      (output.per_row ? plan_.row_outputs : plan_.element_outputs).push_back(o);
    }
    steps.push_back(element_roots);
    keep(steps);
    for (size_t i = 0; i < plan_.sweeps.size(); ++i) {
      auto roots = steps[i];
      for (int buffer : plan_.sweeps[i].kept) roots.push_back(kept_nodes_[buffer]);
      plan_.sweeps[i].program = compile(tree_, roots, varying_, known_before(i));
    }
    plan_.elements = compile(tree_, element_roots, varying_, known_before(plan_.sweeps.size()));
    plan_.rows = compile(tree_, row_roots, std::vector<bool>(formula_.variables(), true));
    return std::move(plan_);
  }

 private:
  static constexpr size_t kMostBuffers = 3;

  void keep(const std::vector<std::vector<NodeId>>& steps) {
    for (const auto& [id, sweep] : shared_nodes(formula_, tree_, steps, kMostBuffers)) {
      plan_.sweeps[sweep].kept.push_back(plan_.buffers++);
      kept_nodes_.push_back(id);
      kept_in_.push_back(sweep);
    }
  }

  std::vector<std::pair<NodeId, int>> known_before(size_t step) const {
    std::vector<std::pair<NodeId, int>> known;
    for (size_t b = 0; b < kept_nodes_.size(); ++b) {
      if (kept_in_[b] < step) {
        known.emplace_back(kept_nodes_[b], plan_.first_buffer + static_cast<int>(b));
      }
    }
    return known;
  }

  const RowFormula& formula_;
  const std::vector<Type>& stored_;
  Tree tree_;
  std::vector<bool> varying_;
  std::vector<NodeId> kept_nodes_;
  std::vector<size_t> kept_in_;
  RowPlan plan_;
};

}  // namespace

std::vector<bool> varies_along_rows(const RowFormula& formula, const Tree& tree) {
  std::vector<bool> varies(tree.size(), false);
  for (size_t id = 0; id < tree.size(); ++id) {
    const Node& node = tree[static_cast<NodeId>(id)];
    if (node.op == Op::variable) {
      const auto number = static_cast<size_t>(node.value), inputs = formula.per_row.size();
      // Behind the inputs, all but the passes' results change with every element.
      varies[id] = number < inputs ? !formula.per_row[number] : (number - inputs) % 4 != 0;
    }
    for (int i = 0; i < arity(node.op); ++i) varies[id] = varies[id] || varies[node.args[i]];
  }
  return varies;
}

std::vector<std::pair<NodeId, size_t>> shared_nodes(const RowFormula& formula, const Tree& tree,
                                                    const std::vector<std::vector<NodeId>>& steps,
                                                    size_t most) {
  std::vector<bool> costs(tree.size(), false);
  for (size_t id = 0; id < tree.size(); ++id) {
    const Node& node = tree[static_cast<NodeId>(id)];
    costs[id] = is_function(node.op);
    for (int i = 0; i < arity(node.op); ++i) costs[id] = costs[id] || costs[node.args[i]];
  }
  std::vector<std::pair<NodeId, size_t>> shared;
  const auto add = [&](NodeId id, size_t step) {
    const bool known = std::any_of(shared.begin(), shared.end(),
                                   [&](const auto& other) { return other.first == id; });
    if (!known && shared.size() < most) shared.emplace_back(id, step);
  };
  for (size_t i = 0; i + 1 < steps.size(); ++i) {
    const auto here = varying_nodes(formula, tree, steps[i]);
    for (size_t j = i + 1; j < steps.size(); ++j) {
      const auto there = varying_nodes(formula, tree, steps[j]);
      std::vector<bool> inner(tree.size(), false);
      for (auto id = static_cast<NodeId>(tree.size()) - 1; id >= 0; --id) {
        if (!here[id] || !there[id]) continue;
        if (!inner[id] && costs[id]) add(id, i);
        for (int a = 0; a < arity(tree[id].op); ++a) inner[tree[id].args[a]] = true;
      }
    }
  }
  return shared;
}

std::vector<int> pass_levels(const RowFormula& formula) {
  std::vector<int> levels;
  for (size_t k = 0; k < formula.passes.size(); ++k) {
    const auto& pass = formula.passes[k];
    const auto needed = reachable(formula.tree, {pass.op ? pass.element : pass.update});
    int level = 0;
    for (size_t id = 0; id < needed.size(); ++id) {
      const Node& node = formula.tree[static_cast<NodeId>(id)];
      if (!needed[id] || node.op != Op::variable) continue;
      for (size_t before = 0; before < k; ++before) {
        if (node.value == formula.result(before)) level = std::max(level, levels[before] + 1);
      }
    }
    levels.push_back(level);
  }
  return levels;
}

RowPlan plan_rows(const RowFormula& formula, const std::vector<Type>& stored) {
  return Planner(formula, stored).run();
}

ColumnPlan plan_columns(const RowFormula& formula, const std::vector<Type>& stored) {
  ColumnPlan plan;
  Tree tree = formula.tree;
  const std::vector<bool> varying(formula.variables(), true);
  for (size_t k = 0; k < formula.passes.size(); ++k) {
    const auto& pass = formula.passes[k];
    NodeId update = pass.update;
    if (pass.op) {
      update = tree.make(*pass.op, tree.variable(formula.accumulator(k), pass.type), pass.element);
    }
    plan.updates.push_back(compile(tree, {update}, varying));
  }
  std::vector<NodeId> element_roots, row_roots;
  for (size_t o = 0; o < formula.outputs.size(); ++o) {
    const auto& output = formula.outputs[o];
    (output.per_row ? row_roots : element_roots).push_back(tree.cast(output.root, stored[o]));
    (output.per_row ? plan.row_outputs : plan.element_outputs).push_back(o);
  }
  plan.elements = compile(tree, element_roots, varying);
  plan.rows = compile(tree, row_roots, varying);
  return plan;
}

}  // namespace zmlx::kernel

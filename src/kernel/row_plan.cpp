#include "kernel/row_plan.h"

#include <algorithm>
#include <map>

namespace zmlx::kernel {

namespace {

bool is_function(Op op) {
  return (op >= Op::power && op <= Op::softplus && op != Op::copy_sign) || op == Op::divide;
}

/// The nodes that an evaluation of `roots` computes for each element.
std::vector<bool> varying_nodes(const RowFormula& formula, const std::vector<NodeId>& roots) {
  const auto& tree = formula.tree;
  auto needed = reachable(tree, roots);
  std::vector<bool> varies(tree.size(), false);
  for (size_t id = 0; id < tree.size(); ++id) {
    const Node& node = tree[static_cast<NodeId>(id)];
    if (node.op == Op::variable) {
      const auto number = static_cast<size_t>(node.value);
      varies[id] = number < formula.per_row.size() && !formula.per_row[number];
    }
    for (int i = 0; i < arity(node.op); ++i) varies[id] = varies[id] || varies[node.args[i]];
    needed[id] = needed[id] && varies[id];
  }
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

  /// Chooses what sweeps keep: the outermost expressions with a function in them that a sweep and a
  /// later step both need.
  void keep(const std::vector<std::vector<NodeId>>& steps) {
    std::vector<bool> costs(tree_.size(), false);
    for (size_t id = 0; id < tree_.size(); ++id) {
      const Node& node = tree_[static_cast<NodeId>(id)];
      costs[id] = is_function(node.op);
      for (int i = 0; i < arity(node.op); ++i) costs[id] = costs[id] || costs[node.args[i]];
    }
    for (size_t i = 0; i + 1 < steps.size(); ++i) {
      const auto here = varying_nodes(formula_, steps[i]);
      for (size_t j = i + 1; j < steps.size(); ++j) {
        const auto there = varying_nodes(formula_, steps[j]);
        std::vector<bool> inner(tree_.size(), false);
        for (auto id = static_cast<NodeId>(here.size()) - 1; id >= 0; --id) {
          if (!here[id] || static_cast<size_t>(id) >= there.size() || !there[id]) continue;
          if (!inner[id] && costs[id]) add(id, i);
          for (int a = 0; a < arity(tree_[id].op); ++a) inner[tree_[id].args[a]] = true;
        }
      }
    }
  }

  void add(NodeId id, size_t sweep) {
    if (std::find(kept_nodes_.begin(), kept_nodes_.end(), id) != kept_nodes_.end()) return;
    if (kept_nodes_.size() >= kMostBuffers) return;
    plan_.sweeps[sweep].kept.push_back(plan_.buffers++);
    kept_nodes_.push_back(id);
    kept_in_.push_back(sweep);
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

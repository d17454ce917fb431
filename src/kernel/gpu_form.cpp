#include "kernel/gpu_form.h"

#include <algorithm>

#include "kernel/emit_body.h"

namespace zmlx::kernel {

namespace {

constexpr int kThreads = 256;
/// Bytes that a thread should load before it waits: 2,048 threads then have 128 KB on their way.
constexpr int kBytesAhead = 64;
/// Elements of a thread times operations, at most: text that is unrolled.
constexpr size_t kUnrolled = 1200;
/// Below this many vectors a GPU has threads to spare.
constexpr int64_t kManyVectors = 1 << 18;

/// Elements of a vector: the same for all arrays, so the widest type decides.
int vector_width(const std::vector<Storage>& inputs, const std::vector<Storage>& outputs,
                 int widest) {
  int size = 1;
  for (const auto* storages : {&inputs, &outputs}) {
    for (auto storage : *storages) size = std::max(size, static_cast<int>(size_of(storage)));
  }
  return std::min(16 / size, widest);
}

}  // namespace

double registers_of_element(const RowFormula& formula, const std::vector<Storage>& inputs) {
  std::vector<std::vector<NodeId>> steps;
  for (const auto& group : pass_groups(formula)) {
    auto& roots = steps.emplace_back();
    for (size_t k : group) {
      roots.push_back(formula.passes[k].op ? formula.passes[k].element : formula.passes[k].update);
    }
  }
  auto& roots = steps.emplace_back();
  for (const auto& output : formula.outputs) {
    if (!output.per_row) roots.push_back(output.root);
  }
  const auto kept = shared_nodes(formula, formula.tree, steps, kMostKept);
  double most = 0;
  for (size_t step = 0; step < steps.size(); ++step) {
    std::vector<bool> needed(formula.tree.size(), false);
    double count = 0;
    for (size_t later = step; later < steps.size(); ++later) {
      for (NodeId id : steps[later]) needed[id] = true;
    }
    for (const auto& [id, made] : kept) count += made < step ? 1 : 0;
    for (auto id = static_cast<NodeId>(formula.tree.size()) - 1; id >= 0; --id) {
      if (!needed[id]) continue;
      const Node& node = formula.tree[id];
      const bool known = std::any_of(kept.begin(), kept.end(), [&, id = id](const auto& k) {
        return k.first == id && k.second < step;
      });
      if (known) continue;
      if (node.op == Op::variable && node.value < static_cast<double>(inputs.size()) &&
          !formula.per_row[static_cast<size_t>(node.value)]) {
        count += static_cast<double>(size_of(inputs[static_cast<size_t>(node.value)])) / 4;
      }
      for (int i = 0; i < arity(node.op); ++i) needed[node.args[i]] = true;
    }
    most = std::max(most, count);
  }
  return most;
}

void choose_form(const ElementwiseFormula& formula, int64_t size, int64_t last_axis, int widest,
                 GpuLaunch launch, ElementwiseForm& form) {
  form.threads = launch.threads > 0 ? launch.threads : kThreads;
  form.width = vector_width(form.inputs, form.outputs, widest);
  if (size < form.width) form.width = 1;
  while (last_axis % form.width != 0) form.width /= 2;
  int loaded = 0;
  for (size_t i = 0; i < form.inputs.size(); ++i) {
    loaded += form.readings[i] == Reading::single
                  ? 0
                  : form.width * static_cast<int>(size_of(form.inputs[i]));
  }
  form.vectors = std::clamp(kBytesAhead / std::max(loaded, 1), 1, 4);
  if (size / form.width < kManyVectors) form.vectors = 1;
  if (launch.vectors > 0) form.vectors = launch.vectors;
  while (form.vectors > 1 &&
         static_cast<size_t>(form.vectors * form.width) * formula.tree.size() > kUnrolled) {
    --form.vectors;
  }
}

void choose_form(double registers, int64_t length, bool aligned, int widest, int threadgroup,
                 GpuLaunch launch, RowForm& form) {
  constexpr int kFew = 2, kSmallGroup = 128;
  const int width = vector_width(form.inputs, form.outputs, widest);
  form.width = aligned && length % width == 0 ? width : 1;
  const int64_t vectors = (length + form.width - 1) / form.width;
  const int few = form.width == 1 ? 2 * kFew : kFew;
  form.lanes = 32;
  while (form.lanes < 1024 && form.lanes * few < vectors) form.lanes *= 2;
  if (threadgroup > 0) form.lanes = std::min(form.lanes, std::max(threadgroup, 32));
  if (launch.threads > 0) form.lanes = launch.threads;
  form.rows = 1;
  if (form.lanes == 32) {
    form.rows = std::max(threadgroup > 0 ? threadgroup : kSmallGroup, 32) / 32;
    if (launch.vectors > 0) form.rows = launch.vectors;
  }
  const int64_t held = (vectors + form.lanes - 1) / form.lanes;
  // What the compiler needs besides, and no more than a thread can have.
  const double free = std::min(128, 65536 / form.threads()) - 28;
  const double used = static_cast<double>(held * form.width) * registers;
  form.held = used <= free && held * form.width <= 64 ? static_cast<int>(held) : 0;
  form.whole = form.held > 0 && held * form.lanes * form.width == length;
}

}  // namespace zmlx::kernel

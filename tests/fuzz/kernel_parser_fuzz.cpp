// Feeds the parser of kernel expressions with anything, computes in float32 what it takes,
// differentiates that twice, and prints it. Built and run by scripts/fuzz.sh.

#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "kernel/derivative.h"
#include "kernel/half_types.h"
#include "kernel/parser.h"

using namespace zmlx::kernel;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  Tree written, tree;
  Scope scope;
  scope.open = true;
  try {
    const NodeId parsed = parse(source, written, scope);
    const NodeId root = without_half_types(written, {parsed}, tree)[0];
    for (size_t id = 0; id < tree.size(); ++id) {
      if (is_half(tree.type(static_cast<NodeId>(id)))) std::abort();
    }
    if (tree.type(root) != Type::float32 || scope.variables.empty()) return 0;
    const NodeId slope = derivative(tree, root, 0);
    const NodeId curvature = derivative(tree, slope, 0);
    if (to_string(tree, curvature, scope.variables).empty()) std::abort();
  } catch (const SyntaxError& error) {
    if (error.column() == 0) std::abort();
  } catch (const std::length_error&) {
    // Derivatives grow; that they grow too large is told.
  }
  return 0;
}

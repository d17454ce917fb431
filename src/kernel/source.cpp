// Whole kernels as text, for people and for compilers in tests.

#include <stdexcept>

#include "fast/cuda_kernel.h"
#include "kernel/arrays.h"
#include "kernel/emit.h"

namespace zmlx::kernel {

namespace {

std::string whole_file(const KernelText& text, const std::vector<Storage>& inputs,
                       const std::vector<Storage>& outputs, const std::vector<std::string>& numbers,
                       int threads) {
  fast::CudaKernel kernel{"kernel_formula.cuh",
                          text.functions,
                          text.body,
                          text.inputs,
                          text.outputs,
                          {},
                          {1, 1, 1},
                          threads,
                          1,
                          0,
                          true};
  for (const auto& name : numbers) kernel.numbers.emplace_back(name, 0);
  std::vector<mx::Dtype> input_types, output_types;
  for (auto storage : inputs) input_types.push_back(dtype_of(storage));
  for (auto storage : outputs) output_types.push_back(dtype_of(storage));
  return fast::cuda_kernel_text(kernel, input_types, output_types);
}

std::string metal_text(const KernelText& text) {
  return metal_header(text) + "\n// The kernel's body, for mx.fast.metal_kernel.\n" + text.body;
}

}  // namespace

namespace {

/// Formulas of integers read integers.
std::vector<Storage> input_storages(const std::vector<Type>& types, Storage storage) {
  std::vector<Storage> all;
  for (auto type : types) {
    all.push_back(type == Type::int32    ? Storage::i32
                  : type == Type::uint32 ? Storage::u32
                                         : storage);
  }
  return all;
}

}  // namespace

std::string elementwise_source(const ElementwiseFormula& formula, const std::string& backend,
                               Storage storage) {
  const ElementwiseForm form{input_storages(formula.types, storage),
                             std::vector<Storage>(formula.roots.size(), storage),
                             std::vector<bool>(formula.names.size(), false), true};
  if (backend == "cuda") {
    return whole_file(cuda_elementwise(formula, form), form.inputs, form.outputs, {"size"}, 256);
  }
  if (backend == "metal") {
    return metal_text(metal_elementwise(formula, form));
  }
  throw std::invalid_argument("[source] backends are 'metal' and 'cuda', not '" + backend + "'.");
}

std::string rows_source(const RowFormula& formula, const std::string& backend, Storage storage,
                        int threads) {
  const RowForm form{input_storages(formula.types, storage),
                     std::vector<Storage>(formula.outputs.size(), storage),
                     threads > 0 ? threads : 256, true};
  if (backend == "cuda") {
    return whole_file(cuda_rows(formula, form), form.inputs, form.outputs, {"rows", "length"},
                      form.threads);
  }
  if (backend == "metal") {
    return metal_text(metal_rows(formula, form));
  }
  throw std::invalid_argument("[source] backends are 'metal' and 'cuda', not '" + backend + "'.");
}

}  // namespace zmlx::kernel

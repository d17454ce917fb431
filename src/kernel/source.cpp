// Whole kernels as text, for people and for compilers in tests.

#include <stdexcept>

#include "fast/cuda_kernel.h"
#include "kernel/arrays.h"
#include "kernel/emit_body.h"
#include "kernel/gpu_form.h"

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

/// @throws std::invalid_argument if there is no such backend.
int widest_on(const std::string& backend) {
  if (backend == "cuda") return kWidestOnCuda;
  if (backend == "metal") return kWidestOnMetal;
  throw std::invalid_argument("[source] backends are 'metal' and 'cuda', not '" + backend + "'.");
}

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

ElementwiseForm form_of(const ElementwiseFormula& formula, const std::string& backend,
                        Storage storage, int64_t size) {
  ElementwiseForm form{input_storages(formula.types, storage),
                       std::vector<Storage>(formula.roots.size(), storage),
                       std::vector<Reading>(formula.names.size(), Reading::whole),
                       0,
                       1,
                       1,
                       1};
  choose_form(formula, size, 0, widest_on(backend), {}, form);
  return form;
}

RowForm form_of(const RowFormula& formula, const std::string& backend, Storage storage,
                int64_t length, int threadgroup) {
  RowForm form{input_storages(formula.types, storage),
               std::vector<Storage>(formula.outputs.size(), storage),
               32,
               1,
               1,
               0,
               false};
  choose_form(registers_of_element(formula, form.inputs), length, true, widest_on(backend),
              threadgroup, {}, form);
  return form;
}

std::string count_of(int count, const std::string& what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

}  // namespace

std::string elementwise_source(const ElementwiseFormula& formula, const std::string& backend,
                               Storage storage, int64_t size) {
  const auto form = form_of(formula, backend, storage, size);
  if (backend == "metal") return metal_text(metal_elementwise(formula, form));
  return whole_file(cuda_elementwise(formula, form), form.inputs, form.outputs, {"size"},
                    form.threads);
}

std::string rows_source(const RowFormula& formula, const std::string& backend, Storage storage,
                        int64_t length, int threadgroup) {
  const auto form = form_of(formula, backend, storage, length, threadgroup);
  if (backend == "metal") return metal_text(metal_rows(formula, form));
  return whole_file(cuda_rows(formula, form), form.inputs, form.outputs, {"rows", "length"},
                    form.threads());
}

std::string launch_text(const ElementwiseFormula& formula) {
  std::string text;
  for (const std::string backend : {"cuda", "metal"}) {
    const auto form = form_of(formula, backend, Storage::f32, int64_t{4096} * 4096);
    text += (backend == "cuda" ? "CUDA" : "Metal") +
            std::string(", (4096, 4096) of float32: groups of ") + std::to_string(form.threads) +
            " threads, each " + count_of(form.vectors, "vector") + " of " +
            std::to_string(form.width) + "\n";
  }
  return text;
}

std::string launch_text(const RowFormula& formula, int threadgroup) {
  std::string text;
  for (const std::string backend : {"cuda", "metal"}) {
    const auto form = form_of(formula, backend, Storage::f32, 4096, threadgroup);
    text += (backend == "cuda" ? "  CUDA" : "  Metal") + std::string(", rows of 4096 of float32: ");
    text += in_order(formula)
                ? "a thread a row, in order"
                : std::to_string(form.lanes) + " threads a row, " + count_of(form.rows, "row") +
                      " a group, " +
                      (form.held > 0 ? "a thread holds " + count_of(form.held, "vector") + " of " +
                                           std::to_string(form.width)
                                     : "read by each pass, " + std::to_string(form.width) +
                                           " elements at once");
    text += "\n";
  }
  return text;
}

}  // namespace zmlx::kernel

#include "kernel/gpu_kernel.h"

#include <algorithm>

#include "fast/kernel_source.h"
#include "kernel/arrays.h"
#include "kernel/emit_body.h"
#include "kernel/gpu_form.h"
#include "kernel/gpu_reading.h"

namespace zmlx::kernel {

namespace {

/// A grid of more groups of rows than this walks on.
constexpr int64_t kMostGroups = 1 << 20;

/// What tells operations apart in keys; fast/launch_key.h has the others.
enum GpuOperation { kElementwise = 100, kRows };

bool aligned(const std::vector<mx::array>& inputs) {
  return std::all_of(inputs.begin(), inputs.end(), [](const mx::array& a) {
    // What is not contiguous is copied first.
    return !a.flags().row_contiguous || a.offset() % 16 == 0;
  });
}

std::vector<Storage> storages(const std::vector<mx::array>& arrays) {
  std::vector<Storage> all;
  for (const auto& a : arrays) all.push_back(storage_of(a.dtype()));
  return all;
}

std::vector<Storage> storages(const std::vector<mx::Dtype>& types) {
  std::vector<Storage> all;
  for (auto type : types) all.push_back(storage_of(type));
  return all;
}

/// Six bits an array.
void add_key(std::vector<int64_t>& key, const std::vector<Storage>& storages,
             const std::vector<Reading>& readings) {
  int64_t word = 0;
  for (size_t i = 0; i < storages.size(); ++i) {
    const auto reading = i < readings.size() ? static_cast<int64_t>(readings[i]) : 0;
    word = word << 6 | static_cast<int64_t>(storages[i]) << 3 | reading;
    if (i % 10 == 9) key.push_back(std::exchange(word, 0));
  }
  key.push_back(word);
}

}  // namespace

FormulaLaunch launch_of(const ElementwiseKernel& kernel, const std::vector<mx::array>& given,
                        const std::vector<mx::Dtype>& outputs, bool cuda) {
  GpuReading reading(given, outputs.size());
  const auto size = static_cast<int64_t>(given[0].size());
  ElementwiseForm form{
      storages(given), storages(outputs), reading.readings(), reading.axes(), 1, 1, 1};
  choose_form(kernel.formula(), size, reading.last_axis(cuda),
              cuda ? kWidestOnCuda : kWidestOnMetal, kernel.launches().gpu(size), form);
  reading.settle(form.width);
  form.readings = reading.readings();
  const int64_t tile = int64_t{form.width} * form.vectors * form.threads;
  std::vector<int64_t> key{kElementwise, kernel.number(), form.axes,
                           form.width,   form.vectors,    form.threads};
  add_key(key, form.inputs, form.readings);
  add_key(key, form.outputs, {});
  std::vector<std::pair<std::string, int64_t>> numbers{{"size", size}};
  for (auto& number : reading.numbers()) numbers.push_back(std::move(number));
  return {reading.inputs(),
          [&formula = kernel.formula(), form](bool is_cuda) {
            return is_cuda ? cuda_elementwise(formula, form) : metal_elementwise(formula, form);
          },
          std::move(numbers),
          form.threads,
          (size + tile - 1) / tile,
          std::move(key)};
}

FormulaLaunch launch_of(const RowKernel& kernel, const std::vector<mx::array>& inputs,
                        const std::vector<mx::Dtype>& outputs, bool cuda) {
  const auto& formula = kernel.formula();
  int64_t length = 1, rows = 1;
  for (size_t n = 0; n < inputs.size(); ++n) {
    if (formula.per_row[n]) continue;
    length = inputs[n].shape(-1);
    rows = static_cast<int64_t>(inputs[n].size()) / length;
  }
  const bool ordered = in_order(formula);
  RowForm form{storages(inputs), storages(outputs), 32, 1, 1, 0, false};
  choose_form(kernel.registers(form.inputs), length, cuda || aligned(inputs),
              cuda ? kWidestOnCuda : kWidestOnMetal, kernel.threadgroup(),
              kernel.launches().gpu(rows * length), form);
  const int64_t each = ordered ? form.threads() : form.rows;
  std::vector<int64_t> key{kRows,     kernel.number(), form.width, form.lanes,
                           form.rows, form.held,       form.whole};
  add_key(key, form.inputs, {});
  add_key(key, form.outputs, {});
  return {inputs,
          [&formula, form](bool is_cuda) {
            return is_cuda ? cuda_rows(formula, form) : metal_rows(formula, form);
          },
          {{"rows", rows}, {"length", length}},
          form.threads(),
          std::min((rows + each - 1) / each, kMostGroups),
          std::move(key)};
}

fast::CudaKernel cuda_kernel_of(const FormulaLaunch& launch) {
  const auto text = launch.text(true);
  fast::CudaKernel kernel{"kernel_formula.cuh",
                          text.functions,
                          text.body,
                          text.inputs,
                          text.outputs,
                          {},
                          {static_cast<int>(launch.groups), 1, 1},
                          launch.threads,
                          1,
                          0,
                          true};
  for (const auto& [name, value] : launch.numbers) {
    kernel.numbers.emplace_back(name, static_cast<int>(value));
  }
  return kernel;
}

fast::MetalKernel metal_kernel_of(const FormulaLaunch& launch) {
  auto text = launch.text(false);
  std::string name = "formula", numbers;
  for (int64_t part : launch.key) name += "_" + std::to_string(part);
  for (size_t i = 0; i < launch.numbers.size(); ++i) {
    numbers += "const int " + launch.numbers[i].first + " = numbers[" + std::to_string(i) + "];\n";
  }
  text.inputs.push_back("numbers");
  return {name,
          "kernel_formula.h",
          text.functions,
          numbers + text.body,
          text.inputs,
          text.outputs,
          {static_cast<int>(launch.groups), 1, 1},
          launch.threads,
          true};
}

std::vector<int> metal_numbers(const FormulaLaunch& launch) {
  std::vector<int> values;
  for (const auto& [name, value] : launch.numbers) values.push_back(static_cast<int>(value));
  return values;
}

std::string cuda_text(const ArrayLaunch& given) {
  std::vector<mx::Dtype> inputs;
  for (const auto& in : given.launch.inputs) inputs.push_back(in.dtype());
  return fast::cuda_kernel_text(cuda_kernel_of(given.launch), inputs, given.outputs);
}

MetalLaunch described(const ArrayLaunch& given) {
  const auto& [launch, outputs] = given;
  std::vector<mx::Dtype> inputs;
  for (const auto& in : launch.inputs) inputs.push_back(in.dtype());
  inputs.push_back(mx::int32);
  std::vector<std::pair<std::string, int>> numbers;
  for (const auto& [name, value] : launch.numbers) {
    numbers.emplace_back(name, static_cast<int>(value));
  }
  const auto kernel = metal_kernel_of(launch);
  const auto header = fast::kernel_source(fast::kMetalSources, kernel.file);
  const auto text = fast::metal_kernel_text(kernel, inputs, outputs);
  return {fast::metal_kernel_name(kernel, inputs, outputs),
          header,
          text.substr(header.size()),
          kernel.inputs,
          kernel.outputs,
          std::move(numbers),
          std::get<0>(kernel.threadgroups),
          kernel.threads};
}

}  // namespace zmlx::kernel

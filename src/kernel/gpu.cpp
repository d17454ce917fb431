#include "kernel/gpu.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>

#include "fast/cuda_config.h"
#include "fast/cuda_kernel.h"
#include "fast/cuda_path.h"
#include "kernel/arrays.h"
#include "kernel/emit_body.h"
#include "kernel/gpu_form.h"
#include "mlx/allocator.h"
#include "mlx/fast.h"
#include "mlx/primitives.h"

namespace zmlx::kernel {

namespace {

/// A grid of more groups of rows than this walks on.
constexpr int64_t kMostGroups = 1 << 20;
/// Parameters that a launch takes besides sizes.
constexpr size_t kMostArrays = 28;

/// What tells operations apart in the keys of CUDA kernels; fast/cuda_config.h has the others.
enum GpuOperation { kElementwise = 100, kRows };

struct Launch {
  std::function<KernelText(bool cuda)> text;  ///< called if the kernel is new
  std::vector<std::pair<std::string, int64_t>> numbers;
  int threads;
  int64_t groups;
  std::vector<int64_t> key;  ///< what the text depends on
};

void check(const std::string& name, const std::vector<mx::array>& inputs,
           const std::vector<mx::array>& outputs) {
  if (inputs.size() + outputs.size() > kMostArrays) {
    throw std::runtime_error("[" + name + "] on a GPU kernels take at most " +
                             std::to_string(kMostArrays) + " inputs and outputs.");
  }
  for (const auto* arrays : {&inputs, &outputs}) {
    for (const auto& a : *arrays) {
      if (a.size() > static_cast<size_t>(std::numeric_limits<int>::max() - 4096)) {
        throw std::runtime_error("[" + name + "] on a GPU arrays may have at most 2^31 elements.");
      }
    }
  }
}

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

/// One element that stands for all, as an array of one.
mx::array as_single(const mx::array& a) {
  mx::array one({1}, a.dtype(), nullptr, {});
  one.copy_shared_buffer(a, {1}, {true, true, true}, 1);
  return one;
}

void launch_on_cuda(const Launch& launch, const mx::Stream& stream,
                    const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  fast::KeyBuilder key;
  for (int64_t part : launch.key) key.add(part);
  key.add(stream.index, stream.device.index, launch.threads, launch.groups);
  for (const auto& [name, value] : launch.numbers) key.add(value);
  fast::launch_cuda(key.key(), stream, inputs, outputs, [&] {
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
  });
}

const mx::fast::CustomKernelFunction& metal_function(const Launch& launch) {
  static auto* functions = new std::map<std::vector<int64_t>, mx::fast::CustomKernelFunction>;
  static auto* mutex = new std::mutex;
  std::lock_guard lock(*mutex);
  auto& function = (*functions)[launch.key];
  if (!function) {
    const auto text = launch.text(false);
    auto names = text.inputs;
    for (const auto& [name, value] : launch.numbers) names.push_back(name);
    std::string name = "zmlx_kernel";
    for (int64_t part : launch.key) name += "_" + std::to_string(part);
    function = mx::fast::metal_kernel(name, names, text.outputs, text.body, metal_header(text));
  }
  return function;
}

void launch_on_metal(const Launch& launch, const mx::Stream& stream,
                     const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  auto arguments = inputs;
  for (const auto& [name, value] : launch.numbers) {
    arguments.push_back(mx::array(static_cast<int>(value)));
  }
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> types;
  for (const auto& out : outputs) {
    shapes.push_back(out.shape());
    types.push_back(out.dtype());
  }
  const auto threads = static_cast<int>(launch.groups) * launch.threads;
  auto made = metal_function(launch)(arguments, shapes, types, {threads, 1, 1},
                                     {launch.threads, 1, 1}, {}, std::nullopt, false, stream);
  made[0].primitive().eval_gpu(arguments, made);
  for (size_t o = 0; o < outputs.size(); ++o) outputs[o].copy_shared_buffer(made[o]);
}

bool on_cuda(const mx::Stream& stream) {
  return fast::cuda_compute_capability(stream.device.index) > 0;
}

/// A launch that compiles is counted, with all of its time.
void run(Launch launch, const std::string& name, Statistics& statistics, const mx::Stream& stream,
         const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  std::optional<Timer> timer;
  launch.text = [&, text = launch.text](bool cuda) {
    ++statistics.compilations;
    timer.emplace(statistics.compile_nanoseconds);
    return text(cuda);
  };
  if (on_cuda(stream)) {
    if (const auto obstacle = fast::cuda_device_obstacle(stream); !obstacle.empty()) {
      throw std::runtime_error("[" + name + "] no kernel for this GPU: " + obstacle + ".");
    }
    launch_on_cuda(launch, stream, inputs, outputs);
  } else {
    launch_on_metal(launch, stream, inputs, outputs);
  }
}

bool empty(std::vector<mx::array>& outputs) {
  if (outputs[0].size() > 0) return false;
  for (auto& out : outputs) out.set_data(mx::allocator::malloc(0));
  return true;
}

/// Four bits an array.
void add_key(std::vector<int64_t>& key, const std::vector<Storage>& storages,
             const std::vector<bool>& single) {
  int64_t word = 0;
  for (size_t i = 0; i < storages.size(); ++i) {
    word = word << 4 | static_cast<int64_t>(storages[i]) << 1 | (i < single.size() && single[i]);
    if (i % 14 == 13) key.push_back(std::exchange(word, 0));
  }
  key.push_back(word);
}

}  // namespace

void run_on_gpu(const ElementwiseKernel& kernel, const mx::Stream& stream,
                const std::vector<mx::array>& given, std::vector<mx::array>& outputs) {
  if (empty(outputs)) return;
  check(kernel.name(), given, outputs);
  ++kernel.statistics()->calls;
  std::vector<mx::array> inputs;
  std::vector<bool> single;
  for (const auto& in : given) {
    single.push_back(in.data_size() == 1 && in.size() > 1);
    inputs.push_back(single.back() ? as_single(in) : in);
  }
  const bool cuda = on_cuda(stream);
  const auto size = static_cast<int64_t>(outputs[0].size());
  ElementwiseForm form{storages(inputs), storages(outputs), single, 1, 1, 1};
  choose_form(kernel.formula(), size, cuda || aligned(inputs),
              cuda ? kWidestOnCuda : kWidestOnMetal, kernel.launches().gpu(size), form);
  const int64_t tile = int64_t{form.width} * form.vectors * form.threads;
  Launch launch{[&](bool is_cuda) {
                  return is_cuda ? cuda_elementwise(kernel.formula(), form)
                                 : metal_elementwise(kernel.formula(), form);
                },
                {{"size", size}},
                form.threads,
                (size + tile - 1) / tile,
                {kElementwise, kernel.number(), form.width, form.vectors, form.threads}};
  add_key(launch.key, form.inputs, single);
  add_key(launch.key, form.outputs, {});
  run(std::move(launch), kernel.name(), *kernel.statistics(), stream, inputs, outputs);
}

void run_on_gpu(const RowKernel& kernel, const mx::Stream& stream,
                const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  if (empty(outputs)) return;
  check(kernel.name(), inputs, outputs);
  ++kernel.statistics()->calls;
  const auto& formula = kernel.formula();
  int64_t length = 1, rows = 1;
  for (size_t n = 0; n < inputs.size(); ++n) {
    if (formula.per_row[n]) continue;
    length = inputs[n].shape(-1);
    rows = static_cast<int64_t>(inputs[n].size()) / length;
  }
  const bool cuda = on_cuda(stream), ordered = in_order(formula);
  RowForm form{storages(inputs), storages(outputs), 32, 1, 1, 0, false};
  choose_form(kernel.registers(form.inputs), length, cuda || aligned(inputs),
              cuda ? kWidestOnCuda : kWidestOnMetal, kernel.threadgroup(),
              kernel.launches().gpu(rows * length), form);
  const int64_t each = ordered ? form.threads() : form.rows;
  Launch launch{
      [&](bool is_cuda) { return is_cuda ? cuda_rows(formula, form) : metal_rows(formula, form); },
      {{"rows", rows}, {"length", length}},
      form.threads(),
      std::min((rows + each - 1) / each, kMostGroups),
      {kRows, kernel.number(), form.width, form.lanes, form.rows, form.held, form.whole}};
  add_key(launch.key, form.inputs, {});
  add_key(launch.key, form.outputs, {});
  run(std::move(launch), kernel.name(), *kernel.statistics(), stream, inputs, outputs);
}

}  // namespace zmlx::kernel

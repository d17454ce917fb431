#include "fast/cuda_kernel.h"

#include <mutex>
#include <stdexcept>
#include <unordered_map>

#include "cuda/host/api.h"
#include "cuda/host/memory.h"
#include "cuda/host/module.h"
#include "fast/cuda_path.h"
#include "fast/kernel_source.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"

namespace zmlx::fast {

namespace {

/// A kernel that is compiled and ready to be launched.
struct Launch {
  void* function = nullptr;
  cuda::Dim3 grid, block;
  uint32_t shared_memory = 0;
  bool copy_strided = false;
  std::vector<int> numbers;
};

constexpr size_t kMaxParameters = 32;

const char* parameter_type(mx::Dtype type) {
  if (type == mx::float32) return "float";
  if (type == mx::float16) return "zmlx::f16";
  if (type == mx::bfloat16) return "zmlx::bf16";
  if (type == mx::uint32) return "zmlx::u32";
  if (type == mx::int32) return "int";
  if (type == mx::uint8) return "zmlx::u8";
  throw std::logic_error("[zmlx] no kernel takes an array of this type.");
}

std::vector<mx::Dtype> types_of(std::span<const mx::array> arrays) {
  std::vector<mx::Dtype> types;
  for (const auto& a : arrays) types.push_back(a.dtype());
  return types;
}

Launch prepare(const CudaKernel& kernel, const mx::Stream& stream,
               std::span<const mx::array> inputs, const std::vector<mx::array>& outputs) {
  const auto text = cuda_kernel_text(kernel, types_of(inputs), types_of(outputs));
  Launch launch;
  launch.function =
      cuda::kernel_function(text, kCudaKernelName, stream.device.index,
                            cuda_compute_capability(stream.device.index), kernel.shared_memory);
  const auto [x, y, z] = kernel.blocks;
  launch.grid = {static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z)};
  launch.block.x = kernel.threads;
  launch.shared_memory = kernel.shared_memory;
  launch.copy_strided = kernel.copy_strided;
  for (const auto& [name, value] : kernel.numbers) launch.numbers.push_back(value);
  if (inputs.size() + outputs.size() + launch.numbers.size() > kMaxParameters) {
    throw std::logic_error("[zmlx] a kernel has too many parameters.");
  }
  return launch;
}

bool readable(const mx::array& a) { return a.flags().row_contiguous && a.offset() % 16 == 0; }

/// A copy without gaps and aligned, on the stream; the caller keeps it until the GPU is done.
mx::array copy_of(const mx::array& a, const mx::Stream& stream) {
  // MLX's copies of arrays without gaps share their buffers, offset and all.
  const bool gaps = !a.flags().row_contiguous;
  std::vector<mx::array> copy{gaps ? mx::contiguous(a, false, stream) : mx::maximum(a, a, stream)};
  copy[0].primitive().eval_gpu(gaps ? std::vector{a} : std::vector{a, a}, copy);
  return copy[0];
}

void enqueue(const Launch& launch, const mx::Stream& stream, std::span<const mx::array> inputs,
             std::vector<mx::array>& outputs, std::span<const int> numbers) {
  const auto& api = cuda::api();
  void* encoder = api.get_command_encoder(stream);
  std::array<void*, kMaxParameters> values, parameters;
  size_t count = 0;
  auto add_pointer = [&](const mx::array& a) {
    values[count] = cuda::gpu_pointer(a);
    parameters[count] = &values[count];
    ++count;
  };
  for (auto& out : outputs) {
    if (!out.data_shared_ptr()) cuda::allocate(out, stream);
  }
  for (const auto& in : inputs) {
    add_pointer(in);
    // What is in memory waits for no node of this graph.
    if (in.status() != mx::array::Status::available) api.set_input_array(encoder, in);
  }
  for (const auto& out : outputs) {
    add_pointer(out);
    api.set_output_array(encoder, out);
  }
  for (const auto& number : numbers) parameters[count++] = const_cast<int*>(&number);
  api.add_kernel_node(encoder, launch.function, launch.grid, launch.block, {}, launch.shared_memory,
                      parameters.data());
}

const Launch& find_launch(const LaunchKey& key, const mx::Stream& stream,
                          std::span<const mx::array> inputs, const std::vector<mx::array>& outputs,
                          const std::function<CudaKernel()>& describe) {
  // Leaked: evaluation may go on while static objects are destroyed.
  static auto* launches = new std::unordered_map<LaunchKey, Launch, LaunchKeyHash>;
  static auto* mutex = new std::mutex;
  std::lock_guard lock(*mutex);
  auto& launch = (*launches)[key];  // stays where it is when others are added
  if (!launch.function) launch = prepare(describe(), stream, inputs, outputs);
  return launch;
}

}  // namespace

std::string cuda_kernel_text(const CudaKernel& kernel, const std::vector<mx::Dtype>& inputs,
                             const std::vector<mx::Dtype>& outputs) {
  std::string parameters;
  auto add = [&](const std::string& type, const std::string& name) {
    parameters += (parameters.empty() ? "" : ", ") + type + " " + name;
  };
  for (size_t i = 0; i < inputs.size(); ++i) {
    add(std::string("const ") + parameter_type(inputs[i]) + "*", kernel.inputs[i]);
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    add(std::string(parameter_type(outputs[i])) + "*", kernel.outputs[i]);
  }
  for (const auto& [name, value] : kernel.numbers) add("int", name);
  return kernel_source(kCudaSources, kernel.file) + kernel.config +
         "extern \"C\" __global__ __launch_bounds__(" + std::to_string(kernel.threads) + ", " +
         std::to_string(kernel.blocks_per_sm) + ") void " + kCudaKernelName + "(" + parameters +
         ") {\n" + kernel.body + "\n}\n";
}

void launch_cuda(const LaunchKey& key, const mx::Stream& stream, std::span<const mx::array> inputs,
                 std::vector<mx::array>& outputs, const std::function<CudaKernel()>& describe,
                 std::initializer_list<int> numbers) {
  const auto& launch = find_launch(key, stream, inputs, outputs, describe);
  std::span<const int> values = launch.numbers;
  if (numbers.size() > 0) values = {numbers.begin(), numbers.size()};
  if (!launch.copy_strided) return enqueue(launch, stream, inputs, outputs, values);
  std::vector<mx::array> copies;
  for (const auto& in : inputs) {
    copies.push_back(readable(in) ? in : copy_of(in, stream));
  }
  enqueue(launch, stream, copies, outputs, values);
  const auto& api = cuda::api();
  api.add_completed_handler(api.get_command_encoder(stream), [copies]() {});
}

}  // namespace zmlx::fast

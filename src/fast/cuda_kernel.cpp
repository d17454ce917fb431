#include "fast/cuda_kernel.h"

#include <cstdio>
#include <mutex>
#include <unordered_map>

#include "fast/cuda_source.h"
#include "mlx/fast.h"

namespace zmlx::fast {

namespace {

struct KeyHash {
  size_t operator()(const CudaKey& key) const {
    uint64_t hash = 0x9e3779b97f4a7c15;
    for (auto value : key) {
      hash = (hash ^ static_cast<uint64_t>(value)) * 0xff51afd7ed558ccd;
      hash ^= hash >> 32;
    }
    return hash;
  }
};

/// The kernel's parameters are the caller's, so bounds that the compiler should know of are put on
/// the word before its name.
std::string launch_bounds(const CudaKernel& kernel) {
  return "#undef __global__\n#define __global__ __attribute__((global)) __launch_bounds__(" +
         std::to_string(kernel.threads) + ", " + std::to_string(kernel.blocks_per_sm) + ")\n";
}

std::shared_ptr<mx::Primitive> make(const CudaKernel& kernel, const mx::Stream& stream,
                                    const std::vector<mx::array>& inputs,
                                    const std::vector<mx::array>& outputs) {
  const auto text = cuda_source(kernel.file) + kernel.config + launch_bounds(kernel);
  // MLX keeps compiled kernels by name, so the name tells sources apart.
  char hash[32];
  std::snprintf(hash, sizeof(hash), "_%016zx", std::hash<std::string>{}(text + kernel.body));
  const auto name = "zmlx_" + kernel.file.substr(0, kernel.file.find('.')) + hash;
  auto call = mx::fast::cuda_kernel(name, kernel.inputs, kernel.outputs, kernel.body,
                                    cuda_include(name + ".cuh", text), kernel.copy_strided,
                                    kernel.shared_memory);
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> types;
  for (const auto& out : outputs) {
    shapes.push_back(out.shape());
    types.push_back(out.dtype());
  }
  const auto [x, y, z] = kernel.blocks;
  auto made = call(inputs, shapes, types, {x * kernel.threads, y, z}, {kernel.threads, 1, 1}, {},
                   std::nullopt, false, stream);
  return made[0].primitive_ptr();
}

}  // namespace

std::string cuda_kernel_text(const CudaKernel& kernel) {
  return cuda_source(kernel.file) + kernel.config + kernel.body;
}

std::shared_ptr<mx::Primitive> cuda_primitive(const CudaKey& key, const mx::Stream& stream,
                                              const std::vector<mx::array>& inputs,
                                              const std::vector<mx::array>& outputs,
                                              const std::function<CudaKernel()>& describe) {
  // Leaked: evaluation may go on while static objects are destroyed.
  static auto* cache = new std::unordered_map<CudaKey, std::shared_ptr<mx::Primitive>, KeyHash>;
  static auto* mutex = new std::mutex;
  std::lock_guard lock(*mutex);
  auto& primitive = (*cache)[key];
  if (!primitive) primitive = make(describe(), stream, inputs, outputs);
  return primitive;
}

}  // namespace zmlx::fast

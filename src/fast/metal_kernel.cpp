#include "fast/metal_kernel.h"

#include <memory>
#include <mutex>
#include <stdexcept>
#include <unordered_map>

#include "fast/kernel_source.h"
#include "mlx/fast.h"
#include "mlx/primitives.h"

namespace zmlx::fast {

namespace {

using Primitive = std::shared_ptr<mx::Primitive>;

/// MLX passes arrays of fewer elements in the constant address space, and those without axes by
/// reference. The parameters of a kernel shall not depend on sizes, so the arrays that it is made
/// with are of this size; what is bound at a launch is a buffer in either case.
constexpr int kDeviceSize = 8;

mx::array placeholder(mx::Dtype type) { return mx::array({kDeviceSize}, type, nullptr, {}); }

std::vector<mx::Dtype> types_of(const std::vector<mx::array>& arrays) {
  std::vector<mx::Dtype> types;
  for (const auto& a : arrays) types.push_back(a.dtype());
  return types;
}

std::string header_of(const MetalKernel& kernel) {
  return kernel_source(kMetalSources, kernel.file) + kernel.config;
}

Primitive prepare(const MetalKernel& kernel, const mx::Stream& stream,
                  const std::vector<mx::array>& inputs, const std::vector<mx::array>& outputs) {
  const auto call = mx::fast::metal_kernel(kernel.name, kernel.inputs, kernel.outputs, kernel.body,
                                           header_of(kernel), kernel.copy_strided);
  std::vector<mx::array> placeholders;
  for (const auto& in : inputs) placeholders.push_back(placeholder(in.dtype()));
  const auto [x, y, z] = kernel.threadgroups;
  const auto made =
      call(placeholders, std::vector<mx::Shape>(outputs.size(), {kDeviceSize}), types_of(outputs),
           {x * kernel.threads, y, z}, {kernel.threads, 1, 1}, {}, std::nullopt, false, stream);
  return made.front().primitive_ptr();
}

mx::Primitive& find_primitive(const LaunchKey& key, const mx::Stream& stream,
                              const std::vector<mx::array>& inputs,
                              const std::vector<mx::array>& outputs,
                              const std::function<MetalKernel()>& describe) {
  // Leaked: evaluation may go on while static objects are destroyed.
  static auto* primitives = new std::unordered_map<LaunchKey, Primitive, LaunchKeyHash>;
  static auto* mutex = new std::mutex;
  std::lock_guard lock(*mutex);
  auto& primitive = (*primitives)[key];
  if (!primitive) primitive = prepare(describe(), stream, inputs, outputs);
  return *primitive;
}

/// A type as MLX names it in kernels.
const char* metal_type(mx::Dtype type) {
  if (type == mx::float32) return "float";
  if (type == mx::float16) return "float16_t";
  if (type == mx::bfloat16) return "bfloat16_t";
  if (type == mx::int32) return "int32_t";
  if (type == mx::uint32) return "uint32_t";
  if (type == mx::uint8) return "uint8_t";
  throw std::logic_error("[zmlx] no kernel takes an array of this type.");
}

/// The attributes that MLX looks for, in its order, as far as kernels here use them.
struct Attribute {
  const char* name;
  const char* type;
};
constexpr Attribute kAttributes[] = {
    {"simdgroup_index_in_threadgroup", "uint"}, {"thread_index_in_simdgroup", "uint"},
    {"thread_index_in_threadgroup", "uint"},    {"thread_position_in_threadgroup", "uint3"},
    {"threadgroup_position_in_grid", "uint3"},  {"threadgroups_per_grid", "uint3"}};

}  // namespace

std::string metal_kernel_name(const MetalKernel& kernel, const std::vector<mx::Dtype>& inputs,
                              const std::vector<mx::Dtype>& outputs) {
  auto name = "custom_kernel_" + kernel.name;
  for (const auto* types : {&inputs, &outputs}) {
    for (const auto& type : *types) name += std::string("_") + metal_type(type);
  }
  return name;
}

std::string metal_kernel_text(const MetalKernel& kernel, const std::vector<mx::Dtype>& inputs,
                              const std::vector<mx::Dtype>& outputs) {
  std::vector<std::string> parameters;
  auto add_buffer = [&](const std::string& type, const std::string& name) {
    parameters.push_back("  " + type + "* " + name + " [[buffer(" +
                         std::to_string(parameters.size()) + ")]]");
  };
  for (size_t i = 0; i < inputs.size(); ++i) {
    add_buffer(std::string("const device ") + metal_type(inputs[i]), kernel.inputs[i]);
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    add_buffer(std::string("device ") + metal_type(outputs[i]), kernel.outputs[i]);
  }
  for (const auto& [name, type] : kAttributes) {
    if (kernel.body.find(name) == std::string::npos) continue;
    parameters.push_back("  " + std::string(type) + " " + name + " [[" + name + "]]");
  }
  auto text =
      header_of(kernel) + "[[kernel]] void " + metal_kernel_name(kernel, inputs, outputs) + "(\n";
  for (size_t i = 0; i < parameters.size(); ++i) {
    text += parameters[i] + (i + 1 < parameters.size() ? ",\n" : ") {\n");
  }
  return text + kernel.body + "\n}\n";
}

void launch_metal(const LaunchKey& key, const mx::Stream& stream,
                  const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs,
                  const std::function<MetalKernel()>& describe) {
  find_primitive(key, stream, inputs, outputs, describe).eval_gpu(inputs, outputs);
}

}  // namespace zmlx::fast

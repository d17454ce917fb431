// Tells Python what kernel and launch `eval_metal` takes for a call: no arithmetic, no launch.

#include <cstdlib>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "fast/metal_call.h"
#include "fast/metal_kernel.h"
#include "fast/primitives.h"
#include "mlx/ops.h"

namespace zmlx::fast {
namespace {

/// A call's description: words `name=value`.
class Call {
 public:
  explicit Call(const std::string& text) {
    std::istringstream words(text);
    for (std::string word; words >> word;) {
      const auto equals = word.find('=');
      values_[word.substr(0, equals)] = word.substr(equals + 1);
    }
  }
  const std::string& word(const std::string& name) const {
    const auto found = values_.find(name);
    if (found == values_.end()) throw std::invalid_argument("the call lacks " + name);
    return found->second;
  }
  int number(const std::string& name) const { return std::atoi(word(name).c_str()); }
  float real(const std::string& name) const { return std::strtof(word(name).c_str(), nullptr); }
  mx::Dtype type(const std::string& name) const {
    const auto& value = word(name);
    if (value == "float32") return mx::float32;
    if (value == "float16") return mx::float16;
    if (value == "bfloat16") return mx::bfloat16;
    throw std::invalid_argument("no such type: " + value);
  }

 private:
  std::map<std::string, std::string> values_;
};

class Arrays {
 public:
  void add(const mx::Shape& shape, mx::Dtype type) {
    arrays_.push_back(mx::zeros(shape, type, mx::Device::cpu));
    arrays_.back().eval();
  }
  void add_experts(const Call& call, int n, int k, bool bias) {
    const int experts = call.number("E"), groups = k / call.number("group");
    const bool affine = call.word("mode") == "affine";
    const auto type = call.type("type");
    add({experts, n, k * call.number("bits") / 32}, mx::uint32);
    add({experts, n, groups}, affine ? type : mx::uint8);
    if (affine) add({experts, n, groups}, type);
    if (bias) add({experts, n}, type);
  }
  const std::vector<mx::array>& get() const { return arrays_; }
  std::vector<mx::Dtype> types() const {
    std::vector<mx::Dtype> types;
    for (const auto& a : arrays_) types.push_back(a.dtype());
    return types;
  }

 private:
  std::vector<mx::array> arrays_;
};

Quantization quantization(const Call& call) {
  return {call.word("mode"), call.number("group"), call.number("bits")};
}

Activation activation(const Call& call) {
  return call.word("activation") == "swiglu" ? Activation::swiglu : Activation::swiglu_clamped;
}

struct Kernel {
  MetalKernel kernel;
  std::vector<mx::Dtype> inputs, outputs;
};

Kernel swiglu(const Call& call) {
  const int D = call.number("D"), H = call.number("H"), M = call.number("M"), K = call.number("K");
  const bool bias = call.number("bias"), rows = call.number("rows");
  const auto type = call.type("type");
  Arrays inputs;
  inputs.add({M, 1, 1, D}, type);
  inputs.add_experts(call, H, D, bias);
  inputs.add_experts(call, H, D, bias);
  inputs.add({M, K}, mx::uint32);
  if (rows) inputs.add({M, K}, mx::uint32);
  const GatherQmmSwiglu::Options options{quantization(call),
                                         activation(call),
                                         1.702f,
                                         7.0f,
                                         bias,
                                         bias,
                                         rows,
                                         false,
                                         true,
                                         type,
                                         call.number("exact") != 0,
                                         32,
                                         false};
  return {metal_kernel_of(options, inputs.get()), inputs.types(), {type}};
}

Kernel combine(const Call& call) {
  const int D = call.number("D"), H = call.number("H"), M = call.number("M"), K = call.number("K");
  const bool bias = call.number("bias");
  const auto type = call.type("type"), weights = call.type("weights");
  Arrays inputs;
  inputs.add({M, K, 1, H}, type);
  inputs.add_experts(call, D, H, bias);
  inputs.add({M, K}, mx::uint32);
  inputs.add({M, K}, weights);
  const auto out = mx::promote_types(type, weights);
  const GatherQmmCombine::Options options{quantization(call),        bias, true, out,
                                          call.number("exact") != 0, 32};
  return {metal_kernel_of(options, inputs.get()), inputs.types(), {out}};
}

Kernel norm(const Call& call) {
  const auto type = call.type("type");
  const mx::Shape shape{call.number("M"), call.number("D")};
  Arrays inputs;
  inputs.add(shape, type);
  inputs.add(shape, type);
  const bool weight = call.number("weight");
  if (weight) inputs.add({shape[1]}, type);
  const AddRmsNorm::Options options{call.real("eps"), true, weight, type, type};
  return {metal_kernel_of(options, inputs.get()), inputs.types(), {type, type}};
}

/// A JSON string; what kernels hold is ASCII without control characters but line feeds.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
  }
  return out + '"';
}

std::string json(const Kernel& k) {
  const auto text = metal_kernel_text(k.kernel, k.inputs, k.outputs);
  const auto [x, y, z] = k.kernel.threadgroups;
  std::string names;
  for (const auto* list : {&k.kernel.inputs, &k.kernel.outputs}) {
    for (const auto& name : *list) names += (names.empty() ? "" : ", ") + quoted(name);
  }
  return "{\"text\": " + quoted(text) + ", \"file\": " + quoted(k.kernel.file) +
         ", \"config\": " + quoted(k.kernel.config) +
         ", \"name\": " + quoted(metal_kernel_name(k.kernel, k.inputs, k.outputs)) +
         ", \"buffers\": [" + names + "], \"threadgroups\": [" + std::to_string(x) + ", " +
         std::to_string(y) + ", " + std::to_string(z) +
         "], \"threads\": " + std::to_string(k.kernel.threads) + "}";
}

}  // namespace
}  // namespace zmlx::fast

/// The kernel of a call as JSON, or `{"refused": why}`. Valid until the next call.
extern "C" __attribute__((visibility("default"))) const char* zmlx_metal_call(const char* text) {
  using namespace zmlx::fast;
  static std::string result;
  try {
    const Call call(text);
    const auto& op = call.word("op");
    result = json(op == "swiglu" ? swiglu(call) : op == "combine" ? combine(call) : norm(call));
  } catch (const std::exception& error) {
    result = "{\"refused\": " + quoted(error.what()) + "}";
  }
  return result.c_str();
}

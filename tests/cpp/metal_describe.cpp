// Prints the Metal kernels that the library would launch, for tests that compile and run them.
//
// Reads calls from standard input, one a line: an operation and its settings, as in
//   swiglu mode=affine bits=4 group=64 type=bfloat16 N=64 K=512 E=4 tokens=1 top_k=2
// and answers each with one line of JSON: "obstacle" (why no kernel takes the call), or "name",
// "text", "inputs" and "outputs" (names in the order of the buffers), "threads" (of a threadgroup)
// and "grid" (threads on each axis). Settings that are left out have the values of `Call`. What
// MLX puts before every kernel is not part of the text.

#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>

#include "fast/metal_call.h"
#include "fast/metal_path.h"
#include "mlx/ops.h"

namespace {

using namespace zmlx::fast;

/// One line's settings.
class Call {
 public:
  explicit Call(const std::string& line) {
    std::istringstream in(line);
    in >> operation;
    for (std::string setting; in >> setting;) {
      const auto split = setting.find('=');
      if (split == std::string::npos) throw std::invalid_argument("no value in " + setting);
      settings_[setting.substr(0, split)] = setting.substr(split + 1);
    }
  }

  std::string operation;

  std::string text(const std::string& name, const std::string& otherwise) const {
    const auto found = settings_.find(name);
    return found == settings_.end() ? otherwise : found->second;
  }
  int number(const std::string& name, int otherwise) const {
    return std::stoi(text(name, std::to_string(otherwise)));
  }
  float real(const std::string& name, const char* otherwise) const {
    return std::stof(text(name, otherwise));
  }
  mx::Dtype type(const std::string& name, const std::string& otherwise) const {
    const auto value = text(name, otherwise);
    for (auto type : {mx::float32, mx::float16, mx::bfloat16}) {
      std::ostringstream out;
      out << type;
      if (out.str() == value) return type;
    }
    throw std::invalid_argument("no type " + value);
  }

 private:
  std::map<std::string, std::string> settings_;
};

/// An array of a shape whose data begin `offset` elements into their buffer.
mx::array placed(mx::Shape shape, mx::Dtype type, int offset = 0) {
  int size = 1;
  for (auto n : shape) size *= n;
  auto flat = mx::zeros({size + offset}, type);
  auto out = mx::reshape(mx::slice(flat, {offset}, {size + offset}), std::move(shape));
  out.eval();
  return out;
}

struct Described {
  MetalKernel kernel;
  std::vector<mx::array> inputs;
  std::vector<mx::Dtype> outputs;
};

Quantization quantization_of(const Call& call) {
  return {call.text("mode", "affine"), call.number("group", 64), call.number("bits", 4)};
}

/// w, scales, [biases], [bias] of `E` matrices (N, K). offset: elements before each.
void add_experts(std::vector<mx::array>& inputs, const Call& call, const Quantization& q,
                 bool bias) {
  const int E = call.number("E", 4), N = call.number("N", 64), K = call.number("K", 512);
  const auto type = call.type("type", "bfloat16");
  const int offset = call.number("offset", 0);
  inputs.push_back(placed({E, N, K * q.bits / 32}, mx::uint32, offset));
  inputs.push_back(placed({E, N, K / q.group_size}, q.affine() ? type : mx::uint8, offset));
  if (q.affine()) inputs.push_back(placed({E, N, K / q.group_size}, type, offset));
  if (bias) inputs.push_back(placed({E, N}, type, offset));
}

Activation activation_of(const std::string& name) {
  if (name == "swiglu") return Activation::swiglu;
  if (name == "geglu") return Activation::geglu;
  if (name == "swiglu_clamped") return Activation::swiglu_clamped;
  throw std::invalid_argument("no activation " + name);
}

Described swiglu(const Call& call) {
  const auto q = quantization_of(call);
  const auto type = call.type("type", "bfloat16");
  const int tokens = call.number("tokens", 1), top_k = call.number("top_k", 2);
  const int K = call.number("K", 512);
  const bool gate_bias = call.number("gate_bias", 0), up_bias = call.number("up_bias", 0);
  const auto rows = call.text("rows", "token");  // "token", "pair", or how many that are indexed
  const bool indexed = rows != "token" && rows != "pair";
  const int x_rows = rows == "token" ? tokens : rows == "pair" ? tokens * top_k : std::stoi(rows);
  GatherQmmSwiglu::Options options{q,
                                   activation_of(call.text("activation", "swiglu")),
                                   call.real("alpha", "1.702"),
                                   call.real("limit", "7"),
                                   gate_bias,
                                   up_bias,
                                   indexed,
                                   call.number("sorted", 0) != 0,
                                   true,
                                   type,
                                   call.number("exact", 1) != 0,
                                   1 << 20,
                                   false};
  std::vector<mx::array> inputs{placed({x_rows, 1, K}, type, call.number("offset", 0))};
  add_experts(inputs, call, q, gate_bias);
  add_experts(inputs, call, q, up_bias);
  inputs.push_back(placed({tokens, top_k}, mx::uint32));
  if (indexed) inputs.push_back(placed({tokens, top_k}, mx::uint32));
  return {metal_kernel_of(options, inputs), inputs, {type}};
}

Described combine(const Call& call) {
  const auto q = quantization_of(call);
  const auto type = call.type("type", "bfloat16"), weight = call.type("weight", "bfloat16");
  const int tokens = call.number("tokens", 1), top_k = call.number("top_k", 2);
  const bool bias = call.number("bias", 0);
  const auto out = mx::promote_types(type, weight);
  GatherQmmCombine::Options options{q, bias, true, out, call.number("exact", 1) != 0, 1 << 20};
  std::vector<mx::array> inputs{
      placed({tokens, top_k, 1, call.number("K", 512)}, type, call.number("offset", 0))};
  add_experts(inputs, call, q, bias);
  inputs.push_back(placed({tokens, top_k}, mx::uint32));
  inputs.push_back(placed({tokens, top_k}, weight));
  return {metal_kernel_of(options, inputs), inputs, {out}};
}

Described norm(const Call& call) {
  const auto type = call.type("type", "bfloat16");
  const int rows = call.number("rows", 1), D = call.number("D", 512);
  const bool weight = call.number("has_weight", 1);
  AddRmsNorm::Options options{call.real("eps", "1e-5"), true, weight, type, type};
  std::vector<mx::array> inputs{placed({rows, D}, type), placed({rows, D}, type)};
  if (weight) inputs.push_back(placed({D}, type));
  return {metal_kernel_of(options, inputs), inputs, {type, type}};
}

RouteScore score_of(const std::string& name) {
  if (name == "softmax") return RouteScore::softmax;
  return name == "sigmoid" ? RouteScore::sigmoid : RouteScore::topk_softmax;
}

Described route(const Call& call) {
  const auto type = call.type("type", "bfloat16");
  std::ostringstream type_text;
  type_text << type;
  const auto score_type = call.type("score_type", type_text.str());
  std::ostringstream score_text;
  score_text << score_type;
  const int rows = call.number("rows", 1), E = call.number("E", 32),
            groups = call.number("groups", 1);
  const auto bias = call.text("bias", "");  // its type
  MoeRoute::Options options{score_of(call.text("score", "softmax")),
                            call.number("K", 4),
                            groups,
                            call.number("topk_group", groups),
                            call.number("renormalize", 0) != 0,
                            call.real("scale", "1"),
                            call.real("eps", "0"),
                            call.number("ascending", 0) != 0,
                            call.number("group_max", 0) != 0,
                            call.real("fill", "0"),
                            call.number("precise", 0) != 0,
                            !bias.empty(),
                            score_type,
                            call.type("weights_type", score_text.str()),
                            call.number("exact", 1) != 0,
                            1 << 20};
  const bool one_axis = call.number("one_axis", 0);
  std::vector<mx::array> inputs{placed(one_axis ? mx::Shape{E} : mx::Shape{rows, E}, type)};
  if (!bias.empty()) inputs.push_back(placed({E}, call.type("bias", "")));
  return {metal_kernel_of(options, inputs), inputs, {mx::uint32, options.weights_type}};
}

Described describe(const Call& call) {
  if (call.operation == "swiglu") return swiglu(call);
  if (call.operation == "combine") return combine(call);
  if (call.operation == "norm") return norm(call);
  if (call.operation == "route") return route(call);
  throw std::invalid_argument("no operation " + call.operation);
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? "\\n" : std::string(1, c);
  }
  return out + "\"";
}

std::string quoted(const std::vector<std::string>& list) {
  std::string out;
  for (const auto& text : list) out += (out.empty() ? "" : ", ") + quoted(text);
  return "[" + out + "]";
}

std::string json(const Described& d) {
  std::vector<mx::Dtype> types;
  for (const auto& a : d.inputs) types.push_back(a.dtype());
  const auto& k = d.kernel;
  const auto [x, y, z] = k.threadgroups;
  std::ostringstream out;
  out << "{\"name\": " << quoted(metal_kernel_name(k, types, d.outputs))
      << ", \"inputs\": " << quoted(k.inputs) << ", \"outputs\": " << quoted(k.outputs)
      << ", \"threads\": " << k.threads << ", \"grid\": [" << x * k.threads << ", " << y << ", "
      << z << "], \"text\": " << quoted(metal_kernel_text(k, types, d.outputs)) << "}";
  return out.str();
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    if (line.empty()) continue;
    try {
      std::cout << json(describe(Call(line))) << std::endl;
    } catch (const std::runtime_error& e) {  // no kernel takes the call
      std::cout << "{\"obstacle\": " << quoted(e.what()) << "}" << std::endl;
    } catch (const std::exception& e) {
      std::cerr << "metal_describe: " << line << ": " << e.what() << "\n";
      return 1;
    }
  }
}

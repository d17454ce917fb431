// The text of Metal kernels, as MLX compiles it. What the kernels compute is tested in tests/metal.

#include "fast/metal_kernel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "fast/metal_call.h"
#include "mlx/ops.h"

namespace zmlx::fast {
namespace {

MetalKernel example() {
  return {"example",
          "add_rms_norm.h",
          "struct Config {};\n",
          "body(x, out, threadgroup_position_in_grid, thread_index_in_simdgroup);",
          {"x", "weight", "indices"},
          {"out", "codes"},
          {1, 1, 1},
          128,
          false};
}

TEST(MetalKernel, HasTheSignatureThatMlxWrites) {
  const auto text = metal_kernel_text(example(), {mx::bfloat16, mx::float32, mx::uint32},
                                      {mx::float16, mx::uint8});
  const std::string expected =
      "[[kernel]] void "
      "custom_kernel_example_bfloat16_t_float_uint32_t_float16_t_uint8_t(\n"
      "  const device bfloat16_t* x [[buffer(0)]],\n"
      "  const device float* weight [[buffer(1)]],\n"
      "  const device uint32_t* indices [[buffer(2)]],\n"
      "  device float16_t* out [[buffer(3)]],\n"
      "  device uint8_t* codes [[buffer(4)]],\n"
      "  uint thread_index_in_simdgroup [[thread_index_in_simdgroup]],\n"
      "  uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]]) {\n"
      "body(x, out, threadgroup_position_in_grid, thread_index_in_simdgroup);\n}\n";
  EXPECT_TRUE(text.ends_with(expected)) << text.substr(text.size() - 700);
  EXPECT_LT(text.find("rsqrt"), text.find("struct Config"));
  EXPECT_LT(text.find("struct Config"), text.find("[[kernel]]"));
}

TEST(MetalKernel, RefusesTypesThatNoKernelTakes) {
  EXPECT_THROW(
      metal_kernel_text(example(), {mx::int64, mx::float32, mx::uint32}, {mx::float16, mx::uint8}),
      std::logic_error);
}

std::vector<mx::array> combine_inputs(mx::Dtype type) {
  const int E = 4, N = 24, K = 64, tokens = 3, top_k = 2;
  return {mx::zeros({tokens, top_k, 1, K}, type),
          mx::zeros({E, N, K / 8}, mx::uint32),
          mx::zeros({E, N, 1}, type),
          mx::zeros({E, N, 1}, type),
          mx::zeros({tokens, top_k}, mx::uint32),
          mx::zeros({tokens, top_k}, mx::float32)};
}

GatherQmmCombine::Options combine_options(bool exact) {
  return {{"affine", 64, 4}, false, true, mx::float32, exact, 32};
}

std::vector<mx::array> evaluated(std::vector<mx::array> arrays) {
  for (auto& a : arrays) a.eval();
  return arrays;
}

TEST(MetalCall, DescribesACombine) {
  const auto inputs = evaluated(combine_inputs(mx::bfloat16));
  const auto kernel = metal_kernel_of(combine_options(true), inputs);
  // One tile of 4 rows for each of 8 simdgroups, which are two experts' by four tiles.
  EXPECT_EQ(kernel.threads, 256);
  EXPECT_EQ(kernel.threadgroups, (std::tuple{3, 2, 1}));
  EXPECT_FALSE(kernel.copy_strided);
  for (const char* line : {"using T = bfloat16_t;", "using Intermediate = bfloat16_t;",
                           "using Sum = float;", "int kPacks = 1;", "bool kWide = true;"}) {
    EXPECT_NE(kernel.config.find(line), std::string::npos) << line << "\n" << kernel.config;
  }
  EXPECT_NE(
      kernel.body.find("Weights{down_w, down_scales, down_biases, nullptr, 192l, 24l, 24l, 0l}"),
      std::string::npos)
      << kernel.body;
}

TEST(MetalCall, CopiesWhatItCannotReadInPlace) {
  auto inputs = combine_inputs(mx::float16);
  inputs[0] = mx::swapaxes(mx::zeros({2, 3, 1, 64}, mx::float16), 0, 1);
  EXPECT_TRUE(metal_kernel_of(combine_options(true), evaluated(inputs)).copy_strided);
  inputs = combine_inputs(mx::float16);
  // Scales that start elsewhere for every expert than biases do.
  inputs[3] = mx::slice(mx::zeros({4, 48, 1}, mx::float16), {0, 0, 0}, {4, 24, 1});
  EXPECT_TRUE(metal_kernel_of(combine_options(true), evaluated(inputs)).copy_strided);
}

TEST(MetalCall, ReadsUnalignedArraysByElements) {
  auto inputs = combine_inputs(mx::bfloat16);
  inputs[0] = mx::reshape(
      mx::slice(mx::zeros({1 + 3 * 2 * 64}, mx::bfloat16), {1}, {1 + 3 * 2 * 64}), {3, 2, 1, 64});
  inputs[1] = mx::reshape(mx::slice(mx::zeros({1 + 4 * 24 * 8}, mx::uint32), {1}, {1 + 4 * 24 * 8}),
                          {4, 24, 8});
  const auto kernel = metal_kernel_of(combine_options(true), evaluated(inputs));
  EXPECT_FALSE(kernel.copy_strided);
  EXPECT_NE(kernel.config.find("bool kWide = false;"), std::string::npos);
  EXPECT_NE(kernel.config.find("bool kWideX = false;"), std::string::npos);
}

TEST(MetalCall, RefusesWhatIsNotFollowed) {
  const AddRmsNorm::Options norm{1e-5f, true, false, mx::float32, mx::float32};
  const auto x = mx::zeros({2, 5000}, mx::float32);
  EXPECT_THROW(metal_kernel_of(norm, evaluated({x, x})), std::runtime_error);
}

/// MLX hands kernels to Metal as ASCII.
TEST(MetalCall, KernelsAreAscii) {
  const auto inputs = evaluated(combine_inputs(mx::float16));
  const auto text = metal_kernel_text(
      metal_kernel_of(combine_options(true), inputs),
      {mx::float16, mx::uint32, mx::float16, mx::float16, mx::uint32, mx::float32}, {mx::float32});
  EXPECT_TRUE(std::ranges::all_of(text, [](unsigned char c) { return c < 128; }));
}

}  // namespace
}  // namespace zmlx::fast

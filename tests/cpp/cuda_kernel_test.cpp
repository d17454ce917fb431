#include "fast/cuda_kernel.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "cuda/host/api.h"

namespace zmlx::fast {
namespace {

CudaKernel example() {
  return {"add_rms_norm.cuh",
          "struct Config {};\n",
          "body(x, normed, rows);",
          {"x", "weight", "indices"},
          {"normed", "codes"},
          {{"rows", 3}},
          {1, 1, 1},
          128,
          2,
          0,
          false};
}

TEST(CudaKernel, TakesInputsOutputsAndNumbersInThisOrder) {
  const auto text = cuda_kernel_text(example(), {mx::bfloat16, mx::float32, mx::uint32},
                                     {mx::float16, mx::uint8});
  EXPECT_NE(text.find("extern \"C\" __global__ __launch_bounds__(128, 2) void zmlx_kernel("
                      "const zmlx::bf16* x, const float* weight, const zmlx::u32* indices, "
                      "zmlx::f16* normed, zmlx::u8* codes, int rows) {\nbody(x, normed, rows);"),
            std::string::npos)
      << text.substr(text.size() - 400);
  // What the kernel calls comes before its constants, and both before it.
  EXPECT_LT(text.find("block_sum"), text.find("struct Config"));
  EXPECT_LT(text.find("struct Config"), text.find("zmlx_kernel"));
}

TEST(CudaKernel, RefusesTypesThatNoKernelTakes) {
  EXPECT_THROW(
      cuda_kernel_text(example(), {mx::int64, mx::float32, mx::uint32}, {mx::float16, mx::uint8}),
      std::logic_error);
}

TEST(CudaApi, NamesWhatIsMissing) {
  const auto& api = cuda::api();
  if (api.obstacle.empty()) {
    EXPECT_NE(api.add_kernel_node, nullptr);
    EXPECT_FALSE(api.include_folder.empty());
  } else {
    EXPECT_TRUE(api.obstacle.starts_with("this MLX does not offer ") ||
                api.obstacle.starts_with("CUDA's headers were not found"))
        << api.obstacle;
  }
}

}  // namespace
}  // namespace zmlx::fast

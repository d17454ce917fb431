#include "fast/cuda_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

namespace zmlx::fast {
namespace {

TEST(CudaSource, HoldsEveryFileWithWhatItIncludes) {
  ASSERT_GT(kCudaFileCount, 10u);
  for (size_t i = 0; i < kCudaFileCount; ++i) {
    const auto text = cuda_source(kCudaFiles[i].name);
    EXPECT_FALSE(text.empty()) << kCudaFiles[i].name;
    EXPECT_EQ(text.find("#include \""), std::string::npos) << kCudaFiles[i].name;
    EXPECT_EQ(text.find("//"), std::string::npos) << kCudaFiles[i].name;
    EXPECT_EQ(std::count(text.begin(), text.end(), '{'), std::count(text.begin(), text.end(), '}'));
  }
}

TEST(CudaSource, IncludesAFileOnce) {
  const auto text = cuda_source("gather_qmm_swiglu_mma.cuh");
  const std::string declared = "struct MmaLayout {";
  const auto first = text.find(declared);
  ASSERT_NE(first, std::string::npos);
  EXPECT_EQ(text.find(declared, first + 1), std::string::npos);
}

TEST(CudaSource, RefusesWhatIsNotThere) {
  EXPECT_THROW(cuda_source("nothing.cuh"), std::logic_error);
}

}  // namespace
}  // namespace zmlx::fast

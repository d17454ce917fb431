#include "fast/kernel_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

namespace zmlx::fast {
namespace {

class KernelSource : public testing::TestWithParam<const SourceFolder*> {};

TEST_P(KernelSource, HoldsEveryFileWithWhatItIncludes) {
  const auto& folder = *GetParam();
  ASSERT_GT(folder.count, 6u);
  for (size_t i = 0; i < folder.count; ++i) {
    const auto* name = folder.files[i].name;
    const auto text = kernel_source(folder, name);
    EXPECT_FALSE(text.empty()) << name;
    EXPECT_EQ(text.find("#include \""), std::string::npos) << name;
    EXPECT_EQ(text.find("//"), std::string::npos) << name;
    EXPECT_EQ(std::count(text.begin(), text.end(), '{'), std::count(text.begin(), text.end(), '}'))
        << name;
  }
}

TEST_P(KernelSource, RefusesWhatIsNotThere) {
  EXPECT_THROW(kernel_source(*GetParam(), "nothing.cuh"), std::logic_error);
}

INSTANTIATE_TEST_SUITE_P(Folders, KernelSource, testing::Values(&kCudaSources, &kMetalSources),
                         [](const auto& info) {
                           return info.param == &kCudaSources ? "cuda" : "metal";
                         });

TEST(CudaSource, IncludesAFileOnce) {
  const auto text = kernel_source(kCudaSources, "gather_qmm_swiglu_mma.cuh");
  const std::string declared = "struct MmaLayout {";
  const auto first = text.find(declared);
  ASSERT_NE(first, std::string::npos);
  EXPECT_EQ(text.find(declared, first + 1), std::string::npos);
}

}  // namespace
}  // namespace zmlx::fast

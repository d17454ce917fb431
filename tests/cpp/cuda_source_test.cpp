#include "fast/cuda_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <stdexcept>

namespace zmlx::fast {
namespace {

std::string contents(const std::string& path) {
  std::string text;
  if (std::FILE* file = std::fopen(path.c_str(), "rb")) {
    char buffer[4096];
    for (size_t n; (n = std::fread(buffer, 1, sizeof(buffer), file)) > 0;) text.append(buffer, n);
    std::fclose(file);
  }
  return text;
}

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

TEST(CudaSource, WritesWhatItIncludes) {
  const auto text = cuda_source("gather_qmm_combine_mma.cuh");
  const auto line = cuda_include("text.cuh", text);
  const auto begin = line.find('"'), end = line.rfind('"');
  ASSERT_EQ(line.substr(0, begin), "#include ");
  EXPECT_EQ(contents(line.substr(begin + 1, end - begin - 1)), text);
}

}  // namespace
}  // namespace zmlx::fast

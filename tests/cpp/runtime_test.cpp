#include <gtest/gtest.h>

#include "oracle.h"
#include "zmlx/zmlx.h"

namespace zmlx::testing {
namespace {

TEST(Runtime, TargetsCanBeChosenByName) {
  const auto targets = cpu_targets();
  ASSERT_FALSE(targets.empty());
  EXPECT_EQ(cpu_target(), targets.front());
  for (const auto& target : targets) {
    set_cpu_target(target);
    EXPECT_EQ(cpu_target(), target);
  }
  EXPECT_TRUE(throws_invalid([] { set_cpu_target("MMX"); }, {"MMX", targets.front()}));
  EXPECT_EQ(cpu_target(), targets.back());
  set_cpu_target("");
  EXPECT_EQ(cpu_target(), targets.front());
}

TEST(Runtime, ThreadsAreBounded) {
  const int before = num_threads();
  EXPECT_GE(before, 1);
  set_num_threads(1);
  EXPECT_EQ(num_threads(), 1);
  EXPECT_TRUE(throws_invalid([] { set_num_threads(0); }, {"threads", "0"}));
  set_num_threads(before);
}

TEST(Runtime, BandwidthIsMeasured) {
  for (const auto& seconds : {read_bandwidth(1 << 20, 1, 3), copy_bandwidth(1 << 20, 2, 3)}) {
    ASSERT_EQ(seconds.size(), 3u);
    for (double s : seconds) EXPECT_GT(s, 0);
  }
}

TEST(Runtime, HugePagesChangeNoValue) {
  const auto values = mx::arange(4 << 20, mx::int32);
  EXPECT_EQ(use_huge_pages(values), 0u);  // not evaluated yet
  mx::eval(values);
  const int sum = mx::sum(values).item<int>();
  const size_t bytes = use_huge_pages(values);
  EXPECT_TRUE(bytes == 0 || (bytes >= 12u << 20 && bytes <= 16u << 20)) << bytes;
  EXPECT_EQ(bytes % (2u << 20), 0u);
  EXPECT_EQ(mx::sum(values).item<int>(), sum);
  const auto few = mx::arange(16);
  mx::eval(few);
  EXPECT_EQ(use_huge_pages(few), 0u);
}

TEST(Runtime, BuildInfoIsFilledIn) {
  const auto info = build_info();
  EXPECT_EQ(info.mlx_version, mx::version());
  EXPECT_NE(info.version, "");
  EXPECT_EQ(std::count(info.highway.begin(), info.highway.end(), '.'), 2);
  EXPECT_EQ(info.highway.find("HWY"), std::string::npos);
}

}  // namespace
}  // namespace zmlx::testing

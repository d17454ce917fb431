#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "autotune/cache.h"
#include "mlx/mlx.h"
#include "zmlx/zmlx.h"

namespace zmlx::testing {
namespace {

namespace fs = std::filesystem;

class Autotune : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("zmlx_autotune_" + std::to_string(getpid()));
    setenv("ZMLX_CACHE_DIR", folder_.c_str(), 1);
    clear_autotune_cache();
  }
  void TearDown() override {
    clear_autotune_cache();
    fs::remove_all(folder_);
    unsetenv("ZMLX_CACHE_DIR");
  }
  fs::path folder_;
};

void busy(std::chrono::microseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
  }
}

const auto kSleeps = [](size_t candidate) {
  constexpr int kMicroseconds[] = {400, 3000, 150, 900};
  busy(std::chrono::microseconds(kMicroseconds[candidate]));
};

TEST_F(Autotune, FindsTheFastestAndStopsEarly) {
  std::vector<int> calls(4, 0);
  const auto result = autotune(4, [&](size_t c) {
    ++calls[c];
    kSleeps(c);
  });
  EXPECT_EQ(result.best, 2u);
  EXPECT_FALSE(result.remembered);
  ASSERT_EQ(result.seconds.size(), 4u);
  EXPECT_LT(result.seconds[2], result.seconds[0]);
  EXPECT_LT(calls[1], 10) << "clearly slower, so it drops out";
}

TEST_F(Autotune, ALittleFasterIsNotEnough) {
  AutotuneOptions options;
  options.margin = 0.9;
  EXPECT_EQ(autotune(4, kSleeps, options).best, 0u);
}

TEST_F(Autotune, RemembersInTheProcessAndOnDisk) {
  AutotuneOptions options;
  options.key = "test, (64, 64) float32";
  EXPECT_FALSE(autotune(4, kSleeps, options).remembered);
  const auto never = [](size_t) { FAIL() << "measured again"; };
  EXPECT_EQ(autotune(4, never, options).best, 2u);
  EXPECT_TRUE(autotune(4, never, options).remembered);
  options.key = "test, (128, 64) float32";
  EXPECT_FALSE(autotune(4, kSleeps, options).remembered);
  EXPECT_EQ(std::distance(fs::directory_iterator(autotune_cache_directory()), {}), 2);
}

TEST_F(Autotune, AnotherProcessFindsTheChoice) {
  AutotuneOptions options;
  options.key = "shared";
  const pid_t child = fork();
  if (child == 0) _exit(static_cast<int>(autotune(4, kSleeps, options).best));
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_EQ(WEXITSTATUS(status), 2);
  EXPECT_TRUE(autotune(4, [](size_t) { FAIL(); }, options).remembered);
}

TEST_F(Autotune, FilesThatAreNotRightAreIgnoredAndWrittenAnew) {
  using namespace autotune_cache;
  store("key", 1, 4);
  ASSERT_EQ(load("key", 4), std::optional<size_t>(1));
  std::string good;
  std::getline(std::ifstream(path_of("key")), good, '\0');
  const std::vector<std::string> bad{
      "", "x", good.substr(0, good.size() / 2), good + "more", std::string(100'000, '\xFF'), [&] {
        auto flipped = good;
        flipped[good.find("\n1 4") + 1] = '3';
        return flipped;
      }()};
  for (const auto& text : bad) {
    std::ofstream(path_of("key"), std::ios::binary) << text;
    EXPECT_EQ(load("key", 4), std::nullopt) << text.substr(0, 100);
  }
  store("key", 2, 4);
  EXPECT_EQ(load("key", 4), std::optional<size_t>(2));
  EXPECT_EQ(load("key", 3), std::nullopt) << "other candidates than were measured";
  fs::remove(path_of("key"));
  fs::create_directory(path_of("key"));
  EXPECT_EQ(load("key", 4), std::nullopt);
  store("key", 1, 4);  // cannot be written, which is no error
}

TEST_F(Autotune, ProcessesThatWriteAtOnceLeaveAWholeFile) {
  using namespace autotune_cache;
  std::vector<pid_t> children;
  for (int p = 0; p < 4; ++p) {
    const pid_t child = fork();
    if (child == 0) {
      bool ok = true;
      for (int i = 0; i < 300; ++i) {
        store("contended", static_cast<size_t>(p), 4);
        ok = ok && load("contended", 4).has_value();
      }
      _exit(ok ? 0 : 1);
    }
    children.push_back(child);
  }
  for (pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(WEXITSTATUS(status), 0);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(directory()), {}), 1) << "no temporary is left";
}

TEST_F(Autotune, ErrorsAreClear) {
  EXPECT_THROW(autotune(0, kSleeps), std::invalid_argument);
  AutotuneOptions options;
  options.key = "throws";
  EXPECT_THROW(
      autotune(2, [](size_t) { throw std::runtime_error("no"); }, options), std::runtime_error);
  EXPECT_FALSE(autotune(4, kSleeps, options).remembered) << "what failed is not remembered";
}

TEST_F(Autotune, TunesAKernel) {
  const auto kernel = elementwise("x * 2 + tanh(x)");
  const auto x = mx::random::normal({300'000});
  const auto expected = mx::array(kernel(x));
  mx::eval(expected);
  const auto first = kernel.tune({x});
  EXPECT_FALSE(first.remembered);
  EXPECT_TRUE(kernel.tune({x}).remembered);
  EXPECT_TRUE(mx::array_equal(kernel(x), expected).item<bool>());
  const auto softmax = map_reduce({{"-INFINITY", "max(acc1, x)", "max(a, b)"},
                                   {"0", "acc2 + exp(x - s1)", "a + b"},
                                   "exp(x - s1) / s2",
                                   "",
                                   0,
                                   {}});
  const auto rows = mx::reshape(x, {100, 3000});
  softmax.tune({rows});
  EXPECT_TRUE(mx::allclose(softmax(rows), mx::softmax(rows, -1)).item<bool>());
}

}  // namespace
}  // namespace zmlx::testing

// What a primitive keeps of its inputs, and in which order it finds them again.

#include "fast/step_primitive.h"

#include <gtest/gtest.h>

#include "mlx/mlx.h"

namespace zmlx::fast {
namespace {

std::vector<mx::array> numbers(int count) {
  std::vector<mx::array> arrays;
  for (int i = 0; i < count; ++i) arrays.push_back(mx::array(static_cast<float>(i)));
  return arrays;
}

std::vector<float> values(std::vector<mx::array> arrays) {
  std::vector<float> found;
  for (auto& a : arrays) found.push_back(a.item<float>());
  return found;
}

TEST(KeptInputs, TakesWhatIsInMemoryFromARange) {
  auto inputs = numbers(5);
  const auto kept = KeptInputs::take(inputs, 1, 4);
  EXPECT_EQ(values(inputs), (std::vector<float>{0, 4}));
  EXPECT_EQ(values(kept.with(inputs)), (std::vector<float>{0, 1, 2, 3, 4}));
}

TEST(KeptInputs, LeavesWhatIsNotComputedYet) {
  auto inputs = numbers(5);
  inputs[0] = mx::add(inputs[0], mx::array(10.0f));
  inputs[2] = mx::add(inputs[2], mx::array(10.0f));
  const auto kept = KeptInputs::take(inputs, 0, 5);
  EXPECT_EQ(inputs.size(), 2);
  EXPECT_EQ(values(kept.with(inputs)), (std::vector<float>{10, 1, 12, 3, 4}));
}

TEST(KeptInputs, OfNothingIsEmpty) {
  auto inputs = numbers(3);
  for (auto& a : inputs) a = mx::add(a, mx::array(1.0f));
  const auto kept = KeptInputs::take(inputs, 0, 3);
  EXPECT_TRUE(kept.empty());
  EXPECT_EQ(values(kept.with(inputs)), (std::vector<float>{1, 2, 3}));
}

TEST(KeptInputs, LeavesWhatIsTraced) {
  const auto constant = mx::array(1.0f);
  auto squares = [&](const std::vector<mx::array>& traced) {
    auto in_memory = traced[0];
    mx::eval(in_memory);
    std::vector<mx::array> inputs{constant, in_memory};
    const auto kept = KeptInputs::take(inputs, 0, 2);
    EXPECT_EQ(inputs.size(), 1);
    EXPECT_EQ(inputs[0].id(), traced[0].id());
    return std::vector{mx::square(kept.with(inputs)[1])};
  };
  auto gradient = mx::vjp(squares, {mx::array(3.0f)}, {mx::array(1.0f)}).second[0];
  EXPECT_EQ(gradient.item<float>(), 6.0f);
}

TEST(KeptInputs, ThatAreAllKeptComeBack) {
  auto inputs = numbers(3);
  const auto kept = KeptInputs::take(inputs, 0, 3);
  EXPECT_TRUE(inputs.empty());
  EXPECT_EQ(values(kept.with(inputs)), (std::vector<float>{0, 1, 2}));
}

}  // namespace
}  // namespace zmlx::fast

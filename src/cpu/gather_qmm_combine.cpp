#include "cpu/gather_qmm_combine.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gather_qmm_combine.cpp"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "cpu/gather_qmm_combine-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {

void AddWeighted(float weight, const float* y, size_t count, float* sum) {
  AddWeightedRow(weight, y, count, sum);
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/scalar.h"

namespace zmlx::cpu {

HWY_EXPORT(AddWeighted);

void gather_qmm_combine(const GatherQmmCombineArgs& args, Scratch& scratch) {
  const size_t N = args.down.N;
  const size_t pairs = args.tokens * args.top_k;
  const auto grouping = group_by_expert(args.experts, pairs, args.down.num_experts);
  float* sums = scratch.floats(args.tokens * N);
  std::fill_n(sums, args.tokens * N, 0.0f);
  for (auto pair : grouping.invalid) {
    std::fill_n(sums + pair / args.top_k * N, N, std::numeric_limits<float>::quiet_NaN());
  }

  const GroupProduct product{args.down, args.x, grouping, scratch};
  product.for_each_block(
      kBlock, [&](const ExpertGroup& group, const PreparedRows& rows, size_t n0, size_t n1) {
        thread_local std::vector<float> y;
        y.resize(rows.rows * kBlock);
        block_product(args.down, group.expert, rows, n0, n1, y.data(), kBlock);
        for (size_t t = 0; t < rows.rows; ++t) {
          const size_t pair = grouping.order[group.begin + t];
          HWY_DYNAMIC_DISPATCH(AddWeighted)
          (args.weights[pair], y.data() + t * kBlock, n1 - n0, sums + pair / args.top_k * N + n0);
        }
      });
  floats_to(sums, args.tokens * N, args.out_type, args.out);
}

}  // namespace zmlx::cpu
#endif  // HWY_ONCE

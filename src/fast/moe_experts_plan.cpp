#include <algorithm>
#include <initializer_list>

#include "fast/cuda_sizes.h"
#include "fast/moe_experts.h"

namespace zmlx::fast {

namespace {

/// The first of some launches whose shared memory fits.
struct Launch {
  int threads, ring;
};
template <typename Bytes>
void take_first(ExpertsPlan& plan, const CudaCall& call, std::initializer_list<Launch> launches,
                const Bytes& bytes) {
  for (const auto& launch : launches) {
    plan.threads = launch.threads, plan.ring = launch.ring;
    plan.shared_memory = bytes(plan);
    if (plan.shared_memory <= cuda_shared_limit(call.compute_capability)) return;
  }
  plan.obstacle = "rows too long for shared memory";
}

void plan_rows(const CudaCall& up, const CudaCall& down, int sum_bytes, ExpertsPlan& plan) {
  const RowSizes first(up, plan.product);
  RowSizes second(down, plan.product);
  second.rows = 2;
  const int staged = std::max(first.staged, up.top_k * second.staged);
  const int step = std::max(first.rows * first.codes, second.rows * second.codes);
  const int part_rows = ceil_div(ceil_div(down.N, second.rows), plan.parts) * second.rows;
  const int products = round_up(up.top_k * part_rows * sum_bytes, 16);
  if (up.N % (first.rows / 2) != 0 || down.N % second.rows != 0 || up.N * first.scales % 4 != 0) {
    plan.obstacle = "a number of rows that units of threads do not share out evenly";
    return;
  }
  // Runs of scales that lie side by side, of a product's rows of gate and of its rows of down, in
  // words of 4 bytes.
  const int up_run = round_up(first.rows / 2 * first.scales, 4);
  const int down_run = round_up(second.rows * second.scales, 4);
  const int kinds = up.quantization.affine() ? 2 : 1;
  const int scales = std::max(round_up(2 * kinds * up_run, 16), round_up(kinds * down_run, 16));
  const int prepared =
      round_up(std::max(first.rows * first.prepared, second.rows * second.prepared), 16);
  auto bytes = [&](const ExpertsPlan& p) {
    return staged + products + p.ring * p.threads * step +
           p.threads / first.unit * (scales + prepared);
  };
  // Passes over the ring that are full leave no step unused.
  auto even = [&](int most) {
    const int steps = std::max(first.steps, second.steps);
    return ceil_div(steps, ceil_div(steps, most));
  };
  take_first(plan, up,
             {{512, even(4)}, {512, even(3)}, {512, even(2)}, {256, even(4)}, {256, even(2)}},
             bytes);
}

void plan_mma(const CudaCall& up, const CudaCall& down, int sum_bytes, ExpertsPlan& plan) {
  constexpr int kMaxPairs = 320;
  if (up.pairs() > kMaxPairs || up.tokens > 32) {
    plan.obstacle = "more tokens than fit into shared memory";
    return;
  }
  plan.max_tokens = up.tokens == 1 ? 1 : up.tokens <= 16 ? 4 : 8;
  plan.token_room = up.tokens == 1    ? 1
                    : up.tokens <= 4  ? 4
                    : up.tokens <= 8  ? 8
                    : up.tokens <= 16 ? 16
                                      : 32;
  plan.max_pairs = up.pairs() <= 32    ? 32
                   : up.pairs() <= 128 ? 128
                   : up.pairs() <= 256 ? 256
                                       : kMaxPairs;
  const MmaSizes first(up), second(down);
  auto bytes = [&](const ExpertsPlan& p) {
    const int warps = p.threads / 32;
    const int buffers = ceil_div(p.ring, std::min(first.stages, second.stages)) + 1;
    const int warp = p.ring * kStageBytes + buffers * std::max(first.scales, second.scales);
    const int slot = p.max_tokens * second.stage_k * 2;
    const int exchange = warps / 2 * 2 * 32 * 16;
    const int tables = p.max_pairs * (16 * sum_bytes + 4 + 16) + (up.experts + 1) * 4;
    return warps * warp + std::max(p.token_room * up.K * 2, warps * p.ring * slot) + exchange +
           tables;
  };
  if (up.tokens == 1) {
    // On H200s Qwen3-30B-A3B's layer took 18.1 us with 16 warps and 3 steps, 18.6 with 8 and 7.
    take_first(plan, up, {{512, 3}, {512, 2}, {384, 3}, {256, 5}, {256, 3}, {128, 3}}, bytes);
  } else {
    // Warps are worth more than steps on their way: 8 warps with 4 were 15 % slower than 12 with 3
    // (LFM2, 16 tokens), because products depend on one another in long chains.
    take_first(plan, up, {{512, 2}, {384, 2}, {256, 3}, {256, 2}, {128, 2}}, bytes);
  }
}

}  // namespace

ExpertsPlan plan_experts(const CudaCall& up, const CudaCall& down, int sum_bytes, int processors) {
  ExpertsPlan plan;
  plan.parts = processors;
  CudaProduct second;
  plan.obstacle = cuda_product(up, plan.product);
  if (plan.obstacle.empty()) plan.obstacle = cuda_product(down, second);
  if (!plan.obstacle.empty()) return plan;
  if (plan.product != second) {
    plan.obstacle = "products of several kinds";
  } else if (up.quantization.bits != down.quantization.bits) {
    plan.obstacle = "projections of several widths";
  } else if (plan.product == CudaProduct::mma) {
    plan_mma(up, down, sum_bytes, plan);
  } else if (up.tokens > 1) {
    plan.obstacle = "more than one token";
  } else {
    plan_rows(up, down, sum_bytes, plan);
  }
  return plan;
}

}  // namespace zmlx::fast

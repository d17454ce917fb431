#include "cpu/gather_qmm_swiglu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gather_qmm_swiglu.cpp"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "cpu/gather_qmm_swiglu-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {

void Activate(const GatherQmmSwigluArgs& args, const float* u, size_t count, float* g) {
  ActivateRow(args, u, count, g);
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <vector>

#include "cpu/scalar.h"

namespace zmlx::cpu {

HWY_EXPORT(Activate);

void gather_qmm_swiglu(const GatherQmmSwigluArgs& args, Scratch& scratch) {
  const size_t N = args.gate.N;
  const auto grouping = group_by_expert(args.experts, args.pairs, args.gate.num_experts);
  auto* out = static_cast<uint8_t*>(args.out);
  const size_t row_bytes = N * size_of(args.out_type);
  for (auto pair : grouping.invalid) fill_nan(N, args.out_type, out + pair * row_bytes);

  const GroupProduct product{args.gate, args.x, grouping, scratch, 2};
  product.for_each_unit(
      kBlock, [&](const ExpertGroup& group, const PreparedRows& rows, size_t n0, size_t n1) {
        thread_local std::vector<float> gate, up;
        gate.resize(rows.rows * kBlock);
        up.resize(rows.rows * kBlock);
        block_product(args.gate, group.expert, rows, n0, n1, gate.data(), kBlock);
        block_product(args.up, group.expert, rows, n0, n1, up.data(), kBlock);
        for (size_t t = 0; t < rows.rows; ++t) {
          float* g = gate.data() + t * kBlock;
          HWY_DYNAMIC_DISPATCH(Activate)(args, up.data() + t * kBlock, kBlock, g);
          auto* row = out + grouping.order[group.begin + t] * row_bytes;
          floats_to(g, n1 - n0, args.out_type, row + n0 * size_of(args.out_type));
        }
      });
}

}  // namespace zmlx::cpu
#endif  // HWY_ONCE

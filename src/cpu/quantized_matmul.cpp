#include "cpu/quantized_matmul.h"

#include <vector>

#include "cpu/scalar.h"

namespace zmlx::cpu {

void quantized_matmul(const QuantizedMatmulArgs& args, Scratch& scratch) {
  const size_t N = args.matrix.N;
  const std::vector<uint32_t> all_zero(args.rows, 0);
  const auto grouping = group_by_expert(all_zero.data(), args.rows, 1);
  auto* out = static_cast<uint8_t*>(args.out);
  const size_t size = size_of(args.out_type);
  const GroupProduct product{args.matrix, args.x, grouping, scratch};
  product.for_each_unit(
      kBlock, [&](const ExpertGroup& group, const PreparedRows& rows, size_t n0, size_t n1) {
        thread_local std::vector<float> y;
        y.resize(rows.rows * kBlock);
        block_product(args.matrix, group.expert, rows, n0, n1, y.data(), kBlock);
        for (size_t t = 0; t < rows.rows; ++t) {
          floats_to(y.data() + t * kBlock, n1 - n0, args.out_type,
                    out + ((group.begin + t) * N + n0) * size);
        }
      });
}

}  // namespace zmlx::cpu

#include "cpu/expert_groups.h"

#include <algorithm>
#include <limits>

#include "cpu/parallel.h"

namespace zmlx::cpu {

namespace {

/// Floats of prepared rows that are held at a time: 8 MiB.
constexpr size_t kWaveFloats = size_t{2} << 20;

/// Rows of one group; more of one expert make another group, so that memory stays bounded.
constexpr size_t kMaxGroupRows = 256;

struct Wave {
  size_t begin, end;          ///< groups
  std::vector<size_t> first;  ///< of each group, its first row of the wave; then the total
};

/// Cuts the groups into waves of at most `budget` rows, or of one group if that has more.
std::vector<Wave> waves_of(const ExpertGroups& grouping, size_t budget) {
  std::vector<Wave> waves;
  const auto& groups = grouping.groups;
  for (size_t g = 0; g < groups.size();) {
    Wave wave{g, g, {0}};
    size_t rows = 0;
    while (wave.end < groups.size() &&
           (wave.end == wave.begin || rows + groups[wave.end].count <= budget)) {
      rows += groups[wave.end++].count;
      wave.first.push_back(rows);
    }
    g = wave.end;
    waves.push_back(std::move(wave));
  }
  return waves;
}

}  // namespace

ExpertGroups group_by_expert(const uint32_t* expert_of, size_t pairs, size_t num_experts) {
  ExpertGroups result;
  std::vector<size_t> first(num_experts + 1, 0);
  for (size_t p = 0; p < pairs; ++p) {
    if (expert_of[p] < num_experts) {
      ++first[expert_of[p] + 1];
    } else {
      result.invalid.push_back(static_cast<uint32_t>(p));
    }
  }
  for (size_t e = 0; e < num_experts; ++e) {
    const size_t count = first[e + 1];
    first[e + 1] += first[e];
    for (size_t i = 0; i < count; i += kMaxGroupRows) {
      result.groups.push_back(
          {static_cast<uint32_t>(e), first[e] + i, std::min(kMaxGroupRows, count - i)});
    }
  }
  result.order.resize(pairs - result.invalid.size());
  for (size_t p = 0; p < pairs; ++p) {
    if (expert_of[p] < num_experts) result.order[first[expert_of[p]]++] = static_cast<uint32_t>(p);
  }
  return result;
}

void GroupProduct::for_each_unit(size_t block, const Unit& unit) const { run(block, false, unit); }

void GroupProduct::for_each_block(size_t block, const Unit& unit) const { run(block, true, unit); }

int GroupProduct::threads() const {
  const double weights = static_cast<double>(matrices) * static_cast<double>(experts.N * experts.K);
  const auto groups = static_cast<double>(grouping.groups.size());
  return threads_for(weights * groups * bits_of(experts.format) / 8,
                     2 * weights * static_cast<double>(grouping.order.size()));
}

Magnitudes GroupProduct::magnitudes_of_group(const ExpertGroup& group) const {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Magnitudes all{kInfinity, 0.0f};
  for (size_t i = 0; i < group.count && group.count < kManyRows; ++i) {
    const auto pair = grouping.order[group.begin + i];
    const auto row = magnitudes_of(x.row(pair, experts.K), x.type, experts.K);
    all = {std::min(all.smallest, row.smallest), std::max(all.largest, row.largest)};
  }
  return all;
}

void GroupProduct::run(size_t block, bool groups_in_order, const Unit& unit) const {
  const size_t K = experts.K;
  const size_t stride = prepared_stride(experts.format, K);
  const size_t sums_stride = prepared_sums_stride(experts.format, K);
  const size_t blocks = (experts.N + block - 1) / block;
  const auto waves = waves_of(grouping, std::max<size_t>(1, kWaveFloats / stride));
  size_t most = 0;
  for (const auto& wave : waves) most = std::max(most, wave.first.back());
  float* values = scratch.floats(most * stride);
  float* sums = sums_stride ? scratch.floats(most * sums_stride) : nullptr;
  const size_t headers_stride = prepared_headers_stride(experts.format, K);
  float* headers = headers_stride ? scratch.floats(most * headers_stride) : nullptr;
  float* factors = scratch.floats(most);

  for (const auto& wave : waves) {
    const size_t count = wave.end - wave.begin;
    std::vector<PreparedRows> prepared(count);
    std::vector<uint32_t> group_of_row(wave.first.back());
    for (size_t g = 0; g < count; ++g) {
      const auto& group = grouping.groups[wave.begin + g];
      const size_t row = wave.first[g];
      auto& rows = prepared[g];
      rows.values = values + row * stride;
      rows.sums = sums ? sums + row * sums_stride : nullptr;
      rows.headers = headers ? headers + row * headers_stride : nullptr;
      rows.factors = factors + row;
      rows.rows = group.count;
      rows.stride = stride;
      rows.sums_stride = sums_stride;
      rows.headers_stride = headers_stride;
      std::fill_n(group_of_row.begin() + row, group.count, static_cast<uint32_t>(g));
      rows.kernel =
          choose_kernel(experts.format, K, x.type, group.count, magnitudes_of_group(group));
    }
    const auto prepare = [&](size_t row) {
      const size_t g = group_of_row[row];
      const size_t i = row - wave.first[g];
      const auto pair = grouping.order[grouping.groups[wave.begin + g].begin + i];
      prepare_row(x.row(pair, K), x.type, experts, prepared[g], i);
    };
    const auto multiply = [&](size_t g, size_t b) {
      unit(grouping.groups[wave.begin + g], prepared[g], b * block,
           std::min(experts.N, (b + 1) * block));
    };
    parallel_for(threads(), group_of_row.size(), prepare);
    if (groups_in_order) {
      parallel_for(threads(), blocks, [&](size_t b) {
        for (size_t g = 0; g < count; ++g) multiply(g, b);
      });
    } else {
      parallel_for(threads(), blocks * count, [&](size_t i) { multiply(i / blocks, i % blocks); });
    }
  }
}

}  // namespace zmlx::cpu

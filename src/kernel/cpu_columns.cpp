// Row formulas with many rows at once: a lane is a row.

#include <algorithm>
#include <cstring>

#include "cpu/parallel.h"
#include "kernel/cpu_rows.h"
#include "kernel/tile_runner.h"

namespace zmlx::kernel {

namespace {

/// Rows that go together, at least a tile, and elements of each that are turned over at a time.
constexpr size_t kLanesAtOnce = kMostTile;
constexpr size_t kTile = 64;

class Columns {
 public:
  Columns(const RowCall& call, const ColumnPlan& plan)
      : call_(call), plan_(plan), length_(call.length()), variables_(call.formula.variables()) {
    for (const auto& update : plan.updates) updates_.push_back(runner(update));
    outputs_.push_back(runner(plan.elements));
    outputs_.push_back(runner(plan.rows));
    const size_t per_input = kTile * kLanesAtOnce;
    tiles_ = cpu::allocate_aligned<uint32_t>((call.inputs.size() + 1) * per_input);
    values_ = cpu::allocate_aligned<uint32_t>(variables_ * kLanesAtOnce);
    line_ = cpu::allocate_aligned<uint32_t>(kTile + 2 * kBlockUnit);
    results_ = cpu::allocate_aligned<uint32_t>(
        kTile * kLanesAtOnce * (plan.element_outputs.size() + plan.row_outputs.size()));
    rows_shape_.assign(call.shape.begin(), call.shape.end() - 1);
    if (rows_shape_.empty()) rows_shape_.push_back(1);
  }

  /// Rows [first, first + count).
  void run(size_t first, size_t count) {
    first_ = first;
    count_ = count;
    const size_t tile = outputs_[0]->tile();
    padded_ = (count + tile - 1) / tile * tile;
    for (size_t n = 0; n < call_.inputs.size(); ++n) {
      if (call_.formula.per_row[n])
        read_block(call_.inputs[n], rows_shape_, first, count, value(n));
    }
    for (size_t k = 0; k < updates_.size(); ++k) pass(k);
    if (!plan_.element_outputs.empty()) write_elements();
    if (!plan_.row_outputs.empty()) write_rows();
  }

 private:
  uint32_t* value(size_t variable) { return values_.get() + variable * kLanesAtOnce; }
  uint32_t* tile(size_t input) { return tiles_.get() + input * kTile * kLanesAtOnce; }

  /// Elements [start, start + width) of the rows, turned over: one element of all rows together.
  void load(size_t start, size_t width) {
    if (start == loaded_ && first_ == loaded_first_ && length_ <= kTile) return;
    loaded_ = start;
    loaded_first_ = first_;
    for (size_t n = 0; n < call_.inputs.size(); ++n) {
      if (call_.formula.per_row[n]) continue;
      for (size_t r = 0; r < padded_; ++r) {
        const size_t row = first_ + std::min(r, count_ - 1);
        read_block(call_.inputs[n], call_.shape, row * length_ + start, width, line_.get());
        for (size_t j = 0; j < width; ++j) tile(n)[j * kLanesAtOnce + r] = line_[j];
      }
    }
  }

  /// @param column  within the tile.
  const void* const* arguments(const Program& program, size_t column) {
    pointers_.resize(program.inputs.size());
    for (size_t i = 0; i < program.inputs.size(); ++i) {
      const auto number = static_cast<size_t>(program.inputs[i]);
      const bool element = number < call_.inputs.size() && !call_.formula.per_row[number];
      pointers_[i] = element ? tile(number) + column * kLanesAtOnce : value(number);
    }
    return pointers_.data();
  }

  /// Of blocks in and out.
  std::unique_ptr<TileRunner> runner(const Program& program) const {
    const auto& formula = call_.formula;
    std::vector<TileInput> inputs;
    for (int number : program.inputs) {
      const auto n = static_cast<size_t>(number);
      const size_t pass = n < formula.names.size() ? 0 : (n - formula.names.size()) / 4;
      const Type type = n < formula.names.size() ? formula.types[n] : formula.passes[pass].type;
      inputs.push_back({block_storage(type), type});
    }
    return std::make_unique<TileRunner>(program, std::move(inputs),
                                        std::vector<TileOutput>(program.outputs.size()));
  }

  void run(TileRunner& runner, const Program& program, size_t column, void* const* to) {
    runner.run(arguments(program, column), to, padded_ / runner.tile());
  }

  void pass(size_t k) {
    const auto& formula = call_.formula;
    auto* accumulator = value(formula.accumulator(k));
    std::fill_n(accumulator, kLanesAtOnce, bits_of(formula.passes[k].init, formula.passes[k].type));
    for (size_t start = 0; start < length_; start += kTile) {
      const size_t width = std::min(kTile, length_ - start);
      load(start, width);
      for (size_t j = 0; j < width; ++j) {
        void* out = accumulator;
        run(*updates_[k], plan_.updates[k], j, &out);
      }
    }
    std::memcpy(value(formula.result(k)), accumulator, padded_ * sizeof(uint32_t));
  }

  void write_elements() {
    const size_t outputs = plan_.element_outputs.size();
    for (size_t start = 0; start < length_; start += kTile) {
      const size_t width = std::min(kTile, length_ - start);
      load(start, width);
      for (size_t j = 0; j < width; ++j) {
        std::vector<void*> to;
        for (size_t o = 0; o < outputs; ++o) {
          to.push_back(results_.get() + (o * kTile + j) * kLanesAtOnce);
        }
        run(*outputs_[0], plan_.elements, j, to.data());
      }
      for (size_t o = 0; o < outputs; ++o) {
        const auto& out = call_.outputs[plan_.element_outputs[o]];
        for (size_t r = 0; r < count_; ++r) {
          for (size_t j = 0; j < width; ++j) {
            line_[j] = results_[(o * kTile + j) * kLanesAtOnce + r];
          }
          const size_t at = (first_ + r) * length_ + start;
          store_block(out.storage, line_.get(), width,
                      static_cast<uint8_t*>(out.data) + at * size_of(out.storage));
        }
      }
    }
  }

  void write_rows() {
    std::vector<void*> to;
    for (size_t o = 0; o < plan_.row_outputs.size(); ++o) {
      to.push_back(results_.get() + o * kLanesAtOnce);
    }
    run(*outputs_[1], plan_.rows, 0, to.data());
    for (size_t o = 0; o < plan_.row_outputs.size(); ++o) {
      const auto& out = call_.outputs[plan_.row_outputs[o]];
      store_block(out.storage, to[o], count_,
                  static_cast<uint8_t*>(out.data) + first_ * size_of(out.storage));
    }
  }

  const RowCall& call_;
  const ColumnPlan& plan_;
  const size_t length_, variables_;
  size_t first_ = 0, count_ = 0, padded_ = 0;
  size_t loaded_ = SIZE_MAX, loaded_first_ = SIZE_MAX;
  std::vector<std::unique_ptr<TileRunner>> updates_, outputs_;
  cpu::AlignedArray<uint32_t> tiles_, values_, line_, results_;
  std::vector<int64_t> rows_shape_;
  std::vector<const void*> pointers_;
};

}  // namespace

void run_columns(const RowCall& call, const ColumnPlan& plan) {
  const size_t rows = call.rows();
  if (rows == 0) return;
  double flops = operations(plan.elements);
  for (const auto& update : plan.updates) flops += operations(update);
  const auto size = static_cast<double>(rows * call.length());
  const int threads = call.launch.threads > 0 ? std::min(call.launch.threads, cpu::max_threads())
                                              : cpu::threads_for(8 * size, flops * size);
  const size_t groups = (rows + kLanesAtOnce - 1) / kLanesAtOnce;
  // Threads take several groups each, to make their buffers once.
  const size_t chunk = std::max<size_t>(1, groups / (static_cast<size_t>(threads) * 8));
  const size_t chunks = (groups + chunk - 1) / chunk;
  cpu::parallel_for(threads, chunks, [&](size_t c) {
    Columns columns(call, plan);
    for (size_t g = c * chunk; g < std::min((c + 1) * chunk, groups); ++g) {
      const size_t first = g * kLanesAtOnce;
      columns.run(first, std::min(kLanesAtOnce, rows - first));
    }
  });
}

}  // namespace zmlx::kernel

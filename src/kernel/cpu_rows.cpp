#include "kernel/cpu_rows.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "cpu/parallel.h"
#include "kernel/block_runner.h"
#include "kernel/simplify.h"

namespace zmlx::kernel {

size_t RowCall::rows() const {
  size_t count = 1;
  for (size_t axis = 0; axis + 1 < shape.size(); ++axis) count *= static_cast<size_t>(shape[axis]);
  return count;
}

uint32_t bits_of(double value, Type type) {
  if (type == Type::float32) return std::bit_cast<uint32_t>(static_cast<float>(value));
  return static_cast<uint32_t>(static_cast<int64_t>(value));
}

namespace {

double value_of(uint32_t bits, Type type) {
  if (type == Type::float32) return std::bit_cast<float>(bits);
  return type == Type::int32 ? static_cast<int32_t>(bits) : static_cast<double>(bits);
}

constexpr size_t kStreamBytes = size_t{32} << 20;

/// One thread's rows.
class Walker {
 public:
  Walker(const RowCall& call, const RowPlan& plan, bool stream)
      : call_(call),
        plan_(plan),
        stream_(stream),
        length_(call.length()),
        results_(call.formula.variables()) {
    size_t block = length_;
    for (const auto& sweep : plan.sweeps) block = std::min(block, block_size(sweep.program));
    block = std::min(block, block_size(plan.elements));
    if (call.launch.block > 0) block = static_cast<size_t>(call.launch.block);
    block_ = (std::max<size_t>(block, 1) + kBlockUnit - 1) / kBlockUnit * kBlockUnit;
    for (const auto& sweep : plan.sweeps) runners_.emplace_back(sweep.program, block_);
    runners_.emplace_back(plan.elements, block_);
    rows_.emplace_back(plan.rows, kBlockUnit);
    padded_ = (length_ + kBlockUnit - 1) / kBlockUnit * kBlockUnit;
    kept_ = cpu::allocate_aligned<uint32_t>(std::max<size_t>(padded_ * plan.buffers, 1));
    copies_ = cpu::allocate_aligned<uint32_t>((call.inputs.size() + 1) * (block_ + kBlockUnit));
    partials_ = cpu::allocate_aligned<uint32_t>((call.formula.passes.size() + 1) * kPartials);
    pointers_.resize(call.inputs.size() + plan.buffers + 1);
  }

  void run(size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) one(row);
    if (stream_) flush_streams();
  }

 private:
  uint32_t* buffer(int b) { return kept_.get() + static_cast<size_t>(b) * padded_; }

  void one(size_t row) {
    for (size_t n = 0; n < call_.inputs.size(); ++n) {
      if (!call_.formula.per_row[n]) continue;
      uint32_t unit[kBlockUnit];
      std::vector<int64_t> rows(call_.shape.begin(), call_.shape.end() - 1);
      if (rows.empty()) rows.push_back(1);
      read_block(call_.inputs[n], rows, row, 1, unit);
      results_[n] = unit[0];
    }
    for (size_t i = 0; i < plan_.sweeps.size(); ++i) sweep(row, plan_.sweeps[i], runners_[i]);
    if (!plan_.element_outputs.empty()) write_elements(row);
    if (!plan_.row_outputs.empty()) write_row(row);
  }

  void set_uniforms(BlockRunner& runner, const Program& program) {
    if (program.uniform_variables.empty()) return;
    for (size_t i = 0; i < program.uniform_variables.size(); ++i) {
      runner.set_uniform(i, results_[program.uniform_variables[i]]);
    }
    runner.prepare();
  }

  /// Points to a program's inputs from element `start` of the row on.
  /// @return the inputs of which the next block, or the next row, is worth fetching meanwhile.
  uint64_t read(const Program& program, size_t row, size_t start, size_t count) {
    uint64_t ahead = 0;
    for (size_t i = 0; i < program.inputs.size(); ++i) {
      const int number = program.inputs[i];
      if (number >= plan_.first_buffer) {
        pointers_[i] = buffer(number - plan_.first_buffer) + start;
        continue;
      }
      const auto& in = call_.inputs[number];
      const size_t at = row * length_ + start;
      const bool as_is = in.storage == Storage::f32 || in.type != Type::float32;
      if (as_is && count % kBlockUnit == 0 && is_contiguous(in)) {
        pointers_[i] = static_cast<const uint32_t*>(in.data) + at;
        if (i < 64 && stream_) ahead |= uint64_t{1} << i;
        continue;
      }
      auto* copy = copies_.get() + static_cast<size_t>(number) * (block_ + kBlockUnit);
      read_block(in, call_.shapes[number], at, count, copy);
      pointers_[i] = copy;
    }
    return ahead;
  }

  void sweep(size_t row, const Sweep& sweep, BlockRunner& runner) {
    set_uniforms(runner, sweep.program);
    const auto& passes = call_.formula.passes;
    const auto partials = [&](size_t i) { return partials_.get() + i * kPartials; };
    for (size_t i = 0; i < sweep.passes.size(); ++i) {
      const auto& pass = passes[sweep.passes[i]];
      begin_reduction(*pass.op, pass.type, partials(i));
    }
    for (size_t start = 0; start < length_; start += block_) {
      const size_t count = std::min(block_, length_ - start);
      const uint64_t ahead = read(sweep.program, row, start, count);
      runner.run(pointers_.data(), (count + kBlockUnit - 1) / kBlockUnit * kBlockUnit, ahead);
      for (size_t i = 0; i < sweep.passes.size(); ++i) {
        const auto& pass = passes[sweep.passes[i]];
        reduce_block(*pass.op, pass.type, runner.output(i), count, partials(i));
      }
      for (size_t k = 0; k < sweep.kept.size(); ++k) {
        std::memcpy(buffer(sweep.kept[k]) + start, runner.output(sweep.passes.size() + k),
                    (count + kBlockUnit - 1) / kBlockUnit * kBlockUnit * sizeof(uint32_t));
      }
    }
    for (size_t i = 0; i < sweep.passes.size(); ++i) {
      const size_t k = sweep.passes[i];
      results_[call_.formula.result(k)] =
          with_init(passes[k], end_reduction(*passes[k].op, passes[k].type, partials(i)));
    }
  }

  void write_elements(size_t row) {
    auto& runner = runners_.back();
    set_uniforms(runner, plan_.elements);
    for (size_t start = 0; start < length_; start += block_) {
      const size_t count = std::min(block_, length_ - start);
      const uint64_t ahead = read(plan_.elements, row, start, count);
      runner.run(pointers_.data(), (count + kBlockUnit - 1) / kBlockUnit * kBlockUnit, ahead);
      for (size_t o = 0; o < plan_.element_outputs.size(); ++o) {
        const auto& out = call_.outputs[plan_.element_outputs[o]];
        store_block(
            out.storage, runner.output(o), count,
            static_cast<uint8_t*>(out.data) + (row * length_ + start) * size_of(out.storage),
            stream_);
      }
    }
  }

  void write_row(size_t row) {
    auto& runner = rows_.back();
    set_uniforms(runner, plan_.rows);
    runner.run(nullptr, kBlockUnit);
    for (size_t o = 0; o < plan_.row_outputs.size(); ++o) {
      const auto& out = call_.outputs[plan_.row_outputs[o]];
      store_block(out.storage, runner.output(o), 1,
                  static_cast<uint8_t*>(out.data) + row * size_of(out.storage), false);
    }
  }

  const RowCall& call_;
  const RowPlan& plan_;
  const bool stream_;
  const size_t length_;
  size_t block_, padded_;
  std::vector<uint32_t> results_;  ///< by variable: inputs of a row, results of passes
  std::vector<BlockRunner> runners_, rows_;
  cpu::AlignedArray<uint32_t> kept_, copies_, partials_;
  std::vector<const void*> pointers_;
};

}  // namespace

uint32_t with_init(const Pass& pass, uint32_t partial) {
  if (pass.init == identity_of(*pass.op, pass.type)) return partial;
  const Node node{*pass.op, pass.type, {}, 0};
  return bits_of(fold(node, {pass.init, value_of(partial, pass.type), 0}, pass.type), pass.type);
}

void run_rows(const RowCall& given, const RowPlan& plan) {
  RowCall call = given;
  const size_t rows = call.rows(), length = call.length();
  if (rows == 0) return;
  size_t bytes = 0, input_bytes = 0;
  for (size_t n = 0; n < call.inputs.size(); ++n) {
    auto& in = call.inputs[n];
    call.shapes.push_back(call.shape);
    if (call.formula.per_row[n]) continue;
    input_bytes += rows * length * size_of(in.storage);
    // Walked as one sequence where it can be; its axes are those of the call otherwise.
    std::vector<int64_t> shape = call.shape;
    std::vector<StridedArray> alone{in};
    collapse_axes(shape, alone);
    if (!is_contiguous(alone[0])) continue;
    in = alone[0];
    call.shapes[n] = shape;
  }
  for (const auto& out : call.outputs) bytes += rows * length * size_of(out.storage);
  bytes += input_bytes;
  double flops = operations(plan.elements);
  for (const auto& sweep : plan.sweeps) flops += operations(sweep.program) + 2;
  const auto size = static_cast<double>(rows * length);
  const int threads = call.launch.threads > 0
                          ? std::min(call.launch.threads, cpu::max_threads())
                          : cpu::threads_for(static_cast<double>(bytes), flops * size);
  const bool stream = bytes > kStreamBytes;
  const size_t chunk = std::max<size_t>(
      1, std::min<size_t>(32768 / std::max<size_t>(length, 1), (rows + threads - 1) / threads));
  const size_t chunks = (rows + chunk - 1) / chunk;
  cpu::parallel_for(threads, chunks, [&](size_t c) {
    Walker(call, plan, stream).run(c * chunk, std::min((c + 1) * chunk, rows));
  });
}

}  // namespace zmlx::kernel

#include "kernel/cpu_rows.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "cpu/parallel.h"
#include "kernel/simplify.h"
#include "kernel/tile_runner.h"

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

/// What rows that go together may take of a second-level cache, in bytes, and how many at most.
constexpr size_t kBatchBytes = size_t{128} << 10, kMostRows = 64;
/// Elements that are read at a time from arrays with gaps, that are fetched ahead of their use, and
/// that a thread takes at a time.
constexpr size_t kGathered = 1024, kAhead = 1024, kChunk = size_t{256} << 10;

/// One thread's rows. Several go through each sweep together, so that none waits for the end of a
/// reduction.
class Walker {
 public:
  Walker(const RowCall& call, const RowPlan& plan, bool stream, size_t batch)
      : call_(call),
        plan_(plan),
        stream_(stream),
        length_(call.length()),
        tile_(tile_kernels().tile),
        whole_(length_ / tile_ * tile_),
        padded_(whole_ < length_ ? whole_ + tile_ : whole_),
        batch_(batch),
        lanes_((batch + kMostTile - 1) / kMostTile * kMostTile) {
    const auto& formula = call.formula;
    for (size_t n = 0; n < call.inputs.size(); ++n) {
      gathers_ = gathers_ || (!formula.per_row[n] && !is_contiguous(call.inputs[n]));
    }
    block_ = std::max(kGathered, tile_);
    for (size_t s = 0; s <= plan.sweeps.size(); ++s) {
      const auto& program = s < plan.sweeps.size() ? plan.sweeps[s].program : plan.elements;
      steps_.push_back(
          {make(program, s, 0), length_ > whole_ ? make(program, s, length_ - whole_) : nullptr});
    }
    row_runner_ = std::make_unique<TileRunner>(plan.rows, row_inputs(),
                                               std::vector<TileOutput>(plan.rows.outputs.size()));
    results_.resize(formula.variables() * lanes_);
    row_values_.resize(std::max<size_t>(plan.row_outputs.size(), 1) * lanes_);
    kept_ = cpu::allocate_aligned<uint32_t>(std::max<size_t>(batch_ * padded_ * plan.buffers, 1));
    copies_ = cpu::allocate_aligned<uint32_t>((call.inputs.size() + call.outputs.size()) * block_);
  }

  void run(size_t begin, size_t end) {
    for (size_t row = begin; row < end; row += batch_) rows(row, std::min(batch_, end - row));
  }

 private:
  struct Runners {
    std::unique_ptr<TileRunner> whole, rest;
  };

  uint32_t* buffer(int b, size_t r) {
    return kept_.get() + (static_cast<size_t>(b) * batch_ + r) * padded_;
  }
  uint32_t* copy(size_t index) { return copies_.get() + index * block_; }
  uint32_t& value(int variable, size_t r) {
    return results_[static_cast<size_t>(variable) * lanes_ + r];
  }
  static uint8_t* element(const void* data, Storage storage, size_t at) {
    return static_cast<uint8_t*>(const_cast<void*>(data)) + at * size_of(storage);
  }

  std::unique_ptr<TileRunner> make(const Program& program, size_t step, size_t rest) const {
    std::vector<TileInput> inputs;
    for (int number : program.inputs) {
      if (number >= plan_.first_buffer) {
        inputs.push_back({});
        continue;
      }
      const auto& in = call_.inputs[number];
      if (!is_contiguous(in)) {
        inputs.push_back({block_storage(in.type), in.type});
      } else {
        inputs.push_back({in.storage, in.type, ahead(step)});
      }
    }
    std::vector<TileOutput> outputs;
    if (step < plan_.sweeps.size()) {
      for (size_t k : plan_.sweeps[step].passes) {
        const auto& pass = call_.formula.passes[k];
        outputs.push_back({TileOutput::Kind::reduce, Storage::f32, *pass.op, pass.type});
      }
      outputs.resize(program.outputs.size());
    } else {
      for (size_t o : plan_.element_outputs) {
        const auto& out = call_.outputs[o];
        const bool past = stream_ && rest == 0 &&
                          reinterpret_cast<uintptr_t>(out.data) % kLineBytes == 0 &&
                          length_ * size_of(out.storage) % kLineBytes == 0;
        outputs.push_back({past ? TileOutput::Kind::stream : TileOutput::Kind::store, out.storage});
      }
    }
    return std::make_unique<TileRunner>(program, std::move(inputs), std::move(outputs), rest);
  }

  /// How far ahead a step fetches what it reads.
  size_t ahead(size_t step) const {
    if (!stream_) return 0;
    return step == 0 ? kAhead : 0;
  }

  std::vector<TileInput> row_inputs() const {
    std::vector<TileInput> inputs;
    const auto& formula = call_.formula;
    for (int number : plan_.rows.inputs) {
      const auto n = static_cast<size_t>(number);
      const Type type = n < formula.names.size()
                            ? formula.types[n]
                            : formula.passes[(n - formula.names.size()) / 4].type;
      inputs.push_back({block_storage(type), type});
    }
    return inputs;
  }

  void rows(size_t first, size_t count) {
    for (size_t n = 0; n < call_.inputs.size(); ++n) {
      if (!call_.formula.per_row[n]) continue;
      std::vector<int64_t> shape(call_.shape.begin(), call_.shape.end() - 1);
      if (shape.empty()) shape.push_back(1);
      read_block(call_.inputs[n], shape, first, count, &value(static_cast<int>(n), 0));
    }
    for (size_t s = 0; s < plan_.sweeps.size(); ++s) {
      for (size_t r = 0; r < count; ++r) sweep(s, first + r, r);
    }
    if (!plan_.element_outputs.empty()) {
      for (size_t r = 0; r < count; ++r) write(first + r, r);
    }
    if (!plan_.row_outputs.empty()) write_rows(first, count);
  }

  static void each(const Runners& runners, const auto& call) {
    call(*runners.whole);
    if (runners.rest) call(*runners.rest);
  }

  void set_uniforms(const Runners& runners, const Program& program, size_t r) {
    if (program.uniform_variables.empty()) return;
    each(runners, [&](TileRunner& runner) {
      for (size_t i = 0; i < program.uniform_variables.size(); ++i) {
        runner.set_uniform(i, value(program.uniform_variables[i], r));
      }
      runner.prepare();
    });
  }

  void sweep(size_t s, size_t row, size_t r) {
    const auto& sweep = plan_.sweeps[s];
    const auto& runners = steps_[s];
    set_uniforms(runners, sweep.program, r);
    each(runners, [](TileRunner& runner) { runner.begin(); });
    const size_t passes = sweep.passes.size();
    walk(runners, sweep.program, row, r, [&](size_t o, size_t start, bool) -> void* {
      return o < passes ? nullptr : buffer(sweep.kept[o - passes], r) + start;
    });
    for (size_t i = 0; i < passes; ++i) {
      const size_t k = sweep.passes[i];
      const auto& pass = call_.formula.passes[k];
      uint32_t bits = runners.whole->result(i);
      if (runners.rest) bits = both(pass, bits, runners.rest->result(i));
      value(call_.formula.result(k), r) = with_init(pass, bits);
    }
  }

  static uint32_t both(const Pass& pass, uint32_t a, uint32_t b) {
    const Node node{*pass.op, pass.type, {}, 0};
    return bits_of(fold(node, {value_of(a, pass.type), value_of(b, pass.type), 0}, pass.type),
                   pass.type);
  }

  void write(size_t row, size_t r) {
    const auto& runners = steps_.back();
    set_uniforms(runners, plan_.elements, r);
    const auto output = [&](size_t o) { return call_.outputs[plan_.element_outputs[o]]; };
    const auto place = [&](size_t o, size_t start) {
      return element(output(o).data, output(o).storage, row * length_ + start);
    };
    // What is left of a row behind whole tiles by way of copies.
    const auto copied = [&](size_t o) { return copy(call_.inputs.size() + o); };
    walk(runners, plan_.elements, row, r, [&](size_t o, size_t start, bool rest) -> void* {
      return rest ? static_cast<void*>(copied(o)) : place(o, start);
    });
    if (!runners.rest) return;
    for (size_t o = 0; o < plan_.element_outputs.size(); ++o) {
      std::memcpy(place(o, whole_), copied(o), (length_ - whole_) * size_of(output(o).storage));
    }
  }

  /// Runs a program on a row; `output(o, start, rest)` is where output o goes from `start` on.
  template <typename Output>
  void walk(const Runners& runners, const Program& program, size_t row, size_t r,
            const Output& output) {
    const auto piece = [&](TileRunner& runner, size_t start, size_t count, bool rest) {
      for (size_t i = 0; i < program.inputs.size(); ++i) {
        ins_[i] = input(program.inputs[i], row, r, start, count, rest);
      }
      for (size_t o = 0; o < program.outputs.size(); ++o) outs_[o] = output(o, start, rest);
      runner.run(ins_.data(), outs_.data(), rest ? 1 : count / tile_);
    };
    ins_.resize(program.inputs.size());
    outs_.resize(program.outputs.size());
    const size_t step = gathers_ ? block_ : std::max(whole_, tile_);
    for (size_t start = 0; start < whole_; start += step) {
      piece(*runners.whole, start, std::min(step, whole_ - start), false);
    }
    if (runners.rest) piece(*runners.rest, whole_, length_ - whole_, true);
  }

  /// Elements of a row from `start` on.
  const void* input(int number, size_t row, size_t r, size_t start, size_t count, bool rest) {
    if (number >= plan_.first_buffer) return buffer(number - plan_.first_buffer, r) + start;
    const auto& in = call_.inputs[number];
    const size_t at = row * length_ + start;
    auto* copied = copy(static_cast<size_t>(number));
    if (!is_contiguous(in)) {
      read_block(in, call_.shapes[number], at, count, copied);
    } else if (rest) {
      std::memcpy(copied, element(in.data, in.storage, at), count * size_of(in.storage));
    } else {
      return element(in.data, in.storage, at);
    }
    return copied;
  }

  void write_rows(size_t first, size_t count) {
    ins_.clear();
    outs_.clear();
    for (int number : plan_.rows.inputs) ins_.push_back(&value(number, 0));
    for (size_t o = 0; o < plan_.row_outputs.size(); ++o) {
      outs_.push_back(row_values_.data() + o * lanes_);
    }
    row_runner_->run(ins_.data(), outs_.data(), (count + tile_ - 1) / tile_);
    for (size_t o = 0; o < plan_.row_outputs.size(); ++o) {
      const auto& out = call_.outputs[plan_.row_outputs[o]];
      store_block(out.storage, outs_[o], count, element(out.data, out.storage, first));
    }
  }

  const RowCall& call_;
  const RowPlan& plan_;
  const bool stream_;
  /// Elements: of a row, of a tile, of a row in whole tiles and rounded up to them.
  const size_t length_, tile_, whole_, padded_;
  const size_t batch_, lanes_;  ///< rows that go together, and that rounded up to tiles
  size_t block_;
  bool gathers_ = false;
  std::vector<Runners> steps_;  ///< of each sweep, then of the outputs that are one an element
  std::unique_ptr<TileRunner> row_runner_;
  std::vector<uint32_t> results_;  ///< by variable and row: inputs of a row, results of passes
  std::vector<uint32_t> row_values_;
  cpu::AlignedArray<uint32_t> kept_, copies_;
  std::vector<const void*> ins_;
  std::vector<void*> outs_;
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
  // What a row takes of the caches: inputs that are read again, and what is kept.
  const size_t row_bytes = input_bytes / rows + length * plan.buffers * sizeof(uint32_t);
  const auto wanted = static_cast<size_t>(std::max(call.launch.block, 0));
  size_t batch = wanted > 0 ? wanted / length : kBatchBytes / std::max<size_t>(row_bytes, 1);
  batch = std::clamp<size_t>(batch, 1, std::min(kMostRows, (rows + threads - 1) / threads));
  // Threads take about 1 MiB of elements at a time.
  const size_t batches = std::max<size_t>(1, kChunk / (batch * length));
  const size_t chunk = std::min(batches * batch, (rows + threads - 1) / threads);
  const size_t chunks = (rows + chunk - 1) / chunk;
  Shelf<Walker> walkers;
  cpu::parallel_for(threads, chunks, [&](size_t c) {
    auto walker = walkers.take([&] { return std::make_unique<Walker>(call, plan, stream, batch); });
    walker->run(c * chunk, std::min((c + 1) * chunk, rows));
    if (stream) flush_streams();
    walkers.give(std::move(walker));
  });
}

}  // namespace zmlx::kernel

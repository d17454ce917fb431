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

/// Elements that are read at a time from arrays with gaps, and that a thread takes at a time.
constexpr size_t kGathered = 1024, kChunk = size_t{256} << 10;
/// What rows under way may take of a second-level cache, in bytes.
constexpr size_t kCacheBytes = size_t{768} << 10;

/// Elements of a row before its first whole tile. Rows of MLX's arrays begin within a cache line,
/// and loads that each touch two lines took softmax of 32,768 elements a sixth longer on Zen 5 with
/// fast memory. Copying what is before and behind whole lines takes as long as that saves in rows
/// of 8,192 elements, and with slow memory 3 to 6 % of longer ones, which the copy's bandwidth
/// leaves.
size_t head_of(const RowCall& call, const RowPlan& plan, size_t tile) {
  const size_t length = call.length();
  if (length < kLongRow || plan.element_outputs.empty()) return 0;
  const auto& first = call.outputs[plan.element_outputs[0]];
  const size_t size = size_of(first.storage);
  const size_t beyond = reinterpret_cast<uintptr_t>(first.data) % kLineBytes;
  if (beyond == 0 || beyond % size != 0 || length * size % kLineBytes != 0) return 0;
  const auto goes_along = [&](const void* data, Storage storage) {
    return size_of(storage) == size && reinterpret_cast<uintptr_t>(data) % kLineBytes == beyond;
  };
  for (size_t o : plan.element_outputs) {
    if (!goes_along(call.outputs[o].data, call.outputs[o].storage)) return 0;
  }
  for (size_t n = 0; n < call.inputs.size(); ++n) {
    const auto& in = call.inputs[n];
    if (call.formula.per_row[n]) continue;
    if (!is_contiguous(in) || !goes_along(in.data, in.storage)) return 0;
  }
  const size_t head = (kLineBytes - beyond) / size;
  return head + (length - head) % tile <= tile ? head : 0;  // the rest is one tile at most
}

/// One thread's rows.
///
/// A row goes through stages: the sweeps, and the writing of what is one an element. Each stage is
/// at work on a row of its own, and one walk takes all of them a tile further, so that reading from
/// memory, arithmetic and writing to memory overlap.
class Walker {
 public:
  Walker(const RowCall& call, const RowPlan& plan, bool stream)
      : call_(call),
        plan_(plan),
        stream_(stream),
        length_(call.length()),
        tile_(tile_kernels().tile),
        head_(head_of(call, plan, tile_)),
        whole_((length_ - head_) / tile_ * tile_),
        padded_(whole_ < length_ ? whole_ + tile_ : whole_),
        block_(std::max(kGathered, tile_)) {
    for (size_t n = 0; n < call.inputs.size(); ++n) {
      const bool per_row = call.formula.per_row[n];
      contiguous_.push_back(!per_row && is_contiguous(call.inputs[n]));
      gathers_ = gathers_ || (!per_row && !contiguous_[n]);
    }
    for (size_t s = 0; s < plan.sweeps.size() + !plan.element_outputs.empty(); ++s) add_stage(s);
    for (const auto& pass : call.formula.passes) {
      plain_.push_back(pass.init == identity_of(*pass.op, pass.type));
    }
    rows_.assign(stages_.size(), kNone);
    if (walks_together()) {
      together_ = make(plan.sweeps[0].program, 0, 0, TileOutput::Kind::reduce_rows);
    } else {
      join();
    }
    slots_ = std::bit_ceil(stages_.size() + 1);
    results_.resize(call.formula.variables() * slots_);
    kept_slots_ = std::bit_ceil(joined_ ? longest_kept() : 1);
    moves_ = joined_ && kept_slots_ == 1 && whole_ == length_ && !reads_row_inputs();
    kept_ =
        cpu::allocate_aligned<uint32_t>(std::max<size_t>(kept_slots_ * padded_ * plan.buffers, 1));
    copies_ = cpu::allocate_aligned<uint32_t>((call.inputs.size() + call.outputs.size()) * block_);
    rows_shape_.assign(call.shape.begin(), call.shape.end() - 1);
    if (rows_shape_.empty()) rows_shape_.push_back(1);
    row_runner_ = std::make_unique<TileRunner>(plan.rows, row_inputs(),
                                               std::vector<TileOutput>(plan.rows.outputs.size()));
    for (int number : plan.rows.inputs) {
      row_values_.emplace_back(number, cpu::allocate_aligned<uint32_t>(kMostTile));
    }
    row_outputs_ = cpu::allocate_aligned<uint32_t>((plan.row_outputs.size() + 1) * kMostTile);
  }

  void run(size_t begin, size_t end) {
    if (together_) return run_together(begin, end);
    for (size_t row = begin; row < end; ++row) {
      advance(row);
      if (!joined_) drain();
    }
  }

  /// The rows that are still under way.
  void finish() {
    drain();
    write_rows();
  }

 private:
  static constexpr size_t kNone = SIZE_MAX;

  struct Stage {
    const Program* program;
    std::unique_ptr<TileRunner> whole, rest;
    std::vector<const void*> inputs;
    std::vector<void*> outputs;
  };

  void add_stage(size_t s) {
    Stage stage;
    const bool is_sweep = s < plan_.sweeps.size();
    stage.program = is_sweep ? &plan_.sweeps[s].program : &plan_.elements;
    stage.whole = make(*stage.program, s, 0);
    if (whole_ < length_) stage.rest = make(*stage.program, s, length_ - whole_);
    stage.inputs.resize(stage.program->inputs.size());
    stage.outputs.resize(stage.program->outputs.size());
    stages_.push_back(std::move(stage));
  }

  /// Joins the stages if there is something to overlap and the rows under way fit a cache.
  void join() {
    size_t row_bytes = plan_.buffers * sizeof(uint32_t);
    for (size_t n = 0; n < call_.inputs.size(); ++n) {
      if (!call_.formula.per_row[n]) row_bytes += size_of(call_.inputs[n].storage);
    }
    if (stages_.empty() || gathers_ || whole_ == 0) return;
    if (row_bytes * length_ * stages_.size() > kCacheBytes) return;
    std::vector<TileRunner*> runners;
    for (auto& stage : stages_) runners.insert(runners.begin(), stage.whole.get());
    joined_ = std::make_unique<JoinedRunner>(runners);
    for (size_t s = 0; s < stages_.size(); ++s) {
      std::vector<size_t> inputs, outputs;
      for (int number : stages_[s].program->inputs) {
        const bool kept = number >= plan_.first_buffer;
        inputs.push_back(kept ? 0 : length_ * size_of(call_.inputs[number].storage));
      }
      if (s == plan_.sweeps.size()) {
        for (size_t o : plan_.element_outputs) {
          outputs.push_back(length_ * size_of(call_.outputs[o].storage));
        }
      }
      outputs.resize(stages_[s].outputs.size());
      joined_->set_strides(stages_.size() - 1 - s, inputs, outputs);
    }
  }

  /// For how many stages something is kept at most.
  size_t longest_kept() const {
    size_t longest = 1;
    for (size_t from = 0; from < plan_.sweeps.size(); ++from) {
      for (int b : plan_.sweeps[from].kept) {
        for (size_t to = from + 1; to < stages_.size(); ++to) {
          const auto& inputs = stages_[to].program->inputs;
          const bool reads =
              std::find(inputs.begin(), inputs.end(), plan_.first_buffer + b) != inputs.end();
          if (reads) longest = std::max(longest, to - from);
        }
      }
    }
    return longest;
  }

  bool reads_row_inputs() const {
    const auto& per_row = call_.formula.per_row;
    return std::find(per_row.begin(), per_row.end(), true) != per_row.end();
  }

  /// Whether rows follow each other in one walk: those of one sweep, which waits for nothing. Rows
  /// of 1,024 elements took 10 % longer one by one on Zen 5.
  bool walks_together() const {
    return plan_.sweeps.size() == 1 && plan_.element_outputs.empty() && !gathers_ &&
           whole_ == length_ && !reads_row_inputs();
  }

  void run_together(size_t begin, size_t end) {
    const auto& sweep = plan_.sweeps[0];
    std::vector<uint32_t*> results(sweep.passes.size());
    for (size_t row = begin; row < end;) {
      wait_for(row);
      const size_t rows = std::min(kMostTile - waiting_, end - row);
      rows_[0] = row;
      place(0, 0, rows * length_, false);
      for (size_t o = 0; o < results.size(); ++o) results[o] = row_values(sweep.passes[o]);
      together_->run_rows(stages_[0].inputs.data(), results.data(), rows, whole_ / tile_);
      for (size_t o = 0; o < results.size(); ++o) {
        const size_t k = sweep.passes[o];
        for (size_t i = 0; i < rows && !plain_[k]; ++i) {
          results[o][i] = with_init(call_.formula.passes[k], results[o][i]);
        }
      }
      row += rows;
      waiting_ += rows;
      if (waiting_ == kMostTile) write_rows();
    }
    rows_[0] = kNone;
  }

  /// Where the results of a pass wait that come next.
  uint32_t* row_values(size_t pass) {
    for (auto& [number, values] : row_values_) {
      if (number == call_.formula.result(pass)) return values.get() + waiting_;
    }
    return row_outputs_.get();  // of a pass that no output needs
  }

  std::unique_ptr<TileRunner> make(const Program& program, size_t s, size_t rest,
                                   TileOutput::Kind reduction = TileOutput::Kind::reduce) const {
    std::vector<TileInput> inputs;
    for (int number : program.inputs) {
      if (number >= plan_.first_buffer) {
        inputs.push_back({});
        continue;
      }
      const auto& in = call_.inputs[number];
      // Later stages find a row in the caches.
      const size_t ahead = stream_ && s == 0 ? fetch_ahead(program.inputs.size()) : 0;
      // Long runs made softmax of 1,024 elements 4 % slower, whose stages read other rows
      // meanwhile.
      const bool in_runs = reduction == TileOutput::Kind::reduce_rows;
      inputs.push_back(contiguous_[number] ? TileInput{in.storage, in.type, ahead, in_runs}
                                           : TileInput{block_storage(in.type), in.type});
    }
    std::vector<TileOutput> outputs;
    if (s < plan_.sweeps.size()) {
      for (size_t k : plan_.sweeps[s].passes) {
        const auto& pass = call_.formula.passes[k];
        outputs.push_back({reduction, Storage::f32, *pass.op, pass.type});
      }
      outputs.resize(program.outputs.size());
    } else {
      for (size_t o : plan_.element_outputs) {
        const auto& out = call_.outputs[o];
        const auto first = reinterpret_cast<uintptr_t>(element(out.data, out.storage, head_));
        const bool past = stream_ && rest == 0 && first % kLineBytes == 0 &&
                          length_ * size_of(out.storage) % kLineBytes == 0;
        outputs.push_back({past ? TileOutput::Kind::stream : TileOutput::Kind::store, out.storage});
      }
    }
    return std::make_unique<TileRunner>(program, std::move(inputs), std::move(outputs), rest);
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

  /// What was kept of the row that a stage is at work on. The last stage reads a tile before the
  /// first writes that of a later row to the same place.
  uint32_t* buffer(int b, size_t s) {
    const size_t slot = (turn_ - s) & (kept_slots_ - 1);
    return kept_.get() + (static_cast<size_t>(b) * kept_slots_ + slot) * padded_;
  }
  uint32_t* copy(size_t index) { return copies_.get() + index * block_; }
  uint32_t& value(int variable, size_t slot) {
    return results_[static_cast<size_t>(variable) * slots_ + slot];
  }
  /// Of the row that a stage is at work on: rows take slots in turn.
  size_t slot(size_t s) const { return (turn_ - s) & (slots_ - 1); }
  static uint8_t* element(const void* data, Storage storage, size_t at) {
    return static_cast<uint8_t*>(const_cast<void*>(data)) + at * size_of(storage);
  }

  void drain() {
    while (std::any_of(rows_.begin(), rows_.end(), [](size_t row) { return row != kNone; })) {
      advance(kNone);
    }
  }

  /// What `advance` comes to where every stage moves on by a row of whole tiles: short rows take
  /// more time between two rows than most of their tiles.
  void advance_by_one() {
    ++turn_;
    for (auto& row : rows_) ++row;
    for (size_t s = 0; s < stages_.size(); ++s) begin(s);
    joined_->run_next();
    for (size_t s = 0; s < plan_.sweeps.size(); ++s) end(s);
    if (!plan_.row_outputs.empty()) keep_row(rows_.back());
  }

  /// Takes every row under way through a stage, and begins another.
  void advance(size_t row) {
    if (moves_ && in_sequence_ > stages_.size() && row == rows_[0] + 1) {
      return advance_by_one();
    }
    ++turn_;
    in_sequence_ = row != kNone && row == rows_[0] + 1 ? in_sequence_ + 1 : 0;
    std::move_backward(rows_.begin(), rows_.end() - 1, rows_.end());
    rows_[0] = row;
    if (row != kNone) read_row_inputs(row);
    bool all = true;
    for (size_t s = 0; s < stages_.size(); ++s) {
      if (rows_[s] != kNone) begin(s);
      all = all && rows_[s] != kNone;
    }
    if (joined_ && all) {
      ports_.clear();
      for (size_t s = stages_.size(); s-- > 0;) {
        place(s, 0, whole_, false);
        ports_.push_back({stages_[s].inputs.data(), stages_[s].outputs.data()});
      }
      joined_->run(ports_.data(), whole_ / tile_);
    }
    for (size_t s = stages_.size(); s-- > 0;) {
      if (rows_[s] == kNone) continue;
      if (!(joined_ && all)) walk_whole(s);
      if (stages_[s].rest) walk_rest(s);
      if (s < plan_.sweeps.size()) end(s);
    }
    if (rows_.back() != kNone && !plan_.row_outputs.empty()) keep_row(rows_.back());
  }

  void read_row_inputs(size_t row) {
    for (size_t n = 0; n < call_.inputs.size(); ++n) {
      if (!call_.formula.per_row[n]) continue;
      uint32_t unit[kBlockUnit];
      read_block(call_.inputs[n], rows_shape_, row, 1, unit);
      value(static_cast<int>(n), slot(0)) = unit[0];
    }
  }

  void begin(size_t s) {
    for (auto* runner : {stages_[s].whole.get(), stages_[s].rest.get()}) {
      if (!runner) continue;
      const auto& variables = stages_[s].program->uniform_variables;
      for (size_t i = 0; i < variables.size(); ++i) {
        runner->set_uniform(i, value(variables[i], slot(s)));
      }
      if (!variables.empty()) runner->prepare();
      runner->begin();
    }
  }

  /// The results of a sweep.
  void end(size_t s) {
    const auto& stage = stages_[s];
    for (size_t i = 0; i < plan_.sweeps[s].passes.size(); ++i) {
      const size_t k = plan_.sweeps[s].passes[i];
      const auto& pass = call_.formula.passes[k];
      uint32_t bits = stage.whole->result(i);
      if (stage.rest) bits = both(pass, bits, stage.rest->result(i));
      value(call_.formula.result(k), slot(s)) = plain_[k] ? bits : with_init(pass, bits);
    }
  }

  static uint32_t both(const Pass& pass, uint32_t a, uint32_t b) {
    const Node node{*pass.op, pass.type, {}, 0};
    return bits_of(fold(node, {value_of(a, pass.type), value_of(b, pass.type), 0}, pass.type),
                   pass.type);
  }

  void walk_whole(size_t s) {
    const size_t step = gathers_ ? block_ : std::max(whole_, tile_);
    for (size_t start = 0; start < whole_; start += step) {
      const size_t count = std::min(step, whole_ - start);
      place(s, start, count, false);
      auto& stage = stages_[s];
      stage.whole->run(stage.inputs.data(), stage.outputs.data(), count / tile_);
    }
  }

  /// What is left of a row before and behind whole tiles, by way of copies.
  void walk_rest(size_t s) {
    auto& stage = stages_[s];
    const size_t count = length_ - whole_;
    place(s, whole_, count, true);
    stage.rest->run(stage.inputs.data(), stage.outputs.data(), 1);
    if (s < plan_.sweeps.size()) return;
    for (size_t o = 0; o < plan_.element_outputs.size(); ++o) {
      const auto& out = call_.outputs[plan_.element_outputs[o]];
      auto* to = element(out.data, out.storage, rows_[s] * length_);
      const auto* from = static_cast<const uint8_t*>(stage.outputs[o]);
      const size_t size = size_of(out.storage);
      std::memcpy(to, from, head_ * size);
      std::memcpy(to + (head_ + whole_) * size, from + head_ * size, (count - head_) * size);
    }
  }

  /// Points a stage to its row from `start` on, counted from the first whole tile, or to the rest.
  void place(size_t s, size_t start, size_t count, bool rest) {
    auto& stage = stages_[s];
    for (size_t i = 0; i < stage.inputs.size(); ++i) {
      stage.inputs[i] = input(stage.program->inputs[i], s, start, count, rest);
    }
    const bool is_sweep = s < plan_.sweeps.size();
    const size_t passes = is_sweep ? plan_.sweeps[s].passes.size() : 0;
    for (size_t o = passes; o < stage.outputs.size(); ++o) {
      if (is_sweep) {
        stage.outputs[o] = buffer(plan_.sweeps[s].kept[o - passes], s) + start;
      } else if (rest) {
        stage.outputs[o] = copy(call_.inputs.size() + o);
      } else {
        const auto& out = call_.outputs[plan_.element_outputs[o]];
        stage.outputs[o] = element(out.data, out.storage, rows_[s] * length_ + head_ + start);
        if (head_ > 0) fetch_rest(element(out.data, out.storage, rows_[s] * length_), out.storage);
      }
    }
  }

  /// Stores to memory that is not in a cache would hold up those behind them.
  void fetch_rest(const uint8_t* row, Storage storage) const {
    __builtin_prefetch(row, 1);
    const size_t end = length_ * size_of(storage);
    for (size_t at = (head_ + whole_) * size_of(storage); at <= end; at += kLineBytes) {
      __builtin_prefetch(row + at, 1);
    }
  }

  /// Elements of a stage's row from `start` on.
  const void* input(int number, size_t s, size_t start, size_t count, bool rest) {
    if (number >= plan_.first_buffer) return buffer(number - plan_.first_buffer, s) + start;
    const auto& in = call_.inputs[number];
    const size_t at = rows_[s] * length_ + head_ + start;
    auto* copied = copy(static_cast<size_t>(number));
    if (!contiguous_[number]) {
      read_block(in, call_.shapes[number], at, count, copied);
    } else if (rest) {
      const size_t size = size_of(in.storage);
      auto* to = reinterpret_cast<uint8_t*>(copied);
      std::memcpy(to, element(in.data, in.storage, rows_[s] * length_), head_ * size);
      std::memcpy(to + head_ * size, element(in.data, in.storage, at), (count - head_) * size);
    } else {
      return element(in.data, in.storage, at);
    }
    return copied;
  }

  /// Makes a row the next one of those that wait.
  void wait_for(size_t row) {
    if (waiting_ > 0 && row != first_waiting_ + waiting_) write_rows();
    if (waiting_ == 0) first_waiting_ = row;
  }

  /// Notes a row's numbers; what is one a row is computed of many rows at once.
  void keep_row(size_t row) {
    wait_for(row);
    for (auto& [number, values] : row_values_) {
      values[waiting_] = value(number, slot(stages_.size() - 1));
    }
    if (++waiting_ == kMostTile) write_rows();
  }

  void write_rows() {
    if (waiting_ == 0) return;
    std::vector<const void*> inputs;
    std::vector<void*> outputs;
    for (const auto& [number, values] : row_values_) inputs.push_back(values.get());
    for (size_t o = 0; o < plan_.row_outputs.size(); ++o) {
      outputs.push_back(row_outputs_.get() + o * kMostTile);
    }
    row_runner_->run(inputs.data(), outputs.data(), (waiting_ + tile_ - 1) / tile_);
    for (size_t o = 0; o < plan_.row_outputs.size(); ++o) {
      const auto& out = call_.outputs[plan_.row_outputs[o]];
      store_block(out.storage, outputs[o], waiting_,
                  element(out.data, out.storage, first_waiting_));
    }
    waiting_ = 0;
  }

  const RowCall& call_;
  const RowPlan& plan_;
  const bool stream_;
  /// Elements: of a row, of a tile, of a row before whole tiles, in them and rounded up to them, of
  /// copies.
  const size_t length_, tile_, head_, whole_, padded_, block_;
  std::vector<bool> contiguous_;  ///< by input
  std::vector<bool> plain_;       ///< by pass, whether it begins with nothing
  bool gathers_ = false;
  std::vector<Stage> stages_;
  std::unique_ptr<JoinedRunner> joined_;
  std::unique_ptr<TileRunner> together_;
  std::vector<size_t> rows_;  ///< that the stages are at work on
  size_t in_sequence_ = 0;    ///< how many rows have followed each other
  bool moves_ = false;        ///< whether what is kept stays in its place from row to row
  std::vector<TilePorts> ports_;
  size_t slots_ = 0, kept_slots_ = 0;  ///< powers of two
  size_t turn_ = size_t{1} << 20;      ///< counts rows; more than there are stages
  std::vector<uint32_t> results_;      ///< by variable and slot: inputs of a row, results of passes
  cpu::AlignedArray<uint32_t> kept_, copies_;
  std::vector<int64_t> rows_shape_;
  /// Rows that wait for what is one a row: their numbers, by variable.
  std::unique_ptr<TileRunner> row_runner_;
  std::vector<std::pair<int, cpu::AlignedArray<uint32_t>>> row_values_;
  cpu::AlignedArray<uint32_t> row_outputs_;
  size_t first_waiting_ = 0, waiting_ = 0;
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
  const auto wanted = static_cast<size_t>(std::max(call.launch.block, 0));
  size_t chunk = std::max<size_t>(1, (wanted > 0 ? wanted : kChunk) / length);
  chunk = std::min(chunk, (rows + threads - 1) / threads);
  const size_t chunks = (rows + chunk - 1) / chunk;
  Shelf<Walker> walkers;
  cpu::parallel_for(threads, chunks, [&](size_t c) {
    auto walker = walkers.take([&] { return std::make_unique<Walker>(call, plan, stream); });
    walker->run(c * chunk, std::min((c + 1) * chunk, rows));
    if (stream) flush_streams();
    walkers.give(std::move(walker));
  });
  auto& all = walkers.all();
  cpu::parallel_for(std::min<int>(threads, static_cast<int>(all.size())), all.size(),
                    [&](size_t w) {
                      all[w]->finish();
                      if (stream) flush_streams();
                    });
}

}  // namespace zmlx::kernel

#include "kernel/tile_runner.h"

#include <algorithm>
#include <array>
#include <optional>

namespace zmlx::kernel {

namespace {

constexpr uint64_t kMoving = ~uint64_t{0}, kFixed = 0;

bool same(const Operand& a, const Operand& b) { return a.kind == b.kind && a.index == b.index; }

bool is_half(Storage storage) { return storage == Storage::f16 || storage == Storage::bf16; }

Move by_storage(Move of_floats, Storage storage) {
  const int more = storage == Storage::f16 ? 1 : storage == Storage::bf16 ? 2 : 0;
  return static_cast<Move>(static_cast<int>(of_floats) + more);
}

/// What an instruction becomes: a step that leaves its result in the tile.
struct Line {
  const StepKernel* steps;  ///< by `place_index`
  uint8_t arguments;
  Operand args[4];
  Operand out;
  bool loads_halves = false;  ///< of the input args[0]
};

/// How many arguments of a step say where they are; a fourth is uniform.
constexpr int kPlaced = 3;

/// The step for arguments of which `held` is the tile and all others are in memory, or null.
StepKernel step_for(const Line& line, const std::optional<Operand>& held) {
  if (line.loads_halves) return nullptr;
  size_t in_tile = 0, uniforms[kPlaced] = {}, units[kPlaced] = {1, 3, 9};
  for (int i = 0; i < std::min<int>(line.arguments, kPlaced); ++i) {
    if (held && same(line.args[i], *held)) continue;
    in_tile += units[i] * static_cast<size_t>(Place::memory);
    if (line.args[i].kind == Operand::Kind::uniform) uniforms[i] = units[i];
  }
  // Uniforms are tiles in memory as well.
  for (size_t some : {uniforms[0] + uniforms[1] + uniforms[2], uniforms[1] + uniforms[2],
                      uniforms[0] + uniforms[2], uniforms[0] + uniforms[1], uniforms[2],
                      uniforms[1], uniforms[0], size_t{0}}) {
    if (line.steps[in_tile + some]) return line.steps[in_tile + some];
  }
  return nullptr;
}

bool uses(const Line& line, const std::optional<Operand>& held) {
  if (!held) return false;
  return std::any_of(line.args, line.args + line.arguments,
                     [&](const Operand& arg) { return same(arg, *held); });
}

/// Whether the first argument stands in another place, too, so that loading it once is worth a
/// step.
bool repeats(const Line& line) {
  return std::any_of(line.args + 1, line.args + std::max<int>(line.arguments, 1),
                     [&](const Operand& arg) { return same(arg, line.args[0]); });
}

}  // namespace

/// Turns instructions into steps: a result stays in the tile for the instruction after, and goes to
/// memory if another needs it.
class TileCompiler {
 public:
  TileCompiler(TileRunner& runner, const std::vector<TileInput>& inputs, size_t rest)
      : runner_(runner),
        program_(runner.program_),
        inputs_(inputs),
        rest_(rest),
        registers_(program_.registers) {}

  void run() {
    find_lines();
    find_stores();
    const size_t first = program_.uniforms + registers_;
    place_partials(first);
    for (size_t i = 0; i < inputs_.size(); ++i) fetch(i);
    for (size_t l = 0; l < lines_.size(); ++l) {
      add(lines_[l]);
      if (stored_[l]) store(lines_[l].out);
      for (size_t o : sinks_[l]) sink(o, lines_[l].out);
    }
    for (size_t o : last_sinks_) {
      sink(o, output(o));
    }
    end(runner_.steps_);
    add_uniform_code();
  }

 private:
  /// The program's instructions, with inputs that must be converted as registers of their own.
  void find_lines() {
    converted_.resize(inputs_.size());
    for (const auto& instruction : program_.code) {
      Line line = line_of(instruction);
      for (int i = 0; i < line.arguments; ++i) line.args[i] = as_is(line.args[i]);
      lines_.push_back(line);
    }
    for (const auto& out : program_.outputs) as_is(out);
  }

  Line line_of(const Instruction& instruction) const {
    Line line{runner_.kernels_.operations[instruction.kernel], instruction.arguments, {}, {}};
    std::copy_n(instruction.args, std::size(line.args), line.args);
    line.out = instruction.out;
    return line;
  }

  /// The operand, or the register with the input in 32 bits.
  Operand as_is(Operand operand) {
    if (operand.kind != Operand::Kind::input) return operand;
    const auto& [storage, type, ahead, in_runs] = inputs_[operand.index];
    const bool integer = storage == Storage::i32 || storage == Storage::u32;
    if (!is_half(storage) && !(integer && type == Type::float32)) return operand;
    auto& place = converted_[operand.index];
    if (!place) {
      place = Operand{Operand::Kind::block, static_cast<uint16_t>(registers_++)};
      const Type from = storage == Storage::u32 ? Type::uint32 : Type::int32;
      const size_t cast = kCastKernels + static_cast<size_t>(from) * 4 + 3;
      lines_.push_back(
          {runner_.kernels_.operations[cast], 1, {operand, {}, {}}, *place, is_half(storage)});
    }
    return *place;
  }

  Operand output(size_t o) { return as_is(program_.outputs[o]); }

  /// Which results must go to memory, and after which line each output is there.
  void find_stores() {
    stored_.assign(lines_.size(), false);
    sinks_.resize(lines_.size());
    std::vector<size_t> defined(registers_, SIZE_MAX);
    size_t last_read = 0;  // the last line that reads an input
    for (size_t l = 0; l < lines_.size(); ++l) {
      const Line& line = lines_[l];
      for (int i = 0; i < line.arguments; ++i) {
        const auto [kind, index] = line.args[i];
        if (kind == Operand::Kind::input) last_read = l;
        if (kind != Operand::Kind::block) continue;
        const size_t d = defined[index];
        if (d + 1 != l || !step_for(line, line.args[i])) stored_[d] = true;
      }
      defined[line.out.index] = l;
    }
    for (size_t o = 0; o < program_.outputs.size(); ++o) {
      const Operand from = output(o);
      const bool computed = from.kind == Operand::Kind::block;
      const size_t d = computed ? defined[from.index] : 0;
      // An output may take an input's memory, so it waits for all of them to be read.
      if (computed && d >= last_read) {
        sinks_[d].push_back(o);
        // Reductions of a rest change the tile.
        if (rest_ > 0) stored_[d] = true;
      } else {
        last_sinks_.push_back(o);
        if (computed) stored_[d] = true;
      }
    }
  }

  void place_partials(size_t tile) {
    auto& runner = runner_;
    runner.partials_.assign(runner.outputs_.size(), 0);
    mask_ = tile++;
    std::vector<size_t> identities;
    for (size_t o = 0; o < runner.outputs_.size(); ++o) {
      if (runner.outputs_[o].reduces()) runner.partials_[o] = tile++;
    }
    // Behind each partial result the number that changes nothing.
    identities_ = tile - mask_ - 1;
    runner.memory_ = cpu::allocate_aligned<uint32_t>((tile + identities_) * runner.tile_);
    if (rest_ == 0) return;
    for (size_t i = 0; i < runner.tile_; ++i) runner.tile_at(mask_)[i] = i < rest_ ? ~0u : 0u;
    for (size_t o = 0; o < runner.outputs_.size(); ++o) {
      const auto& out = runner.outputs_[o];
      if (!out.reduces()) continue;
      std::fill_n(runner.tile_at(runner.partials_[o] + identities_), runner.tile_,
                  identity_bits(out.op, out.type));
    }
  }

  void fetch(size_t input) {
    const auto [storage, type, ahead, in_runs] = inputs_[input];
    if (ahead == 0) return;
    Step step;
    if (in_runs) {
      step.kernel = move(is_half(storage) ? Move::fetch_run_16bit : Move::fetch_run);
    } else {
      step.kernel = move(is_half(storage) ? Move::fetch_16bit : Move::fetch);
    }
    step.distance = ahead * sizeof(uint32_t);
    // Inputs take turns.
    const size_t tiles = kFetchBytes / (runner_.tile_ * size_of(storage));
    step.mask[1] = input * tiles / inputs_.size();
    push(step, {false, static_cast<uint16_t>(input)});
  }

  void add(const Line& line) {
    Step step;
    if (line.loads_halves) {
      const Storage storage = inputs_[line.args[0].index].storage;
      step.kernel = move(by_storage(Move::load, storage));
      refer(step, 0, line.args[0]);
    } else {
      if (uses(line, held_)) step.kernel = step_for(line, held_);
      if (!step.kernel && !repeats(line)) step.kernel = step_for(line, std::nullopt);
      if (!step.kernel) {
        // With the first argument in the tile there is one for every operation.
        load(line.args[0]);
        step.kernel = step_for(line, held_);
        if (!step.kernel) step.kernel = step_for(line, std::nullopt);
      }
      for (int i = 0; i < line.arguments; ++i) refer(step, i, line.args[i]);
    }
    flush(step);
    held_ = line.out;
  }

  void load(const Operand& from) {
    Step step;
    step.kernel = move(Move::load);
    refer(step, 0, from);
    flush(step);
    held_ = from;
  }

  void store(const Operand& to) {
    Step step;
    step.kernel = move(Move::store);
    refer(step, 0, to);
    flush(step);
  }

  void sink(size_t o, const Operand& from) {
    const auto& out = runner_.outputs_[o];
    const bool in_place = out.kind == TileOutput::Kind::reduce && rest_ == 0;
    if (!is_held(from) && !in_place) load(from);
    Step step;
    if (!out.reduces()) {
      const bool stream = out.kind == TileOutput::Kind::stream;
      step.kernel = move(by_storage(stream ? Move::stream : Move::store, out.storage));
      return push(step, {true, static_cast<uint16_t>(o)});
    }
    const auto tile = [&](size_t index) {
      return reinterpret_cast<uint8_t*>(runner_.tile_at(index));
    };
    const size_t partial = runner_.partials_[o];
    if (rest_ > 0) {
      Step keep;
      keep.kernel = move(Move::keep);
      keep.from[0] = tile(mask_);
      keep.from[1] = tile(partial + identities_);
      steps_->push_back(keep);
      held_.reset();
    }
    const auto& kernels = runner_.kernels_;
    const size_t index = kernel_index(out.op, out.type);
    step.from[0] = tile(partial);
    if (out.kind == TileOutput::Kind::reduce_rows) {
      step.kernel = kernels.row_reductions[index];
      step.from[2] = reinterpret_cast<uint8_t*>(&runner_.row_ends_[o]);
    } else if (is_held(from) || !in_place) {
      step.kernel = kernels.reductions[index];
    } else {
      step.kernel = kernels.memory_reductions[index];
      refer(step, 1, from);
    }
    flush(step);
  }

  void end(std::vector<Step>& steps) {
    Step step;
    step.kernel = move(Move::end);
    step.distance = 1;
    steps.push_back(step);
    steps.back().from[0] = reinterpret_cast<uint8_t*>(steps.data());
  }

  void add_uniform_code() {
    if (program_.uniform_code.empty()) return;
    steps_ = &runner_.uniform_steps_;
    held_.reset();
    for (const auto& instruction : program_.uniform_code) {
      add(line_of(instruction));
      store(instruction.out);
    }
    end(runner_.uniform_steps_);
  }

  StepKernel move(Move move) const { return runner_.kernels_.moves[static_cast<size_t>(move)]; }
  bool is_held(const Operand& operand) const { return held_ && same(*held_, operand); }

  /// Points a step's argument to where the operand lies.
  void refer(Step& step, int argument, const Operand& operand) {
    if (argument == kPlaced) {
      step.fourth = reinterpret_cast<uint8_t*>(runner_.tile_at(operand.index));
      return;
    }
    step.mask[argument] = kFixed;
    if (operand.kind == Operand::Kind::input) {
      step.mask[argument] = kMoving;
      pending_.push_back({0, static_cast<uint8_t>(argument), false, operand.index});
      return;
    }
    const bool uniform = operand.kind == Operand::Kind::uniform;
    const size_t tile = uniform ? operand.index : program_.uniforms + operand.index;
    step.from[argument] = reinterpret_cast<uint8_t*>(runner_.tile_at(tile));
  }

  struct Port {
    bool is_output;
    uint16_t index;
  };
  void push(Step& step, Port port) {
    step.mask[0] = kMoving;
    pending_.push_back({0, 0, port.is_output, port.index});
    flush(step);
  }
  void flush(const Step& step) {
    for (auto patch : pending_) {
      patch.step = static_cast<uint32_t>(steps_->size());
      runner_.patches_.push_back(patch);
    }
    pending_.clear();
    steps_->push_back(step);
  }

  TileRunner& runner_;
  const Program& program_;
  const std::vector<TileInput>& inputs_;
  const size_t rest_;
  size_t registers_;
  std::vector<std::optional<Operand>> converted_;  ///< by input
  std::vector<Line> lines_;
  std::vector<bool> stored_;
  std::vector<std::vector<size_t>> sinks_;
  std::vector<size_t> last_sinks_;
  size_t mask_ = 0, identities_ = 0;
  std::optional<Operand> held_;
  std::vector<Step>* steps_ = &runner_.steps_;
  std::vector<TileRunner::Patch> pending_;
};

TileRunner::TileRunner(const Program& program, std::vector<TileInput> inputs,
                       std::vector<TileOutput> outputs, size_t rest)
    : kernels_(tile_kernels()),
      program_(program),
      tile_(kernels_.tile),
      outputs_(std::move(outputs)),
      row_ends_(outputs_.size()) {
  for (const auto& out : outputs_) {
    identities_.push_back(identity_bits(out.op, out.type));
    ends_.push_back(kernels_.ends[kernel_index(out.op, out.type)]);
  }
  TileCompiler(*this, inputs, rest).run();
  for (size_t i = 0; i < program.constants.size(); ++i) {
    kernels_.fill(tile_at(i), program.constants[i]);
  }
  if (program.uniform_variables.empty()) prepare();
}

void TileRunner::set_uniform(size_t index, uint32_t bits) {
  kernels_.fill(tile_at(program_.constants.size() + index), bits);
}

void TileRunner::prepare() {
  if (!uniform_steps_.empty()) kernels_.run(uniform_steps_.data(), &uniform_steps_.back());
}

void TileRunner::begin() {
  for (size_t o = 0; o < outputs_.size(); ++o) {
    const auto& out = outputs_[o];
    if (out.reduces()) std::fill_n(tile_at(partials_[o]), kBlockUnit, identities_[o]);
  }
}

uint32_t TileRunner::result(size_t output) const {
  return ends_[output](memory_.get() + partials_[output] * tile_);
}

void TileRunner::place(const std::vector<Patch>& patches, const TilePorts& ports, Step* steps) {
  for (const auto& [step, argument, is_output, index] : patches) {
    steps[step].from[argument] = static_cast<uint8_t*>(
        is_output ? ports.outputs[index] : const_cast<void*>(ports.inputs[index]));
  }
}

void TileRunner::run(const void* const* inputs, void* const* outputs, size_t tiles) {
  if (tiles == 0) return;
  place(patches_, {inputs, outputs}, steps_.data());
  steps_.back().distance = tiles * tile_ * sizeof(uint32_t);
  kernels_.run(steps_.data(), &steps_.back());
}

void TileRunner::run_rows(const void* const* inputs, uint32_t* const* results, size_t rows,
                          size_t tiles) {
  const uint64_t bytes = tiles * tile_ * sizeof(uint32_t);
  for (size_t o = 0; o < outputs_.size(); ++o) {
    row_ends_[o] = {bytes, bytes, results[o], identities_[o]};
  }
  begin();
  place(patches_, {inputs, nullptr}, steps_.data());
  steps_.back().distance = rows * bytes;
  kernels_.run(steps_.data(), &steps_.back());
}

JoinedRunner::JoinedRunner(const std::vector<TileRunner*>& runners) : runners_(runners) {
  for (const auto* runner : runners) {
    if (!steps_.empty()) steps_.pop_back();
    first_.push_back(steps_.size());
    steps_.insert(steps_.end(), runner->steps_.begin(), runner->steps_.end());
  }
  steps_.back().from[0] = reinterpret_cast<uint8_t*>(steps_.data());
}

void JoinedRunner::run(const TilePorts* ports, size_t tiles) {
  for (size_t i = 0; i < runners_.size(); ++i) {
    TileRunner::place(runners_[i]->patches_, ports[i], steps_.data() + first_[i]);
  }
  steps_.back().distance = tiles * runners_[0]->tile() * sizeof(uint32_t);
  runners_[0]->kernels_.run(steps_.data(), &steps_.back());
}

void JoinedRunner::set_strides(size_t runner, const std::vector<size_t>& inputs,
                               const std::vector<size_t>& outputs) {
  for (const auto& [step, argument, is_output, index] : runners_[runner]->patches_) {
    const size_t stride = is_output ? outputs[index] : inputs[index];
    if (stride != 0) moving_.push_back({&steps_[first_[runner] + step].from[argument], stride});
  }
}

void JoinedRunner::run_next() {
  for (const auto& [at, stride] : moving_) *at += stride;
  runners_[0]->kernels_.run(steps_.data(), &steps_.back());
}

}  // namespace zmlx::kernel

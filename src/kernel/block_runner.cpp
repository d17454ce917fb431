#include "kernel/block_runner.h"

#include <algorithm>
#include <bit>

#include "hwy/cache_control.h"

namespace zmlx::kernel {

namespace {
/// Of the 32 KiB or more that a first-level cache has.
constexpr size_t kCacheBytes = 24 * 1024;
/// Between registers, so that equal places in them do not lie whole pages apart: processors take a
/// load for one of what was just stored a page away.
constexpr size_t kPadding = 80;
constexpr size_t kLargestBlock = 1024, kSmallestBlock = 64;
}  // namespace

size_t block_size(const Program& program) {
  const size_t blocks = program.registers + program.inputs.size() + 1;
  const size_t fits = kCacheBytes / sizeof(uint32_t) / blocks / kBlockUnit * kBlockUnit;
  return std::clamp(fits, kSmallestBlock, kLargestBlock);
}

BlockRunner::BlockRunner(const Program& program, size_t block)
    : program_(program),
      block_(block),
      stride_(block + kPadding),
      uniforms_(
          cpu::allocate_aligned<uint32_t>(std::max<size_t>(program.uniforms, 1) * kBlockUnit)),
      registers_(
          cpu::allocate_aligned<uint32_t>(std::max<size_t>(program.registers, 1) * stride_)) {
  for (size_t i = 0; i < program.constants.size(); ++i) fill_unit(program.constants[i], unit(i));
  resolve(program.uniform_code, uniform_kernels_, uniform_calls_, nullptr);
  resolve(program.code, kernels_, calls_, &patches_);
  if (program.uniform_variables.empty()) prepare();
}

void BlockRunner::resolve(const std::vector<Instruction>& code, std::vector<BlockKernel>& kernels,
                          std::vector<BlockCall>& calls, std::vector<Patch>* patches) {
  const auto* table = block_kernels();
  kernels.reserve(code.size());
  calls.reserve(code.size());
  for (const auto& instruction : code) {
    BlockCall call{};
    call.count = kBlockUnit;
    for (uint8_t i = 0; i < instruction.arguments; ++i) {
      const auto [kind, index] = instruction.args[i];
      call.steps[i] = kind != Operand::Kind::uniform;
      if (kind == Operand::Kind::uniform) {
        call.args[i] = unit(index);
      } else if (kind == Operand::Kind::block) {
        call.args[i] = block_at(index);
      } else {
        patches->push_back({static_cast<uint32_t>(calls.size()), i, index});
      }
    }
    const auto [kind, index] = instruction.out;
    call.out = kind == Operand::Kind::uniform ? unit(index) : block_at(index);
    kernels.push_back(table[instruction.kernel]);
    calls.push_back(call);
  }
}

void BlockRunner::set_uniform(size_t index, uint32_t bits) {
  fill_unit(bits, unit(program_.constants.size() + index));
}

void BlockRunner::prepare() {
  for (size_t i = 0; i < uniform_calls_.size(); ++i) uniform_kernels_[i](uniform_calls_[i]);
}

void BlockRunner::fetch_ahead(uint64_t inputs, size_t count, size_t part) const {
  constexpr size_t kLine = 64 / sizeof(uint32_t);
  const size_t parts = calls_.size();
  const size_t begin = count * part / parts / kLine * kLine;
  const size_t end = count * (part + 1) / parts / kLine * kLine;
  for (; inputs != 0; inputs &= inputs - 1) {
    const auto* next = static_cast<const uint32_t*>(inputs_[std::countr_zero(inputs)]) + count;
    for (size_t i = begin; i < end; i += kLine) hwy::Prefetch(next + i);
  }
}

void BlockRunner::run(const void* const* inputs, size_t count, uint64_t ahead) {
  inputs_ = inputs;
  for (const auto& patch : patches_) calls_[patch.call].args[patch.arg] = inputs[patch.input];
  for (size_t i = 0; i < calls_.size(); ++i) {
    calls_[i].count = count;
    kernels_[i](calls_[i]);
    if (ahead != 0) fetch_ahead(ahead, count, i);
  }
}

const void* BlockRunner::output(size_t index) const {
  const auto [kind, at] = program_.outputs[index];
  if (kind == Operand::Kind::input) return inputs_[at];
  if (kind == Operand::Kind::uniform) return uniforms_.get() + at * kBlockUnit;
  return registers_.get() + at * stride_;
}

}  // namespace zmlx::kernel

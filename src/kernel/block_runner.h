#pragma once

#include <memory>
#include <vector>

#include "cpu/aligned.h"
#include "kernel/block_kernels.h"
#include "kernel/program.h"

namespace zmlx::kernel {

/// Elements of a block so that a program's registers and inputs stay in the first-level cache.
size_t block_size(const Program& program);

/// Runs a program on blocks, with registers of its own: one a thread.
class BlockRunner {
 public:
  /// @param block  most elements of a block, a multiple of kBlockUnit.
  BlockRunner(const Program& program, size_t block);

  /// Sets a uniform variable, by its place in `uniform_variables`, and then computes what follows
  /// from them. Without uniform variables `prepare` is not needed.
  void set_uniform(size_t index, uint32_t bits);
  void prepare();

  /// @param inputs  the blocks of `program.inputs`.
  /// @param count   of elements, a multiple of kBlockUnit.
  /// @param ahead   inputs whose next block lies right behind, to be fetched meanwhile: a bit each,
  /// for the first 64.
  void run(const void* const* inputs, size_t count, uint64_t ahead = 0);

  /// The block of an output, or a unit if it is uniform; valid until the next run.
  const void* output(size_t index) const;

  size_t block() const { return block_; }

 private:
  struct Patch {
    uint32_t call;
    uint8_t arg;
    uint16_t input;
  };
  void* unit(size_t uniform) { return uniforms_.get() + uniform * kBlockUnit; }
  void* block_at(size_t index) { return registers_.get() + index * stride_; }
  void fetch_ahead(uint64_t inputs, size_t count, size_t part) const;
  void resolve(const std::vector<Instruction>& code, std::vector<BlockKernel>& kernels,
               std::vector<BlockCall>& calls, std::vector<Patch>* patches);

  const Program& program_;
  size_t block_, stride_;
  cpu::AlignedArray<uint32_t> uniforms_, registers_;
  std::vector<BlockKernel> kernels_, uniform_kernels_;
  std::vector<BlockCall> calls_, uniform_calls_;
  std::vector<Patch> patches_;
  const void* const* inputs_ = nullptr;
};

}  // namespace zmlx::kernel

#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "cpu/aligned.h"
#include "kernel/block_memory.h"
#include "kernel/tile_kernels.h"

namespace zmlx::kernel {

/// How one of a program's inputs lies in memory: one element after the other.
struct TileInput {
  Storage storage = Storage::f32;
  Type type = Type::float32;  ///< of the program's variable
  /// Elements from the one at hand to those worth fetching into the caches meanwhile; 0 for none.
  size_t ahead = 0;
  bool in_runs = false;  ///< whether to fetch kFetchBytes at a time, not a tile
};

/// What becomes of one of a program's outputs.
struct TileOutput {
  /// `reduce_rows` is of runs of several rows, each of whole tiles.
  enum class Kind : uint8_t { store, stream, reduce, reduce_rows } kind = Kind::store;
  bool reduces() const { return kind == Kind::reduce || kind == Kind::reduce_rows; }
  Storage storage = Storage::f32;  ///< of what is stored
  Op op = Op::add;                 ///< of a reduction, of elements of `type`
  Type type = Type::float32;
};

/// Where the elements of each input are, readable to the end of the last tile, and memory for each
/// output, or null for reductions.
struct TilePorts {
  const void* const* inputs;
  void* const* outputs;
};

/// A program as steps on tiles, with memory of its own: one a thread.
class TileRunner {
 public:
  /// @param rest  if not 0, runs are of one tile of which only the first `rest` elements count in
  /// reductions.
  TileRunner(const Program& program, std::vector<TileInput> inputs, std::vector<TileOutput> outputs,
             size_t rest = 0);

  /// Sets a uniform variable, by its place in `uniform_variables`, and then computes what follows
  /// from them. Without uniform variables `prepare` is not needed.
  void set_uniform(size_t index, uint32_t bits);
  void prepare();

  /// Sets reductions to nothing; their result, as bits, after the runs.
  void begin();
  uint32_t result(size_t output) const;

  /// Rows of `tiles` tiles that lie one after the other; their results, as bits, by output.
  void run_rows(const void* const* inputs, uint32_t* const* results, size_t rows, size_t tiles);

  /// As TilePorts has it.
  void run(const void* const* inputs, void* const* outputs, size_t tiles);

  /// Elements of a tile.
  size_t tile() const { return tile_; }

 private:
  friend class TileCompiler;
  friend class JoinedRunner;
  struct Patch {
    uint32_t step;
    uint8_t argument;
    bool is_output;
    uint16_t index;
  };
  static void place(const std::vector<Patch>& patches, const TilePorts& ports, Step* steps);
  uint32_t* tile_at(size_t index) { return memory_.get() + index * tile_; }

  const TileKernels& kernels_;
  const Program& program_;
  const size_t tile_;
  std::vector<TileOutput> outputs_;
  std::vector<size_t> partials_;      ///< by output, the tile of its partial results
  std::vector<uint32_t> identities_;  ///< by output, what a reduction begins with
  std::vector<RowEnds> row_ends_;     ///< by output
  std::vector<uint32_t (*)(const void*)> ends_;
  std::vector<Step> steps_, uniform_steps_;
  std::vector<Patch> patches_;
  /// Tiles: uniforms, registers, partial results and what reductions of a rest need.
  cpu::AlignedArray<uint32_t> memory_;
};

/// Programs that walk together, a tile of each after the other; of runners that outlive it.
class JoinedRunner {
 public:
  explicit JoinedRunner(const std::vector<TileRunner*>& runners);

  /// @param ports  of each runner, in their order.
  void run(const TilePorts* ports, size_t tiles);

  /// How many bytes further on each input and output of a runner is in the next run.
  void set_strides(size_t runner, const std::vector<size_t>& inputs,
                   const std::vector<size_t>& outputs);
  /// The run after another, of as many tiles.
  void run_next();

 private:
  struct Moving {
    uint8_t** at;
    size_t stride;
  };
  std::vector<TileRunner*> runners_;
  std::vector<Moving> moving_;
  std::vector<size_t> first_;  ///< step of each runner
  std::vector<Step> steps_;
};

/// Makes things that threads take and give back, so that each thread's is made once.
template <typename T>
class Shelf {
 public:
  template <typename Make>
  std::unique_ptr<T> take(const Make& make) {
    {
      std::lock_guard lock(mutex_);
      if (!kept_.empty()) {
        auto item = std::move(kept_.back());
        kept_.pop_back();
        return item;
      }
    }
    return make();
  }
  /// All of them, when no thread has one.
  std::vector<std::unique_ptr<T>>& all() { return kept_; }
  void give(std::unique_ptr<T> item) {
    std::lock_guard lock(mutex_);
    kept_.push_back(std::move(item));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<T>> kept_;
};

}  // namespace zmlx::kernel

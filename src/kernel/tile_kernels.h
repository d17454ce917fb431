#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "kernel/program.h"

/// Steps of the tile evaluator, compiled for every instruction set.
///
/// A tile is eight vectors, in registers from one step to the next: each step is a function that
/// takes the tile, does one operation on it and calls the next as its last act, which compilers
/// turn into a jump. So nothing but what is needed twice goes through the first-level cache,
/// several tiles are under way at once in the processor, and reading and writing memory overlap
/// arithmetic.
namespace zmlx::kernel {

constexpr size_t kTileVectors = 8;
/// Elements of the largest tile: of 512-bit vectors.
constexpr size_t kMostTile = kTileVectors * 16;

/// Bytes of one array that are fetched at a time, before it is the next one's turn. Memory reads
/// long runs faster, the more so of two arrays whose addresses are an odd multiple of 4 KiB apart,
/// as those of MLX's large arrays often are. On Zen 5 with fast memory two such arrays take a
/// quarter less time than by runs of 512 bytes, and a norm of one 15 % less; with slow memory two
/// take a sixth less. Runs of 1 and 4 KiB gain less.
constexpr size_t kFetchBytes = 2048;

/// A function of the tile; the signature has vectors and is each instruction set's own.
using StepKernel = void (*)();

struct alignas(64) Step {
  StepKernel kernel = nullptr;
  /// Tiles in memory: at `from + (offset & mask)`, where offset is 4 bytes an element walked.
  uint8_t* from[3] = {};
  uint64_t mask[3] = {};
  union {
    /// How far ahead to fetch, or for the last step how far to walk, in bytes of offset.
    uint64_t distance = 0;
    /// Of the few operations of four arguments.
    const uint8_t* fourth;
  };
};

/// Where the rows end that a reduction of rows walks.
struct RowEnds {
  uint64_t next = 0;           ///< offset of the next row's first tile
  uint64_t bytes = 0;          ///< of offset, in a row
  uint32_t* result = nullptr;  ///< the row's; the next row's is behind it
  uint32_t identity = 0;       ///< what a row begins with
};

/// Steps that are no operations of programs.
enum class Move : uint8_t {
  load,  ///< any 32-bit elements
  load_f16,
  load_bf16,
  store,
  store_f16,
  store_bf16,
  stream,  ///< stores past the caches, to memory aligned for vectors
  stream_f16,
  stream_bf16,
  fetch,            ///< of 32-bit elements, into the caches
  fetch_16bit,      ///< of 16-bit elements
  fetch_run,        ///< kFetchBytes, once in as many tiles: at the one of number mask[1]
  fetch_run_16bit,  ///< of 16-bit elements
  keep,             ///< the bits of from[0]; those of from[1] elsewhere
  end,              ///< on to the next tile, the first step being from[0]
};
constexpr size_t kMoves = static_cast<size_t>(Move::end) + 1;

/// Where an argument of an operation is.
enum class Place : uint8_t {
  tile,     ///< in registers, from the step before
  memory,   ///< as a tile
  uniform,  ///< the same for all elements; in memory as a tile, too
};
constexpr size_t kPlaces = 27;
/// Of up to three arguments' places.
constexpr size_t place_index(std::initializer_list<Place> places) {
  size_t index = 0, unit = 1;
  for (Place place : places) {
    index += unit * static_cast<size_t>(place);
    unit *= 3;
  }
  return index;
}

struct TileKernels {
  /// By KernelIndex and `place_index`; null where there is none.
  StepKernel operations[kKernels][kPlaces] = {};
  StepKernel moves[kMoves] = {};
  /// By `kernel_index`: from[0] = op(from[0], tile), a vector of partial results. The tile is in
  /// registers, or in memory as argument 1, or in registers and RowEnds at from[2].
  StepKernel reductions[kCastKernels] = {};
  StepKernel memory_reductions[kCastKernels] = {};
  StepKernel row_reductions[kCastKernels] = {};
  /// The same: from a vector of partial results to the bits of one.
  uint32_t (*ends[kCastKernels])(const void* partials) = {};
  /// Walks from the first step on; the last is the end.
  void (*run)(const Step* first, const Step* last) = nullptr;
  /// Fills a tile with equal elements.
  void (*fill)(void* tile, uint32_t bits) = nullptr;
  size_t tile = 0;  ///< elements
};

/// The table for the instruction set in use.
const TileKernels& tile_kernels();

/// The bits of the number that changes nothing.
uint32_t identity_bits(Op op, Type type);

/// Orders streamed stores before later ones.
void flush_streams();

}  // namespace zmlx::kernel

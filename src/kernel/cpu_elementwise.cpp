#include "kernel/cpu_elementwise.h"

#include <algorithm>
#include <cstring>

#include "cpu/parallel.h"
#include "kernel/tile_runner.h"

namespace zmlx::kernel {

namespace {

/// Elements that a thread takes at a time, and those that are read at a time from arrays with gaps.
constexpr size_t kChunk = size_t{128} << 10, kGathered = 1024;

/// Elements before the first output's first whole cache line, of calls that are long enough.
/// Arrays of MLX begin 24 bytes into a line; loads that each touch two lines took kernels of
/// several inputs a tenth to a fifth longer on Zen 5, in the cache and with fast memory.
size_t head_of(const ElementwiseCall& call, size_t size) {
  const auto& out = call.outputs[0];
  const size_t beyond = reinterpret_cast<uintptr_t>(out.data) % kLineBytes;
  const bool whole = beyond % size_of(out.storage) == 0;
  if (beyond == 0 || !whole || size < 2 * kMostTile) return 0;
  return (kLineBytes - beyond) / size_of(out.storage);
}

/// One thread's way through a call.
class Range {
 public:
  /// @param head  elements before the first whole tile.
  Range(const ElementwiseCall& call, bool stream, size_t head)
      : call_(call),
        runner_(call.program, inputs_of(call, stream), outputs_of(call, stream, head)),
        head_(head),
        block_(std::max(kGathered, runner_.tile())),
        inputs_(call.inputs.size()),
        outputs_(call.outputs.size()),
        copies_(
            cpu::allocate_aligned<uint32_t>((call.inputs.size() + call.outputs.size()) * block_)) {
    for (const auto& in : call.inputs) gathers_ = gathers_ || !is_contiguous(in);
  }

  void run(size_t begin, size_t end) {
    const size_t tile = runner_.tile();
    if (begin < head_) {
      rest(begin, head_ - begin);
      begin = head_;
    }
    const size_t whole = begin + (end - begin) / tile * tile;
    const size_t step = gathers_ ? block_ : std::max(whole - begin, tile);
    for (size_t at = begin; at < whole; at += step) tiles(at, std::min(step, whole - at));
    if (whole < end) rest(whole, end - whole);
  }

 private:
  static std::vector<TileInput> inputs_of(const ElementwiseCall& call, bool stream) {
    std::vector<TileInput> inputs;
    for (const auto& in : call.inputs) {
      if (is_contiguous(in)) {
        const size_t ahead = stream ? fetch_ahead(call.inputs.size()) : 0;
        inputs.push_back({in.storage, in.type, ahead, true});
      } else {
        inputs.push_back({block_storage(in.type), in.type});
      }
    }
    return inputs;
  }
  static std::vector<TileOutput> outputs_of(const ElementwiseCall& call, bool stream, size_t head) {
    std::vector<TileOutput> outputs;
    for (const auto& out : call.outputs) {
      const auto first = reinterpret_cast<uintptr_t>(element(out.data, out.storage, head));
      const bool past = stream && first % kLineBytes == 0;
      outputs.push_back({past ? TileOutput::Kind::stream : TileOutput::Kind::store, out.storage});
    }
    return outputs;
  }

  static const uint8_t* element(const void* data, Storage storage, size_t at) {
    return static_cast<const uint8_t*>(data) + at * size_of(storage);
  }
  uint32_t* copy(size_t index) { return copies_.get() + index * block_; }

  /// Whole tiles.
  void tiles(size_t start, size_t count) {
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const auto& in = call_.inputs[i];
      if (is_contiguous(in)) {
        inputs_[i] = element(in.data, in.storage, start);
      } else {
        read_block(in, call_.shape, start, count, copy(i));
        inputs_[i] = copy(i);
      }
    }
    for (size_t o = 0; o < outputs_.size(); ++o) {
      const auto& out = call_.outputs[o];
      outputs_[o] = const_cast<uint8_t*>(element(out.data, out.storage, start));
    }
    runner_.run(inputs_.data(), outputs_.data(), count / runner_.tile());
  }

  /// Less than a tile, by way of copies.
  void rest(size_t start, size_t count) {
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const auto& in = call_.inputs[i];
      std::fill_n(copy(i), runner_.tile(), 0u);
      if (is_contiguous(in)) {
        std::memcpy(copy(i), element(in.data, in.storage, start), count * size_of(in.storage));
      } else {
        read_block(in, call_.shape, start, count, copy(i));
      }
      inputs_[i] = copy(i);
    }
    for (size_t o = 0; o < outputs_.size(); ++o) outputs_[o] = copy(inputs_.size() + o);
    runner_.run(inputs_.data(), outputs_.data(), 1);
    flush_streams();
    for (size_t o = 0; o < outputs_.size(); ++o) {
      const auto& out = call_.outputs[o];
      std::memcpy(const_cast<uint8_t*>(element(out.data, out.storage, start)), outputs_[o],
                  count * size_of(out.storage));
    }
  }

  const ElementwiseCall& call_;
  TileRunner runner_;
  const size_t head_, block_;
  bool gathers_ = false;
  std::vector<const void*> inputs_;
  std::vector<void*> outputs_;
  cpu::AlignedArray<uint32_t> copies_;
};

}  // namespace

double operations(const Program& program) {
  double total = 0;
  for (const auto& instruction : program.code) {
    const auto op = static_cast<Op>(instruction.kernel / 4);
    const bool function =
        (op >= Op::power && op <= Op::softplus && op != Op::copy_sign) ||
        (instruction.kernel >= kOnePlusTanh && instruction.kernel <= kExpDifference);
    total += function ? 20 : 1;
  }
  return total;
}

void run_elementwise(const ElementwiseCall& given) {
  ElementwiseCall call = given;
  size_t size = 1;
  for (int64_t n : call.shape) size *= static_cast<size_t>(n);
  if (size == 0) return;
  collapse_axes(call.shape, call.inputs);
  size_t bytes = 0;
  for (const auto& out : call.outputs) bytes += size * size_of(out.storage);
  for (const auto& in : call.inputs) bytes += size * size_of(in.storage);
  const bool stream = bytes > kStreamBytes;
  const auto count = static_cast<double>(size);
  const int threads = call.launch.threads > 0 ? std::min(call.launch.threads, cpu::max_threads())
                                              : cpu::threads_for(static_cast<double>(bytes),
                                                                 operations(call.program) * count);
  const auto wanted = static_cast<size_t>(std::max(call.launch.block, 0));
  size_t chunk = wanted > 0 ? wanted : std::min(kChunk, size / threads + 1);
  chunk = (chunk + kMostTile - 1) / kMostTile * kMostTile;
  const size_t head = head_of(call, size);
  const size_t chunks = (size - head + chunk - 1) / chunk;
  Shelf<Range> ranges;
  cpu::parallel_for(threads, chunks, [&](size_t c) {
    auto range = ranges.take([&] { return std::make_unique<Range>(call, stream, head); });
    range->run(c > 0 ? head + c * chunk : 0, std::min(head + (c + 1) * chunk, size));
    if (stream) flush_streams();
    ranges.give(std::move(range));
  });
}

}  // namespace zmlx::kernel

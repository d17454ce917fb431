#include "kernel/cpu_elementwise.h"

#include <algorithm>
#include <optional>

#include "cpu/parallel.h"
#include "kernel/block_runner.h"

namespace zmlx::kernel {

namespace {

/// Arrays beyond this size go past the caches: whoever reads them next finds none of them there.
constexpr size_t kStreamBytes = size_t{32} << 20;
/// Blocks that a thread takes at a time.
constexpr size_t kBlocksAtOnce = 32;

class Range {
 public:
  Range(const ElementwiseCall& call, size_t block, bool stream)
      : call_(call),
        stream_(stream),
        runner_(call.program, block),
        pointers_(call.inputs.size()),
        copies_(cpu::allocate_aligned<uint32_t>(std::max<size_t>(call.inputs.size(), 1) *
                                                (block + kBlockUnit))) {}

  void run(size_t begin, size_t end) {
    for (size_t at = begin; at < end; at += runner_.block()) {
      block(at, std::min(runner_.block(), end - at));
    }
    if (stream_) flush_streams();
  }

 private:
  void block(size_t start, size_t count) {
    const bool whole = count % kBlockUnit == 0;
    uint64_t ahead = 0;
    for (size_t i = 0; i < call_.inputs.size(); ++i) {
      const auto& in = call_.inputs[i];
      const bool as_is = in.storage == Storage::f32 || in.type != Type::float32;
      if (whole && as_is && is_contiguous(in)) {
        pointers_[i] = static_cast<const uint32_t*>(in.data) + start;
        if (i < 64 && stream_) ahead |= uint64_t{1} << i;
        continue;
      }
      auto* copy = copies_.get() + i * (runner_.block() + kBlockUnit);
      read_block(in, call_.shape, start, count, copy);
      pointers_[i] = copy;
    }
    runner_.run(pointers_.data(), (count + kBlockUnit - 1) / kBlockUnit * kBlockUnit, ahead);
    for (size_t i = 0; i < call_.outputs.size(); ++i) {
      const auto& out = call_.outputs[i];
      store_block(out.storage, runner_.output(i), count,
                  static_cast<uint8_t*>(out.data) + start * size_of(out.storage), stream_);
    }
  }

  const ElementwiseCall& call_;
  const bool stream_;
  BlockRunner runner_;
  std::vector<const void*> pointers_;
  cpu::AlignedArray<uint32_t> copies_;
};

}  // namespace

double operations(const Program& program) {
  double total = 0;
  for (const auto& instruction : program.code) {
    const auto op = static_cast<Op>(instruction.kernel / 4);
    const bool function = op >= Op::power && op <= Op::softplus && op != Op::copy_sign;
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
  const auto wanted = static_cast<size_t>(std::max(call.launch.block, 0));
  const size_t block =
      wanted > 0 ? std::max(wanted / kBlockUnit, size_t{1}) * kBlockUnit : block_size(call.program);
  const auto count = static_cast<double>(size);
  const int threads = call.launch.threads > 0 ? std::min(call.launch.threads, cpu::max_threads())
                                              : cpu::threads_for(static_cast<double>(bytes),
                                                                 operations(call.program) * count);
  const size_t chunk = block * kBlocksAtOnce;
  const size_t chunks = (size + chunk - 1) / chunk;
  cpu::parallel_for(threads, chunks, [&](size_t c) {
    Range(call, block, stream).run(c * chunk, std::min((c + 1) * chunk, size));
  });
}

}  // namespace zmlx::kernel

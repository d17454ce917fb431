#include "cuda/host/memory.h"

#include <bit>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace zmlx::cuda {

namespace {

/// Free buffers by stream and size.
class Pool {
 public:
  Buffer* take(int stream, int device, size_t bytes) {
    const size_t size = rounded(bytes);
    {
      std::lock_guard lock(mutex_);
      auto& free = free_[{stream, size}];
      if (!free.empty()) {
        auto* buffer = free.back();
        free.pop_back();
        return buffer;
      }
    }
    return make(device, size);
  }

  /// One that no work on the GPU knows of.
  static Buffer* make(int device, size_t bytes) {
    const size_t size = rounded(bytes);
    void* data = nullptr;
    // From the device's pool, because that is where MLX returns it to if it moves the buffer.
    check(api().cuMemAllocAsync(&data, size, nullptr), "cuMemAllocAsync");
    check(api().cuStreamSynchronize(nullptr), "cuStreamSynchronize");
    return new Buffer{data, size, device};
  }

  void give_back(int stream, Buffer* buffer) {
    if (buffer->device < 0) {
      api().cuMemFree(buffer->data);
      delete buffer;
      return;
    }
    std::lock_guard lock(mutex_);
    free_[{stream, buffer->size}].push_back(buffer);
  }

 private:
  static size_t rounded(size_t bytes) {
    constexpr size_t kSmallest = 256, kLarge = 1 << 20;
    if (bytes <= kSmallest) return kSmallest;
    if (bytes <= kLarge) return std::bit_ceil(bytes);
    return (bytes + kLarge - 1) / kLarge * kLarge;
  }

  std::mutex mutex_;
  std::map<std::pair<int, size_t>, std::vector<Buffer*>> free_;
};

Pool& pool() {
  static auto* pool = new Pool;  // leaked: arrays may outlive static objects
  return *pool;
}

void give(mx::array& out, Buffer* buffer, const mx::Stream& stream) {
  auto give_back = [index = stream.index](mx::allocator::Buffer freed) {
    pool().give_back(index, static_cast<Buffer*>(freed.ptr()));
  };
  out.set_data(mx::allocator::Data(mx::allocator::Buffer(buffer), give_back));
}

}  // namespace

void allocate(mx::array& out, const mx::Stream& stream) {
  give(out, pool().take(stream.index, stream.device.index, out.nbytes()), stream);
}

mx::array scratch(const mx::Stream& stream, size_t bytes) {
  static auto* arrays = new std::map<int, mx::array>;  // leaked, as the pool is
  static auto* mutex = new std::mutex;
  std::lock_guard lock(*mutex);
  const auto words = static_cast<int>(kScratchCounters + (bytes + 3) / 4);
  const auto found = arrays->find(stream.index);
  if (found != arrays->end() && found->second.shape(0) >= words) return found->second;
  mx::array zeros({words}, mx::uint32, nullptr, {});
  give(zeros, Pool::make(stream.device.index, zeros.nbytes()), stream);
  const auto& a = api();
  a.cuMemsetD8(gpu_pointer(zeros), 0, zeros.nbytes());
  check(a.cuStreamSynchronize(nullptr), "cuStreamSynchronize");
  return arrays->insert_or_assign(stream.index, zeros).first->second;
}

}  // namespace zmlx::cuda

#include "fast/aligned_output.h"

#include <utility>

#include "mlx/allocator.h"

namespace zmlx::fast {

namespace mx = mlx::core;

void allocate(mx::array& out, size_t beyond) {
  auto buffer = mx::allocator::malloc(out.nbytes() + kOutputAlignment);
  const auto address = reinterpret_cast<uintptr_t>(buffer.buffer().raw_ptr());
  const auto offset = static_cast<int64_t>(
      (kOutputAlignment + beyond - address % kOutputAlignment) % kOutputAlignment);
  mx::Strides strides(out.ndim(), 1);
  for (int i = static_cast<int>(out.ndim()) - 2; i >= 0; --i) {
    strides[i] = strides[i + 1] * out.shape(i + 1);
  }
  size_t longer_than_one = 0;
  for (auto n : out.shape()) longer_than_one += n > 1;
  out.set_data(std::move(buffer), out.size(), std::move(strides),
               {true, true, longer_than_one <= 1}, offset);
}

}  // namespace zmlx::fast

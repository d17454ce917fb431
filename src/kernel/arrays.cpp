#include "kernel/arrays.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "fast/aligned_output.h"
#include "mlx/ops.h"

namespace zmlx::kernel {

namespace {
/// Elements of an output that is worth a walk with a part of a tile before the whole ones.
constexpr size_t kBesideElements = 4096;
}  // namespace

bool is_stored(mx::Dtype type) {
  return type == mx::float32 || type == mx::float16 || type == mx::bfloat16 || type == mx::int32 ||
         type == mx::uint32;
}

Storage storage_of(mx::Dtype type) {
  if (type == mx::float16) return Storage::f16;
  if (type == mx::bfloat16) return Storage::bf16;
  if (type == mx::int32) return Storage::i32;
  return type == mx::uint32 ? Storage::u32 : Storage::f32;
}

mx::Dtype dtype_of(Storage storage) {
  constexpr mx::Dtype kTypes[] = {mx::float32, mx::float16, mx::bfloat16, mx::int32, mx::uint32};
  return kTypes[static_cast<int>(storage)];
}

mx::array readable(const mx::array& input, Type type, const std::string& kernel,
                   const mx::Stream& s) {
  const auto dtype = input.dtype();
  if (mx::issubdtype(dtype, mx::complexfloating)) {
    throw std::invalid_argument("[" + kernel + "] kernels take no complex arrays.");
  }
  if (type == Type::int32) return mx::astype(input, mx::int32, s);
  if (type == Type::uint32) return mx::astype(input, mx::uint32, s);
  if (is_stored(dtype)) return input;
  const bool small = dtype.size() <= 2 && !mx::issubdtype(dtype, mx::floating);
  return mx::astype(input, small ? mx::int32 : mx::float32, s);
}

mx::Dtype written_type(mx::Dtype result) {
  if (is_stored(result)) return result;
  if (mx::issubdtype(result, mx::floating)) return mx::float32;
  return mx::issubdtype(result, mx::unsignedinteger) ? mx::uint32 : mx::int32;
}

Type stored_as(mx::Dtype written) {
  if (written == mx::int32) return Type::int32;
  return written == mx::uint32 ? Type::uint32 : Type::float32;
}

Type compute_type(const std::optional<mx::Dtype>& dtype, const std::string& kernel) {
  if (!dtype) return Type::float32;
  if (*dtype == mx::float16) return Type::float16;
  if (*dtype == mx::bfloat16) return Type::bfloat16;
  if (mx::issubdtype(*dtype, mx::floating)) return Type::float32;
  if (*dtype == mx::int32) return Type::int32;
  if (*dtype == mx::uint32) return Type::uint32;
  std::ostringstream message;
  message << "[" << kernel << "] compute_dtype must be a float type, int32 or uint32, but is "
          << *dtype << ".";
  throw std::invalid_argument(message.str());
}

void allocate_output(mx::array& out, const mx::array* donor, std::span<const mx::array> beside) {
  if (donor) return out.copy_shared_buffer(*donor);
  size_t beyond = 0;
  if (out.size() >= kBesideElements) {
    const auto like = std::find_if(beside.begin(), beside.end(), [&](const mx::array& in) {
      return in.flags().row_contiguous && in.itemsize() == out.itemsize();
    });
    if (like != beside.end()) {
      beyond = reinterpret_cast<uintptr_t>(like->data<char>()) % fast::kOutputAlignment;
    }
  }
  fast::allocate(out, beyond);
}

const mx::array* donor_for(const mx::array& out, const std::vector<mx::array>& inputs) {
  for (const auto& in : inputs) {
    if (in.is_donatable() && in.flags().row_contiguous && in.itemsize() == out.itemsize() &&
        in.shape() == out.shape() && in.data_size() == in.size()) {
      return &in;
    }
  }
  return nullptr;
}

}  // namespace zmlx::kernel

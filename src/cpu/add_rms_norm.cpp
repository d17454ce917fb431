#include "cpu/add_rms_norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/add_rms_norm.cpp"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "cpu/add_rms_norm-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {

/// Streaming stores want whole vectors at aligned places.
bool CanStream(const AddRmsNormArgs& args) {
  constexpr size_t kBytes = kLanes * sizeof(float);
  const auto aligned = [](const void* p, size_t row_bytes) {
    return reinterpret_cast<uintptr_t>(p) % kBytes == 0 && row_bytes % kBytes == 0;
  };
  return aligned(args.sum, args.D * size_of(args.type)) &&
         aligned(args.normed, args.D * size_of(args.normed_type));
}

void RmsNormRows(const AddRmsNormArgs& args, bool stream, const float* weight, size_t begin,
                 size_t end, float* plain, size_t plain_stride) {
  stream = stream && CanStream(args);
  const bool widened = args.normed_type != args.type;  // by a float32 weight
  if (args.type == Scalar::f32) {
    NormRowsOf<Scalar::f32, Scalar::f32>(args, stream, weight, begin, end, plain, plain_stride);
  } else if (args.type == Scalar::f16 && widened) {
    NormRowsOf<Scalar::f16, Scalar::f32>(args, stream, weight, begin, end, plain, plain_stride);
  } else if (args.type == Scalar::f16) {
    NormRowsOf<Scalar::f16, Scalar::f16>(args, stream, weight, begin, end, plain, plain_stride);
  } else if (widened) {
    NormRowsOf<Scalar::bf16, Scalar::f32>(args, stream, weight, begin, end, plain, plain_stride);
  } else {
    NormRowsOf<Scalar::bf16, Scalar::bf16>(args, stream, weight, begin, end, plain, plain_stride);
  }
}

void WeightFloats(const AddRmsNormArgs& args, size_t padded, float* weight) {
  std::fill_n(weight, padded, 1.0f);
  if (args.weight) FloatsFrom(args.weight, args.weight_type, args.D, weight);
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <algorithm>

#include "cpu/aligned.h"
#include "cpu/parallel.h"

namespace zmlx::cpu {

HWY_EXPORT(RmsNormRows);
HWY_EXPORT(WeightFloats);

namespace {
/// Outputs beyond this size go past the caches: whoever reads them next finds none of them there.
constexpr size_t kStreamBytes = size_t{32} << 20;
constexpr size_t kPadding = 64;
/// Elements that a thread takes at a time: enough to even threads out, and long runs, since the
/// first and the last row of each overlap with no other.
constexpr size_t kChunksPerThread = 8, kMinChunk = size_t{1} << 14, kMaxChunk = size_t{1} << 18;
}  // namespace

void add_rms_norm(const AddRmsNormArgs& args) {
  if (args.rows == 0 || args.D == 0) return;
  const size_t padded = (args.D + 2 * kPadding - 1) / kPadding * kPadding;
  auto weight = allocate_aligned<float>(padded);
  HWY_DYNAMIC_DISPATCH(WeightFloats)(args, padded, weight.get());
  const size_t bytes = args.rows * args.D * (size_of(args.type) + size_of(args.normed_type));
  const bool stream = bytes > kStreamBytes;
  const int threads = threads_for(2.0 * static_cast<double>(bytes), 0);
  const size_t share = args.rows * args.D / (kChunksPerThread * static_cast<size_t>(threads));
  const size_t chunk = std::max<size_t>(1, std::clamp(share, kMinChunk, kMaxChunk) / args.D);
  const size_t chunks = (args.rows + chunk - 1) / chunk;
  parallel_for(threads, chunks, [&](size_t c) {
    auto plain = allocate_aligned<float>(2 * padded);
    HWY_DYNAMIC_DISPATCH(RmsNormRows)
    (args, stream, weight.get(), c * chunk, std::min((c + 1) * chunk, args.rows), plain.get(),
     padded);
  });
}

}  // namespace zmlx::cpu
#endif  // HWY_ONCE

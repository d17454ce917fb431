#pragma once

#include "memory.cuh"

namespace zmlx {

/// Scales (or biases) of a unit of threads' rows in shared memory, where they arrive together with
/// the rows' codes: `Spans` runs of `Rows` rows of a matrix each. Loads from global memory instead
/// queue behind the copies that are on their way: one step of LFM2's down projection took 1500
/// cycles of an H200 with them, most of it waiting.
template <class C, typename S, int Spans, int Rows, int Unit>
struct ScaleSpans {
  static constexpr int kGroups = C::K / C::kGroup;                    // of a row
  static constexpr int kSpan = Rows * kGroups * int(sizeof(S));       // bytes
  static constexpr int kWide = kSpan % 16 == 0 ? 16 : kSpan % 8 == 0 ? 8 : 4;
  static constexpr int kBytes = kCeilDiv<Spans * kSpan, 16> * 16;     // aligned to 16
  static_assert(kSpan % 4 == 0 && C::N % Rows == 0);

  /// Starts the copy of one span, which begins at `from`; for a whole unit.
  static __device__ __forceinline__ void copy(u8* shared, int span, const S* from) {
    const u8* bytes = reinterpret_cast<const u8*>(from);
#pragma unroll
    for (int i = 0; i < kCeilDiv<kSpan / kWide, Unit>; ++i) {
      const int at = (i * Unit + threadIdx.x % Unit) * kWide;
      if (at < kSpan) copy_async<kWide>(shared + span * kSpan + at, bytes + at);
    }
  }

  /// Where the scales of a span's row begin.
  static __device__ __forceinline__ const S* row(const u8* shared, int span, int row) {
    return reinterpret_cast<const S*>(shared + span * kSpan) + row * kGroups;
  }
};

}  // namespace zmlx

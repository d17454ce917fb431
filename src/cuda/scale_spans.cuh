#pragma once

#include "memory.cuh"

namespace zmlx {

/// Scales (or biases) of a unit of threads' rows in shared memory, where they arrive together with
/// the rows' codes: `Spans` runs of `Rows` rows of a matrix each. Loads from global memory instead
/// queue behind the copies that are on their way.
///
/// A run of an odd number of 16-bit words may begin between two words of 32 bits. Then it is copied
/// from the word that it begins in, and `row` wants to know where it begins.
template <class C, typename S, int Spans, int Rows, int Unit>
struct ScaleSpans {
  static constexpr int kGroups = C::K / C::kGroup;               // of a row
  static constexpr int kSpan = Rows * kGroups * int(sizeof(S));  // bytes
  static constexpr bool kShifted = kSpan % 4 != 0;
  static constexpr int kRoom = kShifted ? kSpan + 2 : kSpan;
  static constexpr int kWide = kRoom % 16 == 0 && !kShifted ? 16 : kRoom % 8 == 0 && !kShifted ? 8 : 4;
  static constexpr int kBytes = kRoundUp<Spans * kRoom, 16>;
  static_assert(kSpan % 2 == 0 && C::N % Rows == 0);

  /// Starts the copy of one span, which begins at `from`; for a whole unit.
  static __device__ __forceinline__ void copy(u8* shared, int span, const S* from) {
    const u8* bytes = reinterpret_cast<const u8*>(from) - shift(from);
#pragma unroll
    for (int i = 0; i < kCeilDiv<kRoom / kWide, Unit>; ++i) {
      const int at = (i * Unit + threadIdx.x % Unit) * kWide;
      if (at < kRoom) copy_async<kWide>(shared + span * kRoom + at, bytes + at);
    }
  }

  /// Where the scales of row `row` of a span begin, which was copied from `from`.
  static __device__ __forceinline__ const S* row(const u8* shared, int span, int row,
                                                 const S* from) {
    return reinterpret_cast<const S*>(shared + span * kRoom + shift(from)) + row * kGroups;
  }

 private:
  static __device__ __forceinline__ int shift(const S* from) {
    return kShifted ? reinterpret_cast<unsigned long long>(from) & 2 : 0;
  }
};

}  // namespace zmlx

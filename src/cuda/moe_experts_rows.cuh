#pragma once

#include "activation.cuh"
#include "row_products.cuh"
#include "scale_spans.cuh"
#include "two_phases.cuh"

namespace zmlx {

/// The experts of one token, row by row, in one launch of `Up::kParts` blocks: first gate, up and
/// activation of all (expert, column) pairs, then the down projection and the weighted sum. `Up`
/// has the constants of gate and up, `Down` those of the down projection.
///
/// A unit of threads (half a warp, or a warp for the fp modes) makes a few rows at a time. Its
/// codes pass through a ring in shared memory, whose copies run ahead from product to product and
/// from the first phase into the second; so do scales, all of a product with its first codes.
///
/// One token's kernel is bound by instructions, not by memory, so a pass over the ring is unrolled:
/// slots are constants, and what comes next is worked out once a pass.
template <class Up, class Down>
class MoeExpertsRows {
  using T = typename Up::T;
  using Sum = typename Down::Sum;
  using First = RowProducts<Up, Up::kFp>;
  // Two rows, because a part has few of them: with four a warp, gpt-oss's 24 items of a part would
  // keep half of 16 warps idle for half of the time.
  using Second = RowProducts<Down, Down::kFp, 2>;
  using FirstProduct = typename First::template Product<First::kRows>;
  using SecondProduct = typename Second::template Product<Second::kRows>;

  static constexpr int kParts = Up::kParts, kThreads = Up::kThreads, kTopK = Up::kTopK;
  static constexpr int kRing = Up::kRing;
  static constexpr int kUpUnits = kThreads / First::kUnit, kDownUnits = kThreads / Second::kUnit;

  static constexpr int kHidden = First::kRows / 2;  // columns of a product with gate and up
  static constexpr int kColumns = Up::N / kHidden;
  static constexpr int kUpItems = kCeilDiv<kTopK * kColumns, kParts>;  // of a part
  static constexpr int kGroups = Down::N / Second::kRows;
  static constexpr int kPartGroups = kCeilDiv<kGroups, kParts>;
  static constexpr int kPartRows = kPartGroups * Second::kRows;

  // The token, and in its place the hidden rows.
  static constexpr int kStaged = kLarger<First::kShared, kTopK * Second::kShared>;
  static constexpr int kProducts = kRoundUp<int(sizeof(Sum)) * kTopK * kPartRows, 16>;
  // A step's codes of all threads; none if they can't be copied.
  static constexpr int kBytes = FirstProduct::kBytes;
  static constexpr int kSlot =
      FirstProduct::kCopied ? kLarger<First::kRows, Second::kRows> * kThreads * kBytes : 0;
  static_assert(kBytes == SecondProduct::kBytes && First::kRows >= Second::kRows);

  // Scales, and biases where there are any: of gate and up, and of down. First as they are in
  // memory, then as products take them.
  static constexpr int kKinds = Up::kFp ? 1 : 2;
  using UpScales = ScaleSpans<Up, typename First::Scale, 2 * kKinds, kHidden, First::kUnit>;
  using DownScales = ScaleSpans<Down, typename Second::Scale, kKinds, Second::kRows, Second::kUnit>;
  using Prepared = typename FirstProduct::Prepared;
  static constexpr int kScales = kLarger<UpScales::kBytes, DownScales::kBytes>;
  static constexpr int kPreparedGroups =
      kLarger<First::kRows * FirstProduct::kGroups, Second::kRows * SecondProduct::kGroups>;
  static constexpr int kPrepared = kRoundUp<int(sizeof(Prepared)) * kPreparedGroups, 16>;

 public:
  static constexpr int kShared =
      kStaged + kProducts + kRing * kSlot + kUpUnits * (kScales + kPrepared);

  /// @param x         (K)
  /// @param hidden    room for (kTopK, Up::N)
  /// @param counters  see TwoPhases
  __device__ __forceinline__ MoeExpertsRows(const T* x, const typename First::Weights& gate,
                                            const typename First::Weights& up,
                                            const typename Second::Weights& down,
                                            const u32* indices,
                                            const typename Down::Weight* weights, T* hidden,
                                            u32* counters)
      : x_(x),
        gate_(gate),
        up_(up),
        down_(down),
        indices_(indices),
        weights_(weights),
        hidden_(hidden),
        phases_(counters) {}

  __device__ __forceinline__ void run(typename Down::Out* out) {
    __shared__ u16 parts[kParts];
    phases_.ask();
    // MLX keeps arrays of 8 bytes in memory that the host shares, from where the weights may take
    // 12 us to come: so they are asked for here, and waited for after the first phase.
    typename Down::Weight weight;
    u32 expert;
    if (threadIdx.x < kTopK) {
      expert = expert_of<Up>(indices_, threadIdx.x);
      weight = __ldcg(weights_ + threadIdx.x * Down::kWeightSlotStride);
    }
    stage_rows<Up>(x_, 1, reinterpret_cast<typename First::Chunk*>(memory()));
    if (threadIdx.x < kTopK) experts()[threadIdx.x] = expert;
    __syncthreads();
    // Each phase's code stands here once: instructions that run for the first time are as slow to
    // come as data.
    int count = 0;
    for (int part = phases_.first(); part < kParts; part = phases_.next()) {
      if (threadIdx.x == 0) parts[count] = part;
      ++count;
      multiply_up(part);
    }
    if (count > 0) {
      if (threadIdx.x < kTopK) weights()[threadIdx.x] = weight;
      stage_rows<Down>(hidden_, kTopK, reinterpret_cast<typename Second::Chunk*>(memory()));
      __syncthreads();
      for (int i = 0; i < count; ++i) {
        if (count > 1) begin(parts[i], 2);
        multiply_down(parts[i], out);
      }
    }
  }

 private:
  static __device__ __forceinline__ u8* memory() {
    extern __shared__ uint4 shared[];
    return reinterpret_cast<u8*>(shared);
  }
  static __device__ __forceinline__ Sum* products() {
    return reinterpret_cast<Sum*>(memory() + kStaged);
  }
  static __device__ __forceinline__ u8* ring() { return memory() + kStaged + kProducts; }
  /// This thread's codes of a step in the ring.
  static __device__ __forceinline__ u8* slot(int step) {
    return ring() + step * kSlot + threadIdx.x * kBytes;
  }
  /// Of this unit's product.
  static __device__ __forceinline__ u8* scales() {
    return ring() + kRing * kSlot + unit<First>() * (kScales + kPrepared);
  }
  static __device__ __forceinline__ Prepared* prepared() {
    return reinterpret_cast<Prepared*>(scales() + kScales);
  }
  static __device__ __forceinline__ u32* experts() {
    __shared__ u32 experts[kTopK];
    return experts;
  }
  static __device__ __forceinline__ typename Down::Weight* weights() {
    __shared__ typename Down::Weight weights[kTopK];
    return weights;
  }
  /// An expert that exists.
  template <class C>
  static __device__ __forceinline__ u32 readable(int k) {
    return experts()[k] < C::E ? experts()[k] : 0;
  }

  // Items of a part: first products with gate and up, then products with down. Warps keep step, so
  // a half warp without an item makes the last one once more.
  static __device__ __forceinline__ int up_items(int part) {
    return min(kUpItems, kTopK * kColumns - part * kUpItems);
  }
  static __device__ __forceinline__ int down_items(int part) {
    return kTopK * min(kPartGroups, kGroups - part * kPartGroups);
  }
  template <class P>
  static __device__ __forceinline__ int unit() {
    return threadIdx.x / P::kUnit;
  }
  template <class P>
  static __device__ __forceinline__ bool warp_has(int item, int items) {
    return item - unit<P>() % (32 / P::kUnit) < items;
  }

  __device__ __forceinline__ void place_up(FirstProduct& product, int part, int item) const {
    const int at = part * kUpItems + min(item, up_items(part) - 1);
    const u32 expert = readable<Up>(at / kColumns);
#pragma unroll
    for (int i = 0; i < kHidden; ++i) {
      const int n = at % kColumns * kHidden + i;
      product.set_row(2 * i, gate_, expert, n);
      product.set_row(2 * i + 1, up_, expert, n);
    }
  }

  /// Experts side by side, so that a part's few rows are made by many units.
  __device__ __forceinline__ void place_down(SecondProduct& product, int part, int item) const {
    item = min(item, down_items(part) - 1);
    const u32 expert = readable<Down>(item % kTopK);
    const int first = (part * kPartGroups + item / kTopK) * Second::kRows;
#pragma unroll
    for (int r = 0; r < Second::kRows; ++r) {
      product.set_row(r, down_, expert, first + r);
    }
  }

  /// Fills the ring from the beginning of a phase of a part.
  __device__ __forceinline__ void begin(int part, int phase) {
    wait_for_copies<0>();
    __syncwarp();
    if (phase == 1) {
      enter_up(part, unit<First>());
    } else {
      enter_down(part, unit<Second>());
    }
#pragma unroll 1
    for (int s = 0; s < kRing; ++s) copy(s);
  }

  // What copies come to next, whose scales they start at once: what was there must have been read.

  /// An item of the first phase, or the first of the second if there is none.
  __device__ __forceinline__ void enter_up(int part, int item) {
    if (!warp_has<First>(item, up_items(part))) return enter_down(part, unit<Second>());
    FirstProduct product;
    place_up(product, part, item);
    enter(product);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      UpScales::copy(scales(), r, product.scales(r));
      if constexpr (!Up::kFp) UpScales::copy(scales(), 2 + r, product.biases(r));
    }
  }
  /// An item of the second phase, or nothing.
  __device__ __forceinline__ void enter_down(int part, int item) {
    left_ = left_above_ = 0;
    if (!warp_has<Second>(item, down_items(part))) return;
    SecondProduct product;
    place_down(product, part, item);
    enter(product);
    DownScales::copy(scales(), 0, product.scales(0));
    if constexpr (!Up::kFp) DownScales::copy(scales(), 1, product.biases(0));
  }
  template <class C, int R, template <class, int> class Product>
  __device__ __forceinline__ void enter(const Product<C, R>& product) {
#pragma unroll
    for (int r = 0; r < R; ++r) codes_[r] = product.codes(r);
    left_ = product.steps();
    left_above_ = R > Second::kRows ? left_ : 0;
  }

  /// Starts the copy of a step of the pass that copies have come to.
  __device__ __forceinline__ void copy(int s) const {
    if constexpr (FirstProduct::kCopied) {
#pragma unroll
      for (int r = 0; r < First::kRows; ++r) {
        if (s < (r < Second::kRows ? left_ : left_above_)) {
          copy_async<kBytes>(slot(s) + r * kThreads * kBytes,
                             codes_[r] + s * FirstProduct::kStride);
        }
      }
    }
    commit_copies();
  }

  // Where scales are once they have come, for a product whose rows are set if `row` has to know
  // them.
  static __device__ __forceinline__ typename FirstProduct::Scales scales_of(const FirstProduct& p) {
    typename FirstProduct::Scales at;
#pragma unroll
    for (int r = 0; r < First::kRows; ++r) {
      at.scales[r] = UpScales::row(scales(), r % 2, r / 2, p.scales(r % 2));
      if constexpr (!Up::kFp) {
        at.biases[r] = UpScales::row(scales(), 2 + r % 2, r / 2, p.biases(r % 2));
      }
    }
    return at;
  }
  static __device__ __forceinline__ typename SecondProduct::Scales scales_of(
      const SecondProduct& p) {
    typename SecondProduct::Scales at;
#pragma unroll
    for (int r = 0; r < Second::kRows; ++r) {
      at.scales[r] = DownScales::row(scales(), 0, r, p.scales(0));
      if constexpr (!Up::kFp) at.biases[r] = DownScales::row(scales(), 1, r, p.biases(0));
    }
    return at;
  }

  /// Makes a product, while copies go on to what `enter_next` enters.
  template <class Product, class Chunk, class Next>
  __device__ __forceinline__ void multiply(Product& product, const Chunk* x,
                                           const Next& enter_next) {
    product.clear();
    wait_for_copies<kRing - 1>();
    __syncwarp();
    const bool linear = product.prepare(scales_of(product), prepared());
    __syncwarp();
#pragma unroll 1
    for (int first = 0; first < Product::kSteps; first += kRing) {
      if (first + kRing < Product::kSteps) {
#pragma unroll
        for (int r = 0; r < First::kRows; ++r) codes_[r] += kRing * Product::kStride;
        left_ -= kRing, left_above_ -= kRing;
      } else {
        enter_next();
      }
      if (linear) {
        pass<true>(product, first, x);
      } else {
        pass<false>(product, first, x);
      }
    }
  }

  template <bool Linear, class Product, class Chunk>
  __device__ __forceinline__ void pass(Product& product, int first, const Chunk* x) const {
#pragma unroll(Linear ? kRing : 1)
    for (int s = 0; s < kRing; ++s) {
      wait_for_copies<kRing - 1>();
      product.template step<Linear>(first + s, slot(s), prepared(), x);
      copy(s);
    }
  }

  /// The whole first phase of a part.
  __device__ __forceinline__ void multiply_up(int part) {
    const auto* x = reinterpret_cast<const typename First::Chunk*>(memory());
    const int items = up_items(part);
    begin(part, 1);
    for (int item = unit<First>(); warp_has<First>(item, items); item += kUpUnits) {
      FirstProduct product;
      if constexpr (!FirstProduct::kCopied || UpScales::kShifted) place_up(product, part, item);
      multiply(product, x, [&] { enter_up(part, item + kUpUnits); });
      float dots[First::kRows];
      product.finish(dots);
      if (threadIdx.x % First::kUnit == 0 && item < items) write_hidden(part, item, dots);
    }
  }

  __device__ __forceinline__ void write_hidden(int part, int item,
                                               const float (&dots)[First::kRows]) const {
    const int at = part * kUpItems + item, k = at / kColumns;
    const u32 expert = readable<Up>(k);
#pragma unroll
    for (int i = 0; i < kHidden; ++i) {
      const int n = at % kColumns * kHidden + i;
      const auto g = with_bias<Up>(dots[2 * i], gate_, expert, n);
      const auto u = with_bias<Up>(dots[2 * i + 1], up_, expert, n);
      const T y = round_to<T>(to_float(activate<Up>(g, u)));
      hidden_[k * Up::N + n] = experts()[k] < Up::E ? y : not_a_number<T>();
    }
  }

  __device__ __forceinline__ void multiply_down(int part, typename Down::Out* out) {
    const auto* rows = reinterpret_cast<const typename Second::Chunk*>(memory());
    const int items = down_items(part);
    for (int item = unit<Second>(); warp_has<Second>(item, items); item += kDownUnits) {
      const int k = min(item, items - 1) % kTopK;
      SecondProduct product;
      if constexpr (!SecondProduct::kCopied || DownScales::kShifted) {
        place_down(product, part, item);
      }
      multiply(product, rows + k * (Second::kShared / 16),
               [&] { enter_down(part, item + kDownUnits); });
      float dots[Second::kRows];
      product.finish(dots);
      if (threadIdx.x % Second::kUnit == 0 && item < items) weigh(part, item, dots);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kPartRows; i += kThreads) {
      const int n = part * kPartRows + i;
      if (n >= Down::N) break;
      const Sum sum = sum_in_order<kTopK>(products() + i, kPartRows);
      out[n] = round_to<typename Down::Out>(to_float(sum));
    }
    __syncthreads();  // before the next part's products
  }

  __device__ __forceinline__ void weigh(int part, int item,
                                        const float (&dots)[Second::kRows]) const {
    const int k = item % kTopK, first = item / kTopK * Second::kRows;
#pragma unroll
    for (int r = 0; r < Second::kRows; ++r) {
      const int n = part * kPartRows + first + r;
      const auto y = with_bias<Down>(dots[r], down_, readable<Down>(k), n);
      products()[k * kPartRows + first + r] =
          experts()[k] < Down::E ? weighted<Sum>(y, weights()[k]) : not_a_number<Sum>();
    }
  }

  const T* x_;
  const typename First::Weights gate_, up_;
  const typename Second::Weights down_;
  const u32* indices_;
  const typename Down::Weight* weights_;
  T* hidden_;
  TwoPhases<kParts> phases_;

  // Where copies are: this thread's codes of a pass, and the steps that are left; `left_above_` is
  // of rows that only the first phase has.
  const u8* codes_[First::kRows];
  int left_, left_above_;
};

}  // namespace zmlx

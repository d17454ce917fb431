#pragma once

#include "activation.cuh"
#include "expert_groups.cuh"
#include "mma_product.cuh"
#include "two_phases.cuh"

namespace zmlx {

/// The experts of several tokens on tensor cores, in one launch of `Up::kParts` blocks: first gate,
/// up and activation, then the down projection and the weighted sum. Each expert's rows are read
/// once for up to `Up::kMaxTokens` of its pairs.
///
/// A warp makes 16 rows at a time. Its codes pass through a ring in shared memory, whose copies run
/// ahead from tile to tile and from the first phase into the second. In the first phase two warps
/// work together, on the same rows of gate and of up. In the second a block makes 16 columns of the
/// result: its warps share out the experts, and the products of all pairs meet in shared memory,
/// where each token's are added in their order.
template <class Up, class Down>
class MoeExpertsMma {
  using T = typename Up::T;
  using Sum = typename Down::Sum;
  using A = MmaLayout<Up>;
  using B = MmaLayout<Down>;

  static constexpr int kParts = Up::kParts, kThreads = Up::kThreads, kTopK = Up::kTopK;
  static constexpr int kWarps = kThreads / 32, kTeams = kWarps / 2, kRing = Up::kRing;
  static constexpr int kStaged = A::kStaged, kRows = A::kRows;
  static constexpr int kUpTiles = Up::N / kRows, kDownTiles = Down::N / kRows;

  // A ring of stages may reach into several tiles ahead.
  static constexpr int kShortest = A::kStages < B::kStages ? A::kStages : B::kStages;
  static constexpr int kScaleBuffers = kCeilDiv<kRing, kShortest> + 1;
  static constexpr int kScales = 2 * kLarger<A::kScales, B::kScales>;
  static constexpr int kWarpBytes = kRing * A::kCodes + kScaleBuffers * kScales;

  // All tokens, and in their place the hidden rows on their way.
  static constexpr int kTokenWords = Up::K / 2;
  static constexpr int kUnits = B::kStageK / 8;  // 16 bytes of a hidden row's stage
  static constexpr int kSlot = kStaged * kUnits * 16;
  static constexpr int kTokensAt = kWarps * kWarpBytes;
  static constexpr int kTokenBytes =
      kLarger<Up::kTokenRoom * kTokenWords * 4, kWarps * kRing * kSlot>;
  static constexpr int kExchangeAt = kTokensAt + kTokenBytes;
  static constexpr int kProductsAt = kExchangeAt + kTeams * 2 * 32 * 16;
  static constexpr int kWeightsAt = kProductsAt + Up::kMaxPairs * kRows * int(sizeof(Sum));
  static constexpr int kGroupsAt = kWeightsAt + Up::kMaxPairs * 4;
  using Groups = ExpertGroups<Up, kStaged, kGroupsAt>;

 public:
  static constexpr int kShared = kGroupsAt + Groups::kShared;

  /// @param x         (tokens, Up::K)
  /// @param hidden    room for (tokens * kTopK, Up::N)
  /// @param counters  see TwoPhases
  __device__ __forceinline__ MoeExpertsMma(const T* x, const Experts<T, T>& gate,
                                           const Experts<T, T>& up, const Experts<T, T>& down,
                                           const u32* indices, const typename Down::Weight* weights,
                                           T* hidden, u32* counters, int tokens)
      : x_(x),
        gate_(gate),
        up_(up),
        down_(down),
        hidden_(hidden),
        tokens_(tokens),
        phases_(counters) {
    phases_.ask();
    // By other warps than those that gather pairs, so that nobody waits twice.
    for (int pair = (threadIdx.x + kThreads / 2) % kThreads; pair < tokens * kTopK;
         pair += kThreads) {
      const auto weight = weights[pair / kTopK * Down::kWeightTokenStride +
                                  pair % kTopK * Down::kWeightSlotStride];
      const bool exists = expert_of<Up>(indices, pair) < Up::E;
      pair_weights()[pair] = exists ? to_float(weight) : __int_as_float(0x7fffffff);
    }
    Groups::gather(indices, tokens * kTopK, [](int pair) {
      for (int i = 0; i < kRows; ++i) products()[pair * kRows + i] = not_a_number<Sum>();
    });
  }

  __device__ __forceinline__ void run(typename Down::Out* out) {
    __shared__ u16 parts[kParts];
    // Each phase's code stands here once: instructions that run for the first time are as slow to
    // come as data.
    int count = 0;
    for (int part = phases_.first(); part < kParts; part = phases_.next()) {
      if (threadIdx.x == 0) parts[count] = part;
      stage_tokens_and_begin(part, count == 0);
      __syncthreads();
      ++count;
      multiply_up(part);
    }
    second_ = true;
    for (int i = 0; i < count; ++i) {
      if (count > 1) {
        begin(parts[i], 2);
      } else {
        fetch_hidden(parts[0]);
      }
      multiply_down(parts[i], out);
    }
  }

 private:
  static __device__ __forceinline__ u8* memory() {
    extern __shared__ uint4 shared[];
    return reinterpret_cast<u8*>(shared);
  }
  static __device__ __forceinline__ u32* tokens() {
    return reinterpret_cast<u32*>(memory() + kTokensAt);
  }
  static __device__ __forceinline__ Sum* products() {
    return reinterpret_cast<Sum*>(memory() + kProductsAt);
  }
  static __device__ __forceinline__ float* pair_weights() {
    return reinterpret_cast<float*>(memory() + kWeightsAt);
  }
  static __device__ __forceinline__ int warp() { return threadIdx.x / 32; }
  static __device__ __forceinline__ int lane() { return threadIdx.x % 32; }
  static __device__ __forceinline__ u8* codes(int slot) {
    return memory() + warp() * kWarpBytes + slot * A::kCodes;
  }
  static __device__ __forceinline__ u8* scales(int tile) {
    return memory() + warp() * kWarpBytes + kRing * A::kCodes + tile % kScaleBuffers * kScales;
  }
  /// Hidden rows of one slot of this warp's ring.
  static __device__ __forceinline__ u32* rows(int slot) {
    return tokens() + (warp() * kRing + slot) * (kSlot / 4);
  }

  /// Fills the ring for a first phase, and before that asks for the tokens, unless they are there:
  /// behind its copies they took 5 us of an H200 to come.
  __device__ __forceinline__ void stage_tokens_and_begin(int part, bool stage) {
    constexpr int kAtOnce = kCeilDiv<Up::kTokenRoom * A::kUnits, kThreads>;
    constexpr int kHeld = kAtOnce < 8 ? kAtOnce : 8;
    const int units = stage ? tokens_ * A::kUnits : 0;
    bool begun = false;
#pragma unroll 1
    for (int base = threadIdx.x; !begun; base += kHeld * kThreads) {
      uint4 held[kHeld];
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int at = base + i * kThreads;
        if (at < units) held[i] = __ldg(reinterpret_cast<const uint4*>(x_) + at);
      }
      if (base - int(threadIdx.x) + kHeld * kThreads >= units) begun = true, begin(part, 1);
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int at = base + i * kThreads, token = at / A::kUnits;
        if (at >= units) continue;
        store_activations(tokens() + token * kTokenWords, token, at % A::kUnits, held[i]);
      }
    }
  }

  /// Where a hidden row keeps column n: units of 16 bytes hold what a thread needs of two blocks.
  static __device__ __forceinline__ int hidden_position(int n) {
    const int unit = n / 32 * 4 + n % 4;
    return (unit * 4 + n % 32 / 8) * 2 + n % 8 / 4;
  }

  // One stage of a tile: where copies are, or where products are.
  struct Cursor {
    int phase, task, stage, tile;  // `tile` counts tiles of both phases
    int group;                     // that the task belongs to
  };

  __device__ __forceinline__ int up_tasks() const { return Groups::count() * kUpTiles; }
  __device__ __forceinline__ int down_tasks(int part) const {
    const int tiles = part < kDownTiles ? (kDownTiles - part - 1) / kParts + 1 : 0;
    return tiles * Groups::count();
  }
  static __device__ __forceinline__ int first_task(int part, int phase) {
    return phase == 1 ? part + kParts * (warp() / 2) : warp();
  }
  /// Tasks of the second phase: all groups of a tile of columns, then those of the next.
  __device__ __forceinline__ int column_of(int part, int task) const {
    return (part + task / Groups::count() * kParts) * kRows;
  }

  /// Fills the ring from the beginning of a phase of a part.
  __device__ __forceinline__ void begin(int part, int phase) {
    wait_for_copies<0>();
    __syncwarp();
    part_ = part, slot_ = 0, tile_ = 0;
    ahead_ = {phase, first_task(part, phase), 0, 0, 0};
    enter();
#pragma unroll 1
    for (int s = 0; s < kRing; ++s) copy_next();
  }

  /// Goes to the task that copies come to, if there is one, else to the next phase.
  __device__ __forceinline__ void enter() {
    if (ahead_.phase == 1) {
      if (ahead_.task < up_tasks()) {
        ahead_.group = ahead_.task / kUpTiles;
        const u32 expert = Groups::group(ahead_.group).expert;
        const int row = ahead_.task % kUpTiles * kRows;
        if (warp() % 2) {
          ahead_tile_ = {up_, expert, row};
        } else {
          ahead_tile_ = {gate_, expert, row};
        }
        return;
      }
      ahead_.phase = 2, ahead_.task = first_task(part_, 2);
    }
    if (ahead_.task < down_tasks(part_)) {
      ahead_.group = ahead_.task % Groups::count();
      ahead_tile_ = WeightTile<Up>(WeightTile<Down>(down_, Groups::group(ahead_.group).expert,
                                                    column_of(part_, ahead_.task)));
    } else {
      ahead_.phase = 3;
    }
  }

  /// Starts the copies of the next stage, to the slot that was used last.
  __device__ __forceinline__ void copy_next() {
    const int slot = slot_;
    slot_ = slot + 1 == kRing ? 0 : slot + 1;
    if (ahead_.phase == 1) {
      if (ahead_.stage == 0) ahead_tile_.copy_scales(scales(ahead_.tile));
      ahead_tile_.copy_stage(codes(slot), ahead_.stage);
      advance(A::kStages, kParts * kTeams);
    } else if (ahead_.phase == 2) {
      const WeightTile<Down> tile(ahead_tile_);
      if (ahead_.stage == 0) tile.copy_scales(scales(ahead_.tile));
      tile.copy_stage(codes(slot), ahead_.stage);
      if (second_) copy_rows(ahead_.group, ahead_.stage, slot);
      advance(B::kStages, kWarps);
    }
    commit_copies();
  }
  __device__ __forceinline__ void advance(int stages, int step) {
    if (++ahead_.stage < stages) return;
    ahead_.stage = 0, ahead_.task += step, ++ahead_.tile;
    enter();
  }

  __device__ __forceinline__ void copy_rows(int group_index, int stage, int slot) const {
    static_assert(32 % kUnits == 0);
    const auto& group = Groups::group(group_index);
    const int unit = lane() % kUnits, at = (stage * kUnits + unit) * 8;
    if (at >= Down::K) return;
#pragma unroll 1
    for (int token = lane() / kUnits; token < group.count; token += 32 / kUnits) {
      copy_async16(rows(slot) + (token * kUnits + activation_unit(token, unit / 4, unit % 4)) * 4,
                   hidden_ + Groups::pair(group.first + token) * Up::N + at);
    }
  }

  /// For stages whose weights are on their way already.
  __device__ __forceinline__ void fetch_hidden(int part) const {
    const int tasks = down_tasks(part);
    int task = first_task(part, 2), stage = 0, slot = slot_;
#pragma unroll 1
    for (int s = 0; s < kRing; ++s) {
      if (task < tasks) {
        copy_rows(task % Groups::count(), stage, slot);
        if (++stage == B::kStages) stage = 0, task += kWarps;
      }
      commit_copies();
      slot = slot + 1 == kRing ? 0 : slot + 1;
    }
  }

  template <class C>
  __device__ __forceinline__ void multiply(const u32* row, int row_token, bool staged_whole,
                                           float (&sums)[4]) {
    constexpr int kPairs = MmaLayout<C>::kStageK / 32;
    bool linear = false;
#pragma unroll 1
    for (int s = 0; s < MmaLayout<C>::kStages; ++s) {
      wait_for_copies<kRing - 1>();
      __syncwarp();
      if (s == 0) linear = make_linear<C>(scales(tile_));
      MmaStage<C>::run(linear, codes(slot_), scales(tile_), s,
                       staged_whole ? row : rows(slot_) + row_token * (kUnits * 4), row_token,
                       staged_whole ? s * kPairs : 0, sums);
      __syncwarp();
      copy_next();
    }
    ++tile_;
  }

  __device__ __forceinline__ void multiply_up(int part) {
    const int tasks = up_tasks(), team = warp() / 2;
#pragma unroll 1
    for (int task = first_task(part, 1); task < tasks; task += kParts * kTeams) {
      const auto& group = Groups::group(task / kUpTiles);
      const int pair = Groups::pair(group.first + min(lane() / 4, group.count - 1));
      const int token = pair / kTopK;
      float sums[4] = {0, 0, 0, 0};
      multiply<Up>(tokens() + token * kTokenWords, token, true, sums);
      // Odd warps hand their sums over; room for two tiles lets them go on.
      auto* exchange =
          reinterpret_cast<float4*>(memory() + kExchangeAt) + (team * 2 + tile_ % 2) * 32 + lane();
      if (warp() % 2) *exchange = {sums[0], sums[1], sums[2], sums[3]};
      asm volatile("bar.sync %0, 64;" : : "r"(1 + team) : "memory");
      if (warp() % 2) continue;
      const float4 other = *exchange;
      const float ups[4] = {other.x, other.y, other.z, other.w};
      write_hidden(group, task % kUpTiles * kRows, sums, ups);
    }
  }

  __device__ __forceinline__ void write_hidden(const typename Groups::Group& group, int column,
                                               const float (&gates)[4], const float (&ups)[4]) {
    const int g = lane() / 4, t = lane() % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = 2 * t + i % 2, n = column + g + i / 2 * 8;
      if (token >= group.count) continue;
      const auto gate = with_bias<Up>(gates[i], gate_, group.expert, n);
      const auto up = with_bias<Up>(ups[i], up_, group.expert, n);
      hidden_[Groups::pair(group.first + token) * Up::N + hidden_position(n)] =
          round_to<T>(to_float(activate<Up>(gate, up)));
    }
  }

  __device__ __forceinline__ void multiply_down(int part, typename Down::Out* out) {
    int task = first_task(part, 2);
    for (int tile = part; tile < kDownTiles; tile += kParts) {
      const int end = ((tile - part) / kParts + 1) * Groups::count();
#pragma unroll 1
      for (; task < end; task += kWarps) {
        const auto& group = Groups::group(task % Groups::count());
        float sums[4] = {0, 0, 0, 0};
        multiply<Down>(nullptr, min(lane() / 4, group.count - 1), false, sums);
        finish(group, tile * kRows, sums);
      }
      __syncthreads();
      add_up(tile * kRows, out);
      __syncthreads();  // before the next tile's products
    }
  }

  /// Rounds and weights the products of one expert's pairs.
  __device__ __forceinline__ void finish(const typename Groups::Group& group, int column,
                                         const float (&sums)[4]) const {
    const int g = lane() / 4, t = lane() % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = 2 * t + i % 2, row = g + i / 2 * 8;
      if (token >= group.count) continue;
      const int pair = Groups::pair(group.first + token);
      const auto y = with_bias<Down>(sums[i], down_, group.expert, column + row);
      products()[pair * kRows + row] = weighted<Sum>(y, pair_weights()[pair]);
    }
  }

  __device__ __forceinline__ void add_up(int column, typename Down::Out* out) const {
    for (int i = threadIdx.x; i < tokens_ * kRows; i += kThreads) {
      const int token = i / kRows, row = i % kRows;
      const Sum sum = sum_in_order<kTopK>(products() + token * kTopK * kRows + row, kRows);
      out[static_cast<long long>(token) * Down::N + column + row] =
          round_to<typename Down::Out>(to_float(sum));
    }
  }

  const T* x_;
  const Experts<T, T> gate_, up_, down_;
  T* hidden_;
  const int tokens_;
  TwoPhases<kParts> phases_;

  // Where copies are.
  Cursor ahead_;
  WeightTile<Up> ahead_tile_;  // of either product
  int part_, slot_, tile_;
  bool second_ = false;  // whether hidden rows can be read
};

}  // namespace zmlx

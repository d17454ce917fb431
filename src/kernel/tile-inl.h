// How steps of the tile evaluator are written, and those that move tiles.

#if defined(ZMLX_KERNEL_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_KERNEL_TILE_INL_H_
#undef ZMLX_KERNEL_TILE_INL_H_
#else
#define ZMLX_KERNEL_TILE_INL_H_
#endif

#include "cpu/scalar-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernel/tile_kernels.h"

// As many vectors as calls pass in registers, on x86-64 and on AArch64.
#ifndef ZMLX_TILE_PARAMETERS
#define ZMLX_TILE_PARAMETERS \
  const Step *step, size_t offset, VF v0, VF v1, VF v2, VF v3, VF v4, VF v5, VF v6, VF v7
#define ZMLX_TILE v0, v1, v2, v3, v4, v5, v6, v7
#define ZMLX_FOR_TILE(DO) \
  DO(0, v0) DO(1, v1) DO(2, v2) DO(3, v3) DO(4, v4) DO(5, v5) DO(6, v6) DO(7, v7)
// A call that does not come back here: GCC makes a jump of it with -foptimize-sibling-calls.
#if defined(__clang__)
#define ZMLX_TAIL_CALL [[clang::musttail]] return
#else
#define ZMLX_TAIL_CALL return
#endif
#define ZMLX_GO_TO(next) \
  ZMLX_TAIL_CALL reinterpret_cast<TileStep>((next)->kernel)(next, offset, ZMLX_TILE)
#define ZMLX_NEXT \
  ++step;         \
  ZMLX_GO_TO(step)
#endif

HWY_BEFORE_NAMESPACE();
namespace zmlx::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using cpu::HWY_NAMESPACE::DF;
using cpu::HWY_NAMESPACE::DI;
using cpu::HWY_NAMESPACE::DU;
using cpu::HWY_NAMESPACE::kLanes;
using cpu::HWY_NAMESPACE::VF;
using VI = hn::Vec<DI>;
using VU = hn::Vec<DU>;

using TileStep = void (*)(ZMLX_TILE_PARAMETERS);
constexpr size_t kTileBytes = kTileVectors * kLanes * sizeof(float);

// Where an argument of a step is: `get(v, t)` is vector v of it, t being that of the tile in
// registers.

struct InTile {
  static constexpr Place kPlace = Place::tile;
  HWY_INLINE InTile(const Step*, int, size_t) {}
  HWY_INLINE VF get(size_t, VF t) const { return t; }
};

struct InMemory {
  static constexpr Place kPlace = Place::memory;
  HWY_INLINE InMemory(const Step* step, int argument, size_t offset)
      : at(reinterpret_cast<float*>(step->from[argument] + (offset & step->mask[argument]))) {}
  HWY_INLINE VF get(size_t v, VF) const { return hn::LoadU(DF(), at + v * kLanes); }
  HWY_INLINE void set(size_t v, VF value) const { hn::StoreU(value, DF(), at + v * kLanes); }
  float* at;
};

struct Uniform {
  static constexpr Place kPlace = Place::uniform;
  HWY_INLINE Uniform(const Step* step, int argument, size_t)
      : value(hn::LoadU(DF(), reinterpret_cast<const float*>(step->from[argument]))) {}
  HWY_INLINE VF get(size_t, VF) const { return value; }
  VF value;
};

/// The same of 16-bit elements, half as far on.
HWY_INLINE uint8_t* HalvesInMemory(const Step* step, size_t offset) {
  return step->from[0] + (offset / 2 & step->mask[0]);
}

inline void Load(ZMLX_TILE_PARAMETERS) {
  const InMemory m(step, 0, offset);
#define ZMLX_DO(v, t) t = m.get(v, t);
  ZMLX_FOR_TILE(ZMLX_DO)
#undef ZMLX_DO
  ZMLX_NEXT;
}

template <cpu::Scalar kType>
void LoadHalves(ZMLX_TILE_PARAMETERS) {
  const uint8_t* p = HalvesInMemory(step, offset);
#define ZMLX_DO(v, t) t = cpu::HWY_NAMESPACE::LoadFloats<kType>(p, v * kLanes);
  ZMLX_FOR_TILE(ZMLX_DO)
#undef ZMLX_DO
  ZMLX_NEXT;
}

inline void Store(ZMLX_TILE_PARAMETERS) {
  const InMemory m(step, 0, offset);
#define ZMLX_DO(v, t) m.set(v, t);
  ZMLX_FOR_TILE(ZMLX_DO)
#undef ZMLX_DO
  ZMLX_NEXT;
}

inline void Stream(ZMLX_TILE_PARAMETERS) {
  const InMemory m(step, 0, offset);
#define ZMLX_DO(v, t) hn::Stream(t, DF(), m.at + (v) * kLanes);
  ZMLX_FOR_TILE(ZMLX_DO)
#undef ZMLX_DO
  ZMLX_NEXT;
}

template <cpu::Scalar kType>
void StoreHalves(ZMLX_TILE_PARAMETERS) {
  uint8_t* p = HalvesInMemory(step, offset);
#define ZMLX_DO(v, t) cpu::HWY_NAMESPACE::StoreFloats<kType>(t, p, (v) * kLanes);
  ZMLX_FOR_TILE(ZMLX_DO)
#undef ZMLX_DO
  ZMLX_NEXT;
}

/// Two vectors at a time, so that 16-bit results fill a vector.
template <cpu::Scalar kType>
HWY_INLINE void StreamPair(VF low, VF high, uint16_t* to) {
  using cpu::HWY_NAMESPACE::Halves;
  const hn::Repartition<uint16_t, DF> d16;
  hn::Stream(hn::Combine(d16, Halves<kType>(high), Halves<kType>(low)), d16, to);
}
template <cpu::Scalar kType>
void StreamHalves(ZMLX_TILE_PARAMETERS) {
  auto* p = reinterpret_cast<uint16_t*>(HalvesInMemory(step, offset));
  StreamPair<kType>(v0, v1, p);
  StreamPair<kType>(v2, v3, p + 2 * kLanes);
  StreamPair<kType>(v4, v5, p + 4 * kLanes);
  StreamPair<kType>(v6, v7, p + 6 * kLanes);
  ZMLX_NEXT;
}

/// Of kBytes a tile, so many tiles at a time.
template <size_t kBytes, size_t kTiles>
void Fetch(ZMLX_TILE_PARAMETERS) {
  constexpr size_t kLine = 64;
  if (kTiles == 1 || offset / kTileBytes % kTiles == step->mask[1]) {
    const uint8_t* p = step->from[0] + ((offset + step->distance) * kBytes / kTileBytes);
    for (size_t i = 0; i < kBytes * kTiles; i += kLine) hwy::Prefetch(p + i);
  }
  ZMLX_NEXT;
}

inline void Keep(ZMLX_TILE_PARAMETERS) {
  const InMemory mask(step, 0, offset), other(step, 1, offset);
#define ZMLX_DO(v, t) \
  t = hn::Or(hn::And(mask.get(v, t), t), hn::AndNot(mask.get(v, t), other.get(v, t)));
  ZMLX_FOR_TILE(ZMLX_DO)
#undef ZMLX_DO
  ZMLX_NEXT;
}

inline void End(ZMLX_TILE_PARAMETERS) {
#ifdef ZMLX_SANITIZED
  return;  // RunSteps goes on: calls of instrumented functions are no jumps
#endif
  offset += kTileBytes;
  if (offset >= step->distance) return;
  step = reinterpret_cast<const Step*>(step->from[0]);
  ZMLX_GO_TO(step);
}

inline void FillTile(void* tile, uint32_t bits) {
  const auto value = hn::Set(DU(), bits);
  for (size_t v = 0; v < kTileVectors; ++v) {
    hn::StoreU(value, DU(), static_cast<uint32_t*>(tile) + v * kLanes);
  }
}

inline void RunSteps(const Step* first, const Step* last) {
  const VF zero = hn::Zero(DF());
  const auto run = reinterpret_cast<TileStep>(first->kernel);
#ifdef ZMLX_SANITIZED
  for (size_t offset = 0; offset < last->distance; offset += kTileBytes) {
    run(first, offset, zero, zero, zero, zero, zero, zero, zero, zero);
  }
#else
  (void)last;
  run(first, 0, zero, zero, zero, zero, zero, zero, zero, zero);
#endif
}

}  // namespace zmlx::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

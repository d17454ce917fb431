#include "cpu/bandwidth.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/bandwidth.cpp"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

uint64_t ReadAll(const uint8_t* p, size_t bytes) {
  const hn::ScalableTag<uint64_t> d;
  const size_t step = hn::Lanes(d);
  const auto* words = reinterpret_cast<const uint64_t*>(p);
  const size_t count = bytes / sizeof(uint64_t);
  auto a = hn::Zero(d), b = a, c = a, e = a;
  for (size_t i = 0; i < count; i += 4 * step) {
    hwy::Prefetch(words + i + 128);
    hwy::Prefetch(words + i + 128 + 2 * step);
    a = hn::Xor(a, hn::Load(d, words + i));
    b = hn::Xor(b, hn::Load(d, words + i + step));
    c = hn::Xor(c, hn::Load(d, words + i + 2 * step));
    e = hn::Xor(e, hn::Load(d, words + i + 3 * step));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Xor(hn::Xor(a, b), hn::Xor(c, e))));
}

void CopyAll(const uint8_t* from, size_t bytes, uint8_t* to) {
  const hn::ScalableTag<uint8_t> d;
  const size_t step = hn::Lanes(d);
  for (size_t i = 0; i < bytes; i += 2 * step) {
    const auto a = hn::Load(d, from + i);
    const auto b = hn::Load(d, from + i + step);
    hn::Stream(a, d, to + i);
    hn::Stream(b, d, to + i + step);
  }
  hwy::FlushStream();
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace zmlx::cpu {

HWY_EXPORT(ReadAll);
HWY_EXPORT(CopyAll);

uint64_t read_all(const uint8_t* p, size_t bytes) {
  return HWY_DYNAMIC_DISPATCH(ReadAll)(p, bytes);
}

void copy_all(const uint8_t* from, size_t bytes, uint8_t* to) {
  HWY_DYNAMIC_DISPATCH(CopyAll)(from, bytes, to);
}

}  // namespace zmlx::cpu
#endif  // HWY_ONCE

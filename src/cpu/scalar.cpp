#include "cpu/scalar.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/scalar.cpp"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "cpu/scalar-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {

void FloatsToAny(const float* src, size_t count, Scalar type, void* dst) {
  FloatsTo(src, count, type, dst);
}

float FloatFrom(const void* src, Scalar type) {
  HWY_ALIGN float value[kLanes];
  FloatsFrom(src, type, 1, value);
  return value[0];
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace zmlx::cpu {

HWY_EXPORT(FloatsToAny);
HWY_EXPORT(FloatFrom);

void floats_to(const float* src, size_t count, Scalar type, void* dst) {
  HWY_DYNAMIC_DISPATCH(FloatsToAny)(src, count, type, dst);
}

float float_from(const void* src, Scalar type) {
  return HWY_DYNAMIC_DISPATCH(FloatFrom)(src, type);
}

void fill_nan(size_t count, Scalar type, void* dst) {
  if (type == Scalar::f32) {
    std::fill_n(static_cast<uint32_t*>(dst), count, 0x7FC00000u);
  } else {
    const uint16_t nan = type == Scalar::f16 ? 0x7E00 : 0x7FC0;
    std::fill_n(static_cast<uint16_t*>(dst), count, nan);
  }
}

}  // namespace zmlx::cpu
#endif  // HWY_ONCE

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/formats/affine1.cpp"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "cpu/format_kernels-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
ZMLX_FORMAT_KERNELS(affine1)
}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace zmlx::cpu {
ZMLX_EXPORT_FORMAT_KERNELS(affine1)
}  // namespace zmlx::cpu
#endif  // HWY_ONCE

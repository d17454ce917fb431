#include "fast/backend.h"

#include "mlx/backend/metal/metal.h"

namespace zmlx::fast {

Backend backend_of(const mx::Stream& s) {
  if (s.device == mx::Device::cpu) return Backend::cpu;
  static const bool metal = mx::metal::is_available();
  return metal ? Backend::metal : Backend::cuda;
}

const char* name_of(Backend backend) {
  switch (backend) {
    case Backend::cpu:
      return "cpu";
    case Backend::cuda:
      return "cuda";
    case Backend::metal:
      return "metal";
  }
  return "";
}

}  // namespace zmlx::fast

#include "fast/metal_path.h"

#include <algorithm>
#include <cstdlib>

#include "fast/backend.h"
#include "fast/metal_tuning.h"

namespace zmlx::fast {

namespace {

/// Pairs from which mlx-lm's SwitchGLU sorts them by expert.
constexpr int kSorted = 64;

/// Values of a 32-bit pack; those of 3, 5 and 6 bits fill 3, 5 and 3 bytes.
int pack(int bits) { return bits == 3 || bits == 5 ? 8 : bits == 6 ? 4 : 32 / bits; }

/// Whether MLX runs its "fast" kernel: `gather_qmv` in its mlx/backend/metal/quantized.cpp.
bool stock_is_fast(const MetalCall& c) {
  const int bits = c.quantization.bits;
  return c.N % 8 == 0 && c.K % (pack(bits) * (bits == 2 ? 1 : 2) * 32) == 0;
}

MetalPlan plan_product(const MetalCall& c) {
  MetalPlan plan;
  // `GatherQMM::eval_gpu`, in the same place.
  if (c.exact && c.sorted && c.pairs() >= 16 && c.pairs() / c.experts >= 4) {
    plan.obstacle = "MLX's kernel for sorted experts is not followed";
  }
  // The fast kernel takes one pack of 1 or 2 bits, as the general one does.
  const bool two = c.quantization.bits > 2 && (!c.exact || stock_is_fast(c));
  plan.packs = two ? 2 : 1;
  return plan;
}

/// For those who want MLX's own ops alone.
bool turned_off() {
  static const bool off = [] {
    const char* value = std::getenv("ZMLX_METAL");
    return value && std::string(value) == "0";
  }();
  return off;
}

}  // namespace

MetalPlan plan_metal_swiglu(const MetalCall& c) {
  auto plan = plan_product(c);
  plan.rows = metal_tuning().swiglu_rows;
  plan.simdgroups = metal_tuning().swiglu_simdgroups;
  return plan;
}

MetalPlan plan_metal_combine(const MetalCall& c) {
  auto plan = plan_product(c);
  const int simdgroups = metal_tuning().combine_simdgroups;
  plan.rows = metal_tuning().combine_rows;
  plan.simdgroups = std::clamp(c.top_k, 1, simdgroups);
  plan.tiles = std::max(1, simdgroups / plan.simdgroups);
  if (!plan.obstacle.empty()) return plan;
  // From 32 on MLX's sum over experts is another kernel; over a single column it is a row's sum.
  if (c.exact && (c.top_k >= 32 || c.N == 1)) {
    plan.obstacle = "MLX's sum over experts is not followed for this size";
  } else if (c.top_k > 64) {
    plan.obstacle = "more than 64 experts a token";
  }
  return plan;
}

MetalCall metal_call(const mx::array& x, const mx::array& w, const mx::array& indices,
                     const Quantization& q, bool exact, bool sorted) {
  const int top_k = indices.ndim() == 0 ? 1 : indices.shape(-1);
  const int pairs = static_cast<int>(indices.size());
  return {q,           x.dtype(),  w.shape(-2),
          x.shape(-1), w.shape(0), top_k == 0 ? 0 : pairs / top_k,
          top_k,       exact,      sorted || pairs >= kSorted};
}

std::string metal_norm_obstacle(int width) {
  // Beyond, MLX launches as many threads as the GPU allows its kernel.
  if (width > 4096) return "rows of more than 4096, whose order of sums depends on the GPU";
  return "";
}

int metal_norm_simdgroups(int width) {
  return std::min((width + 127) / 128, metal_tuning().norm_simdgroups);
}

std::string metal_route_obstacle(const MetalRoute& route) {
  if (route.experts > 1024) return "more than 1024 experts";
  if (route.top_k > 32) return "more than 32 experts a token";
  if (route.groups > 32) return "more than 32 groups of experts";
  // Metal has no conversion between them but by way of float32.
  if (route.both_halves) return "float16 and bfloat16 in one call";
  return "";
}

std::string metal_device_obstacle(const mx::Stream& s) {
  if (backend_of(s) != Backend::metal || turned_off()) return "no kernel for this device";
  return "";
}

bool metal_readable(const mx::array& a) {
  if (a.ndim() != 3 || a.shape(-1) == 0) return false;
  return (a.strides(-1) == 1 || a.shape(-1) == 1) &&
         (a.strides(-2) == a.shape(-1) || a.shape(-2) == 1);
}

std::string metal_obstacle(const mx::array& x, const QuantizedWeights& weights,
                           const Quantization& q, bool transpose) {
  return stack_obstacle(x, weights, q, transpose, metal_readable);
}

}  // namespace zmlx::fast

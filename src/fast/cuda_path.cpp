#include "fast/cuda_path.h"

#include <algorithm>
#include <cstdlib>
#include <variant>
#include <vector>

#include "cuda/host/api.h"
#include "fast/cuda_sizes.h"
#include "mlx/backend/cuda/cuda.h"
#include "mlx/device.h"

namespace zmlx::fast {

namespace {

constexpr int kMaxPairs = 320;

/// Whether MLX multiplies this with tensor cores, in the order of CudaProduct::mma.
bool stock_uses_mma(const CudaCall& c) {
  const auto& q = c.quantization;
  return q.affine() && c.pairs() >= 8 && c.type != mx::float32 && (q.bits == 4 || q.bits == 8) &&
         c.K % std::max(64, q.group_size) == 0;
}

/// Which product follows MLX's own, or why none does.
std::string choose_exact(const CudaCall& c, CudaProduct& product) {
  const auto& q = c.quantization;
  const bool tiles = c.K % std::max(64, q.group_size) == 0;
  if (!q.affine()) {
    const bool sorted = c.pairs() >= 64;  // by mlx-lm's SwitchGLU
    if (sorted && c.pairs() >= 4 * c.experts && c.type != mx::float32 && c.N % 128 == 0 && tiles) {
      return "MLX's kernel for sorted experts is not followed";
    }
    if (c.K < 512 || c.K % 32 != 0) return "MLX's kernel for short rows is not followed";
    product = CudaProduct::fp;
    return "";
  }
  if (stock_uses_mma(c)) {
    if (c.N % 16 != 0) return "rows that are no multiple of 16";
    product = CudaProduct::mma;
    return "";
  }
  // MLX has no kernel for 1 bit, so there is nothing to follow.
  if (c.pairs() >= 8 && tiles && q.bits != 1)
    return "MLX's qmm_naive is not followed for this type";
  product = CudaProduct::lanes;
  return "";
}

/// Whether the kernels that work row by row gain from more blocks a multiprocessor rather than from
/// having all of a row on its way: 8-bit and fp codes do, as measured on one H200.
bool dense(const CudaCall& c, const CudaPlan& plan) {
  return plan.product == CudaProduct::fp || (c.exact && c.quantization.bits == 8);
}

/// Steps of the inner dimension whose codes are on their way (for the fp modes `fp_ring`), and
/// their bytes in a block's shared memory.
int copied_codes(const CudaCall& c, CudaPlan& plan, int fp_ring) {
  const RowSizes sizes(c, plan.product);
  plan.ring = !dense(c, plan) ? 8 : plan.product == CudaProduct::fp ? fp_ring : 4;
  return plan.threads * sizes.rows * std::min(plan.ring, sizes.steps) * sizes.codes;
}

void bound_pairs(const CudaCall& c, CudaPlan& plan) {
  plan.max_tokens = c.tokens == 1 ? 1 : c.tokens <= 4 ? 4 : 8;
  plan.max_pairs = c.pairs() <= 32 ? 32 : c.pairs() <= 128 ? 128 : kMaxPairs;
  if (c.pairs() > kMaxPairs) {
    plan.obstacle = "more than " + std::to_string(kMaxPairs) + " pairs of token and expert";
  }
}

/// For those who want MLX's own ops alone.
bool turned_off() {
  static const bool off = [] {
    const char* value = std::getenv("ZMLX_CUDA");
    return value && std::string(value) == "0";
  }();
  return off;
}

bool fits(const CudaCall& c, CudaPlan& plan, int bytes) {
  plan.shared_memory = bytes;
  return bytes <= cuda_shared_limit(c.compute_capability);
}

}  // namespace

std::string cuda_product(const CudaCall& c, CudaProduct& product) {
  if (c.exact) return choose_exact(c, product);
  product = c.quantization.affine() ? CudaProduct::lanes : CudaProduct::fp;
  return !c.quantization.affine() && c.K % 32 != 0 ? "rows that are no multiple of 32" : "";
}

CudaPlan plan_swiglu(const CudaCall& c) {
  CudaPlan plan;
  plan.obstacle = cuda_product(c, plan.product);
  if (!plan.obstacle.empty()) return plan;
  bool fit = false;
  if (plan.product == CudaProduct::mma) {
    bound_pairs(c, plan);
    const MmaSizes sizes(c);
    struct Launch {
      int threads, ring, blocks_per_sm;
    };
    constexpr Launch kOne[] = {{64, 4, 4}, {64, 2, 2}};
    constexpr Launch kMany[] = {{256, 3, 2}, {128, 3, 2}, {64, 2, 1}};
    auto attempt = [&](const Launch& launch) {
      plan.threads = launch.threads, plan.ring = launch.ring;
      plan.blocks_per_sm = launch.blocks_per_sm;
      plan.tile = launch.threads / 64 * 16;
      const int staged = plan.max_tokens;
      const int bytes = launch.threads / 32 * (launch.ring * kStageBytes + sizes.scales) +
                        std::max(staged * c.K * 2, 2 * staged * plan.tile * 4) + plan.max_pairs * 2;
      return fits(c, plan, bytes);
    };
    fit = c.tokens == 1 ? std::ranges::any_of(kOne, attempt) : std::ranges::any_of(kMany, attempt);
  } else {
    plan.threads = 128;
    plan.blocks_per_sm = dense(c, plan) ? 5 : 1;
    plan.tile = plan.product == CudaProduct::fp ? plan.threads / 32 * 2 : plan.threads / 16;
    fit = fits(c, plan, RowSizes(c, plan.product).staged + copied_codes(c, plan, 3));
  }
  if (plan.obstacle.empty() && !fit) plan.obstacle = "rows too long for shared memory";
  return plan;
}

CudaPlan plan_combine(const CudaCall& c, int sum_bytes) {
  CudaPlan plan;
  plan.obstacle = cuda_product(c, plan.product);
  if (!plan.obstacle.empty()) return plan;
  bool fit = false;
  if (plan.product == CudaProduct::mma) {
    bound_pairs(c, plan);
    const MmaSizes sizes(c);
    struct Launch {
      int threads, ring;
    };
    constexpr Launch kLaunches[] = {{384, 3}, {256, 3}, {128, 2}};
    auto attempt = [&](const Launch& launch) {
      plan.threads = c.tokens == 1 ? std::min(launch.threads, 256) : launch.threads;
      plan.ring = launch.ring;
      plan.tile = 16;
      const int scale_buffers = ceil_div(launch.ring, sizes.stages) + 1;
      const int warp = launch.ring * kStageBytes + scale_buffers * sizes.scales +
                       2 * plan.max_tokens * sizes.stage_k * 2;
      return fits(
          c, plan,
          plan.threads / 32 * warp + plan.max_pairs * (16 * sum_bytes + 20) + (c.experts + 1) * 4);
    };
    fit = std::ranges::any_of(kLaunches, attempt);
  } else {
    const bool fp = plan.product == CudaProduct::fp;
    const RowSizes sizes(c, plan.product);
    const int units = fp ? 2 : 4;
    plan.threads = c.top_k * units * sizes.unit;
    plan.tile = units * sizes.rows;
    plan.blocks_per_sm = dense(c, plan) && plan.threads <= 256 ? 2 : 1;
    if (plan.threads > 512) plan.obstacle = "more than 8 experts a token";
    fit =
        fits(c, plan, c.top_k * (sizes.staged + plan.tile * sum_bytes) + copied_codes(c, plan, 2));
  }
  if (plan.obstacle.empty() && !fit) plan.obstacle = "rows too long for shared memory";
  return plan;
}

CudaCall cuda_call(const mx::array& x, const mx::array& w, const mx::array& indices,
                   const Quantization& q, bool exact) {
  const int top_k = indices.ndim() == 0 ? 1 : indices.shape(-1);
  const int tokens = top_k == 0 ? 0 : static_cast<int>(indices.size()) / top_k;
  return {q,           x.dtype(),  w.shape(-2),
          x.shape(-1), w.shape(0), tokens,
          top_k,       exact,      cuda_compute_capability()};
}

std::string cuda_route_obstacle(const CudaRoute& route) {
  if (route.compute_capability < 80) return "the GPU is older than compute capability 8.0";
  if (route.experts > 1024) return "more than 1024 experts";
  if (route.top_k > 32) return "more than 32 experts a token";
  if (route.groups > 32) return "more than 32 groups of experts";
  return "";
}

int row_sum_reads(size_t ndim, size_t itemsize) {
  // An array of one axis is summed by MLX's all_reduce, others by row_reduce_simple.
  return ndim == 1 ? 8 : 16 / static_cast<int>(itemsize);
}

int rms_norm_threads(int width, size_t itemsize) {
  const int vector = 16 / static_cast<int>(itemsize), vectors = ceil_div(width, vector);
  if (width > vector * 128 * 8) return 1024;
  if (width <= vector * 64) return 64;
  if (vectors % 128 == 0) return 128;
  return vectors % 64 == 0 && vectors / 64 <= 8 ? 64 : 128;
}

int cuda_shared_limit(int compute_capability) {
  if (compute_capability == 80 || compute_capability == 87) return 166912;
  if (compute_capability >= 90 && compute_capability < 120) return 232448;
  return 101376;
}

int cuda_compute_capability(int device) {
  static const auto* capabilities = [] {
    auto* found = new std::vector<int>;
    if (!mx::cu::is_available()) return found;
    for (int i = 0; i < mx::device_count(mx::Device::gpu); ++i) {
      const auto& info = mx::device_info(mx::Device(mx::Device::gpu, i));
      auto number = [&](const char* key) {
        const auto entry = info.find(key);
        return entry == info.end() ? 0 : static_cast<int>(std::get<size_t>(entry->second));
      };
      found->push_back(10 * number("compute_capability_major") +
                       number("compute_capability_minor"));
    }
    return found;
  }();
  return device < static_cast<int>(capabilities->size()) ? (*capabilities)[device] : 0;
}

int cuda_processors(int device) {
  constexpr int kMultiprocessorCount = 16;  // CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
  static const auto* counts = [] {
    auto* found = new std::vector<int>(mx::device_count(mx::Device::gpu), 0);
    for (size_t i = 0; i < found->size(); ++i) {
      cuda::check(
          cuda::api().cuDeviceGetAttribute(&(*found)[i], kMultiprocessorCount, static_cast<int>(i)),
          "cuDeviceGetAttribute");
    }
    return found;
  }();
  return counts->at(device);
}

bool cuda_readable(const mx::array& a) {
  if (a.ndim() != 3 || a.shape(-1) == 0) return false;
  if ((a.strides(-1) != 1 && a.shape(-1) != 1) || a.strides(-2) != a.shape(-1)) return false;
  // Rows that are read 16 bytes at a time make experts of a multiple of 16 bytes, unless they are
  // views with a stride of their own.
  const bool packed = a.strides(0) == static_cast<int64_t>(a.shape(-2)) * a.shape(-1);
  const auto bytes = a.strides(0) * static_cast<int64_t>(a.itemsize());
  return a.offset() % 16 == 0 && (packed || bytes % 16 == 0);
}

std::string cuda_device_obstacle(const mx::Stream& s) {
  if (s.device != mx::Device::gpu) return "no kernel for this device";
  const int capability = cuda_compute_capability(s.device.index);
  if (capability == 0 || turned_off()) return "no kernel for this device";
  if (!cuda::api().obstacle.empty()) return cuda::api().obstacle;
  if (capability < 80) return "the GPU is older than compute capability 8.0";
  return "";
}

std::string cuda_obstacle(const mx::Stream& s, const mx::array& x, const QuantizedWeights& weights,
                          const Quantization& q, bool transpose) {
  if (auto obstacle = cuda_device_obstacle(s); !obstacle.empty()) return obstacle;
  return stack_obstacle(x, weights, q, transpose, cuda_readable);
}

}  // namespace zmlx::fast

// As much of Metal's language as generated kernels use, for checking their syntax and types with a
// C++ compiler, and for running them with a single thread on float32.

#include <cmath>
#include <cstdint>

#define thread
#define device
#define constant const
#define threadgroup static
using uint = unsigned int;
using ushort = unsigned short;

struct half {
  half() = default;
  explicit half(float) {}
  explicit operator float() const { return 0; }
};
struct bfloat16_t {
  bfloat16_t() = default;
  explicit bfloat16_t(float) {}
  explicit operator float() const { return 0; }
};

namespace metal {
using std::copysign;
using std::fabs;
using std::fma;
using std::fmax;
using std::fmin;
using std::isfinite;
using std::isinf;
using std::isnan;
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a < b ? b : a; }
inline uint min(uint a, uint b) { return a < b ? a : b; }
inline uint max(uint a, uint b) { return a < b ? b : a; }

template <typename T, int N>
struct vec {
  T at[N];
  T& operator[](int i) { return at[i]; }
  const T& operator[](int i) const { return at[i]; }
};

namespace precise {
using std::acos, std::acosh, std::asin, std::asinh, std::atan, std::atan2, std::atanh, std::ceil,
    std::cos, std::cosh, std::exp, std::exp2, std::floor, std::fmod, std::log, std::log10,
    std::log2, std::pow, std::rint, std::round, std::sin, std::sinh, std::sqrt, std::tan, std::tanh,
    std::trunc;
inline float rsqrt(float x) { return 1 / std::sqrt(x); }
}  // namespace precise
}  // namespace metal

struct Three {
  uint x, y, z;
};
template <typename T>
T simd_shuffle_xor(T value, ushort) {
  return value;
}
enum class mem_flags { mem_threadgroup };
inline void threadgroup_barrier(mem_flags) {}

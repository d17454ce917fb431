// Kernels that MLX writes at run time, restated from build_kernel in its public
// mlx/backend/metal/compiled.cpp: each operation of the graph gives a variable of its type, through
// the functors of unary_ops.h and binary_ops.h, which are MLX's own files.

#include "mlx/backend/metal/kernels/utils.h"
#include "mlx/backend/metal/kernels/unary_ops.h"
#include "mlx/backend/metal/kernels/binary_ops.h"
#include "mlx/backend/metal/kernels/unary.h"
#include "mlx/backend/metal/kernels/binary.h"

// mlx_lm.models.activations.swiglu: silu(gate) * up, compiled.
template <typename T>
[[kernel]] void compiled_swiglu(
    device const T* gate [[buffer(0)]],
    device const T* up [[buffer(1)]],
    device T* out [[buffer(2)]],
    constant const uint& size [[buffer(3)]],
    uint3 pos [[thread_position_in_grid]]) {
  uint index = pos.x;
  if (index >= size) return;
  T tmp_gate = gate[index];
  T tmp_up = up[index];
  T tmp_sigmoid = Sigmoid()(tmp_gate);
  T tmp_silu = Multiply()(tmp_gate, tmp_sigmoid);
  T tmp_out = Multiply()(tmp_silu, tmp_up);
  out[index] = tmp_out;
}

// mlx_lm.models.activations.swiglu_oai, compiled. Scalars have the arrays' type.
template <typename T>
[[kernel]] void compiled_swiglu_clamped(
    device const T* gate [[buffer(0)]],
    device const T* up [[buffer(1)]],
    device T* out [[buffer(2)]],
    constant const float& alpha [[buffer(3)]],
    constant const float& limit [[buffer(4)]],
    constant const uint& size [[buffer(5)]],
    uint3 pos [[thread_position_in_grid]]) {
  uint index = pos.x;
  if (index >= size) return;
  T tmp_gate = gate[index];
  T tmp_up = up[index];
  T tmp_alpha = static_cast<T>(alpha);
  T tmp_top = static_cast<T>(limit);
  T tmp_bottom = static_cast<T>(-limit);
  T tmp_one = static_cast<T>(1.0f);
  T tmp_g = Minimum()(tmp_gate, tmp_top);
  T tmp_u1 = Maximum()(tmp_up, tmp_bottom);
  T tmp_u = Minimum()(tmp_u1, tmp_top);
  T tmp_scaled = Multiply()(tmp_alpha, tmp_g);
  T tmp_sigmoid = Sigmoid()(tmp_scaled);
  T tmp_glu = Multiply()(tmp_g, tmp_sigmoid);
  T tmp_linear = Add()(tmp_u, tmp_one);
  T tmp_out = Multiply()(tmp_glu, tmp_linear);
  out[index] = tmp_out;
}

// mlx_lm.models.activations.geglu: mlx.nn.gelu_approx(gate) * up, compiled.
template <typename T>
[[kernel]] void compiled_geglu(
    device const T* gate [[buffer(0)]],
    device const T* up [[buffer(1)]],
    device T* out [[buffer(2)]],
    constant const uint& size [[buffer(3)]],
    uint3 pos [[thread_position_in_grid]]) {
  uint index = pos.x;
  if (index >= size) return;
  T tmp_gate = gate[index];
  T tmp_up = up[index];
  auto tmp_half = static_cast<T>(0.5f);
  auto tmp_three = static_cast<T>(3.0f);
  auto tmp_c = static_cast<T>(0.044715f);
  auto tmp_root = static_cast<T>(0.7978845608028654f);
  auto tmp_one = static_cast<T>(1.0f);
  T tmp_halved = Multiply()(tmp_half, tmp_gate);
  T tmp_cube = Power()(tmp_gate, tmp_three);
  T tmp_scaled = Multiply()(tmp_c, tmp_cube);
  T tmp_sum = Add()(tmp_gate, tmp_scaled);
  T tmp_inner = Multiply()(tmp_root, tmp_sum);
  T tmp_tanh = Tanh()(tmp_inner);
  T tmp_plus = Add()(tmp_one, tmp_tanh);
  T tmp_gelu = Multiply()(tmp_halved, tmp_plus);
  T tmp_out = Multiply()(tmp_gelu, tmp_up);
  out[index] = tmp_out;
}

// astype, as MLX's copy kernels convert.
template <typename T, typename U>
[[kernel]] void copy_converted(
    device const T* from [[buffer(0)]],
    device U* to [[buffer(1)]],
    constant const uint& size [[buffer(2)]],
    uint index [[thread_position_in_grid]]) {
  if (index >= size) return;
  to[index] = static_cast<U>(from[index]);
}

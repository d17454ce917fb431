// The activations between the gate and up products and the down product.

#if defined(ZMLX_CPU_GATHER_QMM_SWIGLU_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_CPU_GATHER_QMM_SWIGLU_INL_H_
#undef ZMLX_CPU_GATHER_QMM_SWIGLU_INL_H_
#else
#define ZMLX_CPU_GATHER_QMM_SWIGLU_INL_H_
#endif

#include "cpu/gather_qmm_swiglu.h"
#include "cpu/scalar-inl.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// 1 / (1 + exp(-x)) by exp(-|x|), which cannot overflow.
HWY_INLINE VF Sigmoid(VF x) {
  const DF df;
  const auto one = hn::Set(df, 1.0f);
  const auto e = hn::Exp(df, hn::Neg(hn::Abs(x)));
  const auto numerator = hn::IfThenElse(hn::Ge(x, hn::Zero(df)), one, e);
  const auto y = hn::Div(numerator, hn::Add(one, e));
  return hn::IfThenElse(hn::Eq(x, x), y, x);  // Exp makes a number of a NaN
}

HWY_INLINE VF Swiglu(VF g, VF u) { return hn::Mul(hn::Mul(g, Sigmoid(g)), u); }

/// 0.5 * (1 + tanh(z)) is sigmoid(2 * z).
HWY_INLINE VF Geglu(VF g, VF u) {
  const DF df;
  const auto cubed = hn::Mul(hn::Mul(g, g), g);
  const auto z =
      hn::Mul(hn::MulAdd(hn::Set(df, 0.044715f), cubed, g), hn::Set(df, 2 * 0.7978845608028654f));
  return hn::Mul(hn::Mul(g, Sigmoid(z)), u);
}

HWY_INLINE VF SwigluClamped(VF g, VF u, VF alpha, VF limit) {
  const DF df;
  // Min and Max may drop a NaN; comparisons keep it.
  g = hn::IfThenElse(hn::Gt(g, limit), limit, g);
  u = hn::IfThenElse(hn::Gt(u, limit), limit, u);
  u = hn::IfThenElse(hn::Lt(u, hn::Neg(limit)), hn::Neg(limit), u);
  return hn::Mul(hn::Add(u, hn::Set(df, 1.0f)), hn::Mul(g, Sigmoid(hn::Mul(alpha, g))));
}

/// g[i] = activation(g[i], u[i]); both hold a multiple of kLanes floats.
HWY_INLINE void ActivateRow(const GatherQmmSwigluArgs& args, const float* HWY_RESTRICT u,
                            size_t count, float* HWY_RESTRICT g) {
  const DF df;
  const auto alpha = hn::Set(df, args.alpha);
  const auto limit = hn::Set(df, args.limit);
  for (size_t i = 0; i < count; i += kLanes) {
    const auto gate = hn::LoadU(df, g + i);
    const auto up = hn::LoadU(df, u + i);
    VF y;
    switch (args.activation) {
      case Activation::swiglu:
        y = Swiglu(gate, up);
        break;
      case Activation::geglu:
        y = Geglu(gate, up);
        break;
      default:
        y = SwigluClamped(gate, up, alpha, limit);
    }
    hn::StoreU(y, df, g + i);
  }
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

// The loops of the block evaluator: one for each operation and type.

#if defined(ZMLX_KERNEL_BLOCK_KERNELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_KERNEL_BLOCK_KERNELS_INL_H_
#undef ZMLX_KERNEL_BLOCK_KERNELS_INL_H_
#else
#define ZMLX_KERNEL_BLOCK_KERNELS_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <type_traits>

#include "hwy/highway.h"
#include "kernel/block_kernels.h"
#include "kernel/block_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using cpu::HWY_NAMESPACE::VU;

/// An argument's vectors, or the one vector of a uniform.
template <class D, bool kUniform>
class Reader {
 public:
  explicit HWY_INLINE Reader(const void* from)
      : from_(static_cast<const hn::TFromD<D>*>(from)), first_(hn::LoadU(D(), from_)) {}
  // Inputs lie wherever MLX's arrays do.
  HWY_INLINE hn::Vec<D> operator()(size_t i) const {
    if constexpr (kUniform) return first_;
    return hn::LoadU(D(), from_ + i);
  }

 private:
  const hn::TFromD<D>* from_;
  hn::Vec<D> first_;
};

template <class DOut, typename F>
HWY_INLINE void Each(const BlockCall& call, const F& f) {
  auto* out = static_cast<hn::TFromD<DOut>*>(call.out);
  static_assert(kBlockUnit % kLanes == 0);
  for (size_t i = 0; i < call.count; i += kLanes) hn::StoreU(f(i), DOut(), out + i);
}

/// Calls f with a constant for whether the argument is uniform.
template <typename F>
HWY_INLINE void WithStep(uint8_t step, const F& f) {
  step == 0 ? f(hwy::SizeTag<1>()) : f(hwy::SizeTag<0>());
}
template <class Tag>
constexpr bool kIsOne = std::is_same_v<Tag, hwy::SizeTag<1>>;

/// out[i] = f(a[i], b[i], c[i]) with vectors of the tags.
template <class DIn, class DOut, int kArguments, typename F>
HWY_INLINE void Loop(const BlockCall& call, const F& f) {
  if constexpr (kArguments == 1) {
    const Reader<DIn, false> a(call.args[0]);
    if (call.steps[0] == 0) {
      const auto value = f(a(0));
      return Each<DOut>(call, [&](size_t) HWY_ATTR { return value; });
    }
    Each<DOut>(call, [&](size_t i) HWY_ATTR { return f(a(i)); });
  } else {
    WithStep(call.steps[0], [&](auto step_a) HWY_ATTR {
      WithStep(call.steps[1], [&](auto step_b) HWY_ATTR {
        const Reader<DIn, kIsOne<decltype(step_a)>> a(call.args[0]);
        const Reader<DIn, kIsOne<decltype(step_b)>> b(call.args[1]);
        if constexpr (kArguments == 2) {
          Each<DOut>(call, [&](size_t i) HWY_ATTR { return f(a(i), b(i)); });
        } else {
          WithStep(call.steps[2], [&](auto step_c) HWY_ATTR {
            const Reader<DIn, kIsOne<decltype(step_c)>> c(call.args[2]);
            Each<DOut>(call, [&](size_t i) HWY_ATTR { return f(a(i), b(i), c(i)); });
          });
        }
      });
    });
  }
}

/// The same, element by element.
template <class In, class Out, typename F>
HWY_INLINE void ScalarLoop(const BlockCall& call, const F& f) {
  const auto* a = static_cast<const In*>(call.args[0]);
  // Operations of one argument have no second.
  const auto* b = call.args[1] ? static_cast<const In*>(call.args[1]) : a;
  auto* out = static_cast<Out*>(call.out);
  const size_t step_a = call.steps[0], step_b = call.steps[1];
  for (size_t i = 0; i < call.count; ++i) {
    out[i] = f(a[i % kBlockUnit + step_a * (i - i % kBlockUnit)],
               b[i % kBlockUnit + step_b * (i - i % kBlockUnit)]);
  }
}

/// Masks as 0 or 1.
template <class M>
HWY_INLINE VI Truth(const M& mask) {
  return hn::IfThenElseZero(hn::RebindMask(DI(), mask), hn::Set(DI(), 1));
}

#define ZMLX_UNARY(name, D, expression)                              \
  void name(const BlockCall& call) {                                 \
    Loop<D, D, 1>(call, [](auto a) HWY_ATTR { return expression; }); \
  }
#define ZMLX_BINARY(name, D, expression)                                     \
  void name(const BlockCall& call) {                                         \
    Loop<D, D, 2>(call, [](auto a, auto b) HWY_ATTR { return expression; }); \
  }
#define ZMLX_COMPARE(name, D, expression)                                            \
  void name(const BlockCall& call) {                                                 \
    Loop<D, DI, 2>(call, [](auto a, auto b) HWY_ATTR { return Truth(expression); }); \
  }
#define ZMLX_TEST(name, expression)                                           \
  void name(const BlockCall& call) {                                          \
    Loop<DF, DI, 1>(call, [](auto a) HWY_ATTR { return Truth(expression); }); \
  }
#define ZMLX_TERNARY(name, expression)                                                 \
  void name(const BlockCall& call) {                                                   \
    Loop<DF, DF, 3>(call, [](auto a, auto b, auto c) HWY_ATTR { return expression; }); \
  }

ZMLX_BINARY(AddF, DF, hn::Add(a, b))
ZMLX_BINARY(SubF, DF, hn::Sub(a, b))
ZMLX_BINARY(MulF, DF, hn::Mul(a, b))
ZMLX_BINARY(DivF, DF, hn::Div(a, b))
ZMLX_BINARY(RemF, DF, Remainder(a, b))
ZMLX_BINARY(MinF, DF, Minimum(a, b))
ZMLX_BINARY(MaxF, DF, Maximum(a, b))
ZMLX_BINARY(PowF, DF, Power(a, b))
ZMLX_BINARY(Atan2F, DF, Atan2(a, b))
ZMLX_BINARY(CopySignF, DF, hn::CopySign(a, b))
ZMLX_UNARY(NegF, DF, hn::Neg(a))
ZMLX_UNARY(AbsF, DF, hn::Abs(a))
ZMLX_UNARY(ExpF, DF, Exp(a))
ZMLX_UNARY(Exp2F, DF, Exp2(a))
ZMLX_UNARY(Expm1F, DF, Expm1(a))
ZMLX_UNARY(LogF, DF, Log(a))
ZMLX_UNARY(Log2F, DF, Log2(a))
ZMLX_UNARY(Log10F, DF, Log10(a))
ZMLX_UNARY(Log1pF, DF, Log1p(a))
ZMLX_UNARY(SqrtF, DF, hn::Sqrt(a))
ZMLX_UNARY(RsqrtF, DF, hn::Div(Number(1), hn::Sqrt(a)))
ZMLX_UNARY(SinF, DF, Sin(a))
ZMLX_UNARY(CosF, DF, Cos(a))
ZMLX_UNARY(TanF, DF, Tan(a))
ZMLX_UNARY(AsinF, DF, Asin(a))
ZMLX_UNARY(AcosF, DF, Acos(a))
ZMLX_UNARY(AtanF, DF, Atan(a))
ZMLX_UNARY(SinhF, DF, Sinh(a))
ZMLX_UNARY(CoshF, DF, Cosh(a))
ZMLX_UNARY(TanhF, DF, Tanh(a))
ZMLX_UNARY(AsinhF, DF, Asinh(a))
ZMLX_UNARY(AcoshF, DF, Acosh(a))
ZMLX_UNARY(AtanhF, DF, Atanh(a))
ZMLX_UNARY(ErfF, DF, Erf(a))
ZMLX_UNARY(SigmoidF, DF, Sigmoid(a))
ZMLX_UNARY(SoftplusF, DF, Softplus(a))
ZMLX_UNARY(FloorF, DF, hn::Floor(a))
ZMLX_UNARY(CeilF, DF, hn::Ceil(a))
ZMLX_UNARY(TruncF, DF, hn::Trunc(a))
ZMLX_UNARY(RoundF, DF, RoundAway(a))
ZMLX_UNARY(RintF, DF, hn::Round(a))
ZMLX_UNARY(SignF, DF, Sign(a))
ZMLX_TERNARY(FmaF, hn::MulAdd(a, b, c))
ZMLX_TERNARY(FmsF, hn::MulSub(a, b, c))
ZMLX_TERNARY(FnmaF, hn::NegMulAdd(a, b, c))
ZMLX_COMPARE(EqF, DF, hn::Eq(a, b))
// hn::Ne is false of NaN.
ZMLX_COMPARE(NeF, DF, hn::Not(hn::Eq(a, b)))
ZMLX_COMPARE(LtF, DF, hn::Lt(a, b))
ZMLX_COMPARE(LeF, DF, hn::Le(a, b))
ZMLX_TEST(IsNanF, hn::IsNaN(a))
ZMLX_TEST(IsInfF, hn::Eq(hn::Abs(a), Number(kInfinity)))
ZMLX_TEST(IsFiniteF, hn::Lt(hn::Abs(a), Number(kInfinity)))

ZMLX_BINARY(AddI, DI, hn::Add(a, b))
ZMLX_BINARY(SubI, DI, hn::Sub(a, b))
ZMLX_BINARY(MulI, DI, hn::Mul(a, b))
ZMLX_BINARY(MinI, DI, hn::Min(a, b))
ZMLX_BINARY(MaxI, DI, hn::Max(a, b))
ZMLX_BINARY(MinU, DU, hn::Min(a, b))
ZMLX_BINARY(MaxU, DU, hn::Max(a, b))
ZMLX_BINARY(AndI, DI, hn::And(a, b))
ZMLX_BINARY(OrI, DI, hn::Or(a, b))
ZMLX_BINARY(XorI, DI, hn::Xor(a, b))
ZMLX_UNARY(NegI, DI, hn::Sub(hn::Zero(DI()), a))
ZMLX_UNARY(AbsI, DI, hn::Abs(a))
ZMLX_UNARY(NotI, DI, hn::Not(a))
ZMLX_UNARY(NotB, DI, hn::Xor(a, hn::Set(DI(), 1)))
ZMLX_UNARY(CopyI, DI, a)
ZMLX_UNARY(ToBoolI, DI, Truth(hn::Ne(a, hn::Zero(DI()))))
ZMLX_COMPARE(EqI, DI, hn::Eq(a, b))
ZMLX_COMPARE(NeI, DI, hn::Ne(a, b))
ZMLX_COMPARE(LtI, DI, hn::Lt(a, b))
ZMLX_COMPARE(LeI, DI, hn::Not(hn::Lt(b, a)))
ZMLX_COMPARE(LtU, DU, hn::Lt(a, b))
ZMLX_COMPARE(LeU, DU, hn::Not(hn::Lt(b, a)))
ZMLX_TEST(ToBoolF, hn::Not(hn::Eq(a, hn::Zero(DF()))))

#undef ZMLX_UNARY
#undef ZMLX_BINARY
#undef ZMLX_COMPARE
#undef ZMLX_TEST
#undef ZMLX_TERNARY

void Select(const BlockCall& call) {
  Loop<DI, DI, 3>(call, [](VI condition, VI yes, VI no) HWY_ATTR {
    return hn::IfThenElse(hn::Ne(condition, hn::Zero(DI())), yes, no);
  });
}
void IntToFloat(const BlockCall& call) {
  Loop<DI, DF, 1>(call, [](VI a) HWY_ATTR { return hn::ConvertTo(DF(), a); });
}
void FloatToInt(const BlockCall& call) {
  Loop<DF, DI, 1>(call, [](VF a) HWY_ATTR {
    const auto inside = hn::And(hn::Ge(a, Number(-2147483648.0f)), hn::Lt(a, Number(0x1p31f)));
    const auto converted = hn::ConvertTo(DI(), hn::IfThenElseZero(inside, a));
    const auto above = hn::RebindMask(DI(), hn::Ge(a, Number(0x1p31f)));
    const auto below = hn::RebindMask(DI(), hn::Lt(a, Number(-2147483648.0f)));
    const auto top = hn::IfThenElse(above, hn::Set(DI(), 0x7FFFFFFF), converted);
    return hn::IfThenElse(below, hn::Set(DI(), INT32_MIN), top);
  });
}
void UintToFloat(const BlockCall& call) {
  ScalarLoop<uint32_t, float>(call, [](uint32_t a, uint32_t) { return static_cast<float>(a); });
}
void FloatToUint(const BlockCall& call) {
  ScalarLoop<float, uint32_t>(call, [](float a, float) {
    if (!(a > 0)) return 0u;
    return a < 4294967296.0f ? static_cast<uint32_t>(a) : 0xFFFFFFFFu;
  });
}

void DivI(const BlockCall& call) {
  ScalarLoop<int32_t, int32_t>(call, [](int32_t a, int32_t b) {
    return b == 0 ? 0 : static_cast<int32_t>(static_cast<int64_t>(a) / b);
  });
}
void RemI(const BlockCall& call) {
  ScalarLoop<int32_t, int32_t>(call, [](int32_t a, int32_t b) {
    return b == 0 ? 0 : static_cast<int32_t>(static_cast<int64_t>(a) % b);
  });
}
void DivU(const BlockCall& call) {
  ScalarLoop<uint32_t, uint32_t>(call, [](uint32_t a, uint32_t b) { return b == 0 ? 0 : a / b; });
}
void RemU(const BlockCall& call) {
  ScalarLoop<uint32_t, uint32_t>(call, [](uint32_t a, uint32_t b) { return b == 0 ? 0 : a % b; });
}
void ShiftLeftI(const BlockCall& call) {
  ScalarLoop<uint32_t, uint32_t>(call, [](uint32_t a, uint32_t b) { return a << (b & 31); });
}
void ShiftRightI(const BlockCall& call) {
  ScalarLoop<int32_t, int32_t>(call, [](int32_t a, int32_t b) { return a >> (b & 31); });
}
void ShiftRightU(const BlockCall& call) {
  ScalarLoop<uint32_t, uint32_t>(call, [](uint32_t a, uint32_t b) { return a >> (b & 31); });
}

using KernelTable = std::array<BlockKernel, kKernels>;

inline void AddFloatKernels(KernelTable& table) {
  const auto set = [&](Op op, BlockKernel kernel) {
    table[kernel_index(op, Type::float32)] = kernel;
  };
  set(Op::add, AddF), set(Op::subtract, SubF), set(Op::multiply, MulF), set(Op::divide, DivF);
  set(Op::remainder, RemF), set(Op::negate, NegF), set(Op::minimum, MinF);
  set(Op::maximum, MaxF), set(Op::absolute, AbsF), set(Op::power, PowF);
  set(Op::atan2, Atan2F), set(Op::copy_sign, CopySignF), set(Op::fused_multiply_add, FmaF);
  set(Op::equal, EqF), set(Op::not_equal, NeF), set(Op::less, LtF), set(Op::less_equal, LeF);
  set(Op::is_nan, IsNanF), set(Op::is_inf, IsInfF), set(Op::is_finite, IsFiniteF);
  set(Op::exp, ExpF), set(Op::exp2, Exp2F), set(Op::expm1, Expm1F), set(Op::log, LogF);
  set(Op::log2, Log2F), set(Op::log10, Log10F), set(Op::log1p, Log1pF), set(Op::sqrt, SqrtF);
  set(Op::rsqrt, RsqrtF), set(Op::sin, SinF), set(Op::cos, CosF), set(Op::tan, TanF);
  set(Op::asin, AsinF), set(Op::acos, AcosF), set(Op::atan, AtanF), set(Op::sinh, SinhF);
  set(Op::cosh, CoshF), set(Op::tanh, TanhF), set(Op::asinh, AsinhF), set(Op::acosh, AcoshF);
  set(Op::atanh, AtanhF), set(Op::erf, ErfF), set(Op::sigmoid, SigmoidF);
  set(Op::softplus, SoftplusF), set(Op::floor, FloorF), set(Op::ceil, CeilF);
  set(Op::trunc, TruncF), set(Op::round, RoundF), set(Op::rint, RintF), set(Op::sign, SignF);
}

inline void AddIntegerKernels(KernelTable& table) {
  const auto set = [&](Op op, BlockKernel of_int, BlockKernel of_uint) {
    table[kernel_index(op, Type::int32)] = of_int;
    table[kernel_index(op, Type::uint32)] = of_uint;
  };
  set(Op::add, AddI, AddI), set(Op::subtract, SubI, SubI), set(Op::multiply, MulI, MulI);
  set(Op::divide, DivI, DivU), set(Op::remainder, RemI, RemU), set(Op::negate, NegI, NegI);
  set(Op::minimum, MinI, MinU), set(Op::maximum, MaxI, MaxU), set(Op::absolute, AbsI, CopyI);
  set(Op::bit_and, AndI, AndI), set(Op::bit_or, OrI, OrI), set(Op::bit_xor, XorI, XorI);
  set(Op::bit_not, NotI, NotI), set(Op::shift_left, ShiftLeftI, ShiftLeftI);
  set(Op::shift_right, ShiftRightI, ShiftRightU), set(Op::equal, EqI, EqI);
  set(Op::not_equal, NeI, NeI), set(Op::less, LtI, LtU), set(Op::less_equal, LeI, LeU);
}

inline void AddOtherKernels(KernelTable& table) {
  const auto truth = [&](Op op, BlockKernel kernel) {
    table[kernel_index(op, Type::boolean)] = kernel;
  };
  truth(Op::logical_and, AndI), truth(Op::logical_or, OrI), truth(Op::logical_not, NotB);
  truth(Op::equal, EqI), truth(Op::not_equal, NeI);
  for (auto type : {Type::boolean, Type::int32, Type::uint32, Type::float32}) {
    table[kernel_index(Op::select, type)] = Select;
  }
  const auto cast = [&](Type from, Type to, BlockKernel kernel) {
    table[kCastKernels + static_cast<int>(from) * 4 + static_cast<int>(to)] = kernel;
  };
  cast(Type::boolean, Type::int32, CopyI), cast(Type::boolean, Type::uint32, CopyI);
  cast(Type::boolean, Type::float32, IntToFloat), cast(Type::int32, Type::boolean, ToBoolI);
  cast(Type::int32, Type::uint32, CopyI), cast(Type::int32, Type::float32, IntToFloat);
  cast(Type::uint32, Type::boolean, ToBoolI), cast(Type::uint32, Type::int32, CopyI);
  cast(Type::uint32, Type::float32, UintToFloat), cast(Type::float32, Type::boolean, ToBoolF);
  cast(Type::float32, Type::int32, FloatToInt), cast(Type::float32, Type::uint32, FloatToUint);
  table[kMultiplySubtract] = FmsF;
  table[kNegativeMultiplyAdd] = FnmaF;
  table[kCopyKernel] = CopyI;
}

inline const BlockKernel* BlockKernelTable() {
  static const KernelTable table = [] {
    // The parser refuses operations on types that lack them, so these are never called.
    KernelTable made;
    made.fill([](const BlockCall&) { std::abort(); });
    AddFloatKernels(made);
    AddIntegerKernels(made);
    AddOtherKernels(made);
    return made;
  }();
  return table.data();
}

}  // namespace zmlx::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

// Operations of the tile evaluator: one step for each operation, type and place of the tile.

#if defined(ZMLX_KERNEL_TILE_KERNELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_KERNEL_TILE_KERNELS_INL_H_
#undef ZMLX_KERNEL_TILE_KERNELS_INL_H_
#else
#define ZMLX_KERNEL_TILE_KERNELS_INL_H_
#endif

#include <cstring>
#include <utility>

#include "hwy/highway.h"
#include "kernel/tile-inl.h"
#include "kernel/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Operations are on vectors of floats, whose bits are integers where the type is one; conditions
// are 0 or 1.

HWY_INLINE VI AsInt(VF v) { return hn::BitCast(DI(), v); }
HWY_INLINE VU AsUint(VF v) { return hn::BitCast(DU(), v); }
template <class V>
HWY_INLINE VF AsFloat(V v) {
  return hn::BitCast(DF(), v);
}
/// Masks as 0 or 1.
template <class M>
HWY_INLINE VF Truth(const M& mask) {
  return AsFloat(hn::IfThenElseZero(hn::RebindMask(DI(), mask), hn::Set(DI(), 1)));
}
HWY_INLINE auto Holds(VF condition) {
  return hn::RebindMask(DF(), hn::Ne(AsInt(condition), hn::Zero(DI())));
}

#define ZMLX_UNARY(name, expression)                     \
  struct name {                                          \
    static HWY_INLINE VF Of(VF a) { return expression; } \
  };
/// Of several vectors at a time.
#define ZMLX_LONG_UNARY(name, expression)                            \
  struct name {                                                      \
    static HWY_INLINE Together Of(Together a) { return expression; } \
  };
/// The same, but eight copies are not worth their size.
#define ZMLX_FAR_UNARY(name, expression)                   \
  struct name {                                            \
    static HWY_NOINLINE VF Of(VF a) { return expression; } \
  };
#define ZMLX_BINARY(name, expression)                          \
  struct name {                                                \
    static HWY_INLINE VF Of(VF a, VF b) { return expression; } \
  };
#define ZMLX_FAR_BINARY(name, expression)                        \
  struct name {                                                  \
    static HWY_NOINLINE VF Of(VF a, VF b) { return expression; } \
  };
/// Of integers; `As` is AsInt or AsUint.
#define ZMLX_INTEGER(name, As, expression) \
  struct name {                            \
    static HWY_INLINE VF Of(VF x, VF y) {  \
      const auto a = As(x), b = As(y);     \
      return expression;                   \
    }                                      \
  };
#define ZMLX_TERNARY(name, expression)                               \
  struct name {                                                      \
    static HWY_INLINE VF Of(VF a, VF b, VF c) { return expression; } \
  };

#define ZMLX_QUATERNARY(name, expression)                                  \
  struct name {                                                            \
    static HWY_INLINE VF Of(VF a, VF b, VF c, VF d) { return expression; } \
  };

ZMLX_BINARY(AddF, hn::Add(a, b))
ZMLX_BINARY(SubF, hn::Sub(a, b))
ZMLX_BINARY(MulF, hn::Mul(a, b))
ZMLX_BINARY(DivF, hn::Div(a, b))
ZMLX_FAR_BINARY(RemF, Remainder(a, b))
ZMLX_BINARY(MinF, Minimum(a, b))
ZMLX_BINARY(MaxF, Maximum(a, b))
ZMLX_FAR_BINARY(PowF, Power(a, b))
ZMLX_FAR_BINARY(Atan2F, Atan2(a, b))
ZMLX_BINARY(CopySignF, hn::CopySign(a, b))
ZMLX_FAR_BINARY(LdexpF, Ldexp(a, b))
ZMLX_FAR_BINARY(NextAfterF, NextAfter(a, b))
ZMLX_FAR_UNARY(IlogbF, Ilogb(a))
ZMLX_UNARY(NegF, hn::Neg(a))
ZMLX_UNARY(AbsF, hn::Abs(a))
ZMLX_LONG_UNARY(ExpF, Exp(a))
ZMLX_UNARY(Exp2F, Exp2(a))
ZMLX_UNARY(Expm1F, Expm1(a))
ZMLX_UNARY(LogF, Log(a))
ZMLX_UNARY(Log2F, Log2(a))
ZMLX_UNARY(Log10F, Log10(a))
ZMLX_UNARY(Log1pF, Log1p(a))
ZMLX_UNARY(SqrtF, hn::Sqrt(a))
ZMLX_UNARY(RsqrtF, hn::Div(Number(1), hn::Sqrt(a)))
ZMLX_FAR_UNARY(CbrtF, Cbrt(a))
ZMLX_FAR_UNARY(SinF, Sin(a))
ZMLX_FAR_UNARY(CosF, Cos(a))
ZMLX_FAR_UNARY(TanF, Tan(a))
ZMLX_FAR_UNARY(AsinF, Asin(a))
ZMLX_FAR_UNARY(AcosF, Acos(a))
ZMLX_FAR_UNARY(AtanF, Atan(a))
ZMLX_FAR_UNARY(SinhF, Sinh(a))
ZMLX_FAR_UNARY(CoshF, Cosh(a))
ZMLX_LONG_UNARY(TanhF, Tanh(a))
ZMLX_FAR_UNARY(AsinhF, Asinh(a))
ZMLX_FAR_UNARY(AcoshF, Acosh(a))
ZMLX_FAR_UNARY(AtanhF, Atanh(a))
ZMLX_UNARY(ErfF, Erf(a))
ZMLX_FAR_UNARY(ErfcF, Erfc(a))
ZMLX_LONG_UNARY(SigmoidF, Sigmoid(a))
ZMLX_UNARY(SoftplusF, Softplus(a))
struct ExpDifferenceF {
  static HWY_INLINE Together Of(Together a, Together b) { return Exp(Sub(a, b)); }
};
ZMLX_LONG_UNARY(OnePlusTanhF, OnePlusTanh(a))
ZMLX_LONG_UNARY(TanhSoftplusF, TanhSoftplus(a))
ZMLX_UNARY(FloorF, hn::Floor(a))
ZMLX_UNARY(CeilF, hn::Ceil(a))
ZMLX_UNARY(TruncF, hn::Trunc(a))
ZMLX_UNARY(RoundF, RoundAway(a))
ZMLX_UNARY(RintF, hn::Round(a))
ZMLX_UNARY(SignF, Sign(a))
ZMLX_UNARY(Float16F, Rounded<cpu::Scalar::f16>(a))
ZMLX_UNARY(Bfloat16F, Rounded<cpu::Scalar::bf16>(a))
/// (b * a) * a.
ZMLX_BINARY(ScaledSquareF, hn::Mul(hn::Mul(b, a), a))
ZMLX_TERNARY(ScaledSquareAddF, hn::MulAdd(hn::Mul(b, a), a, c))
ZMLX_TERNARY(ProductF, hn::Mul(hn::Mul(a, b), c))
ZMLX_TERNARY(FmaF, hn::MulAdd(a, b, c))
ZMLX_TERNARY(FmsF, hn::MulSub(a, b, c))
ZMLX_TERNARY(FnmaF, hn::NegMulAdd(a, b, c))
ZMLX_BINARY(EqF, Truth(hn::Eq(a, b)))
// hn::Ne is false of NaN.
ZMLX_BINARY(NeF, Truth(hn::Not(hn::Eq(a, b))))
ZMLX_BINARY(LtF, Truth(hn::Lt(a, b)))
ZMLX_BINARY(LeF, Truth(hn::Le(a, b)))
ZMLX_UNARY(IsNanF, Truth(hn::IsNaN(a)))
ZMLX_UNARY(IsInfF, Truth(hn::Eq(hn::Abs(a), Number(kInfinity))))
ZMLX_UNARY(IsFiniteF, Truth(hn::Lt(hn::Abs(a), Number(kInfinity))))

ZMLX_INTEGER(AddI, AsInt, AsFloat(hn::Add(a, b)))
ZMLX_INTEGER(SubI, AsInt, AsFloat(hn::Sub(a, b)))
ZMLX_INTEGER(MulI, AsInt, AsFloat(hn::Mul(a, b)))
ZMLX_INTEGER(MinI, AsInt, AsFloat(hn::Min(a, b)))
ZMLX_INTEGER(MaxI, AsInt, AsFloat(hn::Max(a, b)))
ZMLX_INTEGER(MinU, AsUint, AsFloat(hn::Min(a, b)))
ZMLX_INTEGER(MaxU, AsUint, AsFloat(hn::Max(a, b)))
ZMLX_INTEGER(AndI, AsInt, AsFloat(hn::And(a, b)))
ZMLX_INTEGER(OrI, AsInt, AsFloat(hn::Or(a, b)))
ZMLX_INTEGER(XorI, AsInt, AsFloat(hn::Xor(a, b)))
ZMLX_UNARY(NegI, AsFloat(hn::Sub(hn::Zero(DI()), AsInt(a))))
ZMLX_UNARY(AbsI, AsFloat(hn::Abs(AsInt(a))))
ZMLX_UNARY(NotI, AsFloat(hn::Not(AsInt(a))))
ZMLX_UNARY(NotB, AsFloat(hn::Xor(AsInt(a), hn::Set(DI(), 1))))
ZMLX_UNARY(ToBoolI, Truth(hn::Ne(AsInt(a), hn::Zero(DI()))))
ZMLX_INTEGER(EqI, AsInt, Truth(hn::Eq(a, b)))
ZMLX_INTEGER(NeI, AsInt, Truth(hn::Ne(a, b)))
ZMLX_INTEGER(LtI, AsInt, Truth(hn::Lt(a, b)))
ZMLX_INTEGER(LeI, AsInt, Truth(hn::Not(hn::Lt(b, a))))
ZMLX_INTEGER(LtU, AsUint, Truth(hn::Lt(a, b)))
ZMLX_INTEGER(LeU, AsUint, Truth(hn::Not(hn::Lt(b, a))))
ZMLX_UNARY(ToBoolF, Truth(hn::Not(hn::Eq(a, hn::Zero(DF())))))

ZMLX_TERNARY(SelectAny, hn::IfThenElse(Holds(a), b, c))
ZMLX_UNARY(IntToFloat, hn::ConvertTo(DF(), AsInt(a)))
ZMLX_UNARY(Same, a)

// a compared with d chooses.
ZMLX_QUATERNARY(LessChooses, hn::IfThenElse(hn::Lt(a, d), b, c))
ZMLX_QUATERNARY(LessEqualChooses, hn::IfThenElse(hn::Le(a, d), b, c))
ZMLX_QUATERNARY(GreaterChooses, hn::IfThenElse(hn::Lt(d, a), b, c))
ZMLX_QUATERNARY(GreaterEqualChooses, hn::IfThenElse(hn::Le(d, a), b, c))

struct FloatToInt {
  static HWY_INLINE VF Of(VF a) {
    const auto inside = hn::And(hn::Ge(a, Number(-2147483648.0f)), hn::Lt(a, Number(0x1p31f)));
    const auto converted = hn::ConvertTo(DI(), hn::IfThenElseZero(inside, a));
    const auto above = hn::RebindMask(DI(), hn::Ge(a, Number(0x1p31f)));
    const auto below = hn::RebindMask(DI(), hn::Lt(a, Number(-2147483648.0f)));
    const auto top = hn::IfThenElse(above, hn::Set(DI(), 0x7FFFFFFF), converted);
    return AsFloat(hn::IfThenElse(below, hn::Set(DI(), INT32_MIN), top));
  }
};

/// f lane by lane, of elements of the types.
template <class In, class Out, Out (*f)(In, In)>
struct ByLane {
  static HWY_NOINLINE VF Of(VF a, VF b) {
    HWY_ALIGN float x[kLanes], y[kLanes];
    hn::Store(a, DF(), x);
    hn::Store(b, DF(), y);
    for (size_t i = 0; i < kLanes; ++i) {
      In of[2];
      std::memcpy(&of[0], x + i, sizeof(In));
      std::memcpy(&of[1], y + i, sizeof(In));
      const Out result = f(of[0], of[1]);
      std::memcpy(x + i, &result, sizeof(Out));
    }
    return hn::Load(DF(), x);
  }
  static HWY_INLINE VF Of(VF a) { return Of(a, a); }
};

inline float FloatOfUint(uint32_t a, uint32_t) { return static_cast<float>(a); }
inline uint32_t UintOfFloat(float a, float) {
  if (!(a > 0)) return 0u;
  return a < 4294967296.0f ? static_cast<uint32_t>(a) : 0xFFFFFFFFu;
}
inline int32_t DivideInt(int32_t a, int32_t b) {
  return b == 0 ? 0 : static_cast<int32_t>(static_cast<int64_t>(a) / b);
}
inline int32_t RemainderInt(int32_t a, int32_t b) {
  return b == 0 ? 0 : static_cast<int32_t>(static_cast<int64_t>(a) % b);
}
inline uint32_t DivideUint(uint32_t a, uint32_t b) { return b == 0 ? 0 : a / b; }
inline uint32_t RemainderUint(uint32_t a, uint32_t b) { return b == 0 ? 0 : a % b; }
inline uint32_t ShiftLeft(uint32_t a, uint32_t b) { return a << (b & 31); }
inline int32_t ShiftRightInt(int32_t a, int32_t b) { return a >> (b & 31); }
inline uint32_t ShiftRightUint(uint32_t a, uint32_t b) { return a >> (b & 31); }

using UintToFloat = ByLane<uint32_t, float, FloatOfUint>;
using FloatToUint = ByLane<float, uint32_t, UintOfFloat>;
using DivI = ByLane<int32_t, int32_t, DivideInt>;
using RemI = ByLane<int32_t, int32_t, RemainderInt>;
using DivU = ByLane<uint32_t, uint32_t, DivideUint>;
using RemU = ByLane<uint32_t, uint32_t, RemainderUint>;
using ShiftLeftI = ByLane<uint32_t, uint32_t, ShiftLeft>;
using ShiftRightI = ByLane<int32_t, int32_t, ShiftRightInt>;
using ShiftRightU = ByLane<uint32_t, uint32_t, ShiftRightUint>;

// The steps. The vectors are spelled out by macros, as lambdas that were not inlined would keep the
// last call from being a jump.

template <class F, class A>
void Unary(ZMLX_TILE_PARAMETERS) {
  const A a(step, 0, offset);
#define ZMLX_DO(v, t) t = F::Of(a.get(v, t));
  ZMLX_FOR_TILE(ZMLX_DO)
#undef ZMLX_DO
  ZMLX_NEXT;
}

// Of kTogether vectors at a time.
#define ZMLX_ARGUMENT(x, at, first) \
  Together at;                      \
  for (size_t i = 0; i < kTogether; ++i) at.v[i] = x.get(first + i, tile[first + i])
#define ZMLX_RESULT(value, first) \
  for (size_t i = 0; i < kTogether; ++i) tile[first + i] = value.v[i]
#define ZMLX_FROM_TILE                                                                \
  v0 = tile[0], v1 = tile[1], v2 = tile[2], v3 = tile[3], v4 = tile[4], v5 = tile[5], \
  v6 = tile[6], v7 = tile[7]

template <class F, class A>
void LongUnary(ZMLX_TILE_PARAMETERS) {
  const A a(step, 0, offset);
  VF tile[kTileVectors] = {ZMLX_TILE};
  for (size_t first = 0; first < kTileVectors; first += kTogether) {
    ZMLX_ARGUMENT(a, x, first);
    const Together result = F::Of(x);
    ZMLX_RESULT(result, first);
  }
  ZMLX_FROM_TILE;
  ZMLX_NEXT;
}

template <class F, class A, class B>
void LongBinary(ZMLX_TILE_PARAMETERS) {
  const A a(step, 0, offset);
  const B b(step, 1, offset);
  VF tile[kTileVectors] = {ZMLX_TILE};
  for (size_t first = 0; first < kTileVectors; first += kTogether) {
    ZMLX_ARGUMENT(a, x, first);
    ZMLX_ARGUMENT(b, y, first);
    const Together result = F::Of(x, y);
    ZMLX_RESULT(result, first);
  }
  ZMLX_FROM_TILE;
  ZMLX_NEXT;
}

template <class F, class A, class B>
void Binary(ZMLX_TILE_PARAMETERS) {
  const A a(step, 0, offset);
  const B b(step, 1, offset);
#define ZMLX_DO(v, t) t = F::Of(a.get(v, t), b.get(v, t));
  ZMLX_FOR_TILE(ZMLX_DO)
#undef ZMLX_DO
  ZMLX_NEXT;
}

template <class F, class A, class B, class C>
void Ternary(ZMLX_TILE_PARAMETERS) {
  const A a(step, 0, offset);
  const B b(step, 1, offset);
  const C c(step, 2, offset);
#define ZMLX_DO(v, t) t = F::Of(a.get(v, t), b.get(v, t), c.get(v, t));
  ZMLX_FOR_TILE(ZMLX_DO)
#undef ZMLX_DO
  ZMLX_NEXT;
}

/// The fourth is uniform.
template <class F, class A, class B, class C>
void Quaternary(ZMLX_TILE_PARAMETERS) {
  const A a(step, 0, offset);
  const B b(step, 1, offset);
  const C c(step, 2, offset);
  const VF d = hn::LoadU(DF(), reinterpret_cast<const float*>(step->fourth));
#define ZMLX_DO(v, t) t = F::Of(a.get(v, t), b.get(v, t), c.get(v, t), d);
  ZMLX_FOR_TILE(ZMLX_DO)
#undef ZMLX_DO
  ZMLX_NEXT;
}

/// (a * x + c[0]) * x + c[1] ... with kCount coefficients from from[2] on, a tile apart.
template <class A, class X, size_t kCount>
void Horner(ZMLX_TILE_PARAMETERS) {
  const A a(step, 0, offset);
  const X x(step, 1, offset);
  const auto* c = reinterpret_cast<const float*>(step->from[2]);
  const VF tile[kTileVectors] = {ZMLX_TILE};
  VF at[kTileVectors], sum[kTileVectors];
  for (size_t v = 0; v < kTileVectors; ++v) {
    at[v] = x.get(v, tile[v]);
    sum[v] = a.get(v, tile[v]);
  }
  for (size_t i = 0; i < kCount; ++i) {
    const VF coefficient = hn::LoadU(DF(), c + i * kTileVectors * kLanes);
    for (size_t v = 0; v < kTileVectors; ++v) sum[v] = hn::MulAdd(sum[v], at[v], coefficient);
  }
  v0 = sum[0], v1 = sum[1], v2 = sum[2], v3 = sum[3];
  v4 = sum[4], v5 = sum[5], v6 = sum[6], v7 = sum[7];
  ZMLX_NEXT;
}

/// The elements of a vector to those of one; the result is in all of them.
template <class F>
HWY_INLINE VF Across(VF sum) {
#if HWY_MAX_BYTES > 16
  const DF df;
  if constexpr (kLanes == 16) sum = F::Of(sum, hn::ConcatUpperUpper(df, sum, sum));
  if constexpr (kLanes >= 8) sum = F::Of(sum, hn::SwapAdjacentBlocks(sum));
#endif
  static_assert(kLanes == 4 || kLanes == 8 || kLanes == 16);
  sum = F::Of(sum, hn::Shuffle1032(sum));
  return F::Of(sum, hn::Shuffle2301(sum));
}

/// From a vector of partial results to the bits of one.
template <class F>
uint32_t EndReduction(const void* partials) {
  return hn::GetLane(AsUint(Across<F>(hn::LoadU(DF(), static_cast<const float*>(partials)))));
}

/// from[0] = op(from[0], the tile's vectors), one vector: loading and storing as many as the tile
/// has would take longer than the operations. The tile may be in memory, as argument 1.
/// @tparam kRows  whether rows follow each other, their ends being in from[2].
template <class F, class A, bool kRows>
void Reduce(ZMLX_TILE_PARAMETERS) {
  auto* at = reinterpret_cast<float*>(step->from[0]);
  const A a(step, 1, offset);
  const VF low = F::Of(F::Of(a.get(0, v0), a.get(1, v1)), F::Of(a.get(2, v2), a.get(3, v3)));
  const VF high = F::Of(F::Of(a.get(4, v4), a.get(5, v5)), F::Of(a.get(6, v6), a.get(7, v7)));
  VF sum = F::Of(hn::LoadU(DF(), at), F::Of(low, high));
  if constexpr (kRows) {
    auto* row = reinterpret_cast<RowEnds*>(step->from[2]);
    if (HWY_UNLIKELY(offset + kTileBytes == row->next)) {
      *row->result++ = hn::GetLane(AsUint(Across<F>(sum)));
      row->next += row->bytes;
      sum = AsFloat(hn::Set(DU(), row->identity));
    }
  }
  hn::StoreU(sum, DF(), at);
  ZMLX_NEXT;
}

inline StepKernel Erased(TileStep step) { return reinterpret_cast<StepKernel>(step); }

/// Fills a table.
class Table {
 public:
  explicit Table(TileKernels& table) : table_(table) {}

  template <class F>
  void unary(size_t index) {
    set<InTile>(index, &Unary<F, InTile>);
    set<InMemory>(index, &Unary<F, InMemory>);
  }
  template <class F>
  void binary(size_t index) {
    far_binary<F>(index);
    set<InMemory, InMemory>(index, &Binary<F, InMemory, InMemory>);
    set<InTile, Uniform>(index, &Binary<F, InTile, Uniform>);
    set<Uniform, InTile>(index, &Binary<F, Uniform, InTile>);
    set<InMemory, Uniform>(index, &Binary<F, InMemory, Uniform>);
    set<Uniform, InMemory>(index, &Binary<F, Uniform, InMemory>);
  }
  template <class F>
  void ternary(size_t index) {
    thirds<F, InTile, InTile>(index);
    thirds<F, InTile, InMemory>(index);
    thirds<F, InTile, Uniform>(index);
    thirds<F, InMemory, InTile>(index);
    thirds<F, InMemory, InMemory>(index);
    thirds<F, InMemory, Uniform>(index);
    thirds<F, Uniform, InTile>(index);
    thirds<F, Uniform, InMemory>(index);
  }
  template <class F>
  void quaternary(size_t index) {
    fourths<F, InTile, InTile>(index);
    fourths<F, InTile, InMemory>(index);
    fourths<F, InTile, Uniform>(index);
    fourths<F, InMemory, InTile>(index);
    fourths<F, InMemory, InMemory>(index);
    fourths<F, InMemory, Uniform>(index);
  }
  template <class F>
  void long_unary(size_t index) {
    set<InTile>(index, &LongUnary<F, InTile>);
    set<InMemory>(index, &LongUnary<F, InMemory>);
  }
  template <class F>
  void long_binary(size_t index) {
    set<InTile, InTile>(index, &LongBinary<F, InTile, InTile>);
    set<InTile, InMemory>(index, &LongBinary<F, InTile, InMemory>);
    set<InMemory, InTile>(index, &LongBinary<F, InMemory, InTile>);
    set<InMemory, InMemory>(index, &LongBinary<F, InMemory, InMemory>);
    set<InTile, Uniform>(index, &LongBinary<F, InTile, Uniform>);
    set<InMemory, Uniform>(index, &LongBinary<F, InMemory, Uniform>);
  }
  void polynomials() {
    [&]<size_t... kIndex>(std::index_sequence<kIndex...>) {
      (polynomial<kIndex + 2>(), ...);
    }(std::make_index_sequence<kMostCoefficients - 1>());
  }
  /// Operations that take so long that a step more or less does not matter.
  template <class F>
  void far_unary(size_t index) {
    set<InTile>(index, &Unary<F, InTile>);
  }
  template <class F>
  void far_binary(size_t index) {
    set<InTile, InTile>(index, &Binary<F, InTile, InTile>);
    set<InTile, InMemory>(index, &Binary<F, InTile, InMemory>);
    set<InMemory, InTile>(index, &Binary<F, InMemory, InTile>);
  }
  template <class F>
  void reduction(Op op, Type type) {
    const size_t index = kernel_index(op, type);
    table_.reductions[index] = Erased(&Reduce<F, InTile, false>);
    table_.memory_reductions[index] = Erased(&Reduce<F, InMemory, false>);
    table_.row_reductions[index] = Erased(&Reduce<F, InTile, true>);
    table_.ends[index] = &EndReduction<F>;
  }
  void move(Move move, TileStep step) { table_.moves[static_cast<size_t>(move)] = Erased(step); }

 private:
  template <class... Arguments>
  void set(size_t index, TileStep step) {
    table_.operations[index][place_index({Arguments::kPlace...})] = Erased(step);
  }
  template <size_t kCount>
  void polynomial() {
    constexpr size_t kIndex = kHorner + kCount - 2;
    set<InTile, InMemory, Uniform>(kIndex, &Horner<InTile, InMemory, kCount>);
    set<InMemory, InTile, Uniform>(kIndex, &Horner<InMemory, InTile, kCount>);
    set<InMemory, InMemory, Uniform>(kIndex, &Horner<InMemory, InMemory, kCount>);
    set<Uniform, InTile, Uniform>(kIndex, &Horner<Uniform, InTile, kCount>);
    set<Uniform, InMemory, Uniform>(kIndex, &Horner<Uniform, InMemory, kCount>);
    set<InTile, InTile, Uniform>(kIndex, &Horner<InTile, InTile, kCount>);
  }
  template <class F, class A, class B>
  void thirds(size_t index) {
    set<A, B, InTile>(index, &Ternary<F, A, B, InTile>);
    set<A, B, InMemory>(index, &Ternary<F, A, B, InMemory>);
    set<A, B, Uniform>(index, &Ternary<F, A, B, Uniform>);
  }

  template <class F, class A, class B>
  void fourths(size_t index) {
    set<A, B, InTile>(index, &Quaternary<F, A, B, InTile>);
    set<A, B, InMemory>(index, &Quaternary<F, A, B, InMemory>);
    set<A, B, Uniform>(index, &Quaternary<F, A, B, Uniform>);
  }

  TileKernels& table_;
};

inline void AddFloatOperations(Table table) {
  const auto at = [](Op op) { return kernel_index(op, Type::float32); };
  table.binary<AddF>(at(Op::add));
  table.binary<SubF>(at(Op::subtract));
  table.binary<MulF>(at(Op::multiply));
  table.binary<DivF>(at(Op::divide));
  table.far_binary<RemF>(at(Op::remainder));
  table.unary<NegF>(at(Op::negate));
  table.binary<MinF>(at(Op::minimum));
  table.binary<MaxF>(at(Op::maximum));
  table.unary<AbsF>(at(Op::absolute));
  table.far_binary<PowF>(at(Op::power));
  table.far_binary<Atan2F>(at(Op::atan2));
  table.binary<CopySignF>(at(Op::copy_sign));
  table.far_binary<LdexpF>(at(Op::load_exponent));
  table.far_binary<NextAfterF>(at(Op::next_after));
  table.far_unary<IlogbF>(at(Op::exponent));
  table.binary<EqF>(at(Op::equal));
  table.binary<NeF>(at(Op::not_equal));
  table.binary<LtF>(at(Op::less));
  table.binary<LeF>(at(Op::less_equal));
  table.unary<IsNanF>(at(Op::is_nan));
  table.unary<IsInfF>(at(Op::is_inf));
  table.unary<IsFiniteF>(at(Op::is_finite));
  table.long_unary<ExpF>(at(Op::exp));
  table.unary<Exp2F>(at(Op::exp2));
  table.unary<Expm1F>(at(Op::expm1));
  table.unary<LogF>(at(Op::log));
  table.unary<Log2F>(at(Op::log2));
  table.unary<Log10F>(at(Op::log10));
  table.unary<Log1pF>(at(Op::log1p));
  table.unary<SqrtF>(at(Op::sqrt));
  table.unary<RsqrtF>(at(Op::rsqrt));
  table.far_unary<CbrtF>(at(Op::cbrt));
  table.far_unary<SinF>(at(Op::sin));
  table.far_unary<CosF>(at(Op::cos));
  table.far_unary<TanF>(at(Op::tan));
  table.far_unary<AsinF>(at(Op::asin));
  table.far_unary<AcosF>(at(Op::acos));
  table.far_unary<AtanF>(at(Op::atan));
  table.far_unary<SinhF>(at(Op::sinh));
  table.far_unary<CoshF>(at(Op::cosh));
  table.long_unary<TanhF>(at(Op::tanh));
  table.far_unary<AsinhF>(at(Op::asinh));
  table.far_unary<AcoshF>(at(Op::acosh));
  table.far_unary<AtanhF>(at(Op::atanh));
  table.unary<ErfF>(at(Op::erf));
  table.far_unary<ErfcF>(at(Op::erfc));
  table.long_unary<SigmoidF>(at(Op::sigmoid));
  table.unary<SoftplusF>(at(Op::softplus));
  table.unary<FloorF>(at(Op::floor));
  table.unary<CeilF>(at(Op::ceil));
  table.unary<TruncF>(at(Op::trunc));
  table.unary<RoundF>(at(Op::round));
  table.unary<RintF>(at(Op::rint));
  table.unary<SignF>(at(Op::sign));
  table.unary<Float16F>(at(Op::to_float16));
  table.unary<Bfloat16F>(at(Op::to_bfloat16));
}

inline void AddIntegerOperations(Table table) {
  const auto of_int = [](Op op) { return kernel_index(op, Type::int32); };
  const auto of_uint = [](Op op) { return kernel_index(op, Type::uint32); };
  table.binary<AddI>(of_int(Op::add));
  table.binary<AddI>(of_uint(Op::add));
  table.binary<SubI>(of_int(Op::subtract));
  table.binary<SubI>(of_uint(Op::subtract));
  table.binary<MulI>(of_int(Op::multiply));
  table.binary<MulI>(of_uint(Op::multiply));
  table.far_binary<DivI>(of_int(Op::divide));
  table.far_binary<DivU>(of_uint(Op::divide));
  table.far_binary<RemI>(of_int(Op::remainder));
  table.far_binary<RemU>(of_uint(Op::remainder));
  table.unary<NegI>(of_int(Op::negate));
  table.unary<NegI>(of_uint(Op::negate));
  table.binary<MinI>(of_int(Op::minimum));
  table.binary<MinU>(of_uint(Op::minimum));
  table.binary<MaxI>(of_int(Op::maximum));
  table.binary<MaxU>(of_uint(Op::maximum));
  table.unary<AbsI>(of_int(Op::absolute));
  table.unary<Same>(of_uint(Op::absolute));
  table.binary<AndI>(of_int(Op::bit_and));
  table.binary<AndI>(of_uint(Op::bit_and));
  table.binary<OrI>(of_int(Op::bit_or));
  table.binary<OrI>(of_uint(Op::bit_or));
  table.binary<XorI>(of_int(Op::bit_xor));
  table.binary<XorI>(of_uint(Op::bit_xor));
  table.unary<NotI>(of_int(Op::bit_not));
  table.unary<NotI>(of_uint(Op::bit_not));
  table.far_binary<ShiftLeftI>(of_int(Op::shift_left));
  table.far_binary<ShiftLeftI>(of_uint(Op::shift_left));
  table.far_binary<ShiftRightI>(of_int(Op::shift_right));
  table.far_binary<ShiftRightU>(of_uint(Op::shift_right));
  table.binary<EqI>(of_int(Op::equal));
  table.binary<EqI>(of_uint(Op::equal));
  table.binary<NeI>(of_int(Op::not_equal));
  table.binary<NeI>(of_uint(Op::not_equal));
  table.binary<LtI>(of_int(Op::less));
  table.binary<LtU>(of_uint(Op::less));
  table.binary<LeI>(of_int(Op::less_equal));
  table.binary<LeU>(of_uint(Op::less_equal));
}

inline void AddOtherOperations(Table table) {
  const auto of_bool = [](Op op) { return kernel_index(op, Type::boolean); };
  table.binary<AndI>(of_bool(Op::logical_and));
  table.binary<OrI>(of_bool(Op::logical_or));
  table.unary<NotB>(of_bool(Op::logical_not));
  table.binary<EqI>(of_bool(Op::equal));
  table.binary<NeI>(of_bool(Op::not_equal));
  for (auto type : {Type::boolean, Type::int32, Type::uint32, Type::float32}) {
    table.ternary<SelectAny>(kernel_index(Op::select, type));
  }
  const auto cast = [](Type from, Type to) {
    return kCastKernels + static_cast<size_t>(from) * 4 + static_cast<size_t>(to);
  };
  table.unary<Same>(cast(Type::boolean, Type::int32));
  table.unary<Same>(cast(Type::boolean, Type::uint32));
  table.unary<IntToFloat>(cast(Type::boolean, Type::float32));
  table.unary<ToBoolI>(cast(Type::int32, Type::boolean));
  table.unary<Same>(cast(Type::int32, Type::uint32));
  table.unary<IntToFloat>(cast(Type::int32, Type::float32));
  table.unary<ToBoolI>(cast(Type::uint32, Type::boolean));
  table.unary<Same>(cast(Type::uint32, Type::int32));
  table.far_unary<UintToFloat>(cast(Type::uint32, Type::float32));
  table.unary<ToBoolF>(cast(Type::float32, Type::boolean));
  table.unary<FloatToInt>(cast(Type::float32, Type::int32));
  table.far_unary<FloatToUint>(cast(Type::float32, Type::uint32));
  table.ternary<FmaF>(kernel_index(Op::fused_multiply_add, Type::float32));
  table.ternary<FmsF>(kMultiplySubtract);
  table.ternary<FnmaF>(kNegativeMultiplyAdd);
  table.binary<ScaledSquareF>(kScaledSquare);
  table.ternary<ScaledSquareAddF>(kScaledSquareAdd);
  table.ternary<ProductF>(kProduct);
  table.quaternary<LessChooses>(kChoose);
  table.quaternary<LessEqualChooses>(kChoose + 1);
  table.quaternary<GreaterChooses>(kChoose + 2);
  table.quaternary<GreaterEqualChooses>(kChoose + 3);
  table.polynomials();
  table.long_binary<ExpDifferenceF>(kExpDifference);
  table.long_unary<OnePlusTanhF>(kOnePlusTanh);
  table.long_unary<TanhSoftplusF>(kTanhSoftplus);
}

inline void AddReductions(Table table) {
  table.reduction<AddF>(Op::add, Type::float32);
  table.reduction<MulF>(Op::multiply, Type::float32);
  table.reduction<MaxF>(Op::maximum, Type::float32);
  table.reduction<MinF>(Op::minimum, Type::float32);
  for (auto type : {Type::int32, Type::uint32}) {
    table.reduction<AddI>(Op::add, type);
    table.reduction<MulI>(Op::multiply, type);
    table.reduction<AndI>(Op::bit_and, type);
    table.reduction<OrI>(Op::bit_or, type);
    table.reduction<XorI>(Op::bit_xor, type);
  }
  table.reduction<MaxI>(Op::maximum, Type::int32);
  table.reduction<MinI>(Op::minimum, Type::int32);
  table.reduction<MaxU>(Op::maximum, Type::uint32);
  table.reduction<MinU>(Op::minimum, Type::uint32);
}

inline void AddMoves(Table table) {
  constexpr auto kF16 = cpu::Scalar::f16, kBf16 = cpu::Scalar::bf16;
  table.move(Move::load, &Load);
  table.move(Move::load_f16, &LoadHalves<kF16>);
  table.move(Move::load_bf16, &LoadHalves<kBf16>);
  table.move(Move::store, &Store);
  table.move(Move::store_f16, &StoreHalves<kF16>);
  table.move(Move::store_bf16, &StoreHalves<kBf16>);
  table.move(Move::stream, &Stream);
  table.move(Move::stream_f16, &StreamHalves<kF16>);
  table.move(Move::stream_bf16, &StreamHalves<kBf16>);
  table.move(Move::fetch, &Fetch<kTileBytes, 1>);
  table.move(Move::fetch_16bit, &Fetch<kTileBytes / 2, 1>);
  table.move(Move::fetch_run, &Fetch<kTileBytes, kFetchBytes / kTileBytes>);
  table.move(Move::fetch_run_16bit, &Fetch<kTileBytes / 2, 2 * kFetchBytes / kTileBytes>);
  table.move(Move::keep, &Keep);
  table.move(Move::end, &End);
}

inline const TileKernels& TileKernelTable() {
  static const TileKernels table = [] {
    TileKernels made;
    AddFloatOperations(Table(made));
    AddIntegerOperations(Table(made));
    AddOtherOperations(Table(made));
    AddReductions(Table(made));
    AddMoves(Table(made));
    made.run = &RunSteps;
    made.fill = &FillTile;
    made.tile = kTileVectors * kLanes;
    return made;
  }();
  return table;
}

}  // namespace zmlx::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

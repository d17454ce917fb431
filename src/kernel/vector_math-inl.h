// Functions of float32 vectors. tests/cpp/kernel_elementwise_test.cpp holds their errors to what
// docs/kernels.md states.

#if defined(ZMLX_KERNEL_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_KERNEL_VECTOR_MATH_INL_H_
#undef ZMLX_KERNEL_VECTOR_MATH_INL_H_
#else
#define ZMLX_KERNEL_VECTOR_MATH_INL_H_
#endif

#include <cmath>
#include <limits>

#include "cpu/scalar-inl.h"
#include "hwy/highway.h"
#include "kernel/tile_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using cpu::HWY_NAMESPACE::DF;
using cpu::HWY_NAMESPACE::DI;
using cpu::HWY_NAMESPACE::DU;
using cpu::HWY_NAMESPACE::kLanes;
using cpu::HWY_NAMESPACE::VF;
using VI = hn::Vec<DI>;
using MF = hn::Mask<DF>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

HWY_INLINE VF Number(float value) { return hn::Set(DF(), value); }
HWY_INLINE VF Choose(MF mask, VF yes, VF no) { return hn::IfThenElse(mask, yes, no); }
/// `result`, but NaN where `x` is.
HWY_INLINE VF KeepNaN(VF x, VF result) { return Choose(hn::Eq(x, x), result, x); }

/// Several vectors, for functions of many instructions: each instruction is there for all of them
/// before the next, as a processor looks only so far ahead for some that need not wait.
constexpr size_t kTogether = HWY_TARGET == HWY_AVX3 ? kTileVectors : 2;
struct Together {
  VF v[kTogether];
};

#define ZMLX_TOGETHER(expression)                                    \
  Together result;                                                   \
  for (size_t i = 0; i < kTogether; ++i) result.v[i] = (expression); \
  return result
HWY_INLINE Together Neg(Together a) { ZMLX_TOGETHER(hn::Neg(a.v[i])); }
HWY_INLINE Together Abs(Together a) { ZMLX_TOGETHER(hn::Abs(a.v[i])); }
HWY_INLINE Together Round(Together a) { ZMLX_TOGETHER(hn::Round(a.v[i])); }
HWY_INLINE Together Add(Together a, Together b) { ZMLX_TOGETHER(hn::Add(a.v[i], b.v[i])); }
HWY_INLINE Together Add(Together a, VF b) { ZMLX_TOGETHER(hn::Add(a.v[i], b)); }
HWY_INLINE Together Sub(Together a, Together b) { ZMLX_TOGETHER(hn::Sub(a.v[i], b.v[i])); }
HWY_INLINE Together Sub(Together a, VF b) { ZMLX_TOGETHER(hn::Sub(a.v[i], b)); }
HWY_INLINE Together Mul(Together a, Together b) { ZMLX_TOGETHER(hn::Mul(a.v[i], b.v[i])); }
HWY_INLINE Together Mul(Together a, VF b) { ZMLX_TOGETHER(hn::Mul(a.v[i], b)); }
HWY_INLINE Together Div(Together a, Together b) { ZMLX_TOGETHER(hn::Div(a.v[i], b.v[i])); }
HWY_INLINE Together Min(VF a, Together b) { ZMLX_TOGETHER(hn::Min(a, b.v[i])); }
HWY_INLINE Together Max(VF a, Together b) { ZMLX_TOGETHER(hn::Max(a, b.v[i])); }
HWY_INLINE Together MulAdd(Together a, Together b, Together c) {
  ZMLX_TOGETHER(hn::MulAdd(a.v[i], b.v[i], c.v[i]));
}
HWY_INLINE Together MulAdd(Together a, Together b, VF c) {
  ZMLX_TOGETHER(hn::MulAdd(a.v[i], b.v[i], c));
}
HWY_INLINE Together NegMulAdd(Together a, VF b, Together c) {
  ZMLX_TOGETHER(hn::NegMulAdd(a.v[i], b, c.v[i]));
}
HWY_INLINE Together CopySign(Together a, Together b) {
  ZMLX_TOGETHER(hn::CopySign(a.v[i], b.v[i]));
}
HWY_INLINE Together KeepNaN(Together x, Together y) { ZMLX_TOGETHER(KeepNaN(x.v[i], y.v[i])); }
HWY_INLINE Together Equal(Together, VF value) { ZMLX_TOGETHER(value); }
HWY_INLINE VF Equal(VF, VF value) { return value; }

/// c[0] + x * (c[1] + x * (...)).
template <class V, size_t kCount>
HWY_INLINE V Polynomial(V x, const float (&c)[kCount]) {
  V sum = Equal(x, Number(c[kCount - 1]));
  for (size_t i = kCount - 1; i-- > 0;) sum = MulAdd(sum, x, Number(c[i]));
  return sum;
}

/// value * 2^k of whole k, also where the result is subnormal or infinite.
HWY_INLINE VF Scale(VF value, VF k) {
#if HWY_TARGET == HWY_AVX3
  return VF{_mm512_scalef_ps(value.raw, k.raw)};
#else
  const DF df;
  const DI di;
  // In two steps, each of a power that is a number.
  const auto whole = hn::ConvertTo(di, k);
  const auto half = hn::ShiftRight<1>(whole);
  const auto rest = hn::Sub(whole, half);
  const auto power = [&](VI n) HWY_ATTR {
    return hn::BitCast(df, hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 127))));
  };
  return hn::Mul(hn::Mul(value, power(half)), power(rest));
#endif
}

HWY_INLINE Together Scale(Together value, Together k) { ZMLX_TOGETHER(Scale(value.v[i], k.v[i])); }

/// (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2; a minimax fit whose share of exp(r) is off by at
/// most 0.06 * 2^-24.
template <class V>
HWY_INLINE V ExpTail(V r) {
  return Polynomial(
      r, {4.999999404e-1f, 1.666652113e-1f, 4.166839272e-2f, 8.368745446e-3f, 1.381453709e-3f});
}

/// x = k * ln(2) + r.
template <class V>
HWY_INLINE V ReduceExp(V x, V& r) {
  const V k = Round(Mul(x, Number(1.44269504088896341f)));
  r = NegMulAdd(k, Number(0.693359375f), x);
  r = NegMulAdd(k, Number(-2.12194440e-4f), r);
  return k;
}

/// NaN stays NaN: of two operands of which one is NaN, x86 takes the second and Arm the NaN.
template <class V>
HWY_INLINE V AtMost(V x, float high) {
  const V result = Min(Number(high), x);
  return HWY_ARCH_X86 || HWY_ARCH_ARM ? result : KeepNaN(x, result);
}
template <class V>
HWY_INLINE V Clamped(V x, float low, float high) {
  const V result = Min(Number(high), Max(Number(low), x));
  return HWY_ARCH_X86 || HWY_ARCH_ARM ? result : KeepNaN(x, result);
}

#if HWY_TARGET == HWY_AVX3
/// exp of clamped x = (k + j / 16) * ln(2) + r by a table of 2^(j / 16), and by a polynomial of
/// degree three, whose share is off by at most 0.03 * 2^-24; the worst error is 0.98 ulp. On Zen 5
/// erf, softplus and cosh take 10 to 16 % less with it than with a polynomial of degree six.
HWY_INLINE VF ExpByTable(VF x) {
  constexpr float kSixteenths = 0x1.8p19f;  // added to a number, rounds it to sixteenths
  alignas(64) static constexpr float kPowers[16] = {
      1.0f,        1.04427373f, 1.09050775f, 1.13878858f, 1.18920708f, 1.24185777f,
      1.29683959f, 1.35425556f, 1.41421354f, 1.47682619f, 1.54221082f, 1.61049032f,
      1.68179286f, 1.75625217f, 1.8340081f,  1.91520655f};
  const VF n = hn::MulAdd(x, Number(1.44269504088896341f), Number(kSixteenths));
  const VF k = hn::Sub(n, Number(kSixteenths));
  VF r = hn::NegMulAdd(k, Number(0.693359375f), x);
  r = hn::NegMulAdd(k, Number(-2.12194440e-4f), r);
  const VF p = hn::MulAdd(hn::Mul(r, r), Polynomial(r, {0.5000162f, 1.6666667e-1f}), r);
  const VF power{_mm512_permutexvar_ps(_mm512_castps_si512(n.raw), _mm512_load_ps(kPowers))};
  return Scale(hn::MulAdd(power, p, power), k);  // scaling rounds k down
}

/// exp of min(x, high) = (k + j / 32) * ln(2) + r by a table of 2^(j / 32), and by a polynomial of
/// degree two, whose share is off by at most 0.9 * 2^-24; of one vector, step by step. The worst
/// error is 1.74 ulp. (ExpByTable's way, step by step too, took 4 to 8 % longer on Zen 5.)
struct ExpSteps {
  static constexpr int kSteps = 11;
  static constexpr float kThirtySeconds = 0x1.8p18f;  // added to a number, rounds it to 1 / 32
  alignas(64) static constexpr float kPowers[32] = {
      1.0f,       1.0218972f, 1.0442737f, 1.0671405f, 1.0905077f, 1.1143868f, 1.1387886f,
      1.1637249f, 1.1892071f, 1.2152474f, 1.2418578f, 1.269051f,  1.2968396f, 1.3252367f,
      1.3542556f, 1.38391f,   1.4142135f, 1.4451808f, 1.4768262f, 1.5091645f, 1.5422108f,
      1.5759809f, 1.6104903f, 1.6457555f, 1.6817929f, 1.7186193f, 1.7562522f, 1.7947091f,
      1.8340081f, 1.8741677f, 1.9152066f, 1.9571441f};
  VF x, n, k, power;
  float high;

  HWY_INLINE void begin(VF of, float most) { x = of, high = most; }

  template <int kStep>
  HWY_INLINE void take() {
    // NaN stays NaN: x86 takes the second of two operands of which one is NaN.
    if constexpr (kStep == 0) x = hn::Min(Number(high), x);
    if constexpr (kStep == 1) x = hn::Max(Number(-104), x);
    if constexpr (kStep == 2) {
      n = hn::MulAdd(x, Number(1.44269504088896341f), Number(kThirtySeconds));
    }
    if constexpr (kStep == 3) k = hn::Sub(n, Number(kThirtySeconds));
    if constexpr (kStep == 4) x = hn::NegMulAdd(k, Number(0.693359375f), x);
    if constexpr (kStep == 5) {
      power = VF{_mm512_permutex2var_ps(_mm512_load_ps(kPowers), _mm512_castps_si512(n.raw),
                                        _mm512_load_ps(kPowers + 16))};
    }
    if constexpr (kStep == 6) x = hn::NegMulAdd(k, Number(-2.12194440e-4f), x);
    if constexpr (kStep == 7) n = hn::MulAdd(x, Number(0.5f), Number(1.0000145f));
    if constexpr (kStep == 8) x = hn::Mul(power, x);
    if constexpr (kStep == 9) power = hn::MulAdd(x, n, power);
    if constexpr (kStep == 10) power = Scale(power, k);  // scaling rounds k down
  }
};

/// Steps of several vectors, those of a pair a few behind those of the pair before, so that there
/// are operations for every unit at any time: a processor looks only so far ahead for some. On Zen
/// 5 exp takes 3.7 cycles a vector like this, 4.2 if all vectors take each step together.
template <class Steps, int kTurn = 0, size_t kVector = 0>
HWY_INLINE void TakeSteps(Steps (&of)[kTogether]) {
  constexpr int kBehind = 2;
  constexpr int kStep = kTurn - static_cast<int>(kVector / 2) * kBehind;
  if constexpr (kStep >= 0 && kStep < Steps::kSteps) of[kVector].template take<kStep>();
  if constexpr (kVector + 1 < kTogether) {
    TakeSteps<Steps, kTurn, kVector + 1>(of);
  } else if constexpr (kStep + 1 < Steps::kSteps) {
    TakeSteps<Steps, kTurn + 1, 0>(of);
  }
}

#endif

/// exp(min(x, high)).
template <class V>
HWY_INLINE V ExpUpTo(V x, float high) {
#if HWY_TARGET == HWY_AVX3
  return ExpByTable(Clamped(x, -104.0f, high));
#else
  V r;
  const V k = ReduceExp(Clamped(x, -104.0f, high), r);
  const V p = Add(MulAdd(Mul(r, r), ExpTail(r), r), Number(1));
  return Scale(p, k);
#endif
}

#if HWY_TARGET == HWY_AVX3
HWY_INLINE Together ExpUpTo(Together x, float high) {
  ExpSteps of[kTogether];
  for (size_t i = 0; i < kTogether; ++i) of[i].begin(x.v[i], high);
  TakeSteps(of);
  ZMLX_TOGETHER(of[i].power);
}
#endif

#undef ZMLX_TOGETHER

template <class V>
HWY_INLINE V Exp(V x) {
  return ExpUpTo(x, 89.0f);
}

HWY_INLINE VF Exp2(VF x) {
  const auto clamped = Clamped(x, -151.0f, 129.0f);
  const auto k = hn::Round(clamped);
  const auto r = hn::Mul(hn::Sub(clamped, k), Number(0.693147180559945f));
  const auto p = hn::Add(hn::MulAdd(hn::Mul(r, r), ExpTail(r), r), Number(1));
  return Scale(p, k);
}

/// 2^k * (exp(r) - 1) + (2^k - 1) of `scale` times that, for clamped x.
template <class V>
HWY_INLINE V ScaledExpm1(V x, float scale) {
  V r;
  const V k = ReduceExp(x, r);
  const V tail = MulAdd(Mul(r, r), ExpTail(r), r);
  const V power = Scale(Equal(x, Number(scale)), k);
  return MulAdd(power, tail, Sub(power, Number(scale)));
}

/// At half the size, so that the largest results fit.
HWY_INLINE VF Expm1(VF x) {
  const auto half = ScaledExpm1(Clamped(x, -20.0f, 89.0f), 0.5f);
  return Choose(hn::Eq(x, hn::Zero(DF())), x, hn::Add(half, half));
}

/// x = m * 2^e with m in [sqrt(1/2), sqrt(2)); returns log(m) as `f` + the result, f = m - 1.
/// Coefficients of Cephes' logf.
HWY_INLINE VF ReduceLog(VF x, VF& f, VF& e) {
  const DF df;
  const DI di;
  const auto tiny = hn::Lt(x, Number(1.17549435e-38f));
  const auto normal = Choose(tiny, hn::Mul(x, Number(0x1p25f)), x);
  const auto bits = hn::BitCast(di, normal);
  // Centres the exponent on sqrt(1/2).
  const auto shifted = hn::Sub(bits, hn::Set(di, 0x3F3504F3));
  const auto exponent = hn::ShiftRight<23>(shifted);
  const auto m = hn::BitCast(df, hn::Sub(bits, hn::ShiftLeft<23>(exponent)));
  e = hn::Sub(hn::ConvertTo(df, exponent), hn::IfThenElseZero(tiny, Number(25.0f)));
  f = hn::Sub(m, Number(1));
  const auto p = Polynomial(f, {3.3333331174e-1f, -2.4999993993e-1f, 2.0000714765e-1f,
                                -1.6668057665e-1f, 1.4249322787e-1f, -1.2420140846e-1f,
                                1.1676998740e-1f, -1.1514610310e-1f, 7.0376836292e-2f});
  const auto squared = hn::Mul(f, f);
  return hn::NegMulAdd(Number(0.5f), squared, hn::Mul(hn::Mul(squared, f), p));
}

/// The result, but what logarithms are at 0, below, at infinity and NaN.
HWY_INLINE VF LogEnds(VF x, VF result) {
  result = Choose(hn::Lt(x, Number(kInfinity)), result, x);  // infinity and NaN
  result = Choose(hn::Eq(x, Number(0)), Number(-kInfinity), result);
  return Choose(hn::Lt(x, Number(0)), Number(kNaN), result);
}

HWY_INLINE VF Log(VF x) {
  VF f, e;
  auto y = ReduceLog(x, f, e);
  y = hn::MulAdd(e, Number(-2.12194440e-4f), y);
  return LogEnds(x, hn::MulAdd(e, Number(0.693359375f), hn::Add(f, y)));
}

HWY_INLINE VF Log2(VF x) {
  VF f, e;
  const auto y = hn::Add(ReduceLog(x, f, e), f);
  return LogEnds(x, hn::MulAdd(y, Number(1.44269504088896341f), e));
}

HWY_INLINE VF Log10(VF x) {
  VF f, e;
  auto y = hn::Mul(hn::Add(ReduceLog(x, f, e), f), Number(0.434294481903251828f));
  y = hn::MulAdd(e, Number(2.48745663981e-4f), y);
  return LogEnds(x, hn::MulAdd(e, Number(3.0078125e-1f), y));
}

/// log(u) with u = 1 + x, and what u lost in rounding.
HWY_INLINE VF Log1p(VF x) {
  const auto u = hn::Add(x, Number(1));
  const auto lost = hn::Div(hn::Sub(x, hn::Sub(u, Number(1))), u);
  const auto inside = hn::And(hn::Gt(u, Number(0)), hn::Lt(u, Number(kInfinity)));
  const auto result = hn::Add(Log(u), hn::IfThenElseZero(inside, lost));
  return Choose(hn::Eq(x, Number(0)), x, result);  // keeps -0
}

/// e / (1 + e): small results keep their accuracy, and e is a number.
template <class V>
HWY_INLINE V Sigmoid(V x) {
  const V e = ExpUpTo(x, 88.0f);
  return Div(e, Add(e, Number(1)));
}

/// 1 + tanh(x) = 2 * sigmoid(2 x), which does not cancel.
template <class V>
HWY_INLINE V OnePlusTanh(V x) {
  const V s = Sigmoid(Add(x, x));
  return Add(s, s);
}

HWY_INLINE VF Softplus(VF x) {
  const auto tail = Log1p(Exp(hn::Neg(hn::Abs(x))));
  return hn::Add(Choose(hn::Gt(x, Number(0)), x, Number(0)), tail);
}

/// tanh(log(1 + exp(x))) = e * (e + 2) / (e * (e + 2) + 2); beyond 20 it is 1.
template <class V>
HWY_INLINE V TanhSoftplus(V x) {
  const V e = ExpUpTo(x, 20.0f);
  const V n = Mul(e, Add(e, Number(2)));
  return Div(n, Add(n, Number(2)));
}

/// t / (t + 2) with t = exp(2 |x|) - 1; beyond 10 it is 1.
template <class V>
HWY_INLINE V Tanh(V x) {
  const V a = Abs(x);
  const V t = ScaledExpm1(AtMost(Add(a, a), 20.0f), 1.0f);
  return CopySign(Div(t, Add(t, Number(2))), x);
}

/// For |x| < 0.93.
HWY_INLINE VF ErfSmall(VF x) {
  const auto z = hn::Mul(x, x);
  const auto p = Polynomial(z, {1.28379166e-1f, -3.76125336e-1f, 1.12819925e-1f, -2.67681349e-2f,
                                4.99119423e-3f, -5.96761703e-4f});
  return hn::MulAdd(p, x, x);
}

/// Two polynomials, in x^2 below 0.93 and of the exponent of 1 - erf above.
HWY_INLINE VF Erf(VF x) {
  const auto a = hn::Abs(x);
  const auto t = hn::Min(a, Number(4.5f));
  const auto r = Polynomial(t, {-1.28717512e-1f, -6.34846687e-1f, -1.06777877e-1f, 2.42546219e-2f,
                                -3.88396438e-3f, 3.83197126e-4f, -1.72853470e-5f});
  const auto q = hn::MulSub(r, t, t);
  const auto large = hn::Sub(Number(1), Exp(q));
  const auto result = Choose(hn::Lt(a, Number(0.927734375f)), ErfSmall(x), hn::CopySign(large, x));
  return KeepNaN(x, result);
}

/// exp(-x^2) times a polynomial in (x - 2) / (x + 2), which with 1 / (1 + 2 x) is a minimax fit of
/// exp(x^2) * erfc(x) from 0 to 10.5, off by 0.3 * 2^-24. The square's rounding is made good for.
HWY_INLINE VF Erfc(VF x) {
  const auto a = hn::Min(hn::Abs(x), Number(10.5f));
  const auto t = hn::Div(hn::Sub(a, Number(2)), hn::Add(a, Number(2)));
  const auto p =
      Polynomial(t, {1.276978374e+00f, -9.276399761e-02f, -1.660315692e-01f, 1.640556604e-01f,
                     -5.420262367e-02f, -8.060888387e-03f, 8.625357412e-03f, 1.312570996e-03f,
                     -1.222341787e-03f, -3.961072653e-04f});
  const auto z = hn::Mul(a, a);
  // a = high + low, and high has so few digits that its square is exact, without fused products
  // too.
  const auto high = hn::And(a, hn::BitCast(DF(), hn::Set(DU(), 0xFFFFF000u)));
  const auto cross = hn::Mul(hn::Sub(a, high), hn::Add(a, high));
  const auto lost = hn::Add(hn::Sub(hn::Mul(high, high), z), cross);
  const auto scaled = hn::Div(p, hn::Add(Number(1), hn::Add(a, a)));
  const auto r = hn::Mul(scaled, Exp(hn::Neg(z)));
  const auto tail = hn::NegMulAdd(r, lost, r);
  const auto far = Choose(hn::Lt(x, Number(0)), hn::Sub(Number(2), tail), tail);
  const auto near = hn::Sub(Number(1), ErfSmall(x));
  return KeepNaN(x, Choose(hn::Lt(hn::Abs(x), Number(0.5f)), near, far));
}

/// Newton's steps from a third of the exponent; the last corrects by what x / t^2 is off.
HWY_INLINE VF Cbrt(VF x) {
  const DI di;
  const auto a = hn::Abs(x);
  const auto tiny = hn::Lt(a, Number(1.17549435e-38f));
  const auto normal = Choose(tiny, hn::Mul(a, Number(0x1p24f)), a);
  const auto third = hn::Mul(hn::ConvertTo(DF(), hn::BitCast(di, normal)), Number(1.0f / 3));
  auto t = hn::BitCast(DF(), hn::Add(hn::ConvertTo(di, third), hn::Set(di, 0x2A5119F2)));
  for (int i = 0; i < 3; ++i) {
    const auto off = hn::Sub(hn::Div(normal, hn::Mul(t, t)), t);
    t = hn::MulAdd(off, Number(1.0f / 3), t);
  }
  const auto root = hn::CopySign(Choose(tiny, hn::Mul(t, Number(0x1p-8f)), t), x);
  const auto plain = hn::And(hn::Gt(a, Number(0)), hn::Lt(a, Number(kInfinity)));
  return Choose(plain, root, x);
}

/// x * 2^power of whole powers.
HWY_INLINE VF Ldexp(VF x, VF power) {
#if HWY_TARGET == HWY_AVX3
  return Scale(x, power);
#else
  // By numbers of float32, of which the last alone rounds.
  for (int i = 0; i < 2; ++i) {
    const auto up = hn::Gt(power, Number(127)), down = hn::Lt(power, Number(-126));
    x = hn::Mul(x, Choose(up, Number(0x1p127f), Choose(down, Number(0x1p-102f), Number(1))));
    power = hn::Sub(power, Choose(up, Number(127), Choose(down, Number(-102), Number(0))));
  }
  const auto rest = hn::Min(Number(127), hn::Max(Number(-126), power));
  const auto biased = hn::Add(hn::ConvertTo(DI(), rest), hn::Set(DI(), 127));
  return hn::Mul(x, hn::BitCast(DF(), hn::ShiftLeft<23>(biased)));
#endif
}

/// floor(log2(|x|)); minus infinity of 0 and NaN.
HWY_INLINE VF Ilogb(VF x) {
  const auto a = hn::Abs(x);
  const auto tiny = hn::Lt(a, Number(1.17549435e-38f));
  const auto normal = Choose(tiny, hn::Mul(a, Number(0x1p24f)), a);
  const auto biased = hn::ConvertTo(DF(), hn::ShiftRight<23>(hn::BitCast(DI(), normal)));
  const auto exponent = hn::Sub(biased, Choose(tiny, Number(151), Number(127)));
  const auto result = Choose(hn::Lt(a, Number(kInfinity)), exponent, Number(kInfinity));
  return Choose(hn::Gt(a, Number(0)), result, Number(-kInfinity));
}

HWY_INLINE VF NextAfter(VF x, VF y) {
  const DI di;
  const auto bits = hn::BitCast(di, x);
  // Away from 0 is up in bits; masks of all ones are -1.
  const auto up =
      hn::Xor(hn::VecFromMask(DF(), hn::Lt(x, y)), hn::VecFromMask(DF(), hn::Lt(x, Number(0))));
  const auto one = hn::Or(hn::BitCast(di, up), hn::Set(di, 1));
  const auto moved = hn::BitCast(DF(), hn::Sub(bits, one));
  const auto least = hn::CopySign(hn::BitCast(DF(), hn::Set(di, 1)), y);
  const auto next = Choose(hn::Eq(x, hn::Zero(DF())), least, moved);
  const auto result = Choose(hn::Eq(x, y), y, next);
  return KeepNaN(x, KeepNaN(y, result));
}

HWY_INLINE VF Sinh(VF x) {
  const auto a = hn::Abs(x);
  const auto z = hn::Mul(x, x);
  const auto p = Polynomial(z, {1.66667160211e-1f, 8.33028376239e-3f, 2.03721912945e-4f});
  const auto small = hn::MulAdd(hn::Mul(p, z), x, x);
  const auto e = Expm1(hn::Min(a, Number(20)));
  const auto middle = hn::Mul(Number(0.5f), hn::Add(e, hn::Div(e, hn::Add(e, Number(1)))));
  const auto root = Exp(hn::Mul(a, Number(0.5f)));
  const auto large = hn::Mul(hn::Mul(Number(0.5f), root), root);
  const auto result = Choose(hn::Lt(a, Number(20)), middle, large);
  return Choose(hn::Lt(a, Number(1)), small, hn::CopySign(result, x));
}

HWY_INLINE VF Cosh(VF x) {
  const auto a = hn::Abs(x);
  const auto e = Exp(hn::Min(a, Number(20)));
  const auto middle = hn::Mul(Number(0.5f), hn::Add(e, hn::Div(Number(1), e)));
  const auto root = Exp(hn::Mul(a, Number(0.5f)));
  const auto large = hn::Mul(hn::Mul(Number(0.5f), root), root);
  return KeepNaN(x, Choose(hn::Lt(a, Number(20)), middle, large));
}

/// Cephes' asinf for |x| <= 1/2; `z` is x^2.
HWY_INLINE VF AsinSmall(VF x, VF z) {
  const auto p = Polynomial(z, {1.6666752422e-1f, 7.4953002686e-2f, 4.5470025998e-2f,
                                2.4181311049e-2f, 4.2163199048e-2f});
  return hn::MulAdd(hn::Mul(p, z), x, x);
}

constexpr float kPi = 3.14159265358979f, kHalfPi = 1.57079632679490f;

HWY_INLINE VF Asin(VF x) {
  const auto a = hn::Abs(x);
  const auto wide = hn::Gt(a, Number(0.5f));
  const auto z = Choose(wide, hn::Mul(Number(0.5f), hn::Sub(Number(1), a)), hn::Mul(a, a));
  const auto root = AsinSmall(Choose(wide, hn::Sqrt(z), a), z);
  const auto result = Choose(wide, hn::NegMulAdd(Number(2), root, Number(kHalfPi)), root);
  return KeepNaN(x, hn::CopySign(result, x));
}

HWY_INLINE VF Acos(VF x) {
  const auto a = hn::Abs(x);
  const auto wide = hn::Gt(a, Number(0.5f));
  const auto z = Choose(wide, hn::Mul(Number(0.5f), hn::Sub(Number(1), a)), hn::Mul(a, a));
  const auto root = AsinSmall(Choose(wide, hn::Sqrt(z), x), z);
  const auto twice = hn::Add(root, root);
  const auto far = Choose(hn::Lt(x, Number(0)), hn::Sub(Number(kPi), twice), twice);
  return Choose(wide, far, hn::Sub(Number(kHalfPi), root));
}

/// Cephes' atanf for 0 <= a.
HWY_INLINE VF AtanPositive(VF a) {
  const auto large = hn::Gt(a, Number(2.41421356f));
  const auto middle = hn::Gt(a, Number(0.414213562f));
  const auto one = Number(1);
  const auto above = Choose(large, Number(-1), hn::Sub(a, one));
  const auto below = Choose(large, a, hn::Add(a, one));
  const auto t = Choose(middle, hn::Div(above, below), a);
  const auto base =
      Choose(large, Number(kHalfPi), Choose(middle, Number(0.785398163397448f), Number(0)));
  const auto z = hn::Mul(t, t);
  const auto p =
      Polynomial(z, {-3.33329491539e-1f, 1.99777106478e-1f, -1.38776856032e-1f, 8.05374449538e-2f});
  return hn::Add(base, hn::MulAdd(hn::Mul(p, z), t, t));
}

HWY_INLINE VF Atan(VF x) { return KeepNaN(x, hn::CopySign(AtanPositive(hn::Abs(x)), x)); }

HWY_INLINE VF Atan2(VF y, VF x) {
  const auto ax = hn::Abs(x), ay = hn::Abs(y);
  const auto larger = hn::Max(ax, ay), smaller = hn::Min(ax, ay);
  // Of two zeros and of two infinities the quotient is not what is wanted.
  auto quotient = hn::Div(smaller, larger);
  quotient = Choose(hn::Eq(larger, Number(0)), Number(0), quotient);
  quotient = Choose(hn::Eq(smaller, Number(kInfinity)), Number(1), quotient);
  auto angle = AtanPositive(quotient);
  angle = Choose(hn::Gt(ay, ax), hn::Sub(Number(kHalfPi), angle), angle);
  const auto left = hn::Lt(hn::CopySign(Number(1), x), Number(0));
  angle = Choose(left, hn::Sub(Number(kPi), angle), angle);
  return KeepNaN(x, KeepNaN(y, hn::CopySign(angle, y)));
}

HWY_INLINE VF Asinh(VF x) {
  const auto a = hn::Abs(x);
  const auto z = hn::Mul(a, a);
  const auto root = hn::Sqrt(hn::Add(z, Number(1)));
  const auto t = hn::Add(a, hn::Div(z, hn::Add(Number(1), root)));
  const auto huge = hn::Gt(a, Number(1e10f));
  const auto l = Log1p(Choose(huge, a, t));
  return hn::CopySign(Choose(huge, hn::Add(l, Number(0.693147180559945f)), l), x);
}

HWY_INLINE VF Acosh(VF x) {
  const auto t = hn::Sub(x, Number(1));
  const auto root = hn::Sqrt(hn::MulAdd(t, t, hn::Add(t, t)));
  const auto huge = hn::Gt(x, Number(1e10f));
  const auto l = Log1p(Choose(huge, x, hn::Add(t, root)));
  const auto result = Choose(huge, hn::Add(l, Number(0.693147180559945f)), l);
  return Choose(hn::Lt(x, Number(1)), Number(kNaN), result);
}

HWY_INLINE VF Atanh(VF x) {
  const auto a = hn::Abs(x);
  const auto t = hn::Div(hn::Add(a, a), hn::Sub(Number(1), a));
  return hn::CopySign(hn::Mul(Number(0.5f), Log1p(t)), x);
}

HWY_INLINE VF Sign(VF x) {
  const auto one = hn::CopySign(Number(1), x);
  return Choose(hn::Eq(x, Number(0)), x, KeepNaN(x, one));
}

/// To the nearest number of a 16-bit type, halves to even.
template <cpu::Scalar kType>
HWY_INLINE VF Rounded(VF x) {
  const auto halves = cpu::HWY_NAMESPACE::Halves<kType>(x);
  if constexpr (kType == cpu::Scalar::bf16) {
    return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(DU(), halves)));
  } else {
    return hn::PromoteTo(DF(), hn::BitCast(hn::Rebind<hwy::float16_t, DF>(), halves));
  }
}

/// Halves away from zero; the sign stays, of zeros too.
HWY_INLINE VF RoundAway(VF x) {
  const auto whole = hn::Trunc(x);
  const auto up = hn::Ge(hn::Abs(hn::Sub(x, whole)), Number(0.5f));
  const auto away = hn::IfThenElseZero(up, Number(1));
  return hn::CopySign(hn::Add(hn::Abs(whole), away), x);
}

/// Of a number and a NaN the number.
HWY_INLINE VF Maximum(VF a, VF b) {
#if HWY_TARGET == HWY_AVX3
  return VF{_mm512_range_ps(a.raw, b.raw, 5)};
#else
  return Choose(hn::Gt(a, b), a, Choose(hn::Eq(b, b), b, a));
#endif
}
HWY_INLINE VF Minimum(VF a, VF b) {
#if HWY_TARGET == HWY_AVX3
  return VF{_mm512_range_ps(a.raw, b.raw, 4)};
#else
  return Choose(hn::Lt(a, b), a, Choose(hn::Eq(b, b), b, a));
#endif
}

// What follows goes through float64, half a vector at a time.

using DD = hn::Repartition<double, DF>;
using VD = hn::Vec<DD>;
using DFHalf = hn::Half<DF>;

HWY_INLINE VD Real(double value) { return hn::Set(DD(), value); }

template <typename F>
HWY_INLINE VF InDoubles(VF a, VF b, const F& f) {
  const DD dd;
  const DFHalf half;
  const auto low =
      f(hn::PromoteTo(dd, hn::LowerHalf(half, a)), hn::PromoteTo(dd, hn::LowerHalf(half, b)));
  const auto high =
      f(hn::PromoteTo(dd, hn::UpperHalf(half, a)), hn::PromoteTo(dd, hn::UpperHalf(half, b)));
  return hn::Combine(DF(), hn::DemoteTo(half, high), hn::DemoteTo(half, low));
}

/// Lane by lane, for arguments that vectors do not take.
template <typename F>
HWY_NOINLINE VF EachLane(VF a, VF b, const F& f) {
  const DF df;
  HWY_ALIGN float x[kLanes], y[kLanes];
  hn::Store(a, df, x);
  hn::Store(b, df, y);
  for (size_t i = 0; i < kLanes; ++i) x[i] = f(x[i], y[i]);
  return hn::Load(df, x);
}

/// x = n * pi / 2 + r, for |x| <= 1e6.
HWY_INLINE VF ReduceAngle(VF x, VI& quadrant) {
  const auto n = hn::Round(hn::Mul(x, Number(0.636619772367581f)));
  quadrant = hn::ConvertTo(DI(), n);
  return InDoubles(x, n, [](VD angle, VD count) HWY_ATTR {
    const auto r = hn::NegMulAdd(count, Real(1.57079632673412561417e+00), angle);
    return hn::NegMulAdd(count, Real(6.07710050650619224932e-11), r);
  });
}

/// Cephes' sinf and cosf for |r| <= pi / 4.
HWY_INLINE VF SinSmall(VF r, VF z) {
  const auto p = Polynomial(z, {-1.6666654611e-1f, 8.3321608736e-3f, -1.9515295891e-4f});
  return hn::MulAdd(hn::Mul(p, z), r, r);
}
HWY_INLINE VF CosSmall(VF z) {
  const auto p =
      Polynomial(z, {4.166664568298827e-2f, -1.388731625493765e-3f, 2.443315711809948e-5f});
  const auto tail = hn::Mul(hn::Mul(p, z), z);
  return hn::Add(hn::NegMulAdd(Number(0.5f), z, Number(1)), tail);
}

/// sin(x + shift * pi / 2).
HWY_INLINE VF SinShifted(VF x, int32_t shift) {
  const DI di;
  VI quadrant;
  const auto r = ReduceAngle(x, quadrant);
  quadrant = hn::Add(quadrant, hn::Set(di, shift));
  const auto z = hn::Mul(r, r);
  const auto odd = hn::TestBit(quadrant, hn::Set(di, 1));
  const auto value = Choose(hn::RebindMask(DF(), odd), CosSmall(z), SinSmall(r, z));
  const auto sign = hn::ShiftLeft<30>(hn::And(quadrant, hn::Set(di, 2)));
  return hn::Xor(value, hn::BitCast(DF(), sign));
}

/// Whether vectors take all the angles.
HWY_INLINE bool AnglesFit(VF x) { return hn::AllTrue(DF(), hn::Le(hn::Abs(x), Number(1e6f))); }

HWY_INLINE VF Sin(VF x) {
  if (HWY_LIKELY(AnglesFit(x))) return SinShifted(x, 0);
  return EachLane(x, x, [](float a, float) { return std::sin(a); });
}
HWY_INLINE VF Cos(VF x) {
  if (HWY_LIKELY(AnglesFit(x))) return SinShifted(x, 1);
  return EachLane(x, x, [](float a, float) { return std::cos(a); });
}
HWY_INLINE VF Tan(VF x) {
  if (HWY_LIKELY(AnglesFit(x))) return hn::Div(SinShifted(x, 0), SinShifted(x, 1));
  return EachLane(x, x, [](float a, float) { return std::tan(a); });
}

/// 2^(b * log2(a)) for 0 < a < infinity: log2 by the series of atanh, 2^t by that of exp.
HWY_INLINE VD PowerOfPositive(VD a, VD b) {
  const DD dd;
  const hn::RebindToSigned<DD> di;
  const auto bits = hn::BitCast(di, a);
  const auto shifted = hn::Sub(bits, hn::Set(di, 0x3FE6A09E667F3BCD));
  // An arithmetic shift of 64 bits is not on every target: the exponent by way of a double.
  const auto biased = hn::ShiftRight<52>(
      hn::BitCast(hn::RebindToUnsigned<DD>(), hn::Add(shifted, hn::Set(di, int64_t{1} << 62))));
  const auto exponent = hn::Sub(hn::BitCast(di, biased), hn::Set(di, 1024));
  const auto m = hn::BitCast(dd, hn::Sub(bits, hn::ShiftLeft<52>(exponent)));
  // Small integers to double: into the low bits of 2^52.
  const auto magic = Real(0x1.8p52);
  const auto e = hn::Sub(hn::BitCast(dd, hn::Add(exponent, hn::BitCast(di, magic))), magic);
  const auto s = hn::Div(hn::Sub(m, Real(1)), hn::Add(m, Real(1)));
  const auto z = hn::Mul(s, s);
  auto p = Real(1.0 / 17);
  for (int n = 15; n >= 1; n -= 2) p = hn::MulAdd(p, z, Real(1.0 / n));
  const auto log2 = hn::MulAdd(hn::Mul(s, p), Real(2 * 1.44269504088896340736), e);
  const auto t = hn::Min(hn::Max(hn::Mul(b, log2), Real(-200)), Real(200));
  const auto k = hn::Round(t);
  const auto r = hn::Mul(hn::Sub(t, k), Real(0.693147180559945309417));
  auto q = Real(1);
  for (int n = 11; n >= 1; --n) q = hn::MulAdd(hn::Mul(q, r), Real(1.0 / n), Real(1));
  const auto power = hn::BitCast(di, hn::Add(k, magic));  // k in the low bits
  return hn::Mul(q, hn::BitCast(dd, hn::ShiftLeft<52>(hn::Add(power, hn::Set(di, 1023)))));
}

HWY_INLINE VF Power(VF a, VF b) {
  const auto plain = hn::And(hn::And(hn::Gt(a, Number(0)), hn::Lt(a, Number(kInfinity))),
                             hn::Lt(hn::Abs(b), Number(kInfinity)));
  if (HWY_LIKELY(hn::AllTrue(DF(), plain))) {
    return InDoubles(a, b, [](VD x, VD y) HWY_ATTR { return PowerOfPositive(x, y); });
  }
  return EachLane(a, b, [](float x, float y) { return std::pow(x, y); });
}

/// Exact while the quotient has 29 bits; beyond, lane by lane.
HWY_INLINE VF Remainder(VF a, VF b) {
  const auto ratio = hn::Abs(hn::Div(a, b));
  const auto plain = hn::And(hn::Lt(ratio, Number(0x1p28f)), hn::Gt(hn::Abs(b), Number(1e-30f)));
  if (HWY_LIKELY(hn::AllTrue(DF(), plain))) {
    return hn::CopySign(InDoubles(a, b,
                                  [](VD x, VD y) HWY_ATTR {
                                    const auto ax = hn::Abs(x), ay = hn::Abs(y);
                                    const auto n = hn::Trunc(hn::Div(ax, ay));
                                    const auto r = hn::Sub(ax, hn::Mul(n, ay));
                                    const auto low = hn::Lt(r, Real(0));
                                    return hn::Add(r, hn::IfThenElseZero(low, ay));
                                  }),
                        a);
  }
  return EachLane(a, b, [](float x, float y) { return std::fmod(x, y); });
}

}  // namespace zmlx::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

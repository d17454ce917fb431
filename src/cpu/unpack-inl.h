// Packed weights to float32 vectors.
//
// A *unit* is what one Load brings: kPositions vectors of kLanes weights. For integer formats of a
// power-of-two width, and for fp4, a lane holds one 32-bit word, and position i is the i-th weight
// of each word: the words stay where they are and a mask picks the weight, so no shuffle is needed.
// Activations are brought into the same order once per row instead. The other widths first move
// each run of 24 or 20 bits into a lane of its own.

#if defined(ZMLX_CPU_UNPACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_CPU_UNPACK_INL_H_
#undef ZMLX_CPU_UNPACK_INL_H_
#else
#define ZMLX_CPU_UNPACK_INL_H_
#endif

#include "cpu/quantized.h"
#include "cpu/scalar-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// A vector of 16-byte blocks, block b read at p + b * kStride.
template <size_t kStride, class D>
HWY_INLINE hn::Vec<D> LoadBlocks(D d, const uint8_t* p) {
  if constexpr (hn::MaxLanes(D()) * sizeof(hn::TFromD<D>) <= 16) {
    return hn::LoadU(d, p);
  } else {
    const hn::Half<D> half;
    constexpr size_t kBlocks = hn::MaxLanes(D()) * sizeof(hn::TFromD<D>) / 32;
    return hn::Combine(d, LoadBlocks<kStride>(half, p + kStride * kBlocks),
                       LoadBlocks<kStride>(half, p));
  }
}

/// The same 16 bytes in every block.
template <class D>
HWY_INLINE hn::Vec<D> RepeatBlock(D d, const uint8_t* block) {
  return hn::LoadDup128(d, block);
}

template <Format kFormat>
struct Unpack;

/// Integers of 1, 2, 4 or 8 bits: a lane is a word.
template <int kBits>
struct UnpackWords {
  static constexpr int kPositions = 32 / kBits;
  static constexpr size_t kBytes = kLanes * 4;  ///< per unit
  static constexpr size_t kReads = kBytes;      ///< bytes that Load touches
  static constexpr float kUniform = 1.0f;       ///< weight = Plain<i> * kUniform
  using Raw = VU;

  static HWY_INLINE Raw Load(const uint8_t* p) {
    return hn::BitCast(DU(), hn::LoadU(hn::Repartition<uint8_t, DU>(), p));
  }
  /// Get<i> = weight * 2^Shift(i) / kUniform; the power of two is divided out of the activations.
  static constexpr int Shift(int i) { return i + 1 < kPositions ? kBits * i : 0; }
  template <int i>
  static HWY_INLINE VF Get(Raw raw) {
    if constexpr (i + 1 == kPositions) {
      return Plain<i>(raw);  // bit 31 would be read as a sign
    } else {
      const auto masked = hn::And(raw, hn::Set(DU(), ((1u << kBits) - 1) << (kBits * i)));
      return hn::ConvertTo(DF(), hn::BitCast(DI(), masked));
    }
  }
  template <int i>
  static HWY_INLINE VF Plain(Raw raw) {
    auto shifted = raw;
    if constexpr (i > 0) shifted = hn::ShiftRight<kBits * i>(raw);
    if constexpr (i + 1 < kPositions) {
      shifted = hn::And(shifted, hn::Set(DU(), (1u << kBits) - 1));
    }
    return hn::ConvertTo(DF(), hn::BitCast(DI(), shifted));
  }
  /// Column of position i of a lane within the unit.
  static constexpr size_t Column(size_t i, size_t lane) { return lane * kPositions + i; }
};
template <>
struct Unpack<Format::affine1> : UnpackWords<1> {};
template <>
struct Unpack<Format::affine2> : UnpackWords<2> {};
template <>
struct Unpack<Format::affine4> : UnpackWords<4> {};
template <>
struct Unpack<Format::affine8> : UnpackWords<8> {};

/// Integers of 3, 5 or 6 bits: runs of bytes are moved into lanes, 4 lanes from each kStride bytes.
template <int kBits, int kPositions_, size_t kStride>
struct UnpackRuns {
  static constexpr int kPositions = kPositions_;
  static constexpr size_t kBytes = kLanes / 4 * kStride;
  static constexpr size_t kReads = (kLanes / 4 - 1) * kStride + 16;
  static constexpr float kUniform = 1.0f;
  using Raw = VU;

  static constexpr int Shift(int i) { return kBits * i; }
  template <int i>
  static HWY_INLINE VF Get(Raw raw) {
    const auto masked = hn::And(raw, hn::Set(DU(), ((1u << kBits) - 1) << (kBits * i)));
    return hn::ConvertTo(DF(), hn::BitCast(DI(), masked));
  }
  template <int i>
  static HWY_INLINE VF Plain(Raw raw) {
    auto shifted = raw;
    if constexpr (i > 0) shifted = hn::ShiftRight<kBits * i>(raw);
    shifted = hn::And(shifted, hn::Set(DU(), (1u << kBits) - 1));
    return hn::ConvertTo(DF(), hn::BitCast(DI(), shifted));
  }
  static constexpr size_t Column(size_t i, size_t lane) { return lane * kPositions + i; }

 protected:
  static HWY_INLINE VU Gather(const uint8_t* p, const uint8_t* bytes) {
    const hn::Repartition<uint8_t, DU> d8;
    const auto packed = LoadBlocks<kStride>(d8, p);
    return hn::BitCast(DU(), hn::TableLookupBytesOr0(packed, RepeatBlock(d8, bytes)));
  }
};

HWY_ALIGN static constexpr uint8_t kRunsOf3[16] = {0, 1, 2, 0x80, 3, 4,  5,  0x80,
                                                   6, 7, 8, 0x80, 9, 10, 11, 0x80};
/// Five bytes hold eight 5-bit weights: four in bytes 0 to 2, four in bytes 2 to 4, from bit 4 on.
HWY_ALIGN static constexpr uint8_t kRunsOf5[16] = {0, 1, 2, 0x80, 2, 3, 4, 0x80,
                                                   5, 6, 7, 0x80, 7, 8, 9, 0x80};

/// Eight 3-bit weights in three bytes.
template <>
struct Unpack<Format::affine3> : UnpackRuns<3, 8, 12> {
  static HWY_INLINE Raw Load(const uint8_t* p) { return Gather(p, kRunsOf3); }
};
/// Four 6-bit weights in three bytes.
template <>
struct Unpack<Format::affine6> : UnpackRuns<6, 4, 12> {
  static HWY_INLINE Raw Load(const uint8_t* p) { return Gather(p, kRunsOf3); }
};
template <>
struct Unpack<Format::affine5> : UnpackRuns<5, 4, 10> {
  static HWY_INLINE Raw Load(const uint8_t* p) {
    const auto runs = Gather(p, kRunsOf5);
    return hn::OddEven(hn::ShiftRight<4>(runs), runs);
  }
};

#if HWY_MAX_BYTES >= 64
/// e2m1, with vectors of 16 lanes: one lookup in a table of the 16 values, which ignores the index
/// bits above the fourth.
template <>
struct Unpack<Format::fp4> {
  static constexpr int kPositions = 8;
  static constexpr size_t kBytes = kLanes * 4;
  static constexpr size_t kReads = kBytes;
  static constexpr float kUniform = 1.0f;
  using Raw = VU;

  static HWY_INLINE Raw Load(const uint8_t* p) {
    return hn::BitCast(DU(), hn::LoadU(hn::Repartition<uint8_t, DU>(), p));
  }
  static constexpr int Shift(int) { return 0; }
  template <int i>
  static HWY_INLINE VF Get(Raw raw) {
    HWY_ALIGN static constexpr float kValues[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,
                                                    4.0f,  6.0f,  -0.0f, -0.5f, -1.0f, -1.5f,
                                                    -2.0f, -3.0f, -4.0f, -6.0f};
    auto shifted = raw;
    if constexpr (i > 0) shifted = hn::ShiftRight<4 * i>(raw);
    shifted = hn::And(shifted, hn::Set(DU(), 15u));
    return hn::TableLookupLanes(hn::Load(DF(), kValues), hn::IndicesFromVec(DF(), shifted));
  }
  template <int i>
  static HWY_INLINE VF Plain(Raw raw) {
    return Get<i>(raw);
  }
  static constexpr size_t Column(size_t i, size_t lane) { return lane * kPositions + i; }
};
#else
/// e2m1, with shorter vectors: byte lookups give twice each value as a signed byte; a byte moved to
/// the top of its lane converts with its sign.
template <>
struct Unpack<Format::fp4> {
  static constexpr int kPositions = 8;
  static constexpr size_t kBytes = kLanes * 4;
  static constexpr size_t kReads = kBytes;
  static constexpr float kUniform = 0x1p-25f;
  struct Raw {
    VU even, odd;  ///< weights 0, 2, 4, 6 and 1, 3, 5, 7 of each word, a byte each
  };

  static HWY_INLINE Raw Load(const uint8_t* p) {
    HWY_ALIGN static constexpr int8_t kTwice[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                                    0, -1, -2, -3, -4, -6, -8, -12};
    const hn::Repartition<uint8_t, DU> d8;
    const auto table = RepeatBlock(d8, reinterpret_cast<const uint8_t*>(kTwice));
    const auto low = hn::Set(DU(), 0x0F0F0F0Fu);
    const auto words = hn::BitCast(DU(), hn::LoadU(d8, p));
    const auto even = hn::BitCast(d8, hn::And(words, low));
    const auto odd = hn::BitCast(d8, hn::And(hn::ShiftRight<4>(words), low));
    return {hn::BitCast(DU(), hn::TableLookupBytes(table, even)),
            hn::BitCast(DU(), hn::TableLookupBytes(table, odd))};
  }
  static constexpr int Shift(int) { return 0; }
  template <int i>
  static HWY_INLINE VF Get(Raw raw) {
    auto bytes = i % 2 ? raw.odd : raw.even;
    if constexpr (i / 2 < 3) bytes = hn::ShiftLeft<24 - 8 * (i / 2)>(bytes);
    if constexpr (i / 2 > 0) bytes = hn::And(bytes, hn::Set(DU(), 0xFF000000u));
    return hn::ConvertTo(DF(), hn::BitCast(DI(), bytes));
  }
  template <int i>
  static HWY_INLINE VF Plain(Raw raw) {
    return Get<i>(raw);
  }
  static constexpr size_t Column(size_t i, size_t lane) { return lane * kPositions + i; }
};
#endif

/// e4m3 through float16: the same mantissa and exponent bits, 2^8 apart. Subnormals come out right,
/// which a detour through float32's exponent would pay for with microcode assists.
template <>
struct Unpack<Format::fp8> {
  static constexpr int kPositions = 32 / kLanes;  // a unit is one group of 32
  static constexpr size_t kBytes = 32;
  static constexpr size_t kReads = kBytes;
  static constexpr float kUniform = 256.0f;

  using D16 = hn::Repartition<uint16_t, DF>;
  using D16Bytes = hn::Rebind<uint8_t, D16>;
  struct Raw {
    hn::Vec<D16> halves[kPositions / 2];  ///< 2 * kLanes float16 each
  };

  static HWY_INLINE Raw Load(const uint8_t* p) {
    const D16 d16;
    const hn::RebindToSigned<D16> di16;
    Raw raw;
    auto any_nan = hn::Zero(d16);
    for (int i = 0; i < kPositions / 2; ++i) {
      const auto bytes = hn::LoadU(D16Bytes(), p + i * 2 * kLanes);
      const auto top = hn::ShiftLeft<8>(hn::PromoteTo(d16, bytes));
      // The sign comes down twice; its lower copy is where the exponent's highest bit would be.
      const auto down = hn::BitCast(d16, hn::ShiftRight<1>(hn::BitCast(di16, top)));
      raw.halves[i] = hn::And(down, hn::Set(d16, 0xBFFF));
      any_nan = hn::Or(any_nan, IsNan(raw.halves[i]));
    }
    if (HWY_UNLIKELY(!hn::AllTrue(d16, hn::Eq(any_nan, hn::Zero(d16))))) {
      for (auto& halves : raw.halves) halves = hn::Or(halves, IsNan(halves));
    }
    return raw;
  }
  static constexpr int Shift(int) { return 0; }
  template <int i>
  static HWY_INLINE VF Get(const Raw& raw) {
    const hn::Rebind<hwy::float16_t, DF> df16;
    const auto& pair = raw.halves[i / 2];
    const auto half = i % 2 ? hn::UpperHalf(DU16(), pair) : hn::LowerHalf(DU16(), pair);
    return hn::PromoteTo(DF(), hn::BitCast(df16, half));
  }
  template <int i>
  static HWY_INLINE VF Plain(const Raw& raw) {
    return Get<i>(raw);
  }
  static constexpr size_t Column(size_t i, size_t lane) { return i * kLanes + lane; }

 private:
  /// All bits where the code was NaN, 0x7F or 0xFF.
  static HWY_INLINE hn::Vec<D16> IsNan(hn::Vec<D16> halves) {
    const D16 d16;
    const auto magnitude = hn::And(halves, hn::Set(d16, 0x7FFF));
    return hn::VecFromMask(d16, hn::Eq(magnitude, hn::Set(d16, 0x3F80)));
  }
};

template <Format kFormat>
constexpr size_t UnitColumns() {
  return kLanes * Unpack<kFormat>::kPositions;
}

/// Units of a row of K weights, the last perhaps partial.
template <Format kFormat>
constexpr size_t Units(size_t K) {
  return (K + UnitColumns<kFormat>() - 1) / UnitColumns<kFormat>();
}

/// Units from the first on that Load may read without passing the row's end.
template <Format kFormat>
HWY_INLINE size_t SafeUnits(size_t row_bytes) {
  using U = Unpack<kFormat>;
  return row_bytes < U::kReads ? 0 : (row_bytes - U::kReads) / U::kBytes + 1;
}

}  // namespace zmlx::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

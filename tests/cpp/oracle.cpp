#include "oracle.h"

#include <cmath>
#include <cstring>

#include "zmlx/zmlx.h"

namespace zmlx::testing {

namespace {

double fp4_value(unsigned code) {
  constexpr double kValues[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return (code & 8) ? -kValues[code & 7] : kValues[code & 7];
}

/// e4m3: bias 7, no infinities, 0x7F is NaN.
double e4m3_value(unsigned code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return NAN;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (code & 128) ? -magnitude : magnitude;
}

/// Bits [k * bits, (k + 1) * bits) of a row, a little-endian stream.
unsigned code_at(const uint8_t* row, int bits, int k) {
  unsigned code = 0;
  for (int b = 0; b < bits; ++b) {
    const int at = k * bits + b;
    code |= ((row[at / 8] >> (at % 8)) & 1u) << b;
  }
  return code;
}

std::vector<double> dequantize(const Format& f, const mx::array& w, const mx::array& scales,
                               const std::optional<mx::array>& biases) {
  const size_t rows = w.size() / w.shape(-1);
  const int K = w.shape(-1) * 32 / f.bits;
  const int groups = K / f.group_size;
  const auto affine_scales = f.mode == "affine" ? values_of(scales) : std::vector<double>{};
  const auto affine_biases = biases ? values_of(*biases) : std::vector<double>{};
  std::vector<double> values;
  values.reserve(rows * K);
  for (size_t row = 0; row < rows; ++row) {
    const auto* bytes = w.data<uint8_t>() + row * w.shape(-1) * 4;
    for (int k = 0; k < K; ++k) {
      const unsigned code = code_at(bytes, f.bits, k);
      const size_t g = row * groups + k / f.group_size;
      if (f.mode == "affine") {
        values.push_back(affine_scales[g] * code + affine_biases[g]);
        continue;
      }
      const unsigned scale_code = scales.data<uint8_t>()[g];
      const double scale = f.mode == "nvfp4" ? e4m3_value(scale_code)
                                             : std::ldexp(1.0, static_cast<int>(scale_code) - 127);
      values.push_back(scale * (f.bits == 4 ? fp4_value(code) : e4m3_value(code)));
    }
  }
  return values;
}

/// How far each value is from the nearest number of the type.
std::vector<double> rounding_errors(const std::vector<double>& values, mx::Dtype type) {
  const std::vector<float> floats(values.begin(), values.end());
  const auto rounded =
      values_of(mx::astype(mx::array(floats.begin(), {static_cast<int>(floats.size())}), type));
  std::vector<double> errors;
  for (size_t i = 0; i < values.size(); ++i) errors.push_back(std::abs(rounded[i] - values[i]));
  return errors;
}

}  // namespace

std::string name_of(const Format& f) {
  return f.mode + " " + std::to_string(f.bits) + " bits, groups of " + std::to_string(f.group_size);
}

std::vector<Format> all_formats() {
  std::vector<Format> formats;
  for (int bits : {1, 2, 3, 4, 5, 6, 8}) {
    for (int group_size : {32, 64, 128}) formats.push_back({"affine", bits, group_size});
  }
  formats.push_back({"mxfp4", 4, 32});
  formats.push_back({"mxfp8", 8, 32});
  formats.push_back({"nvfp4", 4, 16});
  return formats;
}

Weights Weights::as_float32() const {
  auto copy = *this;
  if (biases) {
    copy.scales = mx::astype(scales, mx::float32);
    copy.biases = mx::astype(*biases, mx::float32);
  }
  return copy;
}

Weights random_weights(const Format& f, int E, int N, int K, mx::Dtype type, uint64_t seed,
                       double scale) {
  auto dense = mx::random::normal({E, N, K}, mx::float32, mx::random::key(seed));
  dense = mx::multiply(dense, mx::array(static_cast<float>(scale)));
  auto parts = mx::quantize(dense, f.group_size, f.bits, f.mode);
  if (f.mode == "affine") {
    parts[1] = mx::astype(parts[1], type);
    parts[2] = mx::astype(parts[2], type);
  }
  for (auto& part : parts) part = mx::contiguous(part);
  mx::eval(parts);
  auto biases = f.mode == "affine" ? std::optional(parts[2]) : std::nullopt;
  auto values = dequantize(f, parts[0], parts[1], biases);
  return {f, E, N, K, parts[0], parts[1], biases, std::move(values)};
}

mx::array random_normal(const mx::Shape& shape, mx::Dtype type, uint64_t seed) {
  auto a = mx::astype(mx::random::normal(shape, mx::float32, mx::random::key(seed)), type);
  mx::eval(a);
  return a;
}

std::vector<double> values_of(const mx::array& a) {
  auto f = mx::contiguous(mx::astype(a, mx::float32));
  mx::eval(f);
  return std::vector<double>(f.data<float>(), f.data<float>() + f.size());
}

void expect_contract(const mx::array& out, const mx::array& reference,
                     const std::vector<double>& oracle, const std::vector<double>& terms,
                     const std::string& what) {
  const auto ours = values_of(out), theirs = values_of(reference);
  ASSERT_EQ(ours.size(), oracle.size()) << what;
  ASSERT_EQ(theirs.size(), oracle.size()) << what;
  constexpr double kEps = 0x1p-23;
  const auto rounding = rounding_errors(oracle, out.dtype());
  double our_square = 0, their_square = 0, rounding_square = 0, their_largest = 0;
  for (size_t i = 0; i < oracle.size(); ++i) {
    ASSERT_TRUE(std::isfinite(ours[i])) << what << ": output " << i << " is " << ours[i];
    our_square += std::pow(ours[i] - oracle[i], 2);
    their_square += std::pow(theirs[i] - oracle[i], 2);
    rounding_square += rounding[i] * rounding[i];
    their_largest = std::max(their_largest, std::abs(theirs[i] - oracle[i]));
  }
  const double n = static_cast<double>(oracle.size());
  const double ours_rms = std::sqrt(our_square / n), theirs_rms = std::sqrt(their_square / n);
  const double rounding_rms = std::sqrt(rounding_square / n);
  // No float32 result is nearer than its own last rounding, so that much is granted in float32 too.
  EXPECT_LE(ours_rms, out.dtype() == mx::float32 ? std::max(theirs_rms, rounding_rms)
                                                 : theirs_rms + rounding_rms)
      << what;
  for (size_t i = 0; i < oracle.size(); ++i) {
    double allowed = std::max(1.5 * their_largest, 4 * kEps * terms[i]);
    if (out.dtype() != mx::float32) {
      // Half a unit in the last place of what is rounded, subnormals included.
      const bool bf16 = out.dtype() == mx::bfloat16;
      allowed += (std::abs(oracle[i]) + allowed) * (bf16 ? 0x1p-8 : 0x1p-11) + (bf16 ? 0 : 0x1p-25);
    }
    ASSERT_LE(std::abs(ours[i] - oracle[i]), allowed) << what << ": output " << i;
  }
}

void for_each_target(const std::function<void(const std::string&)>& f) {
  for (const auto& target : zmlx::cpu_targets()) {
    zmlx::set_cpu_target(target);
    f(target);
  }
  zmlx::set_cpu_target("");
}

::testing::AssertionResult throws_invalid(const std::function<void()>& f,
                                          const std::vector<std::string>& parts) {
  try {
    f();
  } catch (const std::invalid_argument& e) {
    for (const auto& part : parts) {
      if (!std::strstr(e.what(), part.c_str())) {
        return ::testing::AssertionFailure()
               << "'" << e.what() << "' does not say '" << part << "'";
      }
    }
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << "nothing was thrown";
}

}  // namespace zmlx::testing

// Copyright © 2026 Apple Inc.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "mlx/backend/cpu/expert_product.h"
#include "mlx/backend/cpu/lanes.h"

namespace mlx::core::cpu {

namespace {

// Rows of one expert from which its weights are dequantized once for all.
constexpr size_t many_rows = 5;

// Consecutive weights that a lane holds: those of a word or of whole bytes.
constexpr int positions(Format format) {
  switch (format) {
    case Format::affine3:
      return 8;
    case Format::affine5:
    case Format::affine6:
      return 4;
    case Format::fp8:
      return 32 / num_lanes;
    default:
      return 32 / bits_of(format);
  }
}

// How a row of weights is cut: a unit is num_lanes times positions columns.
struct Layout {
  explicit Layout(Format format, size_t K)
      : format(format),
        columns(num_lanes * positions(format)),
        units((K + columns - 1) / columns) {}

  // The column of a place in the order of unpacking.
  size_t column(size_t unit, int position, int lane) const {
    const int in_unit = format == Format::fp8
        ? position * num_lanes + lane
        : lane * positions(format) + position;
    return unit * columns + in_unit;
  }

  Format format;
  size_t columns, units;
};

// The float32 that each code stands for.
template <Format format>
const float* values_of_codes() {
  static const auto values = [] {
    std::vector<float> values;
    for (int code = 0; code < 256; ++code) {
      if (format == Format::fp8) {
        const auto byte = static_cast<uint8_t>(code);
        values.push_back(float_from(&byte, Scalar::e4m3));
      } else {
        constexpr float fp4[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
        values.push_back(code & 8 ? -fp4[code & 7] : fp4[code & 7]);
      }
    }
    return values;
  }();
  return values.data();
}

// Rows of weights as float32 codes, with a scale and a bias for each lane of
// each unit.
template <Format format>
class WeightRow {
 public:
  WeightRow(const Experts& experts, const Layout& layout)
      : codes(layout.units * layout.columns),
        scales(layout.units * num_lanes),
        biases(is_affine(format) ? scales.size() : 0),
        experts_(experts),
        packed_(codes.size() * bits / 8 + sizeof(uint32_t)),
        group_of_lane_(scales.size()),
        groups_(experts.groups() + 1) {
    for (size_t at = 0; at < scales.size(); ++at) {
      const size_t unit = at / num_lanes;
      const int lane = static_cast<int>(at % num_lanes);
      const size_t group = layout.column(unit, 0, lane) / experts.group_size;
      // Beyond the row, a group whose scale and bias are 0.
      group_of_lane_[at] = std::min(group, experts.groups());
    }
  }

  void load(uint32_t expert, size_t n) {
    std::copy_n(experts_.row(expert, n), experts_.row_bytes(), packed_.data());
    const uint8_t* from = packed_.data();
    float* to = codes.data();
    for (; to < codes.data() + codes.size(); to += count * num_lanes) {
      unpack(from, to);
      from += count * num_lanes * bits / 8;
    }
    load_groups(experts_.scales, expert, n, scales);
    if constexpr (is_affine(format)) {
      load_groups(experts_.biases, expert, n, biases);
    }
  }

  std::vector<float> codes, scales, biases;

 private:
  static constexpr int bits = bits_of(format), count = positions(format);

  // One unit.
  static void unpack(const uint8_t* from, float* to) {
    if constexpr (format == Format::fp8) {
      for (int i = 0; i < count * num_lanes; ++i) {
        to[i] = values_of_codes<format>()[from[i]];
      }
    } else {
      uint32_t words[num_lanes];
      for (int lane = 0; lane < num_lanes; ++lane) {
        const int bit = lane * count * bits;
        std::memcpy(&words[lane], from + bit / 8, sizeof(uint32_t));
        words[lane] >>= bit % 8;
      }
      for (int i = 0; i < count; ++i) {
        for (int lane = 0; lane < num_lanes; ++lane) {
          const auto code = static_cast<int32_t>(
              words[lane] >> (bits * i) & ((1u << bits) - 1));
          to[i * num_lanes + lane] = is_affine(format)
              ? static_cast<float>(code)
              : values_of_codes<format>()[code];
        }
      }
    }
  }

  void load_groups(
      const Table& table,
      uint32_t expert,
      size_t n,
      std::vector<float>& to) {
    const auto* from = static_cast<const uint8_t*>(table.row(expert, n));
    for (size_t g = 0; g < experts_.groups(); ++g) {
      groups_[g] = float_from(from + g * size_of(table.type), table.type);
    }
    for (size_t at = 0; at < to.size(); ++at) {
      to[at] = groups_[group_of_lane_[at]];
    }
  }

  const Experts& experts_;
  std::vector<uint8_t> packed_;
  std::vector<size_t> group_of_lane_;
  std::vector<float> groups_;
};

// Sums of every other unit apart where lanes are few: long sums lose digits.
constexpr int num_chains = num_lanes == 4 ? 2 : 1;

float chains_sum(const Lanes (&chains)[num_chains]) {
  if constexpr (num_chains == 2) {
    return (chains[0] + chains[1]).sum();
  } else {
    return chains[0].sum();
  }
}

// Scale and bias are applied to the sums of a unit.
template <Format format>
float factored_dot(
    const WeightRow<format>& w,
    const float* x,
    const float* sums,
    size_t units) {
  Lanes chains[num_chains];
  std::fill_n(chains, num_chains, Lanes::zero());
  const float* q = w.codes.data();
  for (size_t unit = 0; unit < units; ++unit) {
    auto product = Lanes::load(q) * Lanes::load(x);
    for (int i = 1; i < positions(format); ++i) {
      product = mul_add(
          Lanes::load(q + i * num_lanes),
          Lanes::load(x + i * num_lanes),
          product);
    }
    auto& chain = chains[unit % num_chains];
    const size_t at = unit * num_lanes;
    chain = mul_add(Lanes::load(&w.scales[at]), product, chain);
    if constexpr (is_affine(format)) {
      chain = mul_add(Lanes::load(&w.biases[at]), Lanes::load(sums + at), chain);
    }
    q += positions(format) * num_lanes;
    x += positions(format) * num_lanes;
  }
  return chains_sum(chains);
}

template <Format format>
void dequantize(WeightRow<format>& w, size_t units) {
  float* q = w.codes.data();
  for (size_t unit = 0; unit < units; ++unit) {
    const auto scale = Lanes::load(&w.scales[unit * num_lanes]);
    for (int i = 0; i < positions(format); ++i, q += num_lanes) {
      if constexpr (is_affine(format)) {
        const auto bias = Lanes::load(&w.biases[unit * num_lanes]);
        mul_add(Lanes::load(q), scale, bias).store(q);
      } else {
        (Lanes::load(q) * scale).store(q);
      }
    }
  }
}

// Of dequantized weights, with a sum of its own for each unit.
template <Format format>
float weightwise_dot(const float* w, const float* x, size_t units) {
  Lanes chains[num_chains];
  std::fill_n(chains, num_chains, Lanes::zero());
  for (size_t unit = 0; unit < units; ++unit) {
    auto sum = Lanes::zero();
    for (int i = 0; i < positions(format); ++i) {
      sum = mul_add(Lanes::load(w), Lanes::load(x), sum);
      w += num_lanes;
      x += num_lanes;
    }
    chains[unit % num_chains] = chains[unit % num_chains] + sum;
  }
  return chains_sum(chains);
}

// Of dequantized weights, with a sum of its own for each block of columns.
template <Format format>
float blockwise_dot(
    const float* w,
    const float* x,
    size_t group_size,
    size_t K,
    size_t columns) {
  size_t block = 512;
  if constexpr (!is_affine(format)) {
    block = std::min<size_t>(block, group_size * num_lanes);
    if (num_lanes == 4 || K <= block) {
      block /= 2;
    }
  }
  auto total = Lanes::zero();
  for (size_t begin = 0; begin < columns; begin += block) {
    const size_t end = std::min(columns, begin + block);
    auto sum = Lanes::zero();
    for (size_t k = begin; k < end; k += num_lanes) {
      sum = mul_add(Lanes::load(w + k), Lanes::load(x + k), sum);
    }
    total = total + sum;
  }
  return total.sum();
}

// Sums of unsigned codes are longer than sums of weights. For affine formats
// they pay from this many columns on.
template <Format format>
constexpr size_t factored_columns() {
  return !is_affine(format) ? 0 : bits_of(format) <= 2 ? 4096 : 1024;
}

template <Format format>
void product(
    const Experts& experts,
    uint32_t expert,
    const PreparedRows& x,
    float* y) {
  const Layout layout(format, experts.K);
  const size_t columns = layout.units * layout.columns;
  const size_t lanes = layout.units * num_lanes;
  const bool many = x.rows >= many_rows;
  const bool factored =
      !many && x.finite && experts.K >= factored_columns<format>();
  WeightRow<format> w(experts, layout);
  for (size_t n = 0; n < experts.N; ++n) {
    w.load(expert, n);
    if (!factored) {
      dequantize<format>(w, layout.units);
    }
    const auto* bias = static_cast<const uint8_t*>(experts.bias.data);
    if (bias) {
      bias = static_cast<const uint8_t*>(experts.bias.row(expert, 0)) +
          n * experts.bias.row_stride * size_of(experts.bias.type);
    }
    for (size_t t = 0; t < x.rows; ++t) {
      const float* values = x.values.data() + t * x.stride;
      float& out = y[t * experts.N + n];
      if (many) {
        out = blockwise_dot<format>(
            w.codes.data(), values, experts.group_size, experts.K, columns);
      } else if (factored) {
        out = factored_dot<format>(
            w, values, x.sums.data() + t * lanes, layout.units);
      } else {
        out = weightwise_dot<format>(w.codes.data(), values, layout.units);
      }
      if (bias) {
        out += float_from(bias, experts.bias.type);
      }
    }
  }
}

} // namespace

PreparedRows::PreparedRows(
    const Activations& x,
    const Experts& experts,
    const uint32_t* pairs,
    size_t count)
    : rows(count) {
  const Layout layout(experts.format, experts.K);
  stride = layout.units * layout.columns;
  values.assign(rows * stride, 0.0f);
  sums.assign(rows * layout.units * num_lanes, 0.0f);
  const int num_positions = positions(experts.format);
  std::vector<float> plain(stride, 0.0f);
  for (size_t t = 0; t < rows; ++t) {
    const auto* row = static_cast<const uint8_t*>(x.row(pairs[t], experts.K));
    for (size_t k = 0; k < experts.K; ++k) {
      plain[k] = float_from(row + k * size_of(x.type), x.type);
      finite &= std::isfinite(plain[k]);
    }
    float* to = values.data() + t * stride;
    for (size_t unit = 0; unit < layout.units; ++unit) {
      for (int i = 0; i < num_positions; ++i) {
        for (int lane = 0; lane < num_lanes; ++lane) {
          *to++ = plain[layout.column(unit, i, lane)];
        }
      }
      for (int lane = 0; lane < num_lanes; ++lane) {
        double sum = 0;
        for (int i = 0; i < num_positions; ++i) {
          sum += plain[layout.column(unit, i, lane)];
        }
        sums[(t * layout.units + unit) * num_lanes + lane] =
            static_cast<float>(sum);
      }
    }
  }
}

void expert_product(
    const Experts& experts,
    uint32_t expert,
    const PreparedRows& x,
    float* y) {
  switch (experts.format) {
    case Format::affine1:
      return product<Format::affine1>(experts, expert, x, y);
    case Format::affine2:
      return product<Format::affine2>(experts, expert, x, y);
    case Format::affine3:
      return product<Format::affine3>(experts, expert, x, y);
    case Format::affine4:
      return product<Format::affine4>(experts, expert, x, y);
    case Format::affine5:
      return product<Format::affine5>(experts, expert, x, y);
    case Format::affine6:
      return product<Format::affine6>(experts, expert, x, y);
    case Format::affine8:
      return product<Format::affine8>(experts, expert, x, y);
    case Format::fp4:
      return product<Format::fp4>(experts, expert, x, y);
    case Format::fp8:
      return product<Format::fp8>(experts, expert, x, y);
  }
}

} // namespace mlx::core::cpu

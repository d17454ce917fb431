#include <gtest/gtest.h>

#include <cmath>

#include "oracle.h"
#include "zmlx/zmlx.h"

namespace zmlx::testing {
namespace {

/// A layer's gate and up projections, rows of activations and their experts.
struct Case {
  Weights gate, up;
  std::optional<mx::array> gate_bias, up_bias;
  mx::array x;        ///< (M, 1, 1, D)
  mx::array experts;  ///< (M, K)
  std::string activation = "swiglu";

  mx::array fused() const {
    const auto& f = gate.format;
    return fast::gather_qmm_swiglu(x, gate.w, gate.scales, gate.biases, up.w, up.scales, up.biases,
                                   std::nullopt, experts, true, f.group_size, f.bits, f.mode,
                                   activation, 1.702f, 7.0f, gate_bias, up_bias);
  }
  Case as_float32() const {
    const auto wide = [](const std::optional<mx::array>& a) {
      return a ? std::optional(mx::astype(*a, mx::float32)) : std::nullopt;
    };
    return {gate.as_float32(),          up.as_float32(), wide(gate_bias), wide(up_bias),
            mx::astype(x, mx::float32), experts,         activation};
  }
  mx::array composed() const;
};

/// MLX's own ops, as mlx-lm's SwitchGLU runs them.
mx::array Case::composed() const {
  const auto product = [&](const Weights& w, const std::optional<mx::array>& bias) {
    auto y = mx::gather_qmm(x, w.w, w.scales, w.biases, std::nullopt, experts, true,
                            w.format.group_size, w.format.bits, w.format.mode);
    return bias ? mx::add(y, mx::expand_dims(mx::take(*bias, experts, 0), -2)) : y;
  };
  auto g = product(gate, gate_bias), u = product(up, up_bias);
  const auto constant = [](float v) { return mx::array(v); };
  if (activation == "swiglu") return mx::multiply(mx::multiply(g, mx::sigmoid(g)), u);
  if (activation == "geglu") {
    const auto z =
        mx::multiply(constant(std::sqrt(2 / M_PI)),
                     mx::add(g, mx::multiply(constant(0.044715), mx::power(g, constant(3)))));
    return mx::multiply(
        mx::multiply(mx::multiply(constant(0.5), g), mx::add(constant(1), mx::tanh(z))), u);
  }
  g = mx::minimum(g, constant(7));
  u = mx::clip(u, constant(-7), constant(7));
  return mx::multiply(mx::add(u, constant(1)),
                      mx::multiply(g, mx::sigmoid(mx::multiply(constant(1.702), g))));
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double activate(const std::string& name, double g, double u) {
  if (name == "swiglu") return g * sigmoid(g) * u;
  if (name == "geglu") {
    return 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * u;
  }
  g = std::min(g, 7.0);
  u = std::clamp(u, -7.0, 7.0);
  return (u + 1) * g * sigmoid(1.702 * g);
}

void check(const Case& c, const std::string& what) {
  const auto rows = values_of(c.x);
  const auto experts = values_of(c.experts);
  const auto gate_bias = c.gate_bias ? values_of(*c.gate_bias) : std::vector<double>{};
  const auto up_bias = c.up_bias ? values_of(*c.up_bias) : std::vector<double>{};
  const int D = c.gate.K, H = c.gate.N, top_k = c.experts.shape(-1);
  std::vector<double> oracle, terms;
  for (size_t p = 0; p < experts.size(); ++p) {
    const int e = static_cast<int>(experts[p]);
    const double* x = rows.data() + p / top_k * D;
    for (int n = 0; n < H; ++n) {
      double g = 0, u = 0, g_terms = 0, u_terms = 0;
      for (int k = 0; k < D; ++k) {
        g += x[k] * c.gate.at(e, n, k);
        u += x[k] * c.up.at(e, n, k);
        g_terms += std::abs(x[k] * c.gate.at(e, n, k));
        u_terms += std::abs(x[k] * c.up.at(e, n, k));
      }
      if (c.gate_bias) g += gate_bias[e * H + n];
      if (c.up_bias) u += up_bias[e * H + n];
      oracle.push_back(activate(c.activation, g, u));
      terms.push_back((g_terms + std::abs(g)) * (u_terms + std::abs(u) + 1));
    }
  }
  expect_contract(c.fused(), c.as_float32().composed(), oracle, terms, what);
}

mx::array random_experts(int M, int top_k, int E, uint64_t seed) {
  auto a = mx::astype(mx::random::randint(0, E, {M, top_k}, mx::int32, mx::random::key(seed)),
                      mx::uint32);
  mx::eval(a);
  return a;
}

Case random_case(const Format& format, int E, int H, int D, int M, int top_k, mx::Dtype type,
                 uint64_t seed) {
  // Products of magnitude 1, so that activations are exercised where they bend.
  const double scale = 1 / std::sqrt(D);
  return {random_weights(format, E, H, D, type, seed, scale),
          random_weights(format, E, H, D, type, seed + 1, scale),
          std::nullopt,
          std::nullopt,
          random_normal({M, 1, 1, D}, type, seed + 2),
          random_experts(M, top_k, E, seed + 3)};
}

TEST(GatherQmmSwiglu, KeepsTheContractForEveryFormat) {
  for_each_target([](const std::string& target) {
    uint64_t seed = 1;
    for (const auto& format : all_formats()) {
      for (auto type : {mx::float32, mx::float16, mx::bfloat16}) {
        for (int M : token_counts({1, 20, 6})) {
          // Enough outputs that root mean squares mean something.
          const int H = M == 1 ? 1025 : 257;
          const auto c = random_case(format, 5, H, 256, M, 3, type, seed += 10);
          check(c, target + ", " + name_of(format) + ", M " + std::to_string(M) + ", type " +
                       std::to_string(static_cast<int>(type.size())));
        }
      }
    }
  });
}

TEST(GatherQmmSwiglu, EveryActivationWithAndWithoutBias) {
  for_each_target([](const std::string& target) {
    uint64_t seed = 500;
    for (const char* activation : {"swiglu", "geglu", "swiglu_clamped"}) {
      for (bool bias : {false, true}) {
        for (auto type : {mx::float32, mx::bfloat16}) {
          auto c = random_case({"mxfp4", 4, 32}, 4, 597, 256, 7, 2, type, seed += 10);
          c.activation = activation;
          // Wide enough that some values are clamped.
          c.x = mx::multiply(c.x, mx::array(4.0f, type));
          if (bias) c.gate_bias = random_normal({4, 597}, type, seed + 5);
          if (bias) c.up_bias = random_normal({4, 597}, type, seed + 6);
          check(c, target + ", " + activation + (bias ? " with bias" : ""));
        }
      }
    }
  });
}

TEST(GatherQmmSwiglu, OneExpertForAllAndRepeatedExperts) {
  for_each_target([](const std::string& target) {
    for (int M : {1, 40, 300}) {
      auto c = random_case({"affine", 4, 64}, 6, 66, 128, M, 4, mx::bfloat16, 700 + M);
      c.experts = mx::full({M, 4}, 5, mx::uint32);
      check(c, target + ", one expert for all, M " + std::to_string(M));
    }
  });
}

TEST(GatherQmmSwiglu, ExpertsThatDoNotExistGiveNan) {
  for (auto type : {mx::float32, mx::float16, mx::bfloat16}) {
    auto c = random_case({"affine", 4, 64}, 4, 33, 128, 3, 2, type, 900);
    const auto good = values_of(c.fused());
    const std::vector<int32_t> experts = {0, 4, 3, -1, 1 << 30, 2};
    const auto valid = values_of(c.experts);
    c.experts = mx::array(experts.begin(), {3, 2}, mx::int32);
    const auto out = c.fused();
    const auto values = values_of(out);
    for (size_t p = 0; p < experts.size(); ++p) {
      const bool exists = experts[p] >= 0 && experts[p] < 4;
      for (int n = 0; n < 33; ++n) ASSERT_EQ(std::isnan(values[p * 33 + n]), !exists) << p;
    }
  }
}

TEST(GatherQmmSwiglu, FallbackGivesNanForExpertsThatDoNotExistToo) {
  auto c = random_case({"affine", 4, 64}, 4, 33, 128, 2, 2, mx::float32, 910);
  c.experts = mx::array({0, 4, 7, 1}, {2, 2}, mx::uint32);
  std::optional<mx::array> out;
  const auto paths = explain([&] {
    // Two rows per index have no kernel.
    out = fast::gather_qmm_swiglu(mx::broadcast_to(c.x, {2, 1, 2, 128}), c.gate.w, c.gate.scales,
                                  c.gate.biases, c.up.w, c.up.scales, c.up.biases, std::nullopt,
                                  c.experts);
  });
  ASSERT_EQ(paths.size(), 1u);
  EXPECT_EQ(paths[0].path, "fallback");
  const auto values = values_of(*out);
  const auto ours = values_of(c.fused());
  for (size_t p = 0; p < 4; ++p) {
    for (int n = 0; n < 33; ++n) {
      const double value = values[p * 66 + n];
      if (p == 1 || p == 2) {
        ASSERT_TRUE(std::isnan(value));
      } else {
        ASSERT_NEAR(value, ours[p * 33 + n], 1e-5);
      }
    }
  }
}

TEST(GatherQmmSwiglu, IndicesBroadcastAsInGatherQmm) {
  const auto c = random_case({"affine", 4, 64}, 4, 40, 128, 6, 1, mx::float32, 920);
  const auto call = [&](const mx::array& x, std::optional<mx::array> lhs,
                        std::optional<mx::array> rhs) {
    return fast::gather_qmm_swiglu(x, c.gate.w, c.gate.scales, c.gate.biases, c.up.w, c.up.scales,
                                   c.up.biases, lhs, rhs);
  };
  const auto expected = [&](const mx::array& x, std::optional<mx::array> lhs,
                            std::optional<mx::array> rhs) {
    const auto product = [&](const Weights& w) {
      return mx::gather_qmm(x, w.w, w.scales, w.biases, lhs, rhs, true, 64, 4);
    };
    const auto g = product(c.gate);
    return mx::multiply(mx::multiply(g, mx::sigmoid(g)), product(c.up));
  };
  const auto x = random_normal({6, 1, 128}, mx::float32, 921);
  const auto by_batch = mx::reshape(x, {2, 3, 1, 128});
  const auto rhs = mx::array({0, 3, 1}, mx::uint32);
  const auto lhs = mx::array({5, 0, 5, 2}, {4, 1}, mx::uint32);
  const auto same = [&](const mx::array& x, std::optional<mx::array> l,
                        std::optional<mx::array> r) {
    const auto ours = call(x, l, r), theirs = expected(x, l, r);
    return ours.shape() == theirs.shape() && mx::allclose(ours, theirs, 1e-5, 1e-5).item<bool>();
  };
  EXPECT_TRUE(same(by_batch, std::nullopt, rhs));
  EXPECT_TRUE(same(x, lhs, rhs));
  EXPECT_TRUE(same(by_batch, lhs, mx::array({0, 2, 1, 3}, mx::int32)));
  EXPECT_TRUE(same(mx::slice(x, {0, 0, 0}, {4, 1, 128}), std::nullopt, std::nullopt));
  EXPECT_TRUE(same(x, mx::array({1, 0, 5, 3}, mx::uint32), std::nullopt));
  // No tokens at all.
  EXPECT_EQ(call(mx::zeros({0, 1, 1, 128}), std::nullopt, mx::zeros({0, 3}, mx::uint32)).shape(),
            (mx::Shape{0, 3, 1, 40}));
  // Rows that are not contiguous, as after a transpose.
  const auto strided = mx::swapaxes(random_normal({6, 128, 1}, mx::float32, 922), 1, 2);
  EXPECT_TRUE(same(strided, lhs, rhs));
}

TEST(GatherQmmSwiglu, SlicedWeightsAreNotCopied) {
  // Gate and up as halves of one table, which some checkpoints hold fused.
  const auto both = random_weights({"affine", 4, 64}, 3, 80, 128, mx::float32, 930);
  const auto half = [](const mx::array& a, int i) {
    return mx::slice(a, {0, 40 * i, 0}, {3, 40 * (i + 1), a.shape(2)});
  };
  const auto x = random_normal({5, 1, 1, 128}, mx::float32, 931);
  const auto experts = random_experts(5, 2, 3, 932);
  const auto call = [&](const auto& view) {
    return fast::gather_qmm_swiglu(x, view(both.w, 0), view(both.scales, 0), view(*both.biases, 0),
                                   view(both.w, 1), view(both.scales, 1), view(*both.biases, 1),
                                   std::nullopt, experts);
  };
  const auto copied = call([&](const mx::array& a, int i) { return mx::contiguous(half(a, i)); });
  EXPECT_TRUE(mx::array_equal(call(half), copied).item<bool>());
}

TEST(GatherQmmSwiglu, SameBitsForOneTokenAloneOrInCompany) {
  // Which rows share a call must not depend on the number of threads.
  const auto c = random_case({"affine", 4, 64}, 8, 130, 1024, 64, 2, mx::bfloat16, 940);
  const int threads = num_threads();
  set_num_threads(1);
  const auto one = c.fused();
  mx::eval(one);
  set_num_threads(std::max(2, threads));
  EXPECT_TRUE(mx::array_equal(one, c.fused()).item<bool>());
  set_num_threads(threads);
}

TEST(GatherQmmSwiglu, DerivativesAndVmap) {
  const auto c = random_case({"affine", 4, 64}, 4, 40, 128, 3, 2, mx::float32, 950);
  const auto with = [&](const mx::array& x, const mx::array& scales, const mx::array& biases) {
    auto copy = c;
    copy.x = x;
    copy.gate.scales = scales;
    copy.gate.biases = biases;
    return copy;
  };
  const auto gradients = [&](bool fused) {
    return mx::grad(
        [&](const std::vector<mx::array>& v) {
          const auto copy = with(v[0], v[1], v[2]);
          return mx::sum(mx::square(fused ? copy.fused() : copy.composed()));
        },
        std::vector<int>{0, 1, 2})({c.x, c.gate.scales, *c.gate.biases});
  };
  const auto ours = gradients(true), theirs = gradients(false);
  for (size_t i = 0; i < ours.size(); ++i) {
    EXPECT_TRUE(mx::allclose(ours[i], theirs[i], 1e-4, 1e-5).item<bool>()) << i;
  }

  const auto call = [&](const mx::array& x, const mx::array& experts) {
    auto copy = c;
    copy.x = x;
    copy.experts = experts;
    return copy.fused();
  };
  // Mapped over the tokens: x and indices, x alone, indices alone.
  const auto all = c.fused();
  EXPECT_TRUE(mx::allclose(mx::vmap(call, 0, 0, 0)(c.x, c.experts), all, 1e-5, 1e-5).item<bool>());
  const auto first = mx::slice(c.experts, {0, 0}, {1, 2});
  EXPECT_TRUE(mx::allclose(mx::vmap(call, 0, -1, 0)(c.x, first),
                           mx::expand_dims(call(c.x, first), 1), 1e-5, 1e-5)
                  .item<bool>());
  EXPECT_TRUE(throws_invalid(
      [&] {
        mx::vmap([&](const mx::array& s) { return with(c.x, s, *c.gate.biases).fused(); })(
            mx::broadcast_to(c.gate.scales, {2, 4, 40, 2}));
      },
      {"[gather_qmm_swiglu]", "vmap"}));
  EXPECT_TRUE(throws_invalid(
      [&] {
        mx::jvp([&](const mx::array& x) { return call(x, c.experts); }, c.x, mx::ones_like(c.x));
      },
      {"[gather_qmm_swiglu]", "jvp"}));
}

TEST(GatherQmmSwiglu, RefusesWhatDoesNotFit) {
  const auto c = random_case({"affine", 4, 64}, 4, 40, 128, 3, 2, mx::float32, 960);
  const auto call = [&](const mx::array& x, const mx::array& scales, const std::string& mode,
                        const std::string& activation, const mx::array& experts) {
    fast::gather_qmm_swiglu(x, c.gate.w, scales, c.gate.biases, c.up.w, c.up.scales, c.up.biases,
                            std::nullopt, experts, true, std::nullopt, std::nullopt, mode,
                            activation);
  };
  const auto& s = c.gate.scales;
  const char* op = "[gather_qmm_swiglu]";
  EXPECT_TRUE(
      throws_invalid([&] { call(mx::zeros({3, 1, 1, 64}), s, "affine", "swiglu", c.experts); },
                     {op, "x", "(3,1,1,64)", "(4,40,16)"}));
  EXPECT_TRUE(
      throws_invalid([&] { call(c.x, mx::zeros({4, 40, 3}), "affine", "swiglu", c.experts); },
                     {op, "gate_scales", "(4,40,3)"}));
  EXPECT_TRUE(throws_invalid([&] { call(c.x, s, "int4", "swiglu", c.experts); }, {op, "int4"}));
  EXPECT_TRUE(throws_invalid([&] { call(c.x, s, "affine", "relu", c.experts); }, {op, "relu"}));
  EXPECT_TRUE(throws_invalid([&] { call(c.x, s, "affine", "swiglu", mx::zeros({3, 2})); },
                             {op, "rhs_indices", "integers"}));
  EXPECT_TRUE(throws_invalid(
      [&] { call(mx::zeros({3, 1, 1, 128}, mx::int32), s, "affine", "swiglu", c.experts); },
      {op, "x must be a float"}));
}

}  // namespace
}  // namespace zmlx::testing

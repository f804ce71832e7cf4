// The weights that kernels know, by plain formulas: for the tests of single kernels.
#pragma once

#include <array>
#include <cmath>
#include <vector>

#include "csq/detail/simd/kernel_set.hpp"
#include "real.hpp"

// w(s) and w'(s); for the exponential s is in units of ln 2, relative to the log-normaliser, and w' is w.
struct PlainWeight {
  const char* name;
  csq::detail::simd::KernelWeight kernel;

  Real of(Real s) const { return (*this)(s)[0]; }

  std::array<Real, 2> operator()(Real s) const {
    Real weight = 0, slope = 0;
    using csq::detail::WeightKind;
    switch (kernel.kind) {
      case WeightKind::exponential:
        return {std::exp2(s), std::exp2(s)};
      case WeightKind::quadratic: {
        const Real t = s + kernel.offset;
        return {kernel.c0 + kernel.c1 * t + kernel.c2 * t * t, kernel.c1 + 2 * kernel.c2 * t};
      }
      case WeightKind::power_series:
        for (csq::detail::Index t = 0; t < kernel.coefficient_count; ++t) {
          weight += kernel.coefficients[t] * std::pow(s, Real(t));
          if (t > 0) slope += kernel.coefficients[t] * Real(t) * std::pow(s, Real(t - 1));
        }
        return {weight, slope};
      case WeightKind::chebyshev_square: {
        const Real angle = std::acos(s / kernel.radius);  // inside [−1, 1] in these tests
        for (csq::detail::Index t = 0; t < kernel.coefficient_count; ++t) {
          weight += kernel.coefficients[t] * std::cos(Real(t) * angle);
          slope += kernel.coefficients[t] * Real(t) * std::sin(Real(t) * angle) / std::sin(angle) / kernel.radius;
        }
        return {weight * weight + kernel.floor, 2 * weight * slope};
      }
      case WeightKind::bound: {
        const Real excess = std::abs(s) - kernel.radius;
        if (excess <= 0) return {0, 0};
        return {excess * excess, s > 0 ? 2 * excess : -2 * excess};
      }
      case WeightKind::feature_product:
        return {s, 1};
    }
    return {};
  }
};

inline const std::vector<double> series{2, 0.25, 0.5, 0, 0.03};  // positive, with little cancellation

// Those of the mechanisms and, where gradients are asked for, of the penalty.
inline std::vector<PlainWeight> plain_weights(bool with_penalty = false) {
  using csq::detail::WeightKind;
  std::vector<PlainWeight> weights(with_penalty ? 5 : 4);
  weights[0].name = "exponential";
  weights[0].kernel.kind = WeightKind::exponential;
  weights[1].name = "quadratic";
  weights[1].kernel.kind = WeightKind::quadratic;
  weights[1].kernel.offset = 1.5;
  weights[1].kernel.c0 = 0.25;
  weights[1].kernel.c2 = 2;
  weights[2].name = "power series";
  weights[2].kernel.kind = WeightKind::power_series;
  weights[3].name = "chebyshev square";
  weights[3].kernel.kind = WeightKind::chebyshev_square;
  weights[3].kernel.radius = 40;
  weights[3].kernel.floor = 0.125;
  if (with_penalty) {
    weights[4].name = "bound";
    weights[4].kernel.kind = WeightKind::bound;
    weights[4].kernel.radius = 1;
  }
  for (PlainWeight& weight : weights) {
    weight.kernel.coefficients = series.data();
    weight.kernel.coefficient_count = static_cast<csq::detail::Index>(series.size());
  }
  return weights;
}

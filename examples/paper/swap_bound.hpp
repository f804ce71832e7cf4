// The same-depth replacement of exp by a positive polynomial (theorem 5.5):
//
//   P = r² + floor, r the Chebyshev series of e^{x/2} on [−R, R] cut after degree/2
//   sup‖o_exp − o_P‖ ≤ 4e^R·B_V·η      for |s| ≤ R, |P − exp| ≤ η ≤ e^{−R}/2 there, B_V = max_j ‖v_j‖
//
// The polynomial is csq's mechanism PositivePolynomial. Everything is in double. Source: "The d² Pullback Theorem: Why
// Attention is a d²-Dimensional Problem" (2026).
#pragma once

#include <algorithm>
#include <cmath>
#include <csq/mechanism.hpp>
#include <numbers>

namespace paper {

// P = r² + floor of the given even degree, r the Chebyshev series of e^{x/2} on [−radius, radius] cut after degree/2,
// its coefficients by the discrete cosine sum at many more nodes than it keeps.
inline csq::PositivePolynomial exponential_polynomial(int degree, double radius, double floor = 1e-12) {
  const int kept = degree / 2 + 1, nodes = 4 * kept + 8 * static_cast<int>(std::ceil(radius)) + 32;
  csq::PositivePolynomial polynomial{{}, radius, floor};
  for (int t = 0; t < kept; ++t) {
    double sum = 0;
    for (int node = 0; node < nodes; ++node) {
      const double angle = std::numbers::pi * (node + 0.5) / nodes;
      sum += std::exp(radius / 2 * std::cos(angle)) * std::cos(t * angle);
    }
    polynomial.root.push_back((t == 0 ? 1 : 2) * sum / nodes);
  }
  return polynomial;
}

// P(s), by Clenshaw's recurrence.
inline double value_at(const csq::PositivePolynomial& polynomial, double s) {
  const double x = s / polynomial.radius;
  double b1 = 0, b2 = 0;
  for (std::size_t t = polynomial.root.size() - 1; t > 0; --t) {
    const double b0 = polynomial.root[t] + 2 * x * b1 - b2;
    b2 = b1;
    b1 = b0;
  }
  const double r = polynomial.root[0] + x * b1 - b2;
  return r * r + polynomial.floor;
}

// η = sup|P − exp| on [−radius, radius], on an even grid that holds both ends.
inline double exponential_error(const csq::PositivePolynomial& polynomial) {
  constexpr int steps = 20000;
  double largest = 0;
  for (int i = 0; i <= steps; ++i) {
    const double s = polynomial.radius * (2.0 * i / steps - 1);
    largest = std::max(largest, std::abs(value_at(polynomial, s) - std::exp(s)));
  }
  return largest;
}

struct SwapBound {
  double error = 0;         // η
  double bound = 0;         // 4e^R·B_V·η
  bool applicable = false;  // η ≤ e^{−R}/2; otherwise the theorem says nothing
};

// `largest_value` is B_V = max_j ‖v_j‖; the polynomial's radius is R.
inline SwapBound swap_bound(const csq::PositivePolynomial& polynomial, double largest_value) {
  const double error = exponential_error(polynomial), radius = polynomial.radius;
  return {error, 4 * std::exp(radius) * largest_value * error, error <= std::exp(-radius) / 2};
}

}  // namespace paper

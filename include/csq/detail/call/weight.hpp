// What the engines see of a mechanism.
#pragma once

#include <span>

#include "csq/detail/base/arithmetic.hpp"
#include "csq/detail/base/weight_kind.hpp"
#include "csq/mechanism.hpp"

namespace CSQ_CODE::detail {

// What the engines see. Quadratic weights are kept
// as completed squares, c2·(s+h)² + rest: evaluating c0 + c1·s + c2·s² near its minimum would cancel, and could turn
// out negative.
struct Weight {
  using Kind = WeightKind;

  Kind kind = Kind::quadratic;
  Quadratic quadratic{};                 // quadratic
  std::span<const double> coefficients;  // power_series, chebyshev_square
  double radius = 1;                     // chebyshev_square, bound
  double floor = 0;                      // chebyshev_square

  bool has_factored_form() const { return kind == Kind::quadratic || kind == Kind::feature_product; }
  // Polynomial degree of the feature map; D is the number of features that it needs.
  int degree() const {
    return kind == Kind::quadratic && quadratic.c2 != 0 ? 2 : kind == Kind::feature_product ? 1 : 0;
  }
};

inline void check_finite_coefficients(std::span<const double> coefficients, const char* name) {
  require(!coefficients.empty(), name, ": no coefficients");
  for (std::size_t t = 0; t < coefficients.size(); ++t)
    require(is_finite(coefficients[t]), name, ": coefficient ", t, " of ", coefficients.size(), " is not finite");
}

// Checks the mechanism's own parameters.
template <class Mechanism>
Weight weight_of(const Mechanism& mechanism) {
  Weight weight;
  if constexpr (std::same_as<Mechanism, Softmax>) {
    weight.kind = Weight::Kind::exponential;
  } else if constexpr (std::same_as<Mechanism, Linear>) {
    weight.kind = Weight::Kind::feature_product;
  } else if constexpr (std::same_as<Mechanism, Polynomial>) {
    check_finite_coefficients(mechanism.coefficients, "Polynomial: coefficients");
    weight.kind = Weight::Kind::power_series;
    weight.coefficients = mechanism.coefficients;
  } else if constexpr (std::same_as<Mechanism, PositivePolynomial>) {
    check_finite_coefficients(mechanism.root, "PositivePolynomial: root");
    require(is_finite(mechanism.radius) && mechanism.radius > 0, "PositivePolynomial: radius is ", mechanism.radius,
            " but must be positive and finite");
    require(is_finite(mechanism.floor) && mechanism.floor >= 0, "PositivePolynomial: floor is ", mechanism.floor,
            " but must be finite and not negative");
    weight.kind = Weight::Kind::chebyshev_square;
    weight.coefficients = mechanism.root;
    weight.radius = mechanism.radius;
    weight.floor = mechanism.floor;
  } else {
    static_assert(QuadraticMechanism<Mechanism>,
                  "a mechanism is one of csq's or has a member `Quadratic quadratic() const`");
    const Quadratic q = mechanism.quadratic();
    if constexpr (requires { mechanism.shift; })
      require(is_finite(mechanism.shift), "shift is ", mechanism.shift, " but must be finite");
    require(is_finite(q.c0) && is_finite(q.c1) && is_finite(q.c2), "Quadratic: coefficients c0 = ", q.c0,
            ", c1 = ", q.c1, ", c2 = ", q.c2, " must be finite");
    require((q.c2 > 0 && q.c1 * q.c1 <= 4 * q.c0 * q.c2) || (q.c2 == 0 && q.c1 == 0 && q.c0 > 0),
            "Quadratic: c0 = ", q.c0, ", c1 = ", q.c1, ", c2 = ", q.c2,
            " is negative somewhere; it needs c2 > 0 and c1² ≤ 4·c0·c2, or a constant c0 > 0");
    weight.kind = Weight::Kind::quadratic;
    weight.quadratic = q;
  }
  return weight;
}

}  // namespace CSQ_CODE::detail

// What the engines see of a mechanism.
#pragma once

#include <cmath>
#include <limits>
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
  Quadratic quadratic{};  // quadratic: divided by 2^exponent
  int exponent = 0;
  std::span<const double> coefficients;  // power_series, chebyshev_square
  double radius = 1;                     // chebyshev_square, bound
  double floor = 0;                      // chebyshev_square

  // w(λs) = λ²·w(s): rows do not change with the scale of the scores, and their normalisers by λ² alone.
  bool is_scale_blind() const {
    return kind == Kind::quadratic && quadratic.c2 > 0 && quadratic.c1 == 0 && quadratic.c0 == 0;
  }
  // A polynomial in the score, that underflows where scores or coefficients are small.
  bool is_polynomial() const { return kind != Kind::exponential && kind != Kind::feature_product; }
  bool has_factored_form() const { return kind == Kind::quadratic || kind == Kind::feature_product; }
};

// Weights matter up to a factor, so coefficients that float or a product of two might not hold are divided by a power
// of two, exactly; ordinary ones are left alone.
inline void set_quadratic(const Quadratic& q, Weight& weight) {
  constexpr int ordinary = 32;
  const double largest = larger(larger(std::abs(q.c0), std::abs(q.c1)), std::abs(q.c2));
  const int exponent = largest > 0 ? std::ilogb(largest) : 0;
  weight.kind = Weight::Kind::quadratic;
  weight.exponent = std::abs(exponent) > ordinary ? exponent : 0;
  weight.quadratic = {std::ldexp(q.c0, -weight.exponent), std::ldexp(q.c1, -weight.exponent),
                      std::ldexp(q.c2, -weight.exponent)};
}

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
    if constexpr (ShiftableMechanism<Mechanism> && requires {
                    { mechanism.shift } -> std::convertible_to<double>;
                  })
      require(is_finite(mechanism.shift), "shift is ", mechanism.shift, " but must be finite");
    require(is_finite(q.c0) && is_finite(q.c1) && is_finite(q.c2), "Quadratic: coefficients c0 = ", q.c0,
            ", c1 = ", q.c1, ", c2 = ", q.c2, " must be finite");
    set_quadratic(q, weight);
    const Quadratic& c = weight.quadratic;
    require((c.c2 > 0 && c.c1 * c.c1 <= 4 * c.c0 * c.c2) || (c.c2 == 0 && c.c1 == 0 && c.c0 > 0),
            "Quadratic: c0 = ", q.c0, ", c1 = ", q.c1, ", c2 = ", q.c2,
            " is negative somewhere; it needs c2 > 0 and c1² ≤ 4·c0·c2, or a constant c0 > 0");
  }
  return weight;
}

// κ of ∂w/∂β = κ·w'(s): with it the gradient of the shift is κ·Σ ∂L/∂s, which backward has at hand.
template <class Mechanism>
double shift_rate(const Mechanism& mechanism) {
  if constexpr (requires { mechanism.shift_slope(); }) {
    static_assert(ShiftableMechanism<Mechanism>,
                  "csq: a mechanism's shift_slope is a member `Quadratic shift_slope() const` beside its quadratic()");
    const Quadratic q = mechanism.quadratic(), slope = mechanism.shift_slope();
    require(is_finite(slope.c0) && is_finite(slope.c1) && is_finite(slope.c2), "shift_slope: c0 = ", slope.c0,
            ", c1 = ", slope.c1, ", c2 = ", slope.c2, " must be finite");
    const double rate = q.c2 > 0 ? slope.c1 / (2 * q.c2) : 0;
    constexpr double rounding = 1e-9;
    const bool moves = slope.c2 == 0 && (q.c2 > 0 || slope.c1 == 0) &&
                       std::abs(slope.c0 - rate * q.c1) <= rounding * (std::abs(slope.c0) + std::abs(rate * q.c1));
    require(moves, "shift_slope: c0 = ", slope.c0, ", c1 = ", slope.c1, ", c2 = ", slope.c2,
            " does not move the weight along the scores; it must be a multiple of (c1, 2·c2, 0) = (", q.c1, ", ",
            2 * q.c2, ", 0)");
    return rate;
  } else {
    refuse("dshift: this mechanism has no shift_slope, so no gradient of a shift");
  }
}

// Weights of less have underflowed, in part at least: so a sum over m keys means something when it is 0 or at least m
// times the smallest normal number over √ε, 2⁻¹¹⁴ in float and 2⁻⁹⁹⁶ in double.
template <class T>
T least_normalizer(Index keys) {
  constexpr int exponent = std::numeric_limits<T>::min_exponent - 1 + std::numeric_limits<T>::digits / 2;
  return static_cast<T>(std::ldexp(static_cast<double>(larger<Index>(keys, 1)), exponent));
}

// Polynomials whose coefficients are all so small that T does not hold the weights that they make would have rows of 0.
template <class T>
void check_held(const Weight& weight) {
  const bool series = weight.kind == Weight::Kind::power_series;
  if (!series && weight.kind != Weight::Kind::chebyshev_square) return;
  double largest = 0;
  for (const double coefficient : weight.coefficients) largest = larger(largest, std::abs(coefficient));
  const double weight_of_largest = series ? largest : larger(largest * largest, weight.floor);
  require(largest == 0 || weight_of_largest >= static_cast<double>(least_normalizer<T>(1)),
          series ? "Polynomial: coefficients" : "PositivePolynomial: root", ": the largest is ", largest,
          ", and its weights are below what ", sizeof(T) == sizeof(float) ? "float" : "double", " holds");
}

}  // namespace CSQ_CODE::detail

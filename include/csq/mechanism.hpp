// What a weight is. Score s_ij = α q_i·k_j, weight w(s), normaliser δ_i = Σ_j w(s_ij), output o_i = Σ_j w(s_ij) v_j /
// δ_i.
//
// A new quadratic mechanism is one small struct with a member `Quadratic quadratic() const`: it then has both methods,
// every option and the gradients. The engines see only the Weight that `weight_of` makes of a mechanism.
#pragma once

#include <cmath>
#include <concepts>
#include <span>
#include <utility>
#include <vector>

#include "csq/check.hpp"
#include "csq/options.hpp"

namespace csq {

// w(s) = c0 + c1·s + c2·s², non-negative everywhere: c2 > 0 and c1² ≤ 4·c0·c2, or a constant c0 > 0.
struct Quadratic {
  double c0 = 1;
  double c1 = 0;
  double c2 = 0;

  Quadratic quadratic() const { return *this; }
};

// w(s) = eˢ. No finite summary exists, so there is no factored method.
struct Softmax {};

// w(s) = s², the paper's raw square. Blind to the scale of the scores.
struct Squared {
  Quadratic quadratic() const { return {0, 0, 1}; }
};

// w(s) = (s+β)², not centred by default.
struct ShiftedQuadratic {
  double shift = 1;

  Quadratic quadratic() const { return {shift * shift, 2 * shift, 1}; }
};

// w(s) = (s+β)², centred by default: centred shifted-quadratic attention.
struct Csq {
  double shift = 1;

  Quadratic quadratic() const { return {shift * shift, 2 * shift, 1}; }
  static Centering default_centering(bool causal) { return causal ? Centering::prefix : Centering::sequence; }
};

// w(s) = 1 + s + s²/2 = ½(s+1)² + ½, the second-order Taylor polynomial of eˢ; never below ½.
struct Taylor {
  Quadratic quadratic() const { return {1, 1, 0.5}; }
};

// w = φ(q)·φ(k), φ(x) = elu(x) + 1 elementwise (Katharopoulos et al. 2020); the O(n) baseline. A scale is an error.
struct Linear {};

// w(s) = Σ_t coefficients[t]·sᵗ; positivity is the caller's. Direct only.
struct Polynomial {
  std::vector<double> coefficients;
};

// w(s) = r(s)² + floor, r = Σ_t root[t]·T_t(s/radius) a Chebyshev series on [−radius, radius]. Direct only.
struct PositivePolynomial {
  std::vector<double> root;
  double radius = 1;
  double floor = 0;
};

template <class M>
concept QuadraticMechanism = requires(const M& mechanism) {
  { mechanism.quadratic() } -> std::same_as<Quadratic>;
};

// What the engines see; `bound` is max(0, |s| − radius)², for the penalty's gradient alone. Quadratic weights are kept
// as completed squares, c2·(s+h)² + rest: evaluating c0 + c1·s + c2·s² near its minimum would cancel, and could turn
// out negative.
struct Weight {
  enum class Kind { exponential, quadratic, feature_product, power_series, chebyshev_square, bound };

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
  check(!coefficients.empty(), name, ": no coefficients");
  for (std::size_t t = 0; t < coefficients.size(); ++t)
    check(std::isfinite(coefficients[t]), name, ": coefficient ", t, " of ", coefficients.size(), " is not finite");
}

// Checks the mechanism's own parameters.
template <class M>
Weight weight_of(const M& mechanism) {
  Weight weight;
  if constexpr (std::same_as<M, Softmax>) {
    weight.kind = Weight::Kind::exponential;
  } else if constexpr (std::same_as<M, Linear>) {
    weight.kind = Weight::Kind::feature_product;
  } else if constexpr (std::same_as<M, Polynomial>) {
    check_finite_coefficients(mechanism.coefficients, "Polynomial: coefficients");
    weight.kind = Weight::Kind::power_series;
    weight.coefficients = mechanism.coefficients;
  } else if constexpr (std::same_as<M, PositivePolynomial>) {
    check_finite_coefficients(mechanism.root, "PositivePolynomial: root");
    check(std::isfinite(mechanism.radius) && mechanism.radius > 0, "PositivePolynomial: radius is ", mechanism.radius,
          " but must be positive and finite");
    check(std::isfinite(mechanism.floor) && mechanism.floor >= 0, "PositivePolynomial: floor is ", mechanism.floor,
          " but must be finite and not negative");
    weight.kind = Weight::Kind::chebyshev_square;
    weight.coefficients = mechanism.root;
    weight.radius = mechanism.radius;
    weight.floor = mechanism.floor;
  } else {
    static_assert(QuadraticMechanism<M>, "a mechanism is one of csq's or has a member `Quadratic quadratic() const`");
    const Quadratic q = mechanism.quadratic();
    if constexpr (requires { mechanism.shift; })
      check(std::isfinite(mechanism.shift), "shift is ", mechanism.shift, " but must be finite");
    check(std::isfinite(q.c0) && std::isfinite(q.c1) && std::isfinite(q.c2), "Quadratic: coefficients c0 = ", q.c0,
          ", c1 = ", q.c1, ", c2 = ", q.c2, " must be finite");
    check((q.c2 > 0 && q.c1 * q.c1 <= 4 * q.c0 * q.c2) || (q.c2 == 0 && q.c1 == 0 && q.c0 > 0),
          "Quadratic: c0 = ", q.c0, ", c1 = ", q.c1, ", c2 = ", q.c2,
          " is negative somewhere; it needs c2 > 0 and c1² ≤ 4·c0·c2, or a constant c0 > 0");
    weight.kind = Weight::Kind::quadratic;
    weight.quadratic = q;
  }
  return weight;
}

// The mechanism's meaning of Centering::automatic.
template <class M>
Centering default_centering([[maybe_unused]] bool causal) {
  if constexpr (requires { M::default_centering(causal); })
    return M::default_centering(causal);
  else
    return Centering::none;
}

template <class M>
Centering default_centering(const M&, bool causal) {
  return default_centering<M>(causal);
}

// Whether a mechanism has a factored method: its weight is a polynomial of degree 2 or less in the score.
template <class M>
bool has_factored_form(const M& mechanism) {
  return weight_of(mechanism).has_factored_form();
}

}  // namespace csq

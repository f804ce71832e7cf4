// What a weight is. Score s_ij = α q_i·k_j, weight w(s), normaliser δ_i = Σ_j w(s_ij), output o_i = Σ_j w(s_ij) v_j /
// δ_i.
//
// A new quadratic mechanism is one small struct with a member `Quadratic quadratic() const`: it then has both methods,
// every option and the gradients. The engines see only the Weight that `weight_of` makes of a mechanism.
//
// It has a gradient of a shift β as well if it says how its coefficients depend on it: a member `Quadratic
// shift_slope() const` with ∂c0/∂β, ∂c1/∂β and ∂c2/∂β. Such a β moves the weight along the scores, w = f(s + x(β)), so
// the slope is a multiple of (c1, 2·c2, 0); any other is an error of the call that asks for the gradient. A member that
// is merely named shift says nothing.
#pragma once

#include "csq/detail/base/requirements.hpp"
// Before what only a C++20 compiler has.
#include <cmath>
#include <concepts>
#include <span>
#include <utility>
#include <vector>

#include "csq/options.hpp"

namespace CSQ_TYPES {

/// w(s) = c0 + c1·s + c2·s², non-negative everywhere: c2 > 0 and c1² ≤ 4·c0·c2, or a constant c0 > 0.
struct Quadratic {
  double c0 = 1;
  double c1 = 0;
  double c2 = 0;

  CSQ_ALWAYS_INLINE Quadratic quadratic() const { return *this; }
};

/// w(s) = eˢ. No finite summary exists, so there is no factored method.
struct Softmax {};

/// w(s) = s², the paper's raw square. Blind to the scale of the scores.
struct Squared {
  CSQ_ALWAYS_INLINE Quadratic quadratic() const { return {0, 0, 1}; }
};

/// w(s) = (s+β)², not centred by default.
struct ShiftedQuadratic {
  double shift = 1;

  CSQ_ALWAYS_INLINE Quadratic quadratic() const { return {shift * shift, 2 * shift, 1}; }
  CSQ_ALWAYS_INLINE Quadratic shift_slope() const { return {2 * shift, 2, 0}; }
};

/// w(s) = (s+β)², centred by default: centred shifted-quadratic attention.
struct Csq {
  double shift = 1;

  CSQ_ALWAYS_INLINE Quadratic quadratic() const { return {shift * shift, 2 * shift, 1}; }
  CSQ_ALWAYS_INLINE Quadratic shift_slope() const { return {2 * shift, 2, 0}; }
  CSQ_ALWAYS_INLINE static Centering default_centering(bool causal) {
    return causal ? Centering::prefix : Centering::sequence;
  }
};

/// w(s) = 1 + s + s²/2 = ½(s+1)² + ½, the second-order Taylor polynomial of eˢ; never below ½.
struct Taylor {
  CSQ_ALWAYS_INLINE Quadratic quadratic() const { return {1, 1, 0.5}; }
};

/// w = φ(q)·φ(k), φ(x) = elu(x) + 1 elementwise (Katharopoulos et al. 2020); the O(n) baseline. A scale is an error.
struct Linear {};

/// w(s) = Σ_t coefficients[t]·sᵗ; positivity is the caller's. Direct only.
struct Polynomial {
  std::vector<double> coefficients;
};

/// w(s) = r(s)² + floor, r = Σ_t root[t]·T_t(s/radius) a Chebyshev series on [−radius, radius]. Direct only.
struct PositivePolynomial {
  std::vector<double> root;
  double radius = 1;
  double floor = 0;
};

template <class Mechanism>
concept QuadraticMechanism = requires(const Mechanism& mechanism) {
  { mechanism.quadratic() } -> std::same_as<Quadratic>;
};

/// Says the slope of its coefficients by its shift.
template <class Mechanism>
concept ShiftableMechanism = QuadraticMechanism<Mechanism> && requires(const Mechanism& mechanism) {
  { mechanism.shift_slope() } -> std::same_as<Quadratic>;
};

}  // namespace CSQ_TYPES

namespace CSQ_CODE {

/// The mechanism's meaning of Centering::automatic.
template <class Mechanism>
Centering default_centering([[maybe_unused]] bool causal) {
  if constexpr (requires { Mechanism::default_centering(causal); })
    return Mechanism::default_centering(causal);
  else
    return Centering::none;
}

template <class Mechanism>
Centering default_centering(const Mechanism&, bool causal) {
  return default_centering<Mechanism>(causal);
}

}  // namespace CSQ_CODE

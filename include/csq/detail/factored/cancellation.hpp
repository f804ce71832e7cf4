// When a row may not be read from the summary.
//
// A read multiplies the weight out, so that δ_i = φ_q(q_i)·Σφ_k(k_j) is small where the features are large, and what is
// lost is lost to every row alike:
//
//   A_i = Σ_j (c2·α²|q_i|²|k_j|² + |c1·α||q_i||k_j| + c0)  ≤  2·(c2·|αq_i|²·Σ_j|k_j|² + c0·m)
//   relative error of δ_i and o_i  ≲  2·ε·A_i/δ_i          ε = 2⁻²⁴ or 2⁻⁵³, m keys read
//
// (measured: at most 5 of ε·A_i/δ_i in 160 kinds of data; .05 to .3 on normal random numbers). A_i/δ_i is about 2d on
// random numbers, below 250 on the heads of a language model at d = 64, centred or not, and without bound where scores
// nearly cancel the shift, keys share an offset that the query is orthogonal to, or one key is much longer than others.
// Rows with ε·A_i > 2√ε·δ_i, A_i/δ_i > 2¹³ in float and 2²⁷ in double, are not read but served directly; their
// neighbours keep their bits. What is read loses half of its digits at worst. NaN in q_i or in a key stays what it is.
//
// On a matrix unit features and summary are bfloat16, ε = 2⁻⁹, but each of the D features is rounded by itself, so that
// their errors add up as √D and not as D: rows beyond A_i/δ_i = 8√D (370 at d = 64) are served directly there. Heads of
// a language model are then within .7% of double in every row, .2% in all, of which .17% is the rounding of the output.
#pragma once

#include <cmath>
#include <limits>

#include "csq/detail/factored/summary.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

// The bound for the rows of one block, which read `keys` keys with the given Σ|k|² from the summary; where there are
// gates, the sums of what they have left of each.
template <class T>
struct CancellationBound {
  double per_square = 0, constant = 0;  // of A_i, over the limit: A_i/limit = per_square·|αq_i|² + constant

  CancellationBound(const Quadratic& c, double key_squares, double keys, double most = limit()) {
    per_square = 2 * c.c2 * key_squares / most;
    constant = 2 * c.c0 * keys / most;
  }
  // Of rows that a matrix unit reads.
  static double limit_on_unit(Index features) { return smaller(limit(), 8 * std::sqrt(static_cast<double>(features))); }
  static double limit() { return std::ldexp(2.0, std::numeric_limits<T>::digits / 2); }
  double of(double query_square) const { return per_square * query_square + constant; }

  // `decay`: what gates leave of the sums that the row has read. Also where weights have underflowed or overflowed:
  // then no bound says anything.
  bool allows(double query_square, T normalizer, T least, double decay = 1) const {
    const double sum = static_cast<double>(normalizer);
    return (decay * of(query_square) <= sum && normalizer >= least && normalizer <= (std::numeric_limits<T>::max)()) ||
           is_nan(query_square) || is_nan(per_square);
  }
};

// The same for the gradient of the queries of one head, which is what cancels most. Of row i is summed
//
//   B_i² = 2·((2c2·|αq_i|·Σ|k_j|²)² + c1²·m·Σ|k_j|²)·(r_i·o_i)²
//
// and what o_i has lost is lost in r_i·o_i, times as much as A_i/δ_i is above the 2d of random numbers. A head with
// √Σ(1 + A_i/(2d·δ_i))·B_i² > √(d/ε)·‖∂L/∂q‖ is served directly: over √d, the left is .5 to 5 on ordinary heads, and
// 4,096 are allowed in float.
template <class T>
struct GradientBound {
  CancellationBound<T> row;
  double per_square, constant, ordinary;

  GradientBound(const Quadratic& c, double key_squares, double keys, Index dim)
      : row(c, key_squares, keys),
        per_square(8 * c.c2 * c.c2 * key_squares * key_squares),
        constant(2 * c.c1 * c.c1 * key_squares * keys),
        ordinary(2 * static_cast<double>(dim) / CancellationBound<T>::limit()) {}

  // The term of one row, which holds `decay` of what it has read.
  double term(double query_square, double normalizer, double dot, double decay = 1) const {
    const double excess = 1 + decay * row.of(query_square) / (ordinary * normalizer), part = decay * dot;
    return excess * (per_square * query_square + constant) * part * part;
  }

  static bool exceeds(double terms, double gradient_square, Index dim) {
    const double limit = CancellationBound<T>::limit() / 2;
    return terms > limit * limit * gradient_square * static_cast<double>(dim);
  }
};

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail

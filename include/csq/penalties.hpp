// The soft penalties: training losses, never part of the forward. Options are attention's (method and chunk have no
// meaning here); Centering::automatic centres as Csq does; results do not depend on threads.
#pragma once

#include "csq/detail/block/stored.hpp"
#include "csq/detail/call/scalars.hpp"
#include "csq/detail/penalty/bound.hpp"
#include "csq/detail/penalty/rank.hpp"
#include "csq/detail/penalty/sampled_bound.hpp"

namespace CSQ_TYPES {

/// What bound_penalty and sampled_bound_penalty return.
struct BoundPenalty {
  double value = 0;     ///< L_b
  double max_abs = 0;   ///< largest |s|
  double overflow = 0;  ///< Pr(|s| > R)
};

}  // namespace CSQ_TYPES

namespace CSQ_CODE {

/// L_b = mean over visible pairs of max(0, |s| − radius)², exact, O(n·m·d); adds weight·∂L_b to dq and dk (a view
/// without data: the value alone). q [batch, heads, n, d], k [batch, kv_heads, m, d]. std::invalid_argument for a
/// radius that is negative or NaN and for what attention refuses.
///   csq::bound_penalty(Q, K, dQ, dK, 4.0, 1e-2, {.causal = true});
template <class Query, class Key, class QueryGradient, class KeyGradient>
BoundPenalty bound_penalty(Heads<Query> q, Heads<Key> k, Heads<QueryGradient> dq, Heads<KeyGradient> dk,
                           double radius = 4, double weight = 1, const Options& options = {}) {
  using T = detail::Computed<QueryGradient>;
  BoundPenalty penalty;
  if constexpr (detail::can_go_together(detail::Read<Query, Key>{}, detail::Written<QueryGradient, KeyGradient>{})) {
    const detail::BoundValue bound = detail::bound_penalty<T>(detail::stored(q), detail::stored(k), detail::stored(dq),
                                                              detail::stored(dk), radius, weight, options);
    penalty = {bound.value, bound.max_abs, bound.overflow};
  }
  return penalty;
}

/// The same from `samples` keys per query, drawn evenly from those that it sees, with replacement; each query weighs
/// |J_i|/Σ|J|, so value, overflow and gradients are unbiased. max_abs is the largest of what was drawn.
template <class Query, class Key, class QueryGradient, class KeyGradient>
BoundPenalty sampled_bound_penalty(Heads<Query> q, Heads<Key> k, Heads<QueryGradient> dq, Heads<KeyGradient> dk,
                                   Index samples, std::uint64_t seed, double radius = 4, double weight = 1,
                                   const Options& options = {}) {
  using T = detail::Computed<QueryGradient>;
  BoundPenalty penalty;
  if constexpr (detail::can_go_together(detail::Read<Query, Key>{}, detail::Written<QueryGradient, KeyGradient>{})) {
    const detail::BoundValue bound =
        detail::sampled_bound_penalty<T>(detail::stored(q), detail::stored(k), detail::stored(dq), detail::stored(dk),
                                         samples, seed, radius, weight, options);
    penalty = {bound.value, bound.max_abs, bound.overflow};
  }
  return penalty;
}

/// L_r of one array, q or k (add the two for the paper's): −mean of logdet(XcᵀXc/L + ridge·I), L the rows within
/// options.query_length; options.query_history is x's. Adds weight·∂L_r/∂x to dx.
template <class Array, class T>
double rank_penalty(Heads<Array> x, Heads<T> dx, double ridge = 1e-3, double weight = 1, const Options& options = {}) {
  if constexpr (detail::can_go_together(detail::Read<Array>{}, detail::Written<T>{}))
    return detail::rank_penalty<detail::Computed<T>>(detail::stored(x), detail::stored(dx), ridge, weight, options);
  else
    return 0;
}

}  // namespace CSQ_CODE

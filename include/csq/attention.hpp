// Attention forward: check, choose the method, lay scratch out, call the engine.
//
//   o_i = Σ_{j ∈ J_i} w(s_ij) v_j / δ_i     δ_i = Σ_{j ∈ J_i} w(s_ij)     s_ij = α q_i·k_j
//
// q [batch, heads, n, d], k [batch, kv_heads, m, d], v [batch, kv_heads, m, dᵥ] → out [batch, heads, n, dᵥ]; query head
// h reads key head h/(heads/kv_heads). J_i: the keys visible to query i; empty J_i gives a zero row. The normaliser
// [batch, heads, n, 1] is δ_i, or for Softmax the natural log-sum-exp; backward needs nothing else. A δ_i that is no
// normal number of the arrays' type is reported as NaN, although the row is right; backward then gives NaN. Outputs are
// overwritten. Errors are std::invalid_argument, thrown before anything is written; q, k, v and outputs may be
// interleaved in one buffer, but no element of an output may be an element of anything else. Cost and memory:
// detail/direct/forward.hpp, detail/factored/forward.hpp, cost_model.hpp.
#pragma once

#include "csq/cost_model.hpp"
#include "csq/detail/call/scalars.hpp"
#include "csq/detail/engine.hpp"

namespace CSQ_CODE {

// Many heads, your own memory, any strides.
template <class Mechanism, class Query, class Key, class Value, class Output>
void attention(const Mechanism& mechanism, Heads<Query> q, Heads<Key> k, Heads<Value> v, Heads<Output> out,
               const Options& options = {}) {
  if constexpr (detail::can_go_together(detail::Read<Query, Key, Value>{}, detail::Written<Output>{}))
    detail::attention_checked<Output>(detail::resolve(mechanism, options.causal), q, k, v, out, nullptr, options);
}

// The same, and the row statistic that backward needs: [batch, heads, n, 1].
template <class Mechanism, class Query, class Key, class Value, class Output, class Statistic>
void attention(const Mechanism& mechanism, Heads<Query> q, Heads<Key> k, Heads<Value> v, Heads<Output> out,
               Heads<Statistic> normalizer, const Options& options = {}) {
  if constexpr (detail::can_go_together(detail::Read<Query, Key, Value>{}, detail::Written<Output, Statistic>{}))
    detail::attention_checked<Output>(detail::resolve(mechanism, options.causal), q, k, v, out, &normalizer, options);
}

// Whether a mechanism has a factored method: its weight is a polynomial of degree 2 or less in the score.
template <class Mechanism>
bool has_factored_form(const Mechanism& mechanism) {
  return detail::weight_of(mechanism).has_factored_form();
}

// The method that a call with these sizes and options runs.
template <class Mechanism>
Method used_method(const Mechanism& mechanism, const Shape& shape, const Options& options = {}) {
  return detail::resolve_method(detail::workload_of(shape, options), detail::weight_of(mechanism), options);
}

// Scratch that a call with these sizes takes; a Workspace that has served one grows no further.
template <class T = float, class Mechanism>
std::size_t workspace_bytes(const Mechanism& mechanism, const Shape& shape, const Options& options = {}) {
  detail::Problem<T> problem = detail::problem_of_sizes<T>(mechanism, shape, options);
  detail::make_plan(problem, options);
  return detail::scratch_bytes(problem);
}

}  // namespace CSQ_CODE

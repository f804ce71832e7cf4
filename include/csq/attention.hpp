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
#include "csq/detail/block/stored.hpp"
#include "csq/detail/call/scalars.hpp"
#include "csq/detail/checked_calls.hpp"

namespace CSQ_CODE {

/// o_i = Σ_j w(s_ij) v_j / Σ_j w(s_ij) for many heads, in your own memory with any strides.
///
/// q [batch, heads, n, d], k [batch, kv_heads, m, d], v [batch, kv_heads, m, dᵥ]; `out` [batch, heads, n, dᵥ] is
/// overwritten. Arrays are all of float, of double, or of Eigen::bfloat16 or Eigen::half: 16 bits are converted where
/// rows are packed and rounded once, to nearest even, where they are written; all between is float. Throws
/// std::invalid_argument, before anything is written, for sizes that do not fit, outputs that overlap anything, and
/// options that mean nothing together. Direct costs 2·n·m·(d+dᵥ) flops a head, factored about (n+m)·d²·(dᵥ+1); memory:
/// workspace_bytes.
///   csq::attention(csq::Csq{}, Q, K, V, O, {.causal = true});
template <class Mechanism, class Query, class Key, class Value, class Output>
void attention(const Mechanism& mechanism, Heads<Query> q, Heads<Key> k, Heads<Value> v, Heads<Output> out,
               const Options& options = {}) {
  if constexpr (detail::can_go_together(detail::Read<Query, Key, Value>{}, detail::Written<Output>{}))
    detail::attention_checked<detail::Computed<Output>>(detail::resolve(mechanism, options.causal), detail::stored(q),
                                                        detail::stored(k), detail::stored(v), detail::stored(out),
                                                        nullptr, options);
}

/// The same, and the row statistic that backward needs, `normalizer` [batch, heads, n, 1]: Σ_j w(s_ij), for Softmax
/// ln Σ_j exp(s_ij), −∞ where a row sees no key. Of 16-bit arrays it is float.
template <class Mechanism, class Query, class Key, class Value, class Output, class Statistic>
void attention(const Mechanism& mechanism, Heads<Query> q, Heads<Key> k, Heads<Value> v, Heads<Output> out,
               Heads<Statistic> normalizer, const Options& options = {}) {
  if constexpr (detail::can_go_together(detail::Read<Query, Key, Value>{}, detail::Written<Output>{},
                                        detail::ReadComputed<>{}, detail::WrittenComputed<Statistic>{}))
    detail::attention_checked<detail::Computed<Output>>(detail::resolve(mechanism, options.causal), detail::stored(q),
                                                        detail::stored(k), detail::stored(v), detail::stored(out),
                                                        &normalizer, options);
}

/// Whether a mechanism has a factored method: its weight is a polynomial of degree 2 or less in the score.
template <class Mechanism>
bool has_factored_form(const Mechanism& mechanism) {
  return detail::weight_of(mechanism).has_factored_form();
}

/// The method that a call with these sizes and options runs; never automatic. The sizes and options are checked as
/// attention checks them.
template <class Mechanism>
Method used_method(const Mechanism& mechanism, const Shape& shape, const Options& options = {}) {
  return detail::resolve_method(detail::workload_of(shape, options), detail::weight_of(mechanism), options);
}

/// Bytes of scratch that a call with these sizes takes, its arrays being of T; a Workspace that has served one grows no
/// further.
///   csq::workspace_bytes<float>(csq::Csq{}, shape, {.threads = 8});
template <class T = float, class Mechanism>
std::size_t workspace_bytes(const Mechanism& mechanism, const Shape& shape, const Options& options = {}) {
  using Number = detail::Computed<T>;
  detail::Problem<Number> problem = detail::problem_of_sizes<Number>(mechanism, shape, options);
  problem.query.storage = detail::simd::storage_of<T>();
  detail::make_plan(problem, options);
  return detail::scratch_bytes(problem);
}

}  // namespace CSQ_CODE

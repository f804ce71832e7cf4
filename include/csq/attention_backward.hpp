// Attention backward: the gradients of q, k, v and of the shift, given ∂L/∂out.
//
// Takes what forward took (same mechanism, arrays and options) and what it gave: out and its normaliser (log-sum-exp
// for Softmax); the n×m weights are never stored. Gradients have the shapes of q, k and v, are overwritten, go through
// the centring, and sum the group of query heads into their key head; histories are constants. ∂L/∂shift (Csq,
// ShiftedQuadratic, and every mechanism with a shift_slope) is summed over batch and heads. Errors are
// std::invalid_argument, thrown before anything is written. Equations and costs: detail/block/backward.hpp,
// detail/direct/backward.hpp, detail/factored/backward.hpp.
#pragma once

#include <type_traits>

#include "csq/detail/block/stored.hpp"
#include "csq/detail/call/scalars.hpp"
#include "csq/detail/checked_calls.hpp"

namespace CSQ_CODE {

/// ∂L/∂q, ∂L/∂k, ∂L/∂v and, if wanted, ∂L/∂shift from dout = ∂L/∂out [batch, heads, n, dᵥ], for many heads with any
/// strides. `out` and `normalizer` [batch, heads, n, 1] are what forward left with the same inputs and options.
///
/// Gradients are overwritten, those of a group of query heads summed into their key head. Throws std::invalid_argument
/// as attention does. Direct costs 2.5 times its forward, factored (2n + 3m)·D·(dᵥ+1) multiply-adds a head.
///   csq::attention_backward(csq::Csq{}, Q, K, V, O, normalizer, dO, {dQ, dK, dV, &dshift}, options);
template <class Mechanism, class Query, class Key, class Value, class Output, class Statistic, class OutputGradient>
void attention_backward(const Mechanism& mechanism, Heads<Query> q, Heads<Key> k, Heads<Value> v, Heads<Output> out,
                        Heads<Statistic> normalizer, Heads<OutputGradient> dout,
                        const Gradients<std::remove_const_t<Output>>& gradients, const Options& options = {}) {
  using T = detail::Computed<Output>;
  if constexpr (detail::can_go_together(detail::Read<Query, Key, Value, Output, OutputGradient>{}, detail::Written<>{},
                                        detail::ReadComputed<Statistic>{})) {
    detail::BackwardProblem<T> problem;
    problem.forward.query = detail::stored(q);
    problem.forward.key = detail::stored(k);
    problem.forward.value = detail::stored(v);
    problem.output = detail::stored(out);
    problem.normalizer = detail::normalized<Heads<const T>>(normalizer);
    problem.output_gradient = detail::stored(dout);
    problem.matrix = detail::simd::matrix_backward_kernels<Output>();
    problem.gradients = {detail::stored<std::remove_const_t<Output>>(gradients.query),
                         detail::stored<std::remove_const_t<Output>>(gradients.key),
                         detail::stored<std::remove_const_t<Output>>(gradients.value),
                         gradients.shift,
                         detail::normalized<Heads<T>>(gradients.log_gate),
                         gradients.sink};
    const detail::ResolvedMechanism resolved = detail::resolve(mechanism, options.causal);
    if (gradients.shift != nullptr) problem.shift_rate = detail::shift_rate(mechanism);
    detail::attention_backward_checked(resolved, problem, options);
  }
}

/// The method that a backward call with these sizes and options runs; never automatic.
template <class Mechanism>
Method used_backward_method(const Mechanism& mechanism, const Shape& shape, const Options& options = {}) {
  return detail::resolve_backward_method(detail::workload_of(shape, options), detail::weight_of(mechanism), options);
}

/// Bytes of scratch that a backward call with these sizes takes, gradients of a shift, gates and sinks included where
/// there are any; a Workspace that has served one grows no further.
template <class T = float, class Mechanism>
std::size_t backward_workspace_bytes(const Mechanism& mechanism, const Shape& shape, const Options& options = {}) {
  using Number = detail::Computed<T>;
  detail::BackwardProblem<Number> problem;
  problem.forward = detail::problem_of_sizes<Number>(mechanism, shape, options);
  problem.forward.query.storage = detail::simd::storage_of<T>();
  problem.matrix = detail::simd::matrix_backward_kernels<T>();
  double shift = 0;
  if constexpr (ShiftableMechanism<Mechanism>) problem.gradients.shift = &shift;
  problem.gradients.log_gate.shape = problem.forward.log_gate.shape;
  if (!options.sink.empty()) problem.gradients.sink = std::span<double>(&shift, 1);
  detail::make_plan(problem, options);
  return detail::scratch_bytes(problem);
}

}  // namespace CSQ_CODE

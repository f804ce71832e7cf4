// Attention backward: the gradients of q, k, v and of the shift, given ∂L/∂out.
//
// Takes what forward took (same mechanism, arrays and options) and what it gave: out and its normaliser (log-sum-exp
// for Softmax); the n×m weights are never stored. Gradients have the shapes of q, k and v, are overwritten, go through
// the centring, and sum the group of query heads into their key head; histories are constants. ∂L/∂shift (Csq,
// ShiftedQuadratic) is summed over batch and heads. Errors are std::invalid_argument, thrown before anything is
// written. Equations and costs: backward_blocks.hpp, direct_backward.hpp, factored_backward.hpp.
#pragma once

#include <type_traits>

#include "csq/detail/call/scalars.hpp"
#include "csq/detail/engine.hpp"

namespace CSQ_CODE {

// Many heads, any strides. `normalizer` is [batch, heads, n, 1], as forward left it.
template <class M, class Q, class K, class V, class O, class N, class G>
requires detail::SameScalar<Q, K, V, std::remove_const_t<O>> && detail::SameScalar<O, N, G, std::remove_const_t<O>>
void attention_backward(const M& mechanism, Heads<Q> q, Heads<K> k, Heads<V> v, Heads<O> out, Heads<N> normalizer,
                        Heads<G> dout, const Gradients<std::remove_const_t<O>>& gradients,
                        const Options& options = {}) {
  detail::BackwardProblem<std::remove_const_t<O>> problem;
  problem.forward.query = q;
  problem.forward.key = k;
  problem.forward.value = v;
  problem.output = out;
  problem.normalizer = normalizer;
  problem.output_gradient = dout;
  problem.gradients = gradients;
  detail::attention_backward_checked(mechanism, problem, options);
}

// The method that a backward call with these sizes and options runs.
template <class M>
Method used_backward_method(const M& mechanism, Shape shape, const Options& options = {}) {
  shape.causal = shape.causal || options.causal;
  const detail::Weight weight = detail::weight_of(mechanism);
  detail::check_method(weight, options.method);
  return detail::resolve_backward_method(weight, shape, options.method);
}

// Scratch that a backward call with these sizes takes, the gradient of the shift included where there is one; a
// Workspace that has served one grows no further.
template <class T = float, class M>
std::size_t backward_workspace_bytes(const M& mechanism, const Shape& shape, const Options& options = {}) {
  detail::BackwardProblem<T> problem;
  problem.forward = detail::problem_of_sizes<T>(mechanism, shape, options);
  const Shape resolved = detail::shape_of(problem.forward);
  const Method method = detail::resolve_backward_method(problem.forward.weight, resolved, options.method);
  problem.forward.threads = detail::threads_for(resolved, problem.forward.weight, method, options);
  double shift = 0;
  if constexpr (requires { mechanism.shift; }) problem.gradients.shift = &shift;
  return detail::backward_scratch_bytes(problem, method);
}

}  // namespace CSQ_CODE

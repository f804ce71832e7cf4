// Attention backward: the gradients of q, k, v and of the shift, given ∂L/∂out.
//
// Takes what forward took (same mechanism, arrays and options) and what it gave: out and its normaliser (log-sum-exp
// for Softmax); the n×m weights are never stored. Gradients have the shapes of q, k and v, are overwritten, go through
// the centring, and sum the group of query heads into their key head; histories are constants. ∂L/∂shift (Csq,
// ShiftedQuadratic) is summed over batch and heads. Errors are std::invalid_argument, thrown before anything is
// written. Equations and costs: backward_blocks.hpp, direct_backward.hpp, factored_backward.hpp.
#pragma once

#include <type_traits>

#include "csq/attention.hpp"
#include "csq/direct_backward.hpp"
#include "csq/factored_backward.hpp"

namespace csq {

template <class T, class Other>
void check_shape_like(std::string_view name, const Heads<T>& view, std::string_view other_name,
                      const Heads<Other>& other) {
  check_heads(name, view);
  const auto& s = view.shape;
  const auto& o = other.shape;
  check(s == o, name, ": shape is [", s[0], ", ", s[1], ", ", s[2], ", ", s[3], "] but ", other_name, " is [", o[0],
        ", ", o[1], ", ", o[2], ", ", o[3], "]");
}

template <class T>
void check_gradient_output(const BackwardProblem<T>& problem, std::string_view name, const Heads<T>& view) {
  const Problem<T>& p = problem.forward;
  check_no_self_overlap(name, view);
  check_not_same(name, view, "q", p.query);
  check_not_same(name, view, "k", p.key);
  check_not_same(name, view, "v", p.value);
  check_not_same(name, view, "out", problem.output);
  check_not_same(name, view, "normalizer", problem.normalizer);
  check_not_same(name, view, "dout", problem.output_gradient);
}

template <class T>
std::size_t backward_scratch_bytes(const BackwardProblem<T>& problem, Method method) {
  ScratchLayout counter;
  if (method == Method::factored)
    FactoredBackwardLayout<T>::lay_out(counter, problem);
  else
    DirectBackwardLayout<T>::lay_out(counter, problem);
  return counter.bytes();
}

// The method that a backward call runs. Its choice is its own: backward takes no savings under a causal mask.
inline Method resolve_backward_method(const Weight& weight, const Shape& shape, Method method) {
  if (!weight.has_factored_form()) return Method::direct;
  if (method != Method::automatic) return method;
  const double direct = direct_backward_multiply_adds(shape) / direct_efficiency(shape.key_dim);
  const double factored =
      factored_backward_multiply_adds(shape, feature_count(weight, shape.key_dim)) / factored_efficiency(shape.key_dim);
  return factored < direct ? Method::factored : Method::direct;
}

template <class M, class T>
void attention_backward_checked(const M& mechanism, BackwardProblem<T>& problem, const Options& options) {
  Problem<T>& p = problem.forward;
  p.weight = weight_of(mechanism);
  check_inputs(p);
  const Heads<const T> output_like(nullptr, {p.query.batch(), p.query.heads(), p.query.tokens(), p.value.dim()});
  const Heads<const T> normalizer_like(nullptr, {p.query.batch(), p.query.heads(), p.query.tokens(), 1});
  check_shape_like("out", problem.output, "the output of this call", output_like);
  check_shape_like("normalizer", problem.normalizer, "the normaliser of this call", normalizer_like);
  check_shape_like("dout", problem.output_gradient, "out", output_like);
  const Gradients<T>& gradients = problem.gradients;
  check_shape_like("dq", gradients.query, "q", p.query);
  check_shape_like("dk", gradients.key, "k", p.key);
  check_shape_like("dv", gradients.value, "v", p.value);
  check_gradient_output(problem, "dq", gradients.query);
  check_gradient_output(problem, "dk", gradients.key);
  check_gradient_output(problem, "dv", gradients.value);
  check_not_same("dq", gradients.query, "dk", gradients.key);
  check_not_same("dq", gradients.query, "dv", gradients.value);
  check_not_same("dk", gradients.key, "dv", gradients.value);
  if constexpr (!requires { mechanism.shift; })
    check(gradients.shift == nullptr, "dshift: this mechanism has no shift");
  check_method(p.weight, options.method);
  resolve_options(p, options, default_centering<M>(options.causal));

  const Shape shape = shape_of(p);
  const Method method = resolve_backward_method(p.weight, shape, options.method);
  p.threads = threads_for(shape, p.weight, method, options);
  Workspace local;
  Workspace& workspace = options.workspace != nullptr ? *options.workspace : local;
  ScratchLayout layout(workspace.reserve(backward_scratch_bytes(problem, method)));
  if (method == Method::factored) {
    auto scratch = FactoredBackwardLayout<T>::lay_out(layout, problem);
    factored_attention_backward(problem, scratch);
  } else {
    auto scratch = DirectBackwardLayout<T>::lay_out(layout, problem);
    direct_attention_backward(problem, scratch);
  }
}

// Many heads, any strides. `normalizer` is [batch, heads, n, 1], as forward left it.
template <class M, class Q, class K, class V, class O, class N, class G>
requires SameScalar<Q, K, V, std::remove_const_t<O>> && SameScalar<O, N, G, std::remove_const_t<O>>
void attention_backward(const M& mechanism, Heads<Q> q, Heads<K> k, Heads<V> v, Heads<O> out, Heads<N> normalizer,
                        Heads<G> dout, const Gradients<std::remove_const_t<O>>& gradients,
                        const Options& options = {}) {
  BackwardProblem<std::remove_const_t<O>> problem;
  problem.forward.query = q;
  problem.forward.key = k;
  problem.forward.value = v;
  problem.output = out;
  problem.normalizer = normalizer;
  problem.output_gradient = dout;
  problem.gradients = gradients;
  attention_backward_checked(mechanism, problem, options);
}

// The method that a backward call with these sizes and options runs.
template <class M>
Method used_backward_method(const M& mechanism, Shape shape, const Options& options = {}) {
  shape.causal = shape.causal || options.causal;
  const Weight weight = weight_of(mechanism);
  check_method(weight, options.method);
  return resolve_backward_method(weight, shape, options.method);
}

// Scratch that a backward call with these sizes takes, the gradient of the shift included where there is one; a
// Workspace that has served one grows no further.
template <class T = float, class M>
std::size_t backward_workspace_bytes(const M& mechanism, const Shape& shape, const Options& options = {}) {
  BackwardProblem<T> problem;
  problem.forward = problem_of_sizes<T>(mechanism, shape, options);
  const Shape resolved = shape_of(problem.forward);
  const Method method = resolve_backward_method(problem.forward.weight, resolved, options.method);
  problem.forward.threads = threads_for(resolved, problem.forward.weight, method, options);
  double shift = 0;
  if constexpr (requires { mechanism.shift; }) problem.gradients.shift = &shift;
  return backward_scratch_bytes(problem, method);
}

}  // namespace csq

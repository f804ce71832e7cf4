// From a checked call to the engine that serves it: threads, scratch, run; both passes.
#pragma once

#include "csq/detail/call/backward_arguments.hpp"
#include "csq/detail/call/plan.hpp"
#include "csq/detail/direct/backward.hpp"
#include "csq/detail/direct/few_queries.hpp"
#include "csq/detail/factored/backward.hpp"
#include "csq/detail/factored/forward.hpp"
#include "csq/workspace.hpp"

namespace CSQ_CODE::detail {

// Small calls are not worth waking threads for: one thread per this many multiply-adds.
inline int threads_for(const Shape& shape, const Weight& weight, Method method, const Options& options) {
  constexpr double multiply_adds_per_thread = 5e5;
  const double work = method == Method::factored
                          ? count_factored(shape, feature_count(weight, shape.key_dim), options.chunk)
                          : count_direct(shape);
  const double wanted = work / multiply_adds_per_thread;
  const int usable = usable_threads(options.threads);
  return wanted < usable ? larger(1, static_cast<int>(wanted)) : usable;
}

// visit(scratch, engine) for the engine that serves a call: the scratch's lay_out says what it takes.
template <class T, class Visit>
auto with_engine(const Problem<T>& problem, Method method, const Visit& visit) {
  if (method == Method::factored) return visit(FactoredScratch<T>{}, factored_attention<T>);
  if (problem.queries() <= few_queries_limit) return visit(FewQueriesScratch<T>{}, few_queries_attention<T>);
  return visit(DirectScratch<T>{}, direct_attention<T>);
}

template <class T>
std::size_t scratch_bytes(const Problem<T>& problem, Method method) {
  return with_engine(problem, method, [&](auto scratch, const auto&) {
    Arena counter;
    decltype(scratch)::lay_out(counter, problem);
    return counter.bytes();
  });
}

template <class T>
void run_attention(Problem<T>& problem, const Options& options) {
  simd::chosen_target();  // a CSQ_SIMD that cannot be is an error here, not in a parallel region
  if (options.summary != nullptr) options.summary->clear();
  if (problem.output.empty()) return;
  const Shape shape = shape_of(problem);
  const Method method = resolve_method(problem.weight, shape, options.method, options.chunk);
  problem.threads = threads_for(shape, problem.weight, method, options);
  Workspace local;
  Workspace& workspace = options.workspace != nullptr ? *options.workspace : local;
  Arena arena(workspace.reserve(scratch_bytes(problem, method)));
  with_engine(problem, method, [&](auto kind, const auto& run) {
    auto scratch = decltype(kind)::lay_out(arena, problem);
    run(problem, scratch);
  });
}

template <class Mechanism, class T>
void attention_checked(const Mechanism& mechanism, const Heads<const T>& q, const Heads<const T>& k,
                       const Heads<const T>& v, const Heads<T>& out, const Heads<T>* normalizer,
                       const Options& options) {
  Problem<T> problem;
  problem.query = q;
  problem.key = k;
  problem.value = v;
  problem.output = out;
  problem.weight = weight_of(mechanism);
  check_inputs(problem);
  check_output(problem);
  if (normalizer != nullptr) {
    problem.normalizer = *normalizer;
    check_normalizer(problem);
  }
  check_method(problem.weight, options.method);
  resolve_options(problem, options, default_centering<Mechanism>(options.causal));
  run_attention(problem, options);
}

template <class T>
std::size_t backward_scratch_bytes(const BackwardProblem<T>& problem, Method method) {
  Arena counter;
  if (method == Method::factored)
    FactoredBackwardScratch<T>::lay_out(counter, problem);
  else
    DirectBackwardScratch<T>::lay_out(counter, problem);
  return counter.bytes();
}

template <class Mechanism, class T>
void attention_backward_checked(const Mechanism& mechanism, BackwardProblem<T>& problem, const Options& options) {
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
    require(gradients.shift == nullptr, "dshift: this mechanism has no shift");
  check_method(p.weight, options.method);
  resolve_options(p, options, default_centering<Mechanism>(options.causal));

  const Shape shape = shape_of(p);
  const Method method = resolve_backward_method(p.weight, shape, options.method);
  p.threads = threads_for(shape, p.weight, method, options);
  Workspace local;
  Workspace& workspace = options.workspace != nullptr ? *options.workspace : local;
  Arena arena(workspace.reserve(backward_scratch_bytes(problem, method)));
  if (method == Method::factored) {
    auto scratch = FactoredBackwardScratch<T>::lay_out(arena, problem);
    factored_attention_backward(problem, scratch);
  } else {
    auto scratch = DirectBackwardScratch<T>::lay_out(arena, problem);
    direct_attention_backward(problem, scratch);
  }
}

}  // namespace CSQ_CODE::detail

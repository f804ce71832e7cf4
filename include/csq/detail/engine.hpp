// From a checked call to the engine that serves it: plan, threads, scratch, run; both passes.
#pragma once

#include "csq/detail/block/head_teams.hpp"
#include "csq/detail/call/backward_arguments.hpp"
#include "csq/detail/call/plan.hpp"
#include "csq/detail/direct/backward.hpp"
#include "csq/detail/direct/few_queries.hpp"
#include "csq/detail/direct/few_tokens.hpp"
#include "csq/detail/factored/backward.hpp"
#include "csq/detail/factored/forward.hpp"
#include "csq/workspace.hpp"

namespace CSQ_CODE::detail {

// Threads for a call of that work, and the teams that they form.
template <class T>
void assign_threads(Problem<T>& problem, const Workload& work, const Options& options) {
  const double multiply_adds =
      problem.plan.method() == Method::factored
          ? count_factored(work, feature_count(problem.weight, work.shape.key_dim), options.chunk)
          : count_direct(work);
  form_teams(problem, multiply_adds, threads_for_work(multiply_adds, threads_of(options)));
}

// Makes the plan of a call whose arrays and options are resolved.
template <class T>
void make_plan(Problem<T>& problem, const Options& options) {
  const Workload work = workload_of(problem);
  problem.plan = plan_forward(work, problem.weight, options, simd::block_tokens<T>,
                              problem.matrix() == nullptr ? 0 : simd::matrix_chunk);
  assign_threads(problem, work, options);
}
template <class T>
void make_plan(BackwardProblem<T>& problem, const Options& options) {
  Problem<T>& p = problem.forward;
  const Workload work = workload_of(p);
  const Index features =
      p.weight.has_factored_form() ? feature_map(p.weight, p.key_dim(), problem.gradients.shift != nullptr).size() : 0;
  p.plan = plan_backward(work, p.weight, features, options, simd::block_tokens<T>,
                         p.matrix() == nullptr ? 0 : simd::matrix_chunk);
  assign_threads(p, work, options);
}

// The engines, all of them: visit(scratch, engine) for the one that serves a call. The scratch's lay_out says what it
// takes, and how many key heads it serves at a time.
template <class T, class Visit>
auto with_engine(const Problem<T>& problem, const Visit& visit) {
  switch (problem.plan.engine) {
    case Engine::factored:
      return visit(FactoredScratch<T>{}, factored_attention<T>);
    case Engine::few_tokens:
      return visit(FewTokensScratch<T>{}, few_tokens_attention<T>);
    case Engine::few_queries:
      return visit(FewQueriesScratch<T>{}, few_queries_attention<T>);
    case Engine::direct:
      break;
  }
  return visit(DirectScratch<T>{}, direct_attention<T>);
}
template <class T, class Visit>
auto with_engine(const BackwardProblem<T>& problem, const Visit& visit) {
  if (problem.forward.plan.engine == Engine::factored)
    return visit(FactoredBackwardScratch<T>{}, factored_attention_backward<T>);
  if (problem.forward.plan.engine == Engine::few_tokens)
    return visit(FewTokensBackwardScratch<T>{}, few_tokens_attention_backward<T>);
  return visit(DirectBackwardScratch<T>{}, direct_attention_backward<T>);
}

// Scratch of either pass.
template <class Call>
std::size_t scratch_bytes(const Call& call) {
  return with_engine(call, [&](auto scratch, const auto&) {
    Arena counter;
    lay_out_teams<decltype(scratch)>(counter, call);
    return counter.bytes();
  });
}

// Runs a pass, its plan made, in memory of scratch_bytes.
template <class T>
void run_in(Arena& arena, const Problem<T>& problem) {
  with_engine(problem, [&](auto kind, const auto& engine) {
    const auto teams = lay_out_teams<decltype(kind)>(arena, problem);
    KeptSummary* kept = nullptr;
    if constexpr (std::is_same_v<decltype(kind), FactoredScratch<T>>) {
      kept = problem.causal ? nullptr : problem.summary;
      const FactoredScratch<T>& any = teams.each[0];
      if (kept != nullptr)
        kept->reserve(summary_origin(problem, any.features), summary_key_rows(problem), any.whole(0).numbers());
    }
    teams.serve(problem.key_heads(),
                [&](auto& scratch, Index first, Index heads) { engine(problem, scratch, first, heads); });
    if (kept != nullptr) kept->filled();
  });
}
// ∂L/∂sink of each query head from those of each entry of the batch.
template <class T>
void sum_sink_gradient(const BackwardProblem<T>& problem, const double* terms) {
  const Index heads = problem.forward.query.heads();
  for (Index h = 0; h < heads; ++h) {
    double sum = 0;
    for (Index b = 0; b < problem.forward.query.batch(); ++b) sum += terms[b * heads + h];
    problem.gradients.sink[static_cast<std::size_t>(h)] = sum;
  }
}
template <class T>
void run_in(Arena& arena, const BackwardProblem<T>& problem) {
  with_engine(problem, [&](auto kind, const auto& engine) {
    const auto all = lay_out_teams<decltype(kind)>(arena, problem);
    all.teams.serve(problem.forward.key_heads(), [&](auto& scratch, Index first, Index heads) {
      engine(problem, scratch, all.parameter_terms, first, heads);
    });
    if (!problem.gradients.sink.empty()) sum_sink_gradient(problem, all.parameter_terms);
    if (problem.gradients.shift == nullptr) return;
    double sum = 0;
    for (Index i = 0; i < all.parameter_term_count; ++i) sum += all.parameter_terms[i];
    *problem.gradients.shift = problem.shift_rate * sum;
  });
}

template <class Call>
void run(const Call& call, const Options& options) {
  Workspace local;
  Workspace& workspace = options.workspace != nullptr ? *options.workspace : local;
  Arena arena(workspace.reserve(scratch_bytes(call)));
  run_in(arena, call);
}

}  // namespace CSQ_CODE::detail

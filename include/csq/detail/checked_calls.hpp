// One call as the caller makes it: checked, resolved, planned and run; both passes.
#pragma once

#include "csq/detail/block/stored.hpp"
#include "csq/detail/packed.hpp"

namespace CSQ_CODE::detail {

// What a mechanism is to a call: from here on its type is not looked at, so that all share one instantiation.
struct ResolvedMechanism {
  Weight weight;
  Centering centering;  // what automatic means
};
template <class Mechanism>
ResolvedMechanism resolve(const Mechanism& mechanism, bool causal) {
  return {weight_of(mechanism), default_centering<Mechanism>(causal)};
}

template <class T>
void attention_checked(const ResolvedMechanism& mechanism, const StoredHeads<const T>& q, const StoredHeads<const T>& k,
                       const StoredHeads<const T>& v, const StoredHeads<T>& out, const Heads<T>* normalizer,
                       const Options& options) {
  Problem<T> problem;
  problem.query = normalized(q);
  problem.key = normalized(k);
  problem.value = normalized(v);
  problem.output = normalized(out);
  problem.weight = mechanism.weight;
  check_held<T>(problem.weight);
  check_inputs(problem);
  check_output(problem);
  if (normalizer != nullptr) {
    problem.normalizer = normalized(*normalizer);
    check_normalizer(problem);
  }
  if (is_packed(options)) check_packed(problem, options);
  const Footprint outputs[] = {footprint("out", problem.output), footprint("normalizer", problem.normalizer)};
  const Footprint inputs[] = {footprint("q", problem.query), footprint("k", problem.key),
                              footprint("v", problem.value)};
  check_apart(outputs, inputs);
  check_apart_from_options<T>(outputs, options);
  if (is_packed(options)) {
    check_packed_views(outputs, problem, options);
    run_packed(PackedForward<T>{problem, options, mechanism.centering}, options);
    return;
  }
  resolve_options(problem, options, mechanism.centering);
  check_apart_from_views(outputs, problem);
  make_plan(problem, options);
  simd::chosen_target();  // a CSQ_SIMD that cannot be is an error here, not in a parallel region
  if (options.summary != nullptr) options.summary->clear();
  if (!problem.output.empty()) run(problem, options);
}

// The problem's arrays, and the rate of its shift, are the caller's.
template <class T>
void attention_backward_checked(const ResolvedMechanism& mechanism, BackwardProblem<T>& problem,
                                const Options& options) {
  Problem<T>& p = problem.forward;
  p.weight = mechanism.weight;
  const auto outputs = check_backward_arrays(problem, options);
  if (is_packed(options)) {
    check_packed(p, options);
    check_packed_views<T>(outputs, p, options);
    check_packed_gradients(problem, options);
    run_packed(PackedBackward<T>{problem, options, mechanism.centering}, options);
    return;
  }
  resolve_options(p, options, mechanism.centering);
  check_gradients_of_options(problem);
  check_apart_from_views<T>(outputs, p);
  make_plan(problem, options);
  simd::chosen_target();
  run(problem, options);
}

}  // namespace CSQ_CODE::detail

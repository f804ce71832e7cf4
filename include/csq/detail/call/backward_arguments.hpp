// Checks the arguments that only a backward call has.
#pragma once

#include <array>
#include <span>

#include "csq/detail/call/arguments.hpp"

namespace CSQ_CODE::detail {

template <class View, class Other>
void check_shape_like(std::string_view name, const View& view, std::string_view other_name, const Other& other) {
  check_heads(name, view);
  const auto& s = view.shape;
  const auto& o = other.shape;
  require(s == o, name, ": shape is [", s[0], ", ", s[1], ", ", s[2], ", ", s[3], "] but ", other_name, " is [", o[0],
          ", ", o[1], ", ", o[2], ", ", o[3], "]");
}

// Where the gradients go.
template <class T>
std::array<Footprint, 6> gradient_footprints(const BackwardProblem<T>& problem) {
  const StoredGradients<T>& gradients = problem.gradients;
  check_heads("dlog_gate", gradients.log_gate);
  return {footprint("dq", gradients.query),
          footprint("dk", gradients.key),
          footprint("dv", gradients.value),
          footprint_of<T>("dshift", gradients.shift, gradients.shift == nullptr ? 0 : 1),
          footprint("dlog_gate", gradients.log_gate),
          footprint_of<T>("dsink", gradients.sink.data(), gradients.sink.size())};
}

template <class T>
void check_gradients_apart(const BackwardProblem<T>& problem, std::span<const Footprint> outputs,
                           const Options& options) {
  const Problem<T>& p = problem.forward;
  const StoredGradients<T>& gradients = problem.gradients;
  check_no_self_overlap("dq", gradients.query);
  check_no_self_overlap("dk", gradients.key);
  check_no_self_overlap("dv", gradients.value);
  check_no_self_overlap("dlog_gate", gradients.log_gate);
  const Footprint inputs[] = {footprint("q", p.query),
                              footprint("k", p.key),
                              footprint("v", p.value),
                              footprint("out", problem.output),
                              footprint("normalizer", problem.normalizer),
                              footprint("dout", problem.output_gradient)};
  check_apart(outputs, inputs);
  check_apart_from_options<T>(outputs, options);
}

// The options being resolved.
template <class T>
void check_gradients_of_options(const BackwardProblem<T>& problem) {
  const Problem<T>& p = problem.forward;
  const StoredGradients<T>& gradients = problem.gradients;
  if (gradients.log_gate.data != nullptr || gradients.log_gate.heads() > 0) {
    require(p.has_gates(), "dlog_gate: the options have no log_gate");
    check_shape_like("dlog_gate", gradients.log_gate, "log_gate", p.log_gate);
  }
  if (gradients.sink.empty()) return;
  require(!p.sink.empty(), "dsink: the options have no sink");
  require(gradients.sink.size() == p.sink.size(), "dsink: has ", gradients.sink.size(), " numbers but sink has ",
          p.sink.size());
}

// The arrays of a call, less what its options bring; their footprints, of what is written.
template <class T>
auto check_backward_arrays(const BackwardProblem<T>& problem, const Options& options) {
  const Problem<T>& p = problem.forward;
  check_held<T>(p.weight);
  check_inputs(p);
  const Heads<const T> output_like(nullptr, {p.query.batch(), p.query.heads(), p.query.tokens(), p.value.dim()});
  const Heads<const T> normalizer_like(nullptr, {p.query.batch(), p.query.heads(), p.query.tokens(), 1});
  check_shape_like("out", problem.output, "the output of this call", output_like);
  check_shape_like("normalizer", problem.normalizer, "the normaliser of this call", normalizer_like);
  check_shape_like("dout", problem.output_gradient, "out", output_like);
  const StoredGradients<T>& gradients = problem.gradients;
  check_shape_like("dq", gradients.query, "q", p.query);
  check_shape_like("dk", gradients.key, "k", p.key);
  check_shape_like("dv", gradients.value, "v", p.value);
  const auto outputs = gradient_footprints(problem);
  check_gradients_apart(problem, outputs, options);
  return outputs;
}

}  // namespace CSQ_CODE::detail

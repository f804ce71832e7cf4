// Checks the arguments that only a backward call has.
#pragma once

#include "csq/detail/call/arguments.hpp"

namespace CSQ_CODE::detail {

template <class T, class Other>
void check_shape_like(std::string_view name, const Heads<T>& view, std::string_view other_name,
                      const Heads<Other>& other) {
  check_heads(name, view);
  const auto& s = view.shape;
  const auto& o = other.shape;
  require(s == o, name, ": shape is [", s[0], ", ", s[1], ", ", s[2], ", ", s[3], "] but ", other_name, " is [", o[0],
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

}  // namespace CSQ_CODE::detail

// Gradients by differences of the plain loops.
#pragma once

#include <algorithm>

#include "problem.hpp"

inline double norm(const std::vector<double>& x) { return distance(x, std::vector<double>(x.size())); }

// Σ dout·out, from the plain loops.
template <class M>
double loss(const NamedMechanism<M>& named, const Problem& p) {
  const reference::Result result = reference_result(named, p);
  long double sum = 0;
  for (std::size_t i = 0; i < p.dout.values.size(); ++i)
    sum += reference::Real(p.dout.values[i]) * reference::Real(result.output.values[i]);
  return double(sum);
}

// Inputs are multiples of 2^−12, so that they move by exactly this much.
inline constexpr double difference_step = 0x1p-24;

// (L(x + difference_step) − L(x − difference_step)) / (2·difference_step), move(p, by) being what is moved.
template <class M, class Move>
double difference_quotient(const NamedMechanism<M>& named, const Problem& p, const Move& move) {
  Problem up = p, down = p;
  move(up, difference_step);
  move(down, -difference_step);
  return (loss(named, up) - loss(named, down)) / (2 * difference_step);
}

// ‖x − expected‖ ≤ tolerance·max(1, ‖expected‖): a gradient may be zero, and its difference quotient almost.
inline bool close(const std::vector<double>& x, const std::vector<double>& expected, double tolerance) {
  std::vector<double> difference = expected;
  for (std::size_t i = 0; i < x.size(); ++i) difference[i] -= x[i];
  return x.size() == expected.size() && norm(difference) <= tolerance * std::max(1.0, norm(expected));
}
inline constexpr double difference_tolerance = 1e-6;

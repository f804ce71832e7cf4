// How far two arrays are apart.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

// ‖x − expected‖/‖expected‖ over the finite entries of `expected`; ‖x‖ itself where `expected` is zero. Infinities must
// be met exactly, and anything else that is not finite is infinitely far away.
inline double distance(const std::vector<double>& x, const std::vector<double>& expected) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (x.size() != expected.size()) return infinity;
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (std::isinf(expected[i]) && x[i] == expected[i]) continue;
    if (!std::isfinite(x[i]) || !std::isfinite(expected[i])) return infinity;
    difference += (x[i] - expected[i]) * (x[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

inline bool all_zero(const std::vector<double>& values) {
  for (const double value : values)
    if (value != 0 && std::isfinite(value)) return false;
  return true;
}

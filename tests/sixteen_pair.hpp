// The same call in 16 bits and in float, and how far 16 bits may be from the definition.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "sixteen.hpp"

namespace sixteen {

template <class Element>
std::vector<double> doubles(const std::vector<Element>& x) {
  return {x.begin(), x.end()};
}

// Whether a matrix unit multiplies the 16-bit numbers themselves, which rounds weights and features too; otherwise all
// arithmetic is that of float arrays, to the bit.
template <class Element = Eigen::bfloat16>
bool matrix_unit_in_use() {
  static const bool in_use = csq::detail::simd::storage_of<Element>()->matrix != nullptr;
  return in_use;
}

// ‖x − reference‖/‖reference‖ of an output, of a gradient.
inline double output_tolerance() { return matrix_unit_in_use() ? 2e-2 : 8e-3; }
inline constexpr double infinity = std::numeric_limits<double>::infinity();
inline double gradient_tolerance() { return 3e-2; }
inline double statistic_tolerance() { return matrix_unit_in_use() ? 2e-2 : 5e-5; }

// Of the gradients of a shift and of gates, sums of terms that cancel: ten times the array's (as float's are).
inline constexpr double tolerance_of_sums = 10;

// The same numbers are not finite, and of the others ‖x − y‖ ≤ tolerance·‖y‖, but for what float makes of zero.
template <class X, class Y>
bool are_near(const std::vector<X>& x, const std::vector<Y>& y, double tolerance) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    const double a = static_cast<double>(x[i]), b = static_cast<double>(y[i]);
    if (std::isfinite(a) != std::isfinite(b) || std::isnan(a) != std::isnan(b)) return false;
    if (!std::isfinite(a)) continue;
    difference += (a - b) * (a - b);
    size += b * b;
  }
  return x.size() == y.size() && std::sqrt(difference) <= tolerance * std::sqrt(size) + 5e-5;
}

// The same call on 16-bit arrays and on float arrays of the same numbers. Rows whose elements lie apart are divided
// otherwise than those of contiguous memory, from which 16 bits are always written: so the float output is contiguous.
template <class Element>
struct Pair {
  Problem problem, in_float;
  PlacedBackward<Element> narrow;
  PlacedBackward<float> wide;

  explicit Pair(const Problem& p) : problem(p), in_float(contiguous(p)), narrow(problem), wide(in_float) {}
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;

  template <class M>
  Outputs<Element> check_forward(const M& mechanism, const Run& run) {
    const Outputs<Element> result = narrow.attend(mechanism, run);
    CHECK(result.outside_untouched);
    const Outputs<float> expected = wide.attend(mechanism, run);
    if (matrix_unit_in_use<Element>()) {
      CHECK(are_near(result.output, expected.output, output_tolerance()));
      CHECK(are_near(result.statistic, expected.statistic, statistic_tolerance()));
    } else {
      CHECK(are_roundings_of(result.output, expected.output));
      CHECK(same_bits(result.statistic, expected.statistic));
    }
    return result;
  }

  // Forward, then backward from the output that 16 bits hold.
  // `cancels`: by how much less a matrix unit must keep of what rounding leaves of the gradients; infinity where they
  // cancel without bound, as in random calls of a few keys: only numbers of float, and outputs, are compared then.
  template <class M>
  GradientOutputs<Element> check(const M& mechanism, const Run& run, double cancels = infinity) {
    check_forward(mechanism, run);
    const std::vector<Element> output = narrow.output.elements();
    std::size_t at = 0;
    wide.output.for_each([&](float& element, Index, Index, Index, Index) { element = float(output[at++]); });
    const GradientOutputs<Element> result = narrow.backward(mechanism, run);
    CHECK(result.outside_untouched);
    const GradientOutputs<float> expected = wide.backward(mechanism, run);
    if (matrix_unit_in_use<Element>()) {
      if (cancels == infinity) return result;
      const double tolerance = gradient_tolerance() * cancels;
      CHECK(are_near(result.query, expected.query, tolerance));
      CHECK(are_near(result.key, expected.key, tolerance));
      CHECK(are_near(result.value, expected.value, tolerance));
      CHECK(are_near(result.log_gate, expected.log_gate, tolerance_of_sums * tolerance));
      CHECK(are_near(result.sink, expected.sink, tolerance));
    } else {
      CHECK(are_roundings_of(result.query, expected.query));
      CHECK(are_roundings_of(result.key, expected.key));
      CHECK(are_roundings_of(result.value, expected.value));
      CHECK(same_bits(result.log_gate, expected.log_gate));
      CHECK(same_bits(result.sink, expected.sink));
      CHECK(same_bits(std::vector<double>{result.shift}, {expected.shift}));
    }
    return result;
  }

 private:
  static Problem contiguous(Problem p) {
    p.output_layout = Layout::contiguous;
    return p;
  }
};

}  // namespace sixteen

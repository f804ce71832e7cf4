// The same call in 16 bits and in float, and how far 16 bits may be from the definition.
#pragma once

#include <vector>

#include "catch.hpp"
#include "sixteen.hpp"

namespace sixteen {

template <class Element>
std::vector<double> doubles(const std::vector<Element>& x) {
  return {x.begin(), x.end()};
}

// Whether this kernel set multiplies the 16-bit numbers themselves, which rounds weights and features too; otherwise
// all arithmetic is that of float arrays, to the bit.
inline bool matrix_unit_in_use() {
  static const bool in_use = csq::detail::simd::storage_of<Eigen::bfloat16>()->matrix != nullptr;
  return in_use;
}

// ‖x − reference‖/‖reference‖ of an output, of a gradient.
inline double output_tolerance() { return matrix_unit_in_use() ? 2e-2 : 8e-3; }
inline double gradient_tolerance() { return 3e-2; }
inline double statistic_tolerance() { return matrix_unit_in_use() ? 2e-2 : 5e-5; }

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
    if (matrix_unit_in_use()) {
      CHECK(distance(doubles(result.output), doubles(expected.output)) <= output_tolerance());
      CHECK(distance(doubles(result.statistic), doubles(expected.statistic)) <= statistic_tolerance());
    } else {
      CHECK(are_roundings_of(result.output, expected.output));
      CHECK(same_bits(result.statistic, expected.statistic));
    }
    return result;
  }

  // Forward, then backward from the output that 16 bits hold.
  template <class M>
  GradientOutputs<Element> check(const M& mechanism, const Run& run) {
    check_forward(mechanism, run);
    const std::vector<Element> output = narrow.output.elements();
    std::size_t at = 0;
    wide.output.for_each([&](float& element, Index, Index, Index, Index) { element = float(output[at++]); });
    const GradientOutputs<Element> result = narrow.backward(mechanism, run);
    CHECK(result.outside_untouched);
    const GradientOutputs<float> expected = wide.backward(mechanism, run);
    if (matrix_unit_in_use()) {
      const auto near = [](const auto& x, const auto& y) {
        return distance(doubles(x), doubles(y)) <= gradient_tolerance();
      };
      CHECK(near(result.query, expected.query));
      CHECK(near(result.key, expected.key));
      CHECK(near(result.value, expected.value));
      CHECK(near(result.log_gate, expected.log_gate));
      CHECK(near(result.sink, expected.sink));
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

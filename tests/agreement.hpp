// Forward against the plain loops, with what rounding allows.
#pragma once

#include "catch.hpp"
#include "problem.hpp"

// Direct weights are as good as their scores. A factored weight is a sum of features of both signs, so its rounding is
// amplified where that sum cancels: ‖error‖ ≤ few·ε·‖condition·row‖.
template <class T>
struct Tolerances {
  double output, statistic;

  Tolerances(csq::Method method, const Problem& p, const reference::Result& expected)
      : output(sizeof(T) == sizeof(double) ? 1e-10 : 5e-5), statistic(output) {
    if (method == csq::Method::direct) return;
    double largest_value = 0, condition = 0, conditioned = 0;
    for (const double value : p.v.values) largest_value = std::max(largest_value, std::abs(value));
    for (std::size_t i = 0; i < expected.condition.values.size(); ++i) {
      condition = std::hypot(condition, expected.condition.values[i]);
      conditioned = std::hypot(conditioned, expected.condition.values[i] * expected.statistic.values[i]);
    }
    const double few = 4 * double(std::numeric_limits<T>::epsilon());
    const double output_norm = norm(expected.output.values), statistic_norm = norm(expected.statistic.values);
    if (output_norm > 0) output += few * condition * std::sqrt(double(p.v.dim)) * largest_value / output_norm;
    if (statistic_norm > 0) statistic += few * conditioned / statistic_norm;
  }

  static double norm(const std::vector<double>& values) {
    return distance(values, std::vector<double>(values.size(), 0));
  }
};

// Every method of those given, every chunk, in float and double.
template <class M>
void check_agreement(const NamedMechanism<M>& named, const Problem& p, const std::vector<Index>& chunks,
                     const std::vector<csq::Method>& of_methods) {
  INFO(named.name << ": " << p.describe());
  const reference::Result expected = reference_result(named, p);
  for_float_and_double([&]<class T>() {
    Placed<T> placed(p);
    for (const csq::Method method : of_methods)
      for (const Index chunk : chunks) {
        INFO(name_of(method) << ", " << 8 * sizeof(T) << " bits, chunk " << chunk);
        const Outputs<T> result = placed.attend(named.mechanism, {method, chunk});
        const Tolerances<T> tolerance(method, p, expected);
        CHECK(distance(result.output, expected.output) <= tolerance.output);
        CHECK(distance(result.statistic, expected.statistic) <= tolerance.statistic);
        CHECK(result.outside_untouched);
      }
  });
}
template <class M>
void check_agreement(const NamedMechanism<M>& named, const Problem& p, const std::vector<Index>& chunks = {0}) {
  check_agreement(named, p, chunks, methods(named.factored));
}

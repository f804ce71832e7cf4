// Every golden gradient: each mechanism that means the case, each method that exists, every chunk, double and float.
// Backward takes what the library's own forward left, in the same precision.
#include "catch.hpp"
#include "golden.hpp"
#include "problem.hpp"

namespace {

double norm(const std::vector<double>& x) { return distance(x, std::vector<double>(x.size())); }

// Gradients that are zero in exact arithmetic: the reference has at most its own rounding.
bool has_one_key_a_row(const golden::Case& c) { return c.name.starts_with("window_") && c.name.ends_with("_one"); }
bool is_rounding_of_zero(const golden::Case& c, const std::vector<double>& expected) {
  const bool may_be = c.name.ends_with("one_key") || c.name.ends_with("equal_keys") || has_one_key_a_row(c);
  return may_be && norm(expected) <= 1e-12;
}

void check_gradient(const golden::Case& c, const char* name, const std::vector<double>& x,
                    const std::vector<double>& expected, double tolerance, double zero_tolerance = 1e-6) {
  INFO(name);
  REQUIRE(x.size() == expected.size());
  // Twenty rows of one key each: as many roundings of what cancels.
  if (is_rounding_of_zero(c, expected))
    CHECK(norm(x) <= (has_one_key_a_row(c) ? 5 : 1) * zero_tolerance);
  else
    CHECK(distance(x, expected) <= tolerance);
}

template <class T>
void check_gradients(const golden::Case& c, const golden::Gradients& expected, const GradientOutputs<T>& result,
                     bool has_shift) {
  const auto doubles = [](const std::vector<T>& x) { return std::vector<double>(x.begin(), x.end()); };
  const double tolerance = golden::tolerance<T>(c.name);
  check_gradient(c, "dq", doubles(result.query), expected.query.values, tolerance);
  check_gradient(c, "dk", doubles(result.key), expected.key.values, tolerance);
  check_gradient(c, "dv", doubles(result.value), expected.value.values, tolerance);
  // A sum over all later tokens of differences that nearly cancel.
  const double gate_tolerance = sizeof(T) == sizeof(double) ? tolerance : 2e-4;
  if (!expected.log_gate.empty())
    check_gradient(c, "dlog_gate", doubles(result.log_gate), expected.log_gate, gate_tolerance);
  if (!expected.sink.empty()) check_gradient(c, "dsink", result.sink, expected.sink, tolerance);
  if (has_shift)
    check_gradient(c, "dshift", {result.shift}, {expected.shift.value()},
                   sizeof(T) == sizeof(double) ? 1e-7 : 10 * tolerance, sizeof(T) == sizeof(double) ? 1e-6 : 1e-5);
}

}  // namespace

TEST_CASE("golden gradients") {
  const auto cases = golden::forward_cases();
  REQUIRE(cases.size() == golden::expected_count());
  for (const golden::Case& c : cases) {
    Problem p = golden::library_problem(c);
    const golden::Gradients expected = golden::load_gradients(c);
    p.dout = expected.output;
    golden::for_each_mechanism_of(c, [&](const char* name, const auto& mechanism, bool factored) {
      constexpr bool has_shift = requires { mechanism.shift_slope(); };
      for_float_and_double([&]<class T>() {
        PlacedBackward<T> placed(p);
        const auto check = [&](const Run& run) {
          INFO(c.name << " as " << name << ", " << name_of(run.method) << ", chunk " << run.chunk << ", "
                      << 8 * sizeof(T) << " bits");
          check_gradients(c, expected, placed.gradients(mechanism, run), has_shift);
        };
        for (const csq::Method method : methods(factored))
          for (const Index chunk : golden::chunks) check({method, chunk});
        check({csq::Method::automatic});
      });
    });
  }
}

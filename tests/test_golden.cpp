// Every forward golden case: each mechanism that means it, each method that exists, every chunk, double and float.
#include <csq/csq.hpp>

#include "catch.hpp"
#include "golden.hpp"
#include "problem.hpp"

namespace {

csq::Centering centering_of(const std::string& name) {
  if (name == "none") return csq::Centering::none;
  if (name == "sequence") return csq::Centering::sequence;
  if (name == "prefix") return csq::Centering::prefix;
  if (name == "prefix_exclusive") return csq::Centering::prefix_exclusive;
  REQUIRE(name.empty());
  return csq::Centering::automatic;
}

Problem problem_of(const golden::Case& c) {
  Problem p;
  p.q = c.q;
  p.k = c.k;
  p.v = c.v;
  p.causal = c.causal;
  p.scale = c.scale;
  p.centering = centering_of(c.centering);
  if (c.key_length) p.key_length = {*c.key_length};
  if (c.query_history_count) p.query_history = {{*c.query_history_count}, c.query_history_mean};
  return p;
}

void check_distance(const std::vector<double>& x, const Tensor& expected, double tolerance) {
  CHECK(distance(x, expected.values) <= (all_zero(expected.values) ? 1e-6 : tolerance));
}

template <class M>
void check_case(const golden::Case& c, const Problem& p, const char* mechanism_name, const M& mechanism,
                bool factored) {
  INFO(c.name << " as " << mechanism_name);
  for_float_and_double([&]<class T>() {
    Placed<T> placed(p);
    for (const csq::Method method : methods(factored))
      for (const Index chunk : {1, 7, 16, 0}) {
        INFO(name_of(method) << ", chunk " << chunk << ", " << 8 * sizeof(T) << " bits");
        const Outputs<T> result = placed.attend(mechanism, {method, chunk});
        const double tolerance = golden::tolerance<T>(c.name);
        check_distance({result.output.begin(), result.output.end()}, c.output, tolerance);
        check_distance({result.statistic.begin(), result.statistic.end()}, c.statistic, tolerance);
      }
    const Outputs<T> chosen = placed.attend(mechanism, {csq::Method::automatic});
    check_distance({chosen.output.begin(), chosen.output.end()}, c.output, golden::tolerance<T>(c.name));
  });
}

}  // namespace

TEST_CASE("golden forward cases") {
  const auto cases = golden::forward_cases();
  REQUIRE(cases.size() == golden::expected_count());
  for (const golden::Case& c : cases) {
    INFO(c.name);
    const Problem p = problem_of(c);
    const std::vector<double>& w = c.coefficients;
    if (c.kind == "softmax") {
      check_case(c, p, "Softmax", csq::Softmax{}, false);
    } else if (c.kind == "linear") {
      check_case(c, p, "Linear", csq::Linear{}, true);
    } else if (c.kind == "csq") {
      const double shift = c.shift.value();
      check_case(c, p, "Csq", csq::Csq{shift}, true);
      check_case(c, p, "ShiftedQuadratic", csq::ShiftedQuadratic{shift}, true);
      check_case(c, p, "Quadratic", csq::Quadratic{shift * shift, 2 * shift, 1}, true);
    } else {
      check_case(c, p, "Polynomial", csq::Polynomial{w}, false);
      if (w == std::vector<double>{0, 0, 1}) check_case(c, p, "Squared", csq::Squared{}, true);
      if (w == std::vector<double>{1, 1, 0.5}) check_case(c, p, "Taylor", csq::Taylor{}, true);
      if (w.size() == 3) check_case(c, p, "Quadratic", csq::Quadratic{w[0], w[1], w[2]}, true);
    }
  }
}

// The folders name their centring; what a user gets who names none must be the same.
TEST_CASE("the default centring of Csq is the golden one") {
  for (const golden::Case& c : golden::forward_cases()) {
    if (c.name != "csq_square" && c.name != "csq_causal") continue;
    INFO(c.name);
    Problem p = problem_of(c);
    p.centering = csq::Centering::automatic;
    p.scale = std::nullopt;
    CHECK(distance(attend<double>(csq::Csq{}, p).output, c.output) <= 1e-10);
  }
}

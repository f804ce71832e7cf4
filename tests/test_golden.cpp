// Every forward golden case: each mechanism that means it, each method that exists, every chunk, double and float.
#include <csq/csq.hpp>

#include "catch.hpp"
#include "golden.hpp"
#include "problem.hpp"

namespace {

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
      for (const Index chunk : golden::chunks) {
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
    const Problem p = golden::library_problem(c);
    golden::for_each_mechanism_of(c, [&](const char* name, const auto& mechanism, bool factored) {
      check_case(c, p, name, mechanism, factored);
    });
  }
}

// The folders name their centring; what a user gets who names none must be the same.
TEST_CASE("the default centring of Csq is the golden one") {
  for (const golden::Case& c : golden::forward_cases()) {
    if (c.name != "csq_square" && c.name != "csq_causal") continue;
    INFO(c.name);
    Problem p = golden::library_problem(c);
    p.centering = csq::Centering::automatic;
    p.scale = std::nullopt;
    CHECK(distance(attend<double>(csq::Csq{}, p).output, c.output) <= 1e-10);
  }
}

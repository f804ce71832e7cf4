// The plain loops of reference.hpp against the golden results: what the kernels are compared with is itself right.
#include "catch.hpp"
#include "compare.hpp"
#include "golden.hpp"

TEST_CASE("the plain reference reproduces every golden forward case") {
  const auto cases = golden::forward_cases();
  REQUIRE(cases.size() == golden::expected_count());
  for (const golden::Case& c : cases) {
    INFO(c.name);
    const reference::Result result = reference::attention(golden::reference_call(c));
    CHECK(distance(result.output.values, c.output.values) <= 1e-12);
    CHECK(distance(result.statistic.values, c.statistic.values) <= 1e-12);
  }
}

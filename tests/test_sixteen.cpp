// Arrays of 16 bits: golden cases with the inputs rounded first, and the one property that carries all the others over
// from float: what is written is what a float call on the same numbers writes, rounded once.
#include <functional>
#include <limits>

#include "catch.hpp"
#include "differences.hpp"
#include "golden.hpp"
#include "sixteen.hpp"

namespace {

using csq::Centering;
using sixteen::doubles;
using sixteen::for_both_types;
using sixteen::gradient_tolerance;
using sixteen::output_tolerance;
using sixteen::Pair;
using sixteen::rounded;
using sixteen::statistic_tolerance;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

template <class Element>
const char* type_name() {
  return sixteen::Format<Element>::name;
}

// Of the golden float tolerance for the normaliser, which is float.
void check_output(const Outputs<Eigen::half>& result, const reference::Result& expected, double statistic) {
  CHECK(distance(doubles(result.output), expected.output.values) <= output_tolerance());
  CHECK(distance(doubles(result.statistic), expected.statistic.values) <= std::max(statistic, statistic_tolerance()));
}
void check_output(const Outputs<Eigen::bfloat16>& result, const reference::Result& expected, double statistic) {
  CHECK(distance(doubles(result.output), expected.output.values) <= output_tolerance());
  CHECK(distance(doubles(result.statistic), expected.statistic.values) <= std::max(statistic, statistic_tolerance()));
}

template <class M>
std::vector<csq::Method> methods_of(const NamedMechanism<M>& named, const Problem& p) {
  return methods(named.factored && p.window == 0 && (p.log_gate.batch == 0 || p.log_gate.heads == p.k.heads));
}

}  // namespace

TEST_CASE("sixteen: golden cases with rounded inputs, every mechanism, method and chunk") {
  const auto cases = golden::forward_cases();
  REQUIRE(cases.size() == golden::expected_count());
  for (const golden::Case& c : cases)
    for_both_types([&]<class Element>() {
      INFO(c.name << " in " << type_name<Element>());
      Problem p = golden::library_problem(c);
      p.dout = golden::load_gradients(c).output;
      p = rounded<Element>(p);
      reference::Call call = golden::reference_call(c);
      call.q = p.q;
      call.k = p.k;
      call.v = p.v;
      const reference::Result expected = reference::attention(call);
      golden::for_each_mechanism_of(c, [&](const char* name, const auto& mechanism, bool factored) {
        Pair<Element> pair(p);
        const auto check = [&](const Run& run) {
          INFO(name << ", " << name_of(run.method) << ", chunk " << run.chunk);
          pair.check(mechanism, run);
          check_output({pair.narrow.output.elements(), pair.narrow.statistic.elements()}, expected,
                       golden::float_tolerance(c.name));
        };
        for (const csq::Method method : methods(factored))
          for (const Index chunk : {1, 7, 16, 0}) check({method, chunk});
        check({csq::Method::automatic});
      });
    });
}

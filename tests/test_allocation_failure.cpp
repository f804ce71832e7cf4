// When memory ends: the call throws std::bad_alloc, whichever allocation it was that failed; nothing leaks, nothing is
// written, and the same call succeeds afterwards with the same result.
#include <functional>

#include "allocations.hpp"
#include "catch.hpp"
#include "problem.hpp"

namespace {

// Lets the first, second, … allocation of `call` fail until none does.
void check_every_failure(const char* name, const std::function<void()>& call) {
  call();  // what the run time keeps for good: threads, locales
  long failures = 0;
  for (bool failed = true; failed; ++failures) {
    REQUIRE(failures < 10000);
    failed = false;
    const long before = allocations::live;
    allocations::until_failure = failures;
    try {
      call();
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    const bool was_reached = allocations::until_failure < 0;
    allocations::until_failure = -1;
    const long left = allocations::live - before;
    INFO(name << ", allocation " << failures);
    CHECK(failed == was_reached);
    CHECK(left == 0);
  }
  INFO(name);
  CHECK(failures > 1);  // at least one failed
}

template <class T, class M>
void check_attention(const NamedMechanism<M>& named, const Problem& p, const Run& run) {
  PlacedBackward<T> placed(p);
  with_options(p, run, [&](const csq::Options& options) {
    const csq::Heads<const T> q = placed.q.view, k = placed.k.view, v = placed.v.view;
    check_every_failure("attention", [&] {
      csq::attention(named.mechanism, q, k, v, placed.output.view, placed.statistic.view, options);
    });
    const std::vector<T> output = placed.output.elements();
    const Array<T> statistic = place<T>(Layout::contiguous, placed.statistic.tensor());
    std::fill(placed.output.memory.begin(), placed.output.memory.end(), T(-3));
    allocations::until_failure = 0;
    CHECK_THROWS_AS(csq::attention(named.mechanism, q, k, v, placed.output.view, placed.statistic.view, options),
                    std::bad_alloc);
    allocations::until_failure = -1;
    for (const T element : placed.output.elements()) CHECK(element == T(-3));
    csq::attention(named.mechanism, q, k, v, placed.output.view, placed.statistic.view, options);
    CHECK(same_bits(placed.output.elements(), output));

    double shift = 0;
    csq::Gradients<T> gradients{placed.dq.view, placed.dk.view, placed.dv.view};
    if constexpr (requires { named.mechanism.shift; }) gradients.shift = &shift;
    check_every_failure("attention_backward", [&] {
      csq::attention_backward(named.mechanism, q, k, v, csq::Heads<const T>(placed.output.view),
                              csq::Heads<const T>(statistic.view), csq::Heads<const T>(placed.dout.view), gradients,
                              options);
    });
  });
}

}  // namespace

TEST_CASE("memory ends in attention and attention_backward") {
  Random random(811);
  const auto visit = [&](const auto& named) {
    for (const bool causal : {false, true})
      for (const Sizes& sizes : {Sizes{3, 3, 2, 2}, Sizes{300, 300, 8, 5}, Sizes{40, 40, 4, 4, 5, 6, 3}})
        for (const csq::Method method : methods(named.factored))
          for (const int threads : {1, 2}) {
            const Problem p = Problem::random_backward(random, sizes, causal);
            INFO(named.name << ", " << p.describe() << ", " << name_of(method) << ", " << threads << " threads");
            check_attention<float>(named, p, {method, 0, threads});
          }
  };
  for_typical_mechanisms(visit);
}

TEST_CASE("memory ends in a call with Eigen's matrices") {
  const csq::Matrix<float> x = csq::Matrix<float>::Random(20, 4);
  check_every_failure("matrices", [&] {
    const csq::Matrix<float> out = csq::attention(csq::Csq{}, x, x, x);
    csq::Matrix<float> kept(2, 2), normalizer;
    csq::attention(csq::Csq{}, x, x, x, kept, normalizer);
  });
}

TEST_CASE("memory ends in a call that keeps its summary") {
  Random random(812);
  const Problem p = Problem::random_backward(random, {50, 50, 6, 5, 1, 2, 1});
  PlacedBackward<float> placed(p);
  check_every_failure("kept summary", [&] {
    csq::KeptSummary summary;
    const csq::Options options{.method = csq::Method::factored, .summary = &summary};
    csq::attention(csq::Csq{}, csq::Heads<const float>(placed.q.view), csq::Heads<const float>(placed.k.view),
                   csq::Heads<const float>(placed.v.view), placed.output.view, placed.statistic.view, options);
  });
}

TEST_CASE("memory ends in the penalties") {
  Random random(813);
  for (const Sizes& sizes : {Sizes{20, 20, 4, 1, 1, 2, 2}, Sizes{200, 200, 12, 1, 3, 4, 2}})
    for (const int threads : {1, 2}) {
      const Problem p = Problem::random(random, sizes);
      INFO(p.describe() << ", " << threads << " threads");
      PlacedBackward<float> placed(p);
      const csq::Heads<const float> q = placed.q.view, k = placed.k.view;
      const csq::Options options{.threads = threads};
      check_every_failure("bound_penalty",
                          [&] { csq::bound_penalty(q, k, placed.dq.view, placed.dk.view, 0.5, 1, options); });
      check_every_failure("sampled_bound_penalty", [&] {
        csq::sampled_bound_penalty(q, k, placed.dq.view, placed.dk.view, 5, 1, 0.5, 1, options);
      });
      check_every_failure("rank_penalty", [&] { csq::rank_penalty(q, placed.dq.view, 1e-3, 1, options); });
    }
}

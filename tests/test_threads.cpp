// Results are a function of the call alone: the same bits for any number of threads, inside somebody's parallel region,
// and with any workspace.
#include <algorithm>
#include <chrono>

#include "catch.hpp"
#include "problem.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

struct ThreadCase {
  const char* name;
  Sizes sizes;
  bool causal;
};

// One head or few are split along features, queries or keys; many are tasks of their own.
const std::vector<ThreadCase> thread_cases{
    {"one head", {700, 700, 16, 12}, false},
    {"one causal head", {700, 700, 16, 12}, true},
    {"one causal head, many chunks", {3000, 3000, 6, 5}, true},
    {"one wide head", {300, 420, 48, 40}, false},
    {"one group", {400, 400, 12, 9, 1, 8, 1}, true},
    {"many heads", {200, 230, 8, 8, 3, 8, 4}, false},
    {"many causal heads", {230, 230, 8, 8, 3, 8, 4}, true},
    {"decode", {1, 5000, 16, 16, 1, 4, 2}, true},
    {"few queries, many keys", {5, 4000, 16, 16}, false},
    {"one query head, one token", {1, 1, 4, 4}, false},
    {"many short heads", {16, 16, 8, 8, 20, 8, 4}, false},
    {"many heads of a few tokens", {5, 7, 8, 8, 30, 8, 4}, true},
    {"decode, many heads", {1, 200, 8, 8, 10, 8, 4}, true},
};

template <class Check>
void for_each_thread_case(const Check& check) {
  Random random(31);
  const auto visit = [&](const auto& named) {
    for (const ThreadCase& c : thread_cases) {
      Problem p = Problem::random(random, c.sizes, c.causal);
      give_needed_history(random, p, named.centred);
      for_float_and_double([&]<class T>() {
        for (const csq::Method method : methods(named.factored)) {
          INFO(named.name << ", " << c.name << ", " << name_of(method) << ", " << 8 * sizeof(T) << " bits");
          Placed<T> placed(p);
          check(named, placed, method);
        }
      });
    }
  };
  for_typical_mechanisms(visit);
}

}  // namespace

TEST_CASE("the same bits for 1, 2, 3, 7 and all threads") {
  for_each_thread_case([](const auto& named, auto& placed, csq::Method method) {
    const auto expected = placed.attend(named.mechanism, {method, 0, 1});
    for (const int threads : {2, 3, 7, 0}) {
      INFO(threads << " threads");
      CHECK(same_bits(placed.attend(named.mechanism, {method, 0, threads}), expected));
    }
  });
}

// As many parallel loops as rounds of heads would be, each waking threads that sleep, took 100 times as long.
TEST_CASE("many short heads take no longer on two threads than on one") {
  Random random(32);
  const Problem p = Problem::random(random, {16, 16, 16, 16, 1000, 8, 8});
  Placed<float> placed(p);
  csq::Workspace workspace;
  const auto seconds = [&](int threads) {
    double least = HUGE_VAL;
    for (int repeat = 0; repeat < 3; ++repeat) {
      with_options(p, {csq::Method::factored, 0, threads, &workspace}, [&](const csq::Options& options) {
        const auto start = std::chrono::steady_clock::now();
        csq::attention(csq::Csq{}, csq::Heads<const float>(placed.q.view), csq::Heads<const float>(placed.k.view),
                       csq::Heads<const float>(placed.v.view), placed.output.view, options);
        least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      });
    }
    return least;
  };
  const double one = seconds(1);
  CHECK(seconds(2) < 5 * one);
}

#ifdef _OPENMP
TEST_CASE("the same bits inside somebody's parallel region") {
  for_each_thread_case([](const auto& named, auto& placed, csq::Method method) {
    const auto expected = placed.attend(named.mechanism, {method, 0, 2});
    constexpr int members = 3;
    std::array<bool, members> same{};
    int team = 0;
#pragma omp parallel num_threads(members)
    {
      auto own = std::remove_reference_t<decltype(placed)>(placed.problem);
#pragma omp single
      team = omp_get_num_threads();
      same[std::size_t(omp_get_thread_num())] = same_bits(own.attend(named.mechanism, {method, 0, 7}), expected);
    }
    for (int member = 0; member < team; ++member) CHECK(same[std::size_t(member)]);
  });
}
#endif

TEST_CASE("the same bits with a workspace that other calls have left dirty") {
  csq::Workspace workspace;
  for_each_thread_case([&](const auto& named, auto& placed, csq::Method method) {
    const auto expected = placed.attend(named.mechanism, {method, 0, 2});
    CHECK(same_bits(placed.attend(named.mechanism, {method, 0, 2, &workspace}), expected));
    std::memset(workspace.reserve(0), 0xff, workspace.bytes());  // NaN, whatever the type
    CHECK(same_bits(placed.attend(named.mechanism, {method, 0, 1, &workspace}), expected));
  });
}

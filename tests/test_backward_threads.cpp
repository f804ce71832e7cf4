// Gradients are a function of the call alone: the same bits for any number of threads, inside somebody's parallel
// region, and with any workspace.
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
  std::vector<Index> key_length = {}, query_length = {};
};

// One head or few are split along features or keys; many are tasks of their own.
const std::vector<ThreadCase> thread_cases{
    {"one head", {330, 330, 16, 12}, false},
    {"one causal head", {330, 330, 16, 12}, true},
    {"one causal head, many superblocks", {1300, 1300, 6, 5}, true},
    {"one wide head", {150, 220, 48, 40}, false},
    {"one causal group", {300, 300, 12, 9, 1, 8, 1}, true},
    {"many heads", {150, 170, 8, 8, 3, 8, 4}, false},
    {"many causal heads", {170, 170, 8, 8, 3, 8, 4}, true},
    {"few queries, many keys", {20, 4000, 16, 16}, false},
    {"more queries than keys, causal", {900, 500, 16, 16}, true},
    {"lengths", {400, 400, 16, 16, 2}, false, {0, 350}, {400, 170}},
    {"one token", {1, 1, 4, 4}, false},
    {"many short heads", {16, 16, 8, 8, 20, 8, 4}, false},
    {"many heads of a few tokens", {7, 5, 8, 8, 30, 8, 4}, true},
    {"many heads of a few tokens, lengths", {7, 5, 8, 8, 3, 48, 24}, false, {0, 5, 2}, {7, 3, 0}},
};

template <class Check>
void for_each_thread_case(const Check& check) {
  Random random(131);
  const auto visit = [&](const auto& named) {
    for (const ThreadCase& c : thread_cases) {
      Problem p = Problem::random_backward(random, c.sizes, c.causal);
      p.key_length = c.key_length;
      p.query_length = c.query_length;
      for_float_and_double([&]<class T>() {
        PlacedBackward<T> placed(p);
        placed.attend(named.mechanism, {});
        for (const csq::Method method : methods(named.factored)) {
          INFO(named.name << ", " << c.name << ", " << name_of(method) << ", " << 8 * sizeof(T) << " bits");
          check(named, placed, method);
        }
      });
    }
  };
  for_typical_mechanisms(visit);
}

}  // namespace

TEST_CASE("the same gradients for 1, 2, 3, 7 and all threads, to the bit") {
  for_each_thread_case([](const auto& named, auto& placed, csq::Method method) {
    const auto expected = placed.backward(named.mechanism, {method, 0, 1});
    for (const int threads : {2, 3, 7, 0}) {
      INFO(threads << " threads");
      CHECK(same_bits(placed.backward(named.mechanism, {method, 0, threads}), expected));
    }
  });
}

#ifdef _OPENMP
TEST_CASE("the same gradients inside somebody's parallel region, to the bit") {
  for_each_thread_case([](const auto& named, auto& placed, csq::Method method) {
    const auto expected = placed.backward(named.mechanism, {method, 0, 2});
    constexpr int members = 3;
    std::array<bool, members> same{};
    int team = 0;
#pragma omp parallel num_threads(members)
    {
      auto own = std::remove_reference_t<decltype(placed)>(placed.problem);
#pragma omp single
      team = omp_get_num_threads();
      own.attend(named.mechanism, {});
      same[std::size_t(omp_get_thread_num())] = same_bits(own.backward(named.mechanism, {method, 0, 7}), expected);
    }
    for (int member = 0; member < team; ++member) CHECK(same[std::size_t(member)]);
  });
}
#endif

TEST_CASE("the same gradients with a workspace that other calls have left dirty, to the bit") {
  csq::Workspace workspace;
  for_each_thread_case([&](const auto& named, auto& placed, csq::Method method) {
    const auto expected = placed.backward(named.mechanism, {method, 0, 2});
    CHECK(same_bits(placed.backward(named.mechanism, {method, 0, 2, &workspace}), expected));
    std::memset(workspace.reserve(0), 0xff, workspace.bytes());  // NaN, whatever the type
    CHECK(same_bits(placed.backward(named.mechanism, {method, 0, 1, &workspace}), expected));
  });
}

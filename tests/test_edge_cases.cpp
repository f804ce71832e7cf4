// Calls at the edge of what is legal: nothing to do, nothing to see, weights that sum to nothing.
#include <algorithm>
#include <limits>

#include "catch.hpp"
#include "problem.hpp"

namespace {

template <class T>
bool all_equal(const std::vector<T>& values, T expected) {
  return std::all_of(values.begin(), values.end(), [&](T value) { return value == expected; });
}

// Rows that see no key: zeros, and a normaliser of 0, whose logarithm is −∞.
template <class M, class T>
void check_nothing_seen(const NamedMechanism<M>& named, const Outputs<T>& result, std::size_t rows) {
  const bool softmax = named.weight.kind == reference::Weight::Kind::exponential;
  CHECK(result.statistic.size() == rows);
  CHECK(all_equal(result.output, T(0)));
  CHECK(all_equal(result.statistic, softmax ? -std::numeric_limits<T>::infinity() : T(0)));
  CHECK(result.outside_untouched);
}

template <class Check>
void for_every_run(const Check& check) {
  for_each_mechanism([&](const auto& named) {
    for_float_and_double([&]<class T>() {
      for (const csq::Method method : methods(named.factored))
        for (const Index chunk : {0, 4}) {
          INFO(named.name << ", " << name_of(method) << ", chunk " << chunk << ", " << 8 * sizeof(T) << " bits");
          check.template operator()<T>(named, Run{method, chunk});
        }
    });
  });
}

}  // namespace

TEST_CASE("no batch, no queries: nothing happens") {
  for_every_run([]<class T>(const auto& named, const Run& run) {
    Random random(61);
    for (const bool causal : {false, true})
      for (const Sizes& s : {Sizes{5, 6, 3, 2, 0, 2, 1}, Sizes{0, 6, 3, 2, 2, 2, 1}, Sizes{0, 0, 3, 2, 1, 1, 1}}) {
        Problem p = Problem::random(random, s, causal, csq::Centering::none);
        const Outputs<T> result = attend<T>(named.mechanism, p, run);
        CHECK(result.output.empty());
        CHECK(result.outside_untouched);
      }
  });
}

TEST_CASE("null data is legal where there is none") {
  const csq::Heads<const float> nothing(nullptr, {1, 2, 0, 3});
  std::vector<float> out(24, 5), keys(60, 1);
  csq::attention(csq::Csq{}, nothing, csq::Heads<const float>(keys.data(), {1, 1, 10, 3}),
                 csq::Heads<const float>(keys.data(), {1, 1, 10, 4}), csq::Heads<float>(nullptr, {1, 2, 0, 4}));
  csq::attention(csq::Csq{}, csq::Heads<const float>(keys.data(), {1, 2, 3, 3}),
                 csq::Heads<const float>(nullptr, {1, 1, 0, 3}), csq::Heads<const float>(nullptr, {1, 1, 0, 4}),
                 csq::Heads<float>(out.data(), {1, 2, 3, 4}));
  CHECK(all_equal(out, 0.0f));
}

TEST_CASE("no keys, or none visible: rows of zeros") {
  for_every_run([]<class T>(const auto& named, const Run& run) {
    Random random(62);
    for (const bool causal : {false, true}) {
      const Problem no_keys = Problem::random(random, {9, 0, 3, 2, 2, 4, 2}, causal);
      check_nothing_seen(named, attend<T>(named.mechanism, no_keys, run), 2 * 4 * 9);
      Problem hidden = Problem::random(random, {9, 9, 3, 2, 2, 4, 2}, causal);
      hidden.key_length = {0, 0};
      check_nothing_seen(named, attend<T>(named.mechanism, hidden, run), 2 * 4 * 9);
      Problem poisoned = hidden;
      poisoned.q(0, 1, 2, 1) = std::numeric_limits<double>::quiet_NaN();
      poisoned.q(1, 2, 8, 0) = std::numeric_limits<double>::infinity();
      check_nothing_seen(named, attend<T>(named.mechanism, poisoned, run), 2 * 4 * 9);
      hidden.key_length.clear();
      hidden.query_length = {0, 0};
      check_nothing_seen(named, attend<T>(named.mechanism, hidden, run), 2 * 4 * 9);
    }
  });
}

TEST_CASE("more queries than keys under a causal mask: the first rows see nothing") {
  for_every_run([]<class T>(const auto& named, const Run& run) {
    Random random(63);
    const Problem p = Problem::random(random, {200, 9, 3, 2}, true);
    const Outputs<T> result = attend<T>(named.mechanism, p, run);
    const reference::Result expected = reference_result(named, p);
    CHECK(distance(result.output, expected.output) <= (sizeof(T) == 8 ? 1e-10 : 5e-4));
    const auto check_first_rows = [&](Outputs<T> outputs) {
      outputs.output.resize(191 * 2);
      outputs.statistic.resize(191);
      check_nothing_seen(named, outputs, 191);
    };
    check_first_rows(result);
    Problem poisoned = p;
    poisoned.q(0, 0, 150, 1) = std::numeric_limits<double>::quiet_NaN();
    check_first_rows(attend<T>(named.mechanism, poisoned, run));
  });
}

TEST_CASE("query rows beyond their length are zeros, whatever the output held") {
  for_every_run([]<class T>(const auto& named, const Run& run) {
    Random random(64);
    for (const bool causal : {false, true}) {
      Problem p = Problem::random(random, {170, 170, 3, 2}, causal);
      p.query_length = {150};
      Outputs<T> result = attend<T>(named.mechanism, p, run);
      CHECK_FALSE(all_equal(result.output, T(0)));
      result.output.erase(result.output.begin(), result.output.begin() + 150 * 2);
      result.statistic.erase(result.statistic.begin(), result.statistic.begin() + 150);
      check_nothing_seen(named, result, 20);
    }
  });
}

TEST_CASE("scale 0 makes every weight the same") {
  for_each_mechanism([](const auto& named) {
    if (!named.takes_scale) return;
    if (named.weight.kind == reference::Weight::Kind::of_score && named.weight.of_score(0) == 0) return;
    Random random(65);
    Problem p = Problem::random(random, {7, 40, 3, 2});
    p.scale = 0;
    Tensor mean(1, 1, 7, 2);
    for (Index i = 0; i < 7; ++i)
      for (Index a = 0; a < 2; ++a)
        for (Index j = 0; j < 40; ++j) mean(0, 0, i, a) += p.v(0, 0, j, a) / 40;
    for (const csq::Method method : methods(named.factored)) {
      INFO(named.name << ", " << name_of(method));
      CHECK(distance(attend<double>(named.mechanism, p, {method, 16}).output, mean) <= 1e-13);
    }
  });
}

TEST_CASE("weights that are all zero give a row of zeros") {
  Random random(66);
  for (const bool causal : {false, true}) {
    Problem p = Problem::random(random, {60, 60, 3, 2}, causal);
    for (const Index zero_query : {0, 17, 59})
      for (Index a = 0; a < 3; ++a) p.q(0, 0, zero_query, a) = 0;
    for_float_and_double([&]<class T>() {
      for (const csq::Method method : methods(true))
        for (const Index chunk : {0, 16}) {
          INFO(name_of(method) << ", chunk " << chunk << ", " << 8 * sizeof(T) << " bits, " << p.describe());
          const Outputs<T> result = attend<T>(csq::Squared{}, p, {method, chunk});
          for (std::size_t i = 0; i < 60; ++i) {
            const bool zero_query = i == 0 || i == 17 || i == 59;
            CHECK((result.statistic[i] == 0) == zero_query);
            CHECK((result.output[2 * i] == 0 && result.output[2 * i + 1] == 0) == zero_query);
          }
        }
    });
  }
}

TEST_CASE("a normaliser below zero or NaN gives a row of NaN, never a number") {
  Random random(67);
  const Problem p = Problem::random(random, {5, 30, 3, 2});
  for_float_and_double([&]<class T>() {
    const Outputs<T> negative = attend<T>(csq::Polynomial{{-1}}, p);
    CHECK(std::all_of(negative.output.begin(), negative.output.end(), [](T x) { return std::isnan(x); }));
    Problem poisoned = p;
    poisoned.q(0, 0, 2, 1) = std::numeric_limits<double>::quiet_NaN();
    for_each_mechanism([&](const auto& named) {
      if (named.weight.kind == reference::Weight::Kind::of_score &&
          named.weight.of_score(0) == named.weight.of_score(9))
        return;  // a constant weight reads no query
      for (const csq::Method method : methods(named.factored)) {
        INFO(named.name << ", " << name_of(method));
        poisoned.centering = csq::Centering::none;
        const Outputs<T> result = attend<T>(named.mechanism, poisoned, {method, 8});
        for (std::size_t i = 0; i < 5; ++i) {
          CHECK(std::isnan(result.output[2 * i]) == (i == 2));
          CHECK(std::isnan(result.output[2 * i + 1]) == (i == 2));
          CHECK(std::isnan(result.statistic[i]) == (i == 2));
        }
      }
    });
  });
}

TEST_CASE("one key: its value, whatever the weight") {
  for_each_mechanism([](const auto& named) {
    if (named.weight.kind == reference::Weight::Kind::of_score && named.weight.of_score(0) == 0) return;
    Random random(68);
    const Problem p = Problem::random(random, {4, 1, 1, 1});
    for_float_and_double([&]<class T>() {
      for (const csq::Method method : methods(named.factored)) {
        INFO(named.name << ", " << name_of(method) << ", " << 8 * sizeof(T) << " bits");
        for (const T value : attend<T>(named.mechanism, p, {method}).output)
          CHECK(std::abs(double(value) - p.v(0, 0, 0, 0)) <= 1e-4);
      }
    });
  });
}

TEST_CASE("queries, keys and values may be the same memory") {
  Random random(69);
  Problem p = Problem::random(random, {40, 40, 4, 4}, true);
  p.k = p.v = p.q;
  const Outputs<double> expected = attend<double>(csq::Csq{}, p);
  const Array<double> x = place<double>(Layout::contiguous, p.q);
  const csq::Heads<const double> view(x.view);
  std::vector<double> out(160);
  csq::Options options;
  options.causal = true;
  csq::attention(csq::Csq{}, view, view, view, csq::Heads<double>(out.data(), {1, 1, 40, 4}), options);
  CHECK(same_bits(out, expected.output));
}

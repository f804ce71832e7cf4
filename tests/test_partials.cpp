// merge_partials: attention over two parts of the keys is attention over all.
#include <algorithm>
#include <cmath>
#include <limits>

#include "catch.hpp"
#include "compare.hpp"
#include "mechanisms.hpp"
#include "problem.hpp"

namespace {

using csq::Heads;

constexpr Index heads = 4, kv_heads = 2, queries = 13, keys = 40, key_dim = 6, value_dim = 5;

template <class T>
std::vector<T> random_numbers(Random& random, Index count) {
  std::vector<T> numbers(static_cast<std::size_t>(count));
  for (T& x : numbers) x = static_cast<T>(random.normal());
  return numbers;
}

// Rows and their statistic over the keys [begin, end).
template <class T>
struct Result {
  std::vector<T> rows = std::vector<T>(heads * queries * value_dim), statistic = std::vector<T>(heads * queries);

  Heads<T> out() { return {rows.data(), {1, heads, queries, value_dim}}; }
  Heads<T> normalizer() { return {statistic.data(), {1, heads, queries, 1}}; }
};

template <class T>
struct Inputs {
  std::vector<T> q, k, v;

  explicit Inputs(Random& random)
      : q(random_numbers<T>(random, heads * queries * key_dim)),
        k(random_numbers<T>(random, kv_heads * keys * key_dim)),
        v(random_numbers<T>(random, kv_heads * keys * value_dim)) {}

  template <class Mechanism>
  Result<T> attend(const Mechanism& mechanism, Index begin, Index end, csq::Options options = {}) {
    Result<T> result;
    options.centering = csq::Centering::none;
    const Heads<const T> Q{q.data(), {1, heads, queries, key_dim}};
    const Heads<const T> K{
        k.data() + begin * key_dim, {1, kv_heads, end - begin, key_dim}, {0, keys * key_dim, key_dim, 1}};
    const Heads<const T> V{
        v.data() + begin * value_dim, {1, kv_heads, end - begin, value_dim}, {0, keys * value_dim, value_dim, 1}};
    csq::attention(mechanism, Q, K, V, result.out(), result.normalizer(), options);
    return result;
  }
};

template <class T>
double largest_difference(const std::vector<T>& a, const std::vector<T>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    const double difference = x == y ? 0 : std::abs(x - y) / (1 + std::abs(y));
    if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, difference);
  }
  return largest;
}

}  // namespace

TEST_CASE("two parts of the keys are the whole, in place too, whatever the split") {
  Random random(31);
  for_typical_mechanisms([&](const auto& named) {
    for_float_and_double([&]<class T>() {
      const double tolerance = sizeof(T) == sizeof(double) ? 1e-12 : 2e-5;
      Inputs<T> inputs(random);
      Result<T> whole = inputs.attend(named.mechanism, 0, keys);
      for (const Index split : {0, 1, 17, 40}) {
        INFO(named.name << ", split at " << split);
        Result<T> first = inputs.attend(named.mechanism, 0, split),
                  second = inputs.attend(named.mechanism, split, keys);
        Result<T> merged;
        csq::merge_partials(named.mechanism, first.out(), first.normalizer(), second.out(), second.normalizer(),
                            merged.out(), merged.normalizer());
        CHECK(largest_difference(merged.rows, whole.rows) <= tolerance);
        CHECK(largest_difference(merged.statistic, whole.statistic) <= tolerance);
        // A part without keys changes no bit.
        if (split == 0) CHECK(merged.rows == second.rows);
        if (split == keys) CHECK(merged.rows == first.rows);
        csq::merge_partials(named.mechanism, second.out(), second.normalizer(), first.out(), first.normalizer(),
                            first.out(), first.normalizer(), 1);
        CHECK(largest_difference(first.rows, whole.rows) <= tolerance);
        CHECK(largest_difference(first.statistic, whole.statistic) <= tolerance);
      }
    });
  });
}

TEST_CASE("a sink of one part is a sink of the whole; rows that nothing sees; NaN stays") {
  Random random(32);
  Inputs<double> inputs(random);
  const std::vector<double> sink{0.5, -1, 3, 0};
  Result<double> whole = inputs.attend(csq::Softmax{}, 0, keys, {.sink = sink});
  Result<double> first = inputs.attend(csq::Softmax{}, 0, 9),
                 second = inputs.attend(csq::Softmax{}, 9, keys, {.sink = sink});
  Result<double> merged;
  const auto merge = [&](const auto& mechanism) {
    csq::merge_partials(mechanism, first.out(), first.normalizer(), second.out(), second.normalizer(), merged.out(),
                        merged.normalizer());
  };
  merge(csq::Softmax{});
  CHECK(largest_difference(merged.rows, whole.rows) <= 1e-12);
  CHECK(largest_difference(merged.statistic, whole.statistic) <= 1e-12);

  const double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  first.statistic[0] = second.statistic[0] = -infinity;
  first.statistic[1] = nan;
  second.statistic[2] = nan;
  merge(csq::Softmax{});
  CHECK(merged.statistic[0] == -infinity);
  CHECK(merged.rows[0] == 0);
  first.statistic[4] = nan, second.statistic[4] = -infinity;
  first.statistic[5] = -infinity, second.statistic[5] = nan;
  merge(csq::Softmax{});
  for (const std::size_t row : {1u, 2u, 4u, 5u}) {
    CHECK(std::isnan(merged.statistic[row]));
    CHECK(std::isnan(merged.rows[row * value_dim]));
  }
  first.statistic[3] = -1;
  second.statistic[3] = 0.5;
  merge(csq::Csq{});
  CHECK(std::isnan(merged.rows[3 * value_dim]));
  // A sum that the type does not hold: the row is right, its normaliser NaN, as attention reports it.
  Result<float> large, other, both;
  std::fill(large.statistic.begin(), large.statistic.end(), 3e38f);
  other = large;
  std::fill(large.rows.begin(), large.rows.end(), 1.0f);
  csq::merge_partials(csq::Csq{}, large.out(), large.normalizer(), other.out(), other.normalizer(), both.out(),
                      both.normalizer());
  CHECK(both.rows[0] == 0.5f);
  CHECK(std::isnan(both.statistic[0]));
  // The second part in place.
  csq::merge_partials(csq::Csq{}, large.out(), large.normalizer(), other.out(), other.normalizer(), other.out(),
                      other.normalizer());
  CHECK(other.rows == both.rows);
}

TEST_CASE("partial results that do not fit are errors") {
  Result<float> first, second, merged;
  const auto fails = [&](const Heads<float>& out, const Heads<float>& normalizer) {
    CHECK_THROWS_AS(csq::merge_partials(csq::Softmax{}, first.out(), first.normalizer(), second.out(),
                                        second.normalizer(), out, normalizer),
                    std::invalid_argument);
  };
  fails({merged.rows.data(), {1, heads, queries, value_dim - 1}}, merged.normalizer());
  fails(merged.out(), {merged.statistic.data(), {1, heads, queries - 1, 1}});
  fails({first.rows.data() + 1, {1, heads, queries - 1, value_dim}}, merged.normalizer());
  fails({first.rows.data() + 1, {1, heads, queries, value_dim}, {0, queries * value_dim, value_dim, 1}},
        merged.normalizer());
  fails({merged.rows.data(), {1, heads, queries, value_dim}, {0, 0, value_dim, 1}}, merged.normalizer());
}

// Scores of −∞ and weights that are too small for a number: 0, wherever they stand.
#include <algorithm>
#include <cmath>
#include <limits>

#include "catch.hpp"
#include "problem.hpp"

namespace {

// Softmax in which keys [0, hidden) score −∞ for every query, by overflow: they lie against the queries along a first
// axis that the other keys know nothing of. `rest` is the same without them.
template <class T>
struct Hidden {
  Problem all, rest;

  Hidden(const Sizes& sizes, Index hidden, bool causal) {
    Random random(81);
    all = Problem::random_backward(random, sizes, causal, csq::Centering::none);
    const double large = 4 * std::sqrt(double(std::numeric_limits<T>::max()));
    for (Index i = 0; i < sizes.n; ++i) all.q(0, 0, i, 0) = large;
    for (Index j = 0; j < sizes.m; ++j) all.k(0, 0, j, 0) = j < hidden ? -large : 0;
    rest = all;
    const auto without = [&](const Tensor& x) {
      Tensor result(1, 1, sizes.m - hidden, x.dim);
      std::copy(x.values.begin() + hidden * x.dim, x.values.end(), result.values.begin());
      return result;
    };
    rest.k = without(all.k);
    rest.v = without(all.v);
  }
};

template <class T>
bool alike(const std::vector<T>& x, const std::vector<T>& y) {
  if (x.size() != y.size()) return false;
  for (std::size_t i = 0; i < x.size(); ++i)
    if (std::isnan(x[i]) || (x[i] != y[i] && !(std::abs(x[i] - y[i]) <= 1e-4 * (1 + std::abs(double(y[i]))))))
      return false;
  return true;
}

}  // namespace

TEST_CASE("softmax: keys that score −∞ weigh nothing, whichever come first") {
  for_float_and_double([]<class T>() {
    for (const bool causal : {false, true})
      for (const Sizes& sizes :
           {Sizes{4, 8, 5, 3}, Sizes{1, 400, 5, 3}, Sizes{5, 3000, 5, 3}, Sizes{40, 400, 5, 20}, Sizes{350, 400, 5, 3}})
        for (const Index hidden : {Index(1), Index(72), Index(144), Index(300), sizes.m - 1, sizes.m}) {
          if (hidden > sizes.m) continue;
          const Hidden<T> keys(sizes, hidden, causal);
          INFO(8 * sizeof(T) << " bits, hidden " << hidden << ", " << keys.all.describe());
          const Outputs<T> found = attend<T>(csq::Softmax{}, keys.all);
          const Outputs<T> expected = attend<T>(csq::Softmax{}, keys.rest);
          CHECK(alike(found.output, expected.output));
          CHECK(alike(found.statistic, expected.statistic));
          GradientOutputs<T> gradient = gradients<T>(csq::Softmax{}, keys.all);
          const GradientOutputs<T> wanted = gradients<T>(csq::Softmax{}, keys.rest);
          const auto seen = [&](std::vector<T>& rows, Index dim) {
            const auto end = rows.begin() + hidden * dim;
            CHECK(std::all_of(rows.begin(), end, [](T x) { return x == 0; }));
            rows.erase(rows.begin(), end);
          };
          seen(gradient.key, sizes.d);
          seen(gradient.value, sizes.dv);
          CHECK(alike(gradient.value, wanted.value));
          // Along the first axis ∂k is what large queries make of rounding.
          for (std::size_t i = 0; i < gradient.key.size(); ++i)
            if (i % std::size_t(sizes.d) != 0)
              CHECK(std::abs(double(gradient.key[i]) - double(wanted.key[i])) <=
                    1e-4 * (1 + std::abs(double(wanted.key[i]))));
          CHECK(alike(gradient.query, wanted.query));
        }
  });
}

TEST_CASE("softmax: a score of +∞ reaches the rows that see it, as NaN") {
  for_float_and_double([]<class T>() {
    for (const auto& [n, m] : {std::pair<Index, Index>{4, 8}, {4, 200}, {200, 200}}) {
      Hidden<T> keys({n, m, 5, 3}, 0, true);
      keys.all.k(0, 0, m - 2, 0) = 8 * std::sqrt(double(std::numeric_limits<T>::max()));
      const Outputs<T> found = attend<T>(csq::Softmax{}, keys.all);
      for (Index i = 0; i < n; ++i) {
        INFO(8 * sizeof(T) << " bits, row " << i << " of " << n);
        CHECK(std::isnan(found.output[std::size_t(3 * i)]) == (i >= n - 2));
        CHECK(std::isnan(found.statistic[std::size_t(i)]) == (i >= n - 2));
      }
    }
  });
}

TEST_CASE("softmax: a weight below every number is 0, whatever it is a weight of") {
  for_float_and_double([]<class T>() {
    for (const Index n : {1, 60}) {
      Problem p;
      p.q = Tensor(1, 1, n, 1);
      p.k = Tensor(1, 1, 3, 1);
      p.v = Tensor(1, 1, 3, 1);
      std::fill(p.q.values.begin(), p.q.values.end(), 1.0);
      p.k.values = {0, -1000, -1e30};
      p.v.values = {1, double(std::numeric_limits<T>::max()) / 4, double(std::numeric_limits<T>::max()) / 4};
      const Outputs<T> found = attend<T>(csq::Softmax{}, p);
      for (const T x : found.output) CHECK(x == 1);
    }
  });
}

TEST_CASE("softmax: weights are right down to the smallest normal number") {
  for_float_and_double([]<class T>() {
    const double smallest = std::log(double(std::numeric_limits<T>::min()));
    Problem p;
    p.q = Tensor(1, 1, 400, 1);
    p.k = Tensor(1, 1, 2, 1);
    p.k.values = {1, 0};
    p.v = Tensor(1, 1, 2, 1);
    p.v.values = {1, 0};
    for (std::size_t i = 0; i < 400; ++i) p.q.values[i] = double(T(smallest * (0.8 + 0.001 * double(i))));
    const Outputs<T> found = attend<T>(csq::Softmax{}, p);
    for (std::size_t i = 0; i < 400; ++i) {
      const double score = p.q.values[i], weight = std::exp(score);
      INFO(8 * sizeof(T) << " bits, score " << score);
      if (score > smallest)
        CHECK(std::abs(double(found.output[i]) / weight - 1) <=
              (8 + std::abs(score)) * double(std::numeric_limits<T>::epsilon()));
      else
        CHECK(double(found.output[i]) <= std::exp(smallest));
      if (score < smallest - 1) CHECK(found.output[i] == 0);
    }
  });
}

TEST_CASE("Linear: queries so far below zero that φ is hardly a number") {
  const NamedMechanism<csq::Linear> linear{"linear", {}, linear_weight(), true, false};
  for_float_and_double([&]<class T>() {
    Random random(82);
    Problem p = Problem::random(random, {50, 60, 6, 4});
    const double far = std::log(double(std::numeric_limits<T>::min())) - 2;
    for (double& x : p.q.values) x += far;
    for (double& x : p.q.values) x = double(T(x));
    const reference::Result expected = reference_result(linear, p);
    for (const csq::Method method : methods(true)) {
      INFO(8 * sizeof(T) << " bits, " << name_of(method));
      CHECK(distance(attend<T>(csq::Linear{}, p, {method}).output, expected.output) <= 1e-4);
    }
  });
}

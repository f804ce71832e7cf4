// What the mathematics promises of every result: symmetries, limits and bounds.
#include <algorithm>
#include <numeric>

#include "catch.hpp"
#include "problem.hpp"

namespace {

using csq::Centering;

// Rows of one method against rows of the same method: only rounding differs.
template <class T>
constexpr double rounding = sizeof(T) == sizeof(double) ? 1e-11 : 1e-4;

template <class T>
double difference(const std::vector<T>& x, const std::vector<T>& y) {
  return distance(std::vector<double>(x.begin(), x.end()), std::vector<double>(y.begin(), y.end()));
}

void add_to_all(Tensor& x, const std::vector<double>& constant) {
  for (std::size_t i = 0; i < x.values.size(); ++i) x.values[i] += constant[i % constant.size()];
}

}  // namespace

TEST_CASE("without a mask the order of the keys does not matter") {
  Random random(21);
  for_each_mechanism([&](const auto& named) {
    for (const Centering centering : {Centering::none, Centering::sequence}) {
      const Problem p = Problem::random(random, {33, 170, 9, 7, 2, 4, 2}, false, centering);
      Problem permuted = p;
      std::vector<Index> order(std::size_t(p.k.tokens));
      std::iota(order.begin(), order.end(), Index{0});
      for (Index t = p.k.tokens - 1; t > 0; --t)
        std::swap(order[std::size_t(t)], order[std::size_t(random.integer(0, t))]);
      const auto permute = [&](const Tensor& from, Tensor& to) {
        for (Index b = 0; b < from.batch; ++b)
          for (Index h = 0; h < from.heads; ++h)
            for (Index t = 0; t < from.tokens; ++t)
              for (Index a = 0; a < from.dim; ++a) to(b, h, t, a) = from(b, h, order[std::size_t(t)], a);
      };
      permute(p.k, permuted.k);
      permute(p.v, permuted.v);
      for_float_and_double([&]<class T>() {
        for (const csq::Method method : methods(named.factored)) {
          INFO(named.name << ", " << name_of(method) << ", " << 8 * sizeof(T) << " bits, " << p.describe());
          const Outputs<T> x = attend<T>(named.mechanism, p, {method});
          const Outputs<T> y = attend<T>(named.mechanism, permuted, {method});
          CHECK(difference(x.output, y.output) <= rounding<T>);
          CHECK(difference(x.statistic, y.statistic) <= rounding<T>);
        }
      });
    }
  });
}

TEST_CASE("Csq is unchanged by a constant added to all keys or to all queries") {
  Random random(22);
  for (const bool causal : {false, true}) {
    const Problem p = Problem::random(random, {160, 160, 9, 7, 1, 4, 2}, causal);
    std::vector<double> constant;
    for (Index a = 0; a < p.q.dim; ++a) constant.push_back(double(random.integer(-200, 200)));  // sums stay exact
    for (const bool of_keys : {false, true}) {
      Problem moved = p;
      add_to_all(of_keys ? moved.k : moved.q, constant);
      for_float_and_double([&]<class T>() {
        for (const csq::Method method : methods(true)) {
          INFO((of_keys ? "keys, " : "queries, ")
               << name_of(method) << ", " << 8 * sizeof(T) << " bits, " << p.describe());
          const Outputs<T> x = attend<T>(csq::Csq{}, p, {method});
          const Outputs<T> y = attend<T>(csq::Csq{}, moved, {method});
          CHECK(difference(y.output, x.output) <= rounding<T>);
          CHECK(difference(y.statistic, x.statistic) <= rounding<T>);
        }
      });
    }
    // The same constant does change what is not centred, so the check above can fail.
    Problem moved = p;
    add_to_all(moved.k, constant);
    CHECK(difference(attend<double>(csq::ShiftedQuadratic{}, moved).output,
                     attend<double>(csq::ShiftedQuadratic{}, p).output) > 1e-2);
  }
}

TEST_CASE("a huge shift tends to the mean of the visible values") {
  Random random(23);
  for (const bool causal : {false, true}) {
    const Problem p = Problem::random(random, {90, 90, 6, 5, 1, 2, 1}, causal);
    Tensor mean(1, 2, 90, 5);
    for (Index h = 0; h < 2; ++h)
      for (Index i = 0; i < 90; ++i)
        for (Index a = 0; a < 5; ++a) {
          const Index seen = causal ? i + 1 : 90;
          for (Index j = 0; j < seen; ++j) mean(0, h, i, a) += p.v(0, 0, j, a) / double(seen);
        }
    for_float_and_double([&]<class T>() {
      for (const csq::Method method : methods(true)) {
        INFO(name_of(method) << ", " << 8 * sizeof(T) << " bits, " << p.describe());
        const double far = distance(attend<T>(csq::Csq{1e2}, p, {method, 16}).output, mean);
        const double farther = distance(attend<T>(csq::Csq{1e4}, p, {method, 16}).output, mean);
        CHECK(farther < 2e-3);
        CHECK(farther < far / 50);
      }
    });
  }
}

// Σ_j s_ij = 0 under sequence centring gives δ_i ≥ |J_i|β²; the first centred key is zero under inclusive prefix means,
// which gives δ_i ≥ β².
TEST_CASE("the normaliser of Csq stays above its bounds") {
  Random random(24);
  for (const double shift : {1.0, -0.5, 3.0})
    for (const double scale : {0.3, 2.0})
      for (const bool causal : {false, true})
        for (const Index key_length : {150, 61}) {
          Problem p = Problem::random(random, {150, 150, 6, 4, 1, 2, 2}, causal);
          p.scale = scale;
          p.key_length = {key_length};
          const double bound = causal ? shift * shift : double(key_length) * shift * shift;
          for_float_and_double([&]<class T>() {
            for (const csq::Method method : methods(true)) {
              INFO("shift " << shift << ", " << name_of(method) << ", " << 8 * sizeof(T) << " bits, " << p.describe());
              const Outputs<T> result = attend<T>(csq::Csq{shift}, p, {method, 16});
              const double smallest = double(*std::min_element(result.statistic.begin(), result.statistic.end()));
              CHECK(smallest >= bound * (1 - (sizeof(T) == sizeof(double) ? 1e-10 : 1e-3)));
            }
          });
        }
}

TEST_CASE("softmax is unchanged by a constant added to all keys, and its statistic moves with the scores") {
  Random random(25);
  const Problem p = Problem::random(random, {20, 75, 4, 3});
  Problem moved = p;
  add_to_all(moved.k, {50, 0, 0, 0});
  const Outputs<double> x = attend<double>(csq::Softmax{}, p);
  const Outputs<double> y = attend<double>(csq::Softmax{}, moved);
  CHECK(difference(y.output, x.output) <= 1e-12);
  for (Index i = 0; i < 20; ++i)
    CHECK(std::abs(y.statistic[std::size_t(i)] - x.statistic[std::size_t(i)] - 25 * p.q(0, 0, i, 0)) <= 1e-11);
}

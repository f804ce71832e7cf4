// The arithmetic that decides between the methods, against the numbers derived by hand.
#include <cmath>
#include <csq/csq.hpp>

#include "catch.hpp"

namespace {

using csq::Index;
using csq::Method;

// |x − expected| / expected
double deviation(double x, double expected) { return std::abs(x / expected - 1); }

// t = D(dᵥ+1)/(d+dᵥ): how many keys cost as much directly as one read.
double break_even(Index d) { return double((d + 1) * (d + 2) / 2) * double(d + 1) / double(2 * d); }

csq::Shape square(double tokens, Index d, bool causal = false, Index group = 1) {
  const auto n = static_cast<Index>(tokens);
  return {n, n, d, d, 1, group, 1, causal};
}

}  // namespace

TEST_CASE("feature counts") {
  CHECK(csq::feature_count(1) == 3);
  CHECK(csq::feature_count(16) == 153);
  CHECK(csq::feature_count(32) == 561);
  CHECK(csq::feature_count(64) == 2145);
  CHECK(csq::feature_count(128) == 8385);
  CHECK(csq::feature_count(csq::Linear{}, 64) == 64);
}

TEST_CASE("multiply-adds") {
  // direct: g·n·m·(d+dᵥ);  factored: (n·g + m)·D·(dᵥ+1)
  CHECK(csq::direct_multiply_adds({1000, 2000, 64, 32, 3, 8, 2}) == 3.0 * 8 * 1000 * 2000 * 96);
  CHECK(csq::factored_multiply_adds({1000, 2000, 64, 32, 3, 8, 2}) == 3.0 * (8 * 1000 + 2 * 2000) * 2145 * 33);
  CHECK(deviation(csq::direct_multiply_adds(square(4096, 64, true)), 4096.0 * 4096 * 128 / 2) < 0.02);

  // Causal: the savings take (g + 1/g)·t rows off and the chunk's own pairs come on top.
  for (const Index group : {1, 8}) {
    INFO("group " << group);
    const double full = csq::factored_multiply_adds(square(100000, 64, false, group));
    const double causal = csq::factored_multiply_adds(square(100000, 64, true, group));
    CHECK(deviation(causal, full) < 0.08);
    const double g = double(group), n = 10000, t = break_even(64);
    const double expected = ((n - t) * g + n - t / g) * 2145 * 65 + g * t * t / 2 * 128;
    const double work = csq::factored_multiply_adds(square(n, 64, true, group));
    CHECK(work > expected * 0.97);
    CHECK(work < expected * 1.12);
  }
}

TEST_CASE("predicted crossovers") {
  for (const Index d : {16, 32, 64, 128}) {
    INFO("d = " << d);
    const double features = double(csq::feature_count(d)), full = (1 + 1 / double(d)) * features;
    CHECK(deviation(csq::predicted_crossover(d, d), full) < 1e-3);
    CHECK(deviation(csq::predicted_crossover(d, d, {.group = 8}), full * (1 + 1.0 / 8) / 2) < 1e-3);
    CHECK(deviation(csq::predicted_crossover(d, d, {.direct_efficiency = 0.8, .factored_efficiency = 0.4}), 2 * full) <
          1e-3);
    // The chunk's own pairs come on top; at d = 16 a chunk is as long as there are features.
    const double chunk = d == 16 ? 0.3 : 0.08;
    CHECK(deviation(csq::predicted_crossover(d, d, {.causal = true}), 1.71 * full) < chunk);
    CHECK(deviation(csq::predicted_crossover(d, d, {.causal = true, .group = 8}), 0.81 * full) < chunk);
  }
  // dᵥ ≠ d: n·m·(d+dᵥ) against (n+m)·D·(dᵥ+1).
  CHECK(deviation(csq::predicted_crossover(64, 32), 2 * 2145.0 * 33 / 96) < 1e-3);
}

TEST_CASE("both sides cost the same at the predicted crossover") {
  for (const Index d : {16, 32, 64, 128})
    for (const bool causal : {false, true})
      for (const Index group : {1, 8}) {
        INFO("d = " << d << (causal ? ", causal" : "") << ", group " << group);
        const double tokens = csq::predicted_crossover(d, d, {.causal = causal, .group = group});
        const csq::Shape shape = square(tokens, d, causal, group);
        CHECK(deviation(csq::factored_multiply_adds(shape), csq::direct_multiply_adds(shape)) < (causal ? 0.25 : 0.02));
      }
}

TEST_CASE("short sequences are direct, long ones factored") {
  for (const Index d : {16, 32, 64, 128})
    for (const bool causal : {false, true})
      for (const Index group : {1, 8}) {
        INFO("d = " << d << (causal ? ", causal" : "") << ", group " << group);
        const double tokens = csq::predicted_crossover(d, d, {.causal = causal, .group = group});
        CHECK(csq::choose_method(square(tokens / 4, d, causal, group)) == Method::direct);
        CHECK(csq::choose_method(square(tokens * 8, d, causal, group)) == Method::factored);
        CHECK(csq::choose_method(csq::Csq{}, square(tokens / 4, d, causal, group)) == Method::direct);
        CHECK(csq::choose_method(csq::Csq{}, square(tokens * 8, d, causal, group)) == Method::factored);
      }
  CHECK(csq::choose_method({1, 1000000, 64, 64}) == Method::direct);  // one query: reading costs more than it saves
}

TEST_CASE("the mechanism decides what can be chosen") {
  const csq::Shape endless = square(1e6, 64);
  CHECK(csq::choose_method(csq::Softmax{}, endless) == Method::direct);
  CHECK(csq::choose_method(csq::Polynomial{{1, 1, 0.5}}, endless) == Method::direct);
  CHECK(csq::choose_method(csq::PositivePolynomial{{1, 1}, 4, 0.1}, endless) == Method::direct);
  CHECK(csq::choose_method(csq::Squared{}, endless) == Method::factored);
  CHECK(csq::choose_method(csq::Linear{}, endless) == Method::factored);
  CHECK(csq::choose_method(csq::Linear{}, square(1000, 64)) == Method::factored);  // degree 1: d features, not d²/2
}

TEST_CASE("causal calls below t(1+1/g) read no summary") {
  for (const Index d : {32, 64, 128})
    for (const Index group : {1, 8}) {
      INFO("d = " << d << ", group " << group);
      const double limit = break_even(d) * (1 + 1 / double(group));
      const auto used = [&](double tokens, bool causal) {
        return csq::used_method(csq::Csq{}, square(tokens, d, causal, group), {.method = Method::factored});
      };
      CHECK(used(0.5 * limit, true) == Method::direct);
      CHECK(used(2 * limit, true) == Method::factored);
      CHECK(used(0.5 * limit, false) == Method::factored);
    }
}

// The arithmetic that decides between the methods, against the numbers derived by hand.
#include <cmath>
#include <csq/csq.hpp>
#include <limits>

#include "catch.hpp"
#include "problem.hpp"

namespace {

using csq::Method;

// |x − expected| / expected
double deviation(double x, double expected) { return std::abs(x / expected - 1); }

// The model that compares the counts alone.
csq::CrossoverModel counts_alone(bool causal = false, Index group = 1) {
  return {.causal = causal, .group = group, .direct_efficiency = 1, .factored_efficiency = 1};
}

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
    CHECK(deviation(csq::predicted_crossover(d, d, counts_alone()), full) < 1e-3);
    CHECK(deviation(csq::predicted_crossover(d, d, counts_alone(false, 8)), full * (1 + 1.0 / 8) / 2) < 1e-3);
    CHECK(deviation(csq::predicted_crossover(d, d, {.direct_efficiency = 0.8, .factored_efficiency = 0.4}), 2 * full) <
          1e-3);
    // The chunk's own pairs come on top; at d = 16 a chunk is as long as there are features.
    const double chunk = d == 16 ? 0.3 : 0.08;
    CHECK(deviation(csq::predicted_crossover(d, d, counts_alone(true)), 1.71 * full) < chunk);
    CHECK(deviation(csq::predicted_crossover(d, d, counts_alone(true, 8)), 0.81 * full) < chunk);
  }
  // dᵥ ≠ d: n·m·(d+dᵥ) against (n+m)·D·(dᵥ+1).
  CHECK(deviation(csq::predicted_crossover(64, 32, counts_alone()), 2 * 2145.0 * 33 / 96) < 1e-3);
}

TEST_CASE("both sides cost the same at the predicted crossover") {
  for (const Index d : {16, 32, 64, 128})
    for (const bool causal : {false, true})
      for (const Index group : {1, 8}) {
        INFO("d = " << d << (causal ? ", causal" : "") << ", group " << group);
        const double tokens = csq::predicted_crossover(d, d, counts_alone(causal, group));
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

TEST_CASE("one model, one answer") {
  CHECK(csq::choose_method({.queries = 600, .keys = 600, .key_dim = 32, .value_dim = 32}) == Method::direct);
  CHECK(csq::predicted_crossover(32, 32) > 600);
  const auto check = [](const auto& mechanism, Index d, Index dv, bool causal, Index group) {
    INFO("d = " << d << ", dv = " << dv << (causal ? ", causal" : "") << ", group " << group);
    const double predicted = csq::predicted_crossover(mechanism, d, dv, {.causal = causal, .group = group});
    const auto answers = [&](double tokens, Method expected) {
      const Index n = static_cast<Index>(tokens);
      const csq::Shape shape{
          .queries = n, .keys = n, .key_dim = d, .value_dim = dv, .heads = group, .kv_heads = 1, .causal = causal};
      INFO("n = " << n);
      CHECK(csq::choose_method(mechanism, shape) == expected);
      CHECK(csq::used_method(mechanism, shape) == expected);
    };
    answers(std::ceil(predicted) - 1, Method::direct);
    answers(std::floor(predicted) + 1, Method::factored);
    answers(predicted / 2, Method::direct);
    answers(predicted * 2, Method::factored);
  };
  for (const Index d : {7, 16, 24, 25, 32, 48, 64, 128})
    for (const bool causal : {false, true})
      for (const Index group : {1, 8}) {
        check(csq::Csq{}, d, d, causal, group);
        check(csq::Squared{}, d, d, causal, group);
        check(csq::Csq{}, d, 64, causal, group);
        CHECK(csq::predicted_crossover(d, 64, {.causal = causal, .group = group}) ==
              csq::predicted_crossover(csq::Csq{}, d, 64, {.causal = causal, .group = group}));
      }
  CHECK(std::isinf(csq::predicted_crossover(csq::Softmax{}, 64, 64)));
}

TEST_CASE("kv_heads unset means as many as heads") {
  const csq::Shape all{.queries = 500, .keys = 500, .key_dim = 32, .value_dim = 32, .heads = 32};
  csq::Shape same = all, one = all;
  same.kv_heads = 32;
  one.kv_heads = 1;
  CHECK(csq::factored_multiply_adds(all) == csq::factored_multiply_adds(same));
  CHECK(csq::factored_multiply_adds(all) > csq::factored_multiply_adds(one));
  CHECK(csq::factored_backward_multiply_adds(all) == csq::factored_backward_multiply_adds(same));
  CHECK(csq::workspace_bytes(csq::Csq{}, all) == csq::workspace_bytes(csq::Csq{}, same));
  CHECK(csq::backward_workspace_bytes(csq::Csq{}, all) == csq::backward_workspace_bytes(csq::Csq{}, same));
  CHECK(csq::choose_method(all) == csq::choose_method(same));
  CHECK(csq::choose_method(one) == Method::factored);
}

TEST_CASE("a chunk is an option, not a number beside the shape") {
  const csq::Shape shape = square(5000, 32, true);
  CHECK(csq::factored_multiply_adds(shape, {.chunk = 16}) ==
        csq::factored_multiply_adds(csq::Csq{}, shape, {.chunk = 16}));
  CHECK(csq::factored_multiply_adds(shape, {.chunk = 16}) != csq::factored_multiply_adds(shape));
  CHECK(csq::factored_multiply_adds(square(5000, 32), {.causal = true}) == csq::factored_multiply_adds(shape));
}

TEST_CASE("shapes that cannot be are errors that name the size") {
  const csq::Shape good{.queries = 10, .keys = 10, .key_dim = 4, .value_dim = 4, .heads = 4, .kv_heads = 2};
  const auto check = [&](const char* name, Index csq::Shape::*field, Index value) {
    csq::Shape shape = good;
    shape.*field = value;
    INFO(name << " = " << value);
    const auto rejects = [&](const auto& call) {
      const std::string message = rejection(call);
      INFO("message: " << message);
      CHECK(names(message, name));
      CHECK(names(message, std::to_string(value)));
    };
    rejects([&] { csq::visible_pairs(shape); });
    rejects([&] { csq::direct_multiply_adds(shape); });
    rejects([&] { csq::factored_multiply_adds(shape); });
    rejects([&] { csq::factored_multiply_adds(csq::Csq{}, shape); });
    rejects([&] { csq::direct_backward_multiply_adds(shape); });
    rejects([&] { csq::factored_backward_multiply_adds(shape); });
    rejects([&] { csq::choose_method(shape); });
    rejects([&] { csq::choose_method(csq::Softmax{}, shape); });
    rejects([&] { csq::used_method(csq::Csq{}, shape); });
    rejects([&] { csq::used_backward_method(csq::Csq{}, shape); });
    rejects([&] { csq::workspace_bytes(csq::Csq{}, shape); });
    rejects([&] { csq::backward_workspace_bytes(csq::Csq{}, shape); });
  };
  check("queries", &csq::Shape::queries, -3);
  check("keys", &csq::Shape::keys, -1);
  check("key_dim", &csq::Shape::key_dim, 0);
  check("key_dim", &csq::Shape::key_dim, -8);
  check("value_dim", &csq::Shape::value_dim, 0);
  check("batch", &csq::Shape::batch, -2);
  check("heads", &csq::Shape::heads, 0);
  check("kv_heads", &csq::Shape::kv_heads, -1);
  check("kv_heads", &csq::Shape::kv_heads, 3);
  CHECK(names(rejection([] { csq::feature_count(-5); }), "key_dim"));
  CHECK(names(rejection([] { csq::predicted_crossover(0, 4); }), "key_dim"));
  CHECK(names(rejection([] { csq::predicted_crossover(4, -4); }), "value_dim"));
}

TEST_CASE("a crossover model that cannot be is an error, and every other returns") {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const bool causal : {false, true}) {
    for (const double value : {0.0, -0.5, nan, infinity}) {
      INFO((causal ? "causal, " : "") << value);
      CHECK(names(rejection([&] { csq::predicted_crossover(64, 64, {.causal = causal, .direct_efficiency = value}); }),
                  "direct_efficiency"));
      CHECK(
          names(rejection([&] { csq::predicted_crossover(64, 64, {.causal = causal, .factored_efficiency = value}); }),
                "factored_efficiency"));
    }
    for (const Index group : {0, -1})
      CHECK(names(rejection([&] { csq::predicted_crossover(64, 64, {.causal = causal, .group = group}); }), "group"));
    CHECK(csq::predicted_crossover(64, 64, {.causal = causal, .factored_efficiency = 1e-300}) == infinity);
    CHECK(csq::predicted_crossover(64, 64, {.causal = causal, .direct_efficiency = 1e-300}) <= 2 * break_even(64) + 1);
    CHECK(csq::predicted_crossover(64, 64, {.causal = causal, .group = Index{1} << 40}) > 0);
  }
}

TEST_CASE("costs of absurd sizes do not wrap") {
  constexpr Index big = Index{1} << 50;
  CHECK(csq::direct_multiply_adds({big, big, 64, 64, big, 8, 8}) == double(big) * double(big) * double(big) * 8 * 128);
  CHECK(csq::factored_multiply_adds({big, big, 64, 64, big, 8, 8}) > 0x1p100);
  CHECK(csq::factored_multiply_adds({big, big, 64, 64, big, 8, 8, true}) > 0x1p100);
  CHECK(csq::direct_backward_multiply_adds({big, big, 64, 64, big, 8, 8}) > 0x1p150);
  CHECK_THROWS_AS(csq::feature_count(std::numeric_limits<Index>::max()), std::invalid_argument);
  CHECK_THROWS_AS(csq::factored_multiply_adds({100, 100, Index{1} << 40, 64}), std::invalid_argument);
}

TEST_CASE("a call costs what its lengths make it cost") {
  const csq::Shape buffer{.queries = 16384, .keys = 16384, .key_dim = 128, .value_dim = 128, .batch = 2, .heads = 2};
  const std::vector<Index> lengths{500, 500}, uneven{500, 16384};
  for (const bool causal : {false, true}) {
    const csq::Options all{.causal = causal};
    csq::Options some = all;
    some.key_length = some.query_length = lengths;
    csq::Shape filled = buffer;
    filled.queries = filled.keys = 500;
    CHECK(csq::direct_multiply_adds(buffer, some) == csq::direct_multiply_adds(filled, all));
    CHECK(deviation(csq::factored_multiply_adds(buffer, some), csq::factored_multiply_adds(filled, all)) < 1e-9);
    CHECK(csq::used_method(csq::Csq{}, buffer, all) == Method::factored);
    CHECK(csq::used_method(csq::Csq{}, buffer, some) == Method::direct);
    CHECK(csq::used_backward_method(csq::Csq{}, buffer, some) == Method::direct);
    some.key_length = some.query_length = uneven;
    const double sum = csq::direct_multiply_adds(filled, all) + csq::direct_multiply_adds(buffer, all);
    CHECK(deviation(csq::direct_multiply_adds(buffer, some), sum / 2) < 1e-12);
  }
  // Long enough for the summary, in a buffer that is longer still, and the other way round with short keys alone.
  const csq::Shape small{.queries = 4096, .keys = 4096, .key_dim = 16, .value_dim = 16};
  const std::vector<Index> one{2000}, few{40};
  for (const bool causal : {false, true}) {
    CHECK(csq::used_method(csq::Csq{}, small, {.causal = causal, .key_length = one, .query_length = one}) ==
          Method::factored);
    CHECK(csq::used_method(csq::Csq{}, small, {.causal = causal, .key_length = few}) == Method::direct);
    CHECK(csq::used_method(csq::Csq{}, small, {.causal = causal, .query_length = few}) == Method::direct);
    CHECK(csq::workspace_bytes(csq::Csq{}, small, {.causal = causal, .key_length = few}) <
          csq::workspace_bytes(csq::Csq{}, small, {.causal = causal, .method = Method::direct}));
  }
  CHECK(names(rejection([&] { csq::used_method(csq::Csq{}, small, {.key_length = lengths}); }), "key_length"));
}

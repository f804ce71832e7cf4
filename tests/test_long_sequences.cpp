// Prefix means over long sequences whose keys lie far from zero: a float running mean would lose 1e-4 here. And streams
// whose summary is added to for long.
#include "catch.hpp"
#include "problem.hpp"
#include "stream_tokens.hpp"

namespace {

// Keys whose mean is 100 times their spread; queries as usual.
Problem offset_problem(std::uint64_t seed, Index n, Index d, Index dv) {
  Random random(seed);
  Problem p = Problem::random(random, {n, n, d, dv}, true);
  for (Index t = 0; t < n; ++t)
    for (Index a = 0; a < d; ++a) p.k(0, 0, t, a) += 100 + 10 * double(a);
  return p;
}

std::vector<Index> some_rows(Index n) { return {0, 1, 2, n / 7, n / 3, n / 2 + 1, n - 1000, n - 145, n - 2, n - 1}; }

template <class T>
std::vector<double> rows_of(const std::vector<T>& values, const std::vector<Index>& rows, Index dim) {
  std::vector<double> result;
  for (const Index row : rows)
    for (Index a = 0; a < dim; ++a) result.push_back(double(values[std::size_t(row * dim + a)]));
  return result;
}

const NamedMechanism<csq::Csq> csq_mechanism{"csq", {}, shifted_square(1), true, true, true};

template <class T>
void check_rows(const Problem& p, const std::vector<csq::Method>& which, double tolerance) {
  const std::vector<Index> rows = some_rows(p.q.tokens);
  const reference::Result expected = reference_result(csq_mechanism, p, &rows);
  for (const csq::Method method : which) {
    INFO(name_of(method) << ", " << 8 * sizeof(T) << " bits, " << p.describe());
    const Outputs<T> result = attend<T>(csq::Csq{}, p, {method, 0, 0});
    CHECK(distance(rows_of(result.output, rows, p.v.dim), expected.output.values) <= tolerance);
    CHECK(distance(rows_of(result.statistic, rows, 1), expected.statistic.values) <= tolerance);
  }
}

}  // namespace

TEST_CASE("4096 tokens, keys offset by 100 times their spread") {
  const Problem p = offset_problem(41, 4096, 8, 6);
  check_rows<float>(p, methods(true), 5e-5);
  check_rows<double>(p, methods(true), 1e-10);
  // All rows of the float results, against the double ones just checked.
  const Outputs<double> expected = attend<double>(csq::Csq{}, p, {csq::Method::direct, 0, 0});
  for (const csq::Method method : methods(true)) {
    INFO(name_of(method));
    const Outputs<float> result = attend<float>(csq::Csq{}, p, {method, 0, 0});
    const std::vector<double> output(result.output.begin(), result.output.end());
    const std::vector<double> statistic(result.statistic.begin(), result.statistic.end());
    CHECK(distance(output, expected.output) <= 5e-5);
    CHECK(distance(statistic, expected.statistic) <= 5e-5);
  }
}

TEST_CASE("200,000 tokens, keys offset by 100 times their spread") {
  const Problem p = offset_problem(42, 200000, 4, 3);
  check_rows<float>(p, {csq::Method::factored}, 5e-5);
  check_rows<double>(p, {csq::Method::factored}, 1e-10);
}

// bench/drift goes to ten million tokens: there float is 3e-6 from double, 2e-5 of what depends on the query.
TEST_CASE("200,000 tokens through a stream: float stays with double") {
  constexpr Index dim = 32, piece = 1000;
  for (const bool gated : {false, true}) {
    Random random(43);
    csq::Stream<float> floats(csq::Csq{}, {.key_dim = dim, .value_dim = dim}, {.gated = gated});
    csq::Stream<double> doubles(csq::Csq{}, {.key_dim = dim, .value_dim = dim}, {.gated = gated});
    const TokenSizes sizes{1, 1, 1, dim, dim};
    // The same tokens again and again, more of them at a time than are absorbed. Values that do not average to zero.
    Tokens<float> tokens(sizes, piece, random);
    for (std::size_t i = 0; i < tokens.v.values.size(); ++i)
      tokens.v.values[i] = 1 + 0.5f * tokens.k.values[i] + 0.1f * tokens.v.values[i];
    Random same(43);
    Tokens<double> precise(sizes, piece, same);
    precise.k.values.assign(tokens.k.values.begin(), tokens.k.values.end());
    precise.v.values.assign(tokens.v.values.begin(), tokens.v.values.end());
    precise.gate.values.assign(tokens.gate.values.begin(), tokens.gate.values.end());
    TokenRows<float> out = output_of<float>(sizes, piece);
    TokenRows<double> expected = output_of<double>(sizes, piece);
    for (int round = 0; round < 200; ++round) {
      floats.prefill(tokens.q.rows(0, piece), tokens.k.rows(0, piece), tokens.v.rows(0, piece), out.rows(0, piece),
                     gated ? std::as_const(tokens.gate).rows(0, piece) : csq::Heads<const float>{});
      doubles.prefill(precise.q.rows(0, piece), precise.k.rows(0, piece), precise.v.rows(0, piece),
                      expected.rows(0, piece),
                      gated ? std::as_const(precise.gate).rows(0, piece) : csq::Heads<const double>{});
    }
    const std::vector<double> last(expected.values.end() - 100 * dim, expected.values.end());
    CHECK(distance(std::vector<double>(out.values.end() - 100 * dim, out.values.end()), last) <= 1e-5);
  }
}

// Packed sequences: the same bits as every sequence apart, forward and backward.
#include <cstring>
#include <numeric>

#include "catch.hpp"
#include "mechanisms.hpp"
#include "problem.hpp"

namespace {

using csq::Heads;
using csq::Index;

std::vector<Index> offsets_of(const std::vector<Index>& lengths) {
  std::vector<Index> offsets{0};
  for (const Index length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

// An array [1, heads, tokens, dim] whose tokens lie one after another with all their heads, as packed models have them.
template <class T>
struct PackedArray {
  Index heads = 0, dim = 0;
  std::vector<T> values;

  PackedArray(Index h, Index tokens, Index d) : heads(h), dim(d), values(static_cast<std::size_t>(h * tokens * d)) {}
  Heads<T> rows(Index first, Index count) {
    return {values.data() + first * heads * dim, {1, heads, count, dim}, {0, dim, heads * dim, 1}};
  }
  Heads<T> all() { return rows(0, static_cast<Index>(values.size()) / (heads * dim)); }
};

struct Case {
  std::vector<Index> queries, keys;  // lengths
  bool causal = false, gates = false;
  Index window = 0, chunk = 0;
  double soft_cap = 0;
  bool sinks = false;
  csq::Centering centering = csq::Centering::automatic;
  csq::Method method = csq::Method::automatic;
};

constexpr Index heads = 4, kv_heads = 2, key_dim = 6, value_dim = 5;

// All arrays of a training step.
template <class T>
struct Step {
  PackedArray<T> q, k, v, gate, out, normalizer, dout, dq, dk, dv, dgate;
  std::vector<double> sink{0.5, -1, 2, 0}, dsink = std::vector<double>(4);
  double dshift = 0;

  Step(const Case& c, Random& random) : Step(offsets_of(c.queries).back(), offsets_of(c.keys).back()) {
    for (auto* array : {&q, &k, &v, &dout})
      for (T& x : array->values) x = static_cast<T>(random.normal());
    for (T& x : gate.values) x = static_cast<T>(-std::abs(random.normal()) / 20);
  }

  // The rows of one sequence, or all.
  template <class Mechanism>
  void run(const Mechanism& mechanism, const Case& c, Index q_first, Index q_count, Index k_first, Index k_count,
           csq::Options options) {
    const Heads<T> gates = gate.rows(k_first, k_count);
    options.causal = c.causal;
    options.window = c.window;
    options.soft_cap = c.soft_cap;
    options.chunk = c.chunk;
    options.centering = c.centering;
    options.method = c.method;
    if (c.sinks) options.sink = sink;
    if (c.gates) options.log_gate = Heads<const T>(gates);
    csq::attention(mechanism, q.rows(q_first, q_count), k.rows(k_first, k_count), v.rows(k_first, k_count),
                   out.rows(q_first, q_count), normalizer.rows(q_first, q_count), options);
    csq::Gradients<T> gradients{dq.rows(q_first, q_count), dk.rows(k_first, k_count), dv.rows(k_first, k_count)};
    if constexpr (csq::ShiftableMechanism<Mechanism>) gradients.shift = &dshift;
    if (c.gates) gradients.log_gate = dgate.rows(k_first, k_count);
    if (c.sinks) gradients.sink = dsink;
    csq::attention_backward(mechanism, q.rows(q_first, q_count), k.rows(k_first, k_count), v.rows(k_first, k_count),
                            out.rows(q_first, q_count), normalizer.rows(q_first, q_count), dout.rows(q_first, q_count),
                            gradients, options);
  }

  template <class Mechanism>
  void run_apart(const Mechanism& mechanism, const Case& c) {
    const std::vector<Index> q_at = offsets_of(c.queries), k_at = offsets_of(c.keys);
    std::vector<double> sinks(4);
    double shift = 0;
    for (std::size_t s = 0; s < c.queries.size(); ++s) {
      run(mechanism, c, q_at[s], c.queries[s], k_at[s], c.keys[s], {});
      shift += dshift;
      for (std::size_t h = 0; h < 4; ++h) sinks[h] += dsink[h];
    }
    dshift = shift;
    dsink = sinks;
  }
  template <class Mechanism>
  void run_packed(const Mechanism& mechanism, const Case& c, csq::Options options) {
    const std::vector<Index> q_at = offsets_of(c.queries), k_at = offsets_of(c.keys);
    options.query_offsets = q_at;
    options.key_offsets = k_at;
    run(mechanism, c, 0, q_at.back(), 0, k_at.back(), options);
  }

 private:
  Step(Index n, Index m)
      : q(heads, n, key_dim),
        k(kv_heads, m, key_dim),
        v(kv_heads, m, value_dim),
        gate(kv_heads, m, 1),
        out(heads, n, value_dim),
        normalizer(heads, n, 1),
        dout(heads, n, value_dim),
        dq(heads, n, key_dim),
        dk(kv_heads, m, key_dim),
        dv(kv_heads, m, value_dim),
        dgate(kv_heads, m, 1) {}
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T, class Mechanism>
void check(const Mechanism& mechanism, const Case& c, std::uint64_t seed, const std::vector<int>& threads = {1, 3}) {
  Random first(seed);
  Step<T> apart(c, first);
  apart.run_apart(mechanism, c);
  csq::Workspace workspace;
  for (const int count : threads) {
    CAPTURE(count);
    Random again(seed);
    Step<T> packed(c, again);
    packed.run_packed(mechanism, c, {.threads = count, .workspace = &workspace});
    CHECK(same_bits(packed.out.values, apart.out.values));
    CHECK(same_bits(packed.normalizer.values, apart.normalizer.values));
    CHECK(same_bits(packed.dq.values, apart.dq.values));
    CHECK(same_bits(packed.dk.values, apart.dk.values));
    CHECK(same_bits(packed.dv.values, apart.dv.values));
    CHECK(same_bits(packed.dgate.values, apart.dgate.values));
    CHECK(packed.dshift == apart.dshift);
    CHECK(packed.dsink == apart.dsink);
  }
}

}  // namespace

TEST_CASE("packed sequences are the sequences apart: every mechanism, method, mask, with gates and windows") {
  std::uint64_t seed = 1;
  for_typical_mechanisms([&](const auto& named) {
    using Mechanism = typename std::decay_t<decltype(named)>::Mechanism;
    for (const bool causal : {false, true})
      for (const csq::Method method : methods(named.factored))
        for (const Index chunk : {0, 7})
          for (const bool gates : {false, true}) {
            if (gates && !causal) continue;
            INFO(named.name << (causal ? ", causal, " : ", ") << name_of(method) << ", chunk " << chunk
                            << (gates ? ", gates" : ""));
            Case c{{3, 0, 60, 1, 200, 9}, {5, 4, 60, 1, 230, 0}, causal, gates};
            if (causal) c.keys = c.queries;  // a history would be needed where keys are more
            c.method = method;
            c.chunk = chunk;
            for_float_and_double([&]<class T>() { check<T>(named.mechanism, c, seed++); });
          }
    INFO(named.name << ", window");
    Case c{{40, 170, 2}, {40, 170, 2}, true};
    c.window = 30;
    c.sinks = std::is_same_v<Mechanism, csq::Softmax>;
    c.soft_cap = c.sinks ? 5 : 0;
    for_float_and_double([&]<class T>() { check<T>(named.mechanism, c, seed++); });
  });
}

TEST_CASE("packed: none, one, and empty sequences; long ones beside many short ones; any number of threads") {
  Case c{{}, {}};
  check<float>(csq::Csq{}, c, 1);
  c = {{0, 0}, {0, 3}};
  check<float>(csq::Softmax{}, c, 2);
  c = {{77}, {77}, true};
  check<float>(csq::Csq{}, c, 3);
  c = {{}, {}, true, true};
  for (Index s = 0; s < 60; ++s) c.queries.push_back(s % 13 == 5 ? 400 : 1 + s * 7 % 23);
  c.keys = c.queries;
  check<float>(csq::Csq{}, c, 4, {1, 2, 3, 7});
  check<double>(csq::Softmax{}, c, 5, {1, 2, 3, 7});
}

TEST_CASE("packed sequences that cannot be are errors, and nothing is written") {
  Random random(9);
  const Case c{{4, 6}, {4, 6}};
  Step<float> step(c, random);
  const auto fails = [&](const std::vector<Index>& queries, const std::vector<Index>& keys, const std::string& sentence,
                         csq::Options options = {}) {
    options.query_offsets = queries;
    options.key_offsets = keys;
    std::fill(step.out.values.begin(), step.out.values.end(), 7.0f);
    try {
      csq::attention(csq::Softmax{}, step.q.all(), step.k.all(), step.v.all(), step.out.all(), options);
      FAIL("no error: " << sentence);
    } catch (const std::invalid_argument& error) {
      CHECK(std::string(error.what()).find(sentence) != std::string::npos);
      CAPTURE(error.what());
    }
    CHECK(std::count(step.out.values.begin(), step.out.values.end(), 7.0f) ==
          static_cast<std::ptrdiff_t>(step.out.values.size()));
  };
  const std::vector<Index> good{0, 4, 10};
  fails({1, 4, 10}, good, "query_offsets: begins with 1");
  fails({0, 4, 9}, good, "query_offsets: ends with 9 but there are 10 tokens");
  fails({0, 11, 10}, good, "query_offsets: entry 2 is 10, less than 11");
  fails({0, 10}, good, "key_offsets: has 3 entries but query_offsets 2");
  fails({}, good, "query_offsets: is missing");
  fails(good, {}, "key_offsets: is missing");
  fails(good, {0, 4, 12}, "key_offsets: ends with 12 but there are 10 tokens");
  const std::vector<Index> lengths{10};
  fails(good, good, "no query_length and key_length", {.key_length = lengths});
  const std::vector<double> mean(heads * key_dim);
  const csq::History history{lengths, mean};
  fails(good, good, "no query_history and key_history", {.query_history = &history});
  const std::vector<float> bias(heads * 100);
  const Heads<const float> view{bias.data(), {1, heads, 10, 10}};
  fails(good, good, "no bias", {.bias = view});
  const Heads<const float> gates{bias.data(), {1, kv_heads, 9, 1}};
  fails(good, good, "log_gate: shape is", {.causal = true, .log_gate = gates});
  fails(good, good, "gates need a causal mask", {.log_gate = Heads<const float>{bias.data(), {1, kv_heads, 10, 1}}});
  CHECK_THROWS_AS(csq::choose_method({.queries = 10, .keys = 10, .key_dim = 4, .value_dim = 4},
                                     {.query_offsets = good, .key_offsets = good}),
                  std::invalid_argument);
  // Of no sequences at all.
  CHECK_THROWS_AS(
      csq::attention(csq::Softmax{}, step.q.rows(0, 0), step.k.rows(0, 0), step.v.rows(0, 0), step.out.rows(0, 0),
                     {.scale = std::nan(""), .query_offsets = offsets_of({}), .key_offsets = offsets_of({})}),
      std::invalid_argument);
  // The second of the sequences is what cannot be: a decoder's step without its history.
  const std::vector<Index> short_queries{0, 4, 6};
  Step<float> decode(Case{{4, 2}, {4, 6}}, random);
  std::fill(decode.out.values.begin(), decode.out.values.end(), 7.0f);
  CHECK_THROWS_AS(csq::attention(csq::Csq{}, decode.q.all(), decode.k.all(), decode.v.all(), decode.out.all(),
                                 {.causal = true, .query_offsets = short_queries, .key_offsets = good}),
                  std::invalid_argument);
  CHECK(decode.out.values.front() == 7.0f);
}

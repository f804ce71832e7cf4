// Gates, windows, sinks, soft caps and biases: against the plain loops, against differences of them, and what the
// mathematics promises of each.
#include <limits>

#include "agreement.hpp"
#include "catch.hpp"
#include "differences.hpp"
#include "problem.hpp"

namespace {

using csq::Centering;

constexpr double infinity = std::numeric_limits<double>::infinity();

// ≤ 0, multiples of 2^−12, some 0.
Tensor random_gates(Random& random, Index batch, Index heads, Index keys, double size = 0.3) {
  Tensor gates(batch, heads, keys, 1);
  for (double& gate : gates.values)
    gate = random.integer(0, 5) == 0 ? 0 : -std::abs(std::round(random.normal() * size * 4096) / 4096);
  return gates;
}

enum class Gating { none, of_keys, of_queries };

// Causal, with the options that are asked for, the rest drawn.
template <class M>
Problem random_problem(Random& random, const NamedMechanism<M>& named, Gating gating, bool window, bool causal = true,
                       Centering centering = Centering::automatic, Index most = 40) {
  const Index widest = std::min<Index>(most, 20);
  Sizes s{random.integer(2, most), random.integer(2, most), random.integer(1, widest), random.integer(1, widest)};
  s.batch = random.integer(1, 2);
  s.kv_heads = random.integer(1, 2);
  s.heads = s.kv_heads * random.integer(1, 3);
  Problem p = Problem::random_backward(random, s, causal, centering);
  if (random.coin()) p.key_length = {random.integer(0, s.m)};
  if (!p.key_length.empty() && s.batch == 2) p.key_length.push_back(s.m);
  if (gating != Gating::none)
    p.log_gate = random_gates(random, s.batch, gating == Gating::of_keys ? s.kv_heads : s.heads, s.m);
  if (window) p.window = random.integer(1, std::max(s.n, s.m) + 3);
  give_needed_history(random, p, named.centred);
  return p;
}

void add_softmax_options(Random& random, Problem& p) {
  if (random.coin())
    for (Index h = 0; h < p.q.heads; ++h) p.sink.push_back(random.normal());
  if (random.coin()) p.soft_cap = random.pick<double>({0.75, 3, 50});
  if (random.coin()) {
    p.bias = random_tensor(random, random.coin() ? 1 : p.q.batch, random.coin() ? 1 : p.q.heads,
                           random.coin() ? 1 : p.q.tokens, p.k.tokens);
    for (double& bias : p.bias.values)
      if (random.integer(0, 6) == 0) bias = -infinity;
  }
}

// The methods that such a problem has.
template <class M>
std::vector<csq::Method> methods_of(const NamedMechanism<M>& named, const Problem& p) {
  return methods(named.factored && p.window == 0 && (p.log_gate.batch == 0 || p.log_gate.heads == p.k.heads));
}

template <class M>
void check_forward(const NamedMechanism<M>& named, const Problem& p, const std::vector<Index>& chunks) {
  check_agreement(named, p, chunks, methods_of(named, p));
}

// Elements of an option's array, moved one by one.
template <class M, class Values>
std::vector<double> differences(const NamedMechanism<M>& named, const Problem& p, std::size_t count,
                                const Values& values_of) {
  std::vector<double> result;
  for (std::size_t i = 0; i < count; ++i)
    result.push_back(difference_quotient(named, p, [&](Problem& moved, double by) { values_of(moved)[i] += by; }));
  return result;
}

template <class M>
void check_backward(const NamedMechanism<M>& named, const Problem& p) {
  const auto of = [](Tensor Problem::*tensor) {
    return [tensor](Problem& moved) -> std::vector<double>& { return (moved.*tensor).values; };
  };
  const auto gradient_of = [&](Tensor Problem::*tensor) {
    return differences(named, p, (p.*tensor).values.size(), of(tensor));
  };
  const std::vector<double> dq = gradient_of(&Problem::q), dk = gradient_of(&Problem::k), dv = gradient_of(&Problem::v);
  const std::vector<double> dgate = gradient_of(&Problem::log_gate);
  const std::vector<double> dsink =
      differences(named, p, p.sink.size(), [](Problem& moved) -> std::vector<double>& { return moved.sink; });
  PlacedBackward<double> placed(p);
  for (const csq::Method method : methods_of(named, p))
    for (const Index chunk : {0, 1, 3}) {
      INFO(named.name << ": " << p.describe() << ", " << name_of(method) << ", chunk " << chunk);
      const GradientOutputs<double> result = placed.gradients(named.mechanism, {method, chunk});
      CHECK(close(result.query, dq, difference_tolerance));
      CHECK(close(result.key, dk, difference_tolerance));
      CHECK(close(result.value, dv, difference_tolerance));
      CHECK(close(result.log_gate, dgate, difference_tolerance));
      CHECK(close(result.sink, dsink, difference_tolerance));
      CHECK(result.outside_untouched);
    }
}

template <class T>
std::vector<double> doubles(const std::vector<T>& x) {
  return {x.begin(), x.end()};
}

}  // namespace

TEST_CASE("gates and windows: every mechanism, method and centring agrees with the plain loops") {
  Random random(901);
  for_each_mechanism([&](const auto& named) {
    for (const Centering centering :
         {Centering::automatic, Centering::none, Centering::sequence, Centering::prefix, Centering::prefix_exclusive})
      for (const bool window : {false, true}) {
        check_forward(named, random_problem(random, named, Gating::of_keys, window, true, centering), {0, 1, 7});
        check_forward(named, random_problem(random, named, Gating::of_queries, window, true, centering), {0});
        if (window) check_forward(named, random_problem(random, named, Gating::none, true, false, centering), {0});
        if (window) check_forward(named, random_problem(random, named, Gating::none, true, true, centering), {0});
      }
  });
}

TEST_CASE("longer sequences: several blocks, and windows that cut through them") {
  Random random(902);
  const auto check = [&](const auto& named) {
    for (const Index window : {0, 1, 70, 145, 300}) {
      Problem p = Problem::random(random, {350, 420, 9, 6, 1, 2, 1}, true);
      p.window = window;
      p.log_gate = random_gates(random, 1, 1, 420, 0.02);
      give_needed_history(random, p, named.centred);
      check_forward(named, p, {0, 16});
      p.log_gate = {};
      p.query_history = std::nullopt;
      p.causal = false;
      if (window > 0) check_forward(named, p, {0});
    }
  };
  for_typical_mechanisms(check);
}

TEST_CASE("few queries against many keys, and few of both") {
  Random random(903);
  const auto check = [&](const auto& named) {
    for (const Index n : {1, 3, 8})
      for (const Index m : {1, 5, 8, 200, 5000})
        for (const Index window : {0, 4, 1100}) {
          Problem p = Problem::random(random, {n, m, 8, 5, 1, 4, 2}, true, Centering::none);
          p.window = window;
          p.log_gate = random_gates(random, 1, window == 4 ? 4 : 2, m, 0.05);
          check_forward(named, p, {0});
        }
  };
  for_typical_mechanisms(check);
}

TEST_CASE("softmax with everything at once") {
  Random random(904);
  const NamedMechanism<csq::Softmax> softmax{"softmax", {}, softmax_weight(), false};
  for (int draw = 0; draw < 60; ++draw) {
    const bool causal = draw % 3 != 0;
    const Gating gating = !causal ? Gating::none : draw % 2 == 0 ? Gating::of_keys : Gating::of_queries;
    Problem p = random_problem(random, softmax, gating, random.coin(), causal, Centering::none, draw < 40 ? 12 : 300);
    add_softmax_options(random, p);
    check_forward(softmax, p, {0});
  }
}

TEST_CASE("gradients of gates and windows against differences: every mechanism, method, grouping and centring") {
  Random random(905);
  for_each_mechanism([&](const auto& named) {
    for (const Centering centering :
         {Centering::automatic, Centering::none, Centering::sequence, Centering::prefix, Centering::prefix_exclusive}) {
      check_backward(named, random_problem(random, named, Gating::of_keys, false, true, centering, 7));
      check_backward(named, random_problem(random, named, Gating::of_queries, false, true, centering, 7));
      check_backward(named, random_problem(random, named, Gating::of_keys, true, true, centering, 7));
      check_backward(named, random_problem(random, named, Gating::none, true, false, centering, 7));
    }
  });
}

TEST_CASE("gradients of sinks, caps and biases against differences") {
  Random random(906);
  const NamedMechanism<csq::Softmax> softmax{"softmax", {}, softmax_weight(), false};
  for (int draw = 0; draw < 20; ++draw) {
    const bool causal = draw % 3 != 0;
    const Gating gating = !causal ? Gating::none : draw % 2 == 0 ? Gating::of_keys : Gating::of_queries;
    Problem p = random_problem(random, softmax, gating, random.coin(), causal, Centering::none, 10);
    add_softmax_options(random, p);
    check_backward(softmax, p);
  }
}

TEST_CASE("gates of 0, a window that hides nothing and a sink of -inf change no bit") {
  Random random(907);
  const auto check = [&](const auto& named) {
    for (const Sizes& s : {Sizes{9, 9, 5, 4, 1, 2, 1}, Sizes{200, 230, 9, 7, 1, 4, 2}, Sizes{3, 700, 16, 16}}) {
      Problem p = Problem::random_backward(random, s, true, Centering::none);
      for_float_and_double([&]<class T>() {
        for (const csq::Method method : methods(named.factored)) {
          INFO(named.name << ", " << s.n << " queries, " << name_of(method) << ", " << 8 * sizeof(T) << " bits");
          PlacedBackward<T> placed(p);
          const Outputs<T> expected = placed.attend(named.mechanism, {method});
          const GradientOutputs<T> gradients = placed.gradients(named.mechanism, {method});
          const auto compare = [&](const Problem& other) {
            PlacedBackward<T> changed(other);
            CHECK(same_bits(changed.attend(named.mechanism, {method}), expected));
            GradientOutputs<T> result = changed.gradients(named.mechanism, {method});
            for (const double gradient : result.sink) CHECK(gradient == 0);
            result.log_gate = {};
            result.sink = {};
            CHECK(same_bits(result, gradients));
          };
          Problem gated = p;
          gated.log_gate = Tensor(1, s.kv_heads, s.m, 1);
          compare(gated);
          Problem windowed = p;
          windowed.window = s.m;
          if (method == csq::Method::direct) compare(windowed);
          if constexpr (std::is_same_v<std::decay_t<decltype(named.mechanism)>, csq::Softmax>) {
            Problem sunk = p;
            sunk.sink.assign(std::size_t(s.heads), -infinity);
            compare(sunk);
          }
        }
      });
    }
  };
  for_typical_mechanisms(check);
}

TEST_CASE("gates of -inf at its starts make a packed sequence the sequences apart") {
  Random random(908);
  const std::vector<Index> starts{0, 50, 51, 180, 300};
  const auto check = [&](const auto& named) {
    Problem packed = Problem::random_backward(random, {300, 300, 7, 5, 1, 2, 1}, true, Centering::none);
    packed.log_gate = random_gates(random, 1, 1, 300, 0.1);
    for (const Index start : starts)
      if (start < 300) packed.log_gate(0, 0, start, 0) = -infinity;
    const auto part = [&](const Tensor& x, Index first, Index end) {
      Tensor result(1, x.heads, end - first, x.dim);
      for (Index h = 0; h < x.heads; ++h)
        for (Index t = first; t < end; ++t)
          for (Index a = 0; a < x.dim; ++a) result(0, h, t - first, a) = x(0, h, t, a);
      return result;
    };
    for (const csq::Method method : methods(named.factored)) {
      INFO(named.name << ", " << name_of(method));
      PlacedBackward<double> placed(packed);
      const GradientOutputs<double> gradients = placed.gradients(named.mechanism, {method});
      const Tensor output = placed.output.tensor(), dq = placed.dq.tensor(), dk = placed.dk.tensor(),
                   dv = placed.dv.tensor(), dgate = placed.dlog_gate.tensor();
      for (std::size_t i = 0; i + 1 < starts.size(); ++i) {
        const Index first = starts[i], end = starts[i + 1];
        Problem alone = packed;
        for (Tensor Problem::*x : {&Problem::q, &Problem::k, &Problem::v, &Problem::dout, &Problem::log_gate})
          alone.*x = part(packed.*x, first, end);
        PlacedBackward<double> other(alone);
        const GradientOutputs<double> expected = other.gradients(named.mechanism, {method});
        CHECK(distance(part(output, first, end).values, other.output.tensor().values) <= 1e-12);
        CHECK(close(part(dq, first, end).values, expected.query, 1e-11));
        CHECK(close(part(dk, first, end).values, expected.key, 1e-11));
        CHECK(close(part(dv, first, end).values, expected.value, 1e-11));
        CHECK(close(part(dgate, first, end).values, expected.log_gate, 1e-11));
        CHECK(dgate(0, 0, first, 0) == 0);
      }
    }
  };
  for_typical_mechanisms(check);
}

TEST_CASE("a constant gate of each query head is ALiBi") {
  Random random(909);
  Problem gated = Problem::random(random, {60, 75, 8, 6, 1, 4, 2}, true);
  Problem biased = gated;
  gated.log_gate = Tensor(1, 4, 75, 1);
  biased.bias = Tensor(1, 4, 60, 75);
  for (Index h = 0; h < 4; ++h) {
    const double slope = std::ldexp(1, -int(2 * (h + 1)));
    for (Index j = 0; j < 75; ++j) {
      gated.log_gate(0, h, j, 0) = -slope;
      for (Index i = 0; i < 60; ++i) biased.bias(0, h, i, j) = -slope * std::abs(double(i + 15 - j));
    }
  }
  CHECK(distance(attend<double>(csq::Softmax{}, gated).output, attend<double>(csq::Softmax{}, biased).output) <= 1e-12);
  // One number a head, repeated by a zero stride.
  Placed<double> placed(gated);
  const std::vector<double> expected = placed.attend(csq::Softmax{}, {}).output;
  const double slopes[] = {-0.25, -0.0625, -0.015625, -0.00390625};
  const csq::Heads<const double> view(slopes, {1, 4, 75, 1}, {0, 1, 0, 0});
  csq::attention(csq::Softmax{}, csq::Heads<const double>(placed.q.view), csq::Heads<const double>(placed.k.view),
                 csq::Heads<const double>(placed.v.view), placed.output.view, {.causal = true, .log_gate = view});
  CHECK(same_bits(placed.output.elements(), expected));
}

TEST_CASE("a soft cap of 1e9 is none") {
  Random random(910);
  Problem p = Problem::random_backward(random, {40, 60, 8, 6}, true);
  Problem capped = p;
  capped.soft_cap = 1e9;
  for_float_and_double([&]<class T>() {
    PlacedBackward<T> plain(p), other(capped);
    const GradientOutputs<T> expected = plain.gradients(csq::Softmax{}, {}),
                             result = other.gradients(csq::Softmax{}, {});
    const double tolerance = sizeof(T) == sizeof(double) ? 1e-12 : 1e-6;
    CHECK(distance(other.output.elements(), plain.output.tensor()) <= tolerance);
    CHECK(distance(doubles(result.query), doubles(expected.query)) <= 2 * tolerance);
  });
}

TEST_CASE("NaN in a key or value that a window hides reaches nothing") {
  Random random(911);
  const auto check = [&](const auto& named) {
    for (const Index n : {6, 40, 400}) {
      Problem p = Problem::random(random, {n, n, 6, 5}, true, Centering::none);
      p.window = 5;
      p.log_gate = random_gates(random, 1, 1, n);
      for_float_and_double([&]<class T>() {
        const Outputs<T> clean = attend<T>(named.mechanism, p);
        for (const Index bad : {Index(0), n / 2, n - 1}) {
          Problem poisoned = p;
          poisoned.k(0, 0, bad, 1) = poisoned.v(0, 0, bad, 0) = std::numeric_limits<double>::quiet_NaN();
          const Outputs<T> result = attend<T>(named.mechanism, poisoned);
          for (Index i = 0; i < n; ++i) {
            const bool sees = i >= bad && i < bad + 5;
            INFO(named.name << ", " << n << " tokens, NaN in " << bad << ", row " << i);
            const std::size_t at = std::size_t(i * 5);
            CHECK(std::isnan(result.output[at]) == sees);
            if (!sees) CHECK(std::memcmp(&result.output[at], &clean.output[at], 5 * sizeof(T)) == 0);
          }
        }
      });
    }
  };
  for_typical_mechanisms(check);
}

TEST_CASE("a gate that is NaN or positive reaches the rows that it would decay") {
  Random random(912);
  const auto check = [&](const auto& named) {
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), 0.5, 1e6}) {
      Problem p = Problem::random(random, {200, 200, 6, 5}, true, Centering::none);
      p.log_gate = random_gates(random, 1, 1, 200);
      const Outputs<float> clean = attend<float>(named.mechanism, p, {csq::Method::direct});
      p.log_gate(0, 0, 120, 0) = bad;
      for (const csq::Method method : methods(named.factored)) {
        INFO(named.name << ", gate " << bad << ", " << name_of(method));
        const Outputs<float> result = attend<float>(named.mechanism, p, {method, 16});
        for (std::size_t i = 0; i < 200; ++i) {
          if (i >= 120) CHECK(std::isnan(result.output[i * 5]));
          if (i < 120) CHECK(std::abs(result.output[i * 5] - clean.output[i * 5]) < 1e-3);
        }
      }
    }
  };
  for_typical_mechanisms(check);
}

TEST_CASE("the same bits for any number of threads, with gates and windows") {
  Random random(913);
  const auto check = [&](const auto& named) {
    for (const Index window : {0, 90}) {
      Problem p = Problem::random_backward(random, {700, 700, 16, 12, 1, 4, 2}, true);
      p.window = window;
      p.log_gate = random_gates(random, 1, 2, 700, 0.05);
      for_float_and_double([&]<class T>() {
        for (const csq::Method method : methods_of(named, p)) {
          INFO(named.name << ", window " << window << ", " << name_of(method) << ", " << 8 * sizeof(T) << " bits");
          PlacedBackward<T> placed(p);
          const Outputs<T> expected = placed.attend(named.mechanism, {method, 0, 1});
          const GradientOutputs<T> gradients = placed.gradients(named.mechanism, {method, 0, 1});
          for (const int threads : {2, 3, 7}) {
            CHECK(same_bits(placed.attend(named.mechanism, {method, 0, threads}), expected));
            CHECK(same_bits(placed.gradients(named.mechanism, {method, 0, threads}), gradients));
          }
        }
      });
    }
  };
  for_typical_mechanisms(check);
}

TEST_CASE("strong gates over 10,000 tokens: the scan is direct attention") {
  Random random(914);
  Problem p = Problem::random_backward(random, {10000, 10000, 8, 8}, true);
  p.log_gate = Tensor(1, 1, 10000, 1);
  for (double& gate : p.log_gate.values) {
    gate = -std::abs(std::round(random.normal() * 4096) / 4096) * random.pick<double>({0.001, 0.1, 10});
    if (random.integer(0, 500) == 0) gate = -infinity;
  }
  for_float_and_double([&]<class T>() {
    const double tolerance = sizeof(T) == sizeof(double) ? 1e-10 : 1e-4;
    PlacedBackward<T> direct(p), factored(p);
    const GradientOutputs<T> expected = direct.gradients(csq::Csq{}, {csq::Method::direct, 0, 0});
    const GradientOutputs<T> result = factored.gradients(csq::Csq{}, {csq::Method::factored, 0, 0});
    const auto difference = [&](const std::vector<T>& x, const std::vector<T>& y) {
      return distance(doubles(x), doubles(y));
    };
    CHECK(distance(factored.output.elements(), direct.output.tensor()) <= tolerance);
    CHECK(difference(result.query, expected.query) <= 5 * tolerance);
    CHECK(difference(result.key, expected.key) <= 5 * tolerance);
    CHECK(difference(result.value, expected.value) <= 5 * tolerance);
    CHECK(difference(result.log_gate, expected.log_gate) <= 5 * tolerance);
  });
}

// A key of a large value, then tokens of value 0: what is left of it at the last row. Queries are 0, so that Taylor's
// weights are 1. The nearest keys and those of whole blocks take different ways through the kernels; a scan multiplies
// decays of its chunks, none of which need be too faint.
TEST_CASE("what gates leave too little of is forgotten, and no more") {
  for_float_and_double([]<class T>() {
    const double limit = sizeof(T) == sizeof(double) ? 1022 : 126;
    for (const Index tokens : {2, 9, 40, 700})
      for (const double units : {0.98 * limit, 1.02 * limit})
        for (const csq::Method method : {csq::Method::direct, csq::Method::factored})
          for (const Index chunk : {0, 1, 16}) {
            CAPTURE(tokens, units, static_cast<int>(method), chunk);
            const auto count = static_cast<std::size_t>(tokens);
            std::vector<T> q(count * 4, T(0)), k(count * 4, T(1)), v(count, T(0)), out(count);
            v[0] = static_cast<T>(std::exp2(limit));
            const T gate = static_cast<T>(-units * std::log(2.0) / static_cast<double>(tokens - 1));
            const std::vector<T> gates(count, gate);
            const csq::Heads<const T> queries{q.data(), {1, 1, tokens, 4}}, keys{k.data(), {1, 1, tokens, 4}},
                values{v.data(), {1, 1, tokens, 1}}, log_gate{gates.data(), {1, 1, tokens, 1}};
            csq::attention(csq::Taylor{}, queries, keys, values, csq::Heads<T>{out.data(), {1, 1, tokens, 1}},
                           {.causal = true, .log_gate = &log_gate, .method = method, .chunk = chunk});
            const double left = static_cast<double>(out.back());
            CHECK(left >= (units < limit ? 0.01 : 0));
            if (units > limit) CHECK(left <= (method == csq::Method::direct ? 0 : 1));
          }
  });
}

TEST_CASE("gated rows whose features cancel are served directly too") {
  Random random(915);
  Problem p = Problem::random_backward(random, {600, 600, 4, 1}, true, Centering::none);
  p.scale = 1;
  const double u[] = {0.5, 0.25, -0.5, 0.75};  // what the keys have in common, and the queries hardly see
  for (Index i = 0; i < 600; ++i) {
    double along = 0, size = 0;
    for (Index a = 0; a < 4; ++a) {
      along += p.q(0, 0, i, a) * u[a];
      size += u[a] * u[a];
    }
    for (Index a = 0; a < 4; ++a) {
      p.q(0, 0, i, a) = double(float(p.q(0, 0, i, a) - along / size * u[a]));
      p.k(0, 0, i, a) = double(float(p.k(0, 0, i, a) + 1e4 * u[a]));
    }
  }
  p.log_gate = random_gates(random, 1, 1, 600, 0.01);
  const auto check = [&](const auto& mechanism) {
    for (const Index chunk : {0, 16}) {
      PlacedBackward<float> direct(p), factored(p);
      direct.attend(mechanism, {csq::Method::direct});
      factored.attend(mechanism, {csq::Method::factored, chunk});
      CHECK(distance(doubles(factored.output.elements()), direct.output.tensor().values) <= 2e-3);
      CHECK(distance(doubles(factored.statistic.elements()), direct.statistic.tensor().values) <= 2e-3);
    }
  };
  check(csq::Squared{});
  check(csq::ShiftedQuadratic{1e-3});
  check(csq::Taylor{});
}

TEST_CASE("biases, sinks and caps as large as numbers are") {
  Random random(916);
  for_float_and_double([&]<class T>() {
    const double most = double((std::numeric_limits<T>::max)());
    for (const Index n : {1, 3, 20}) {
      INFO(n << " queries, " << 8 * sizeof(T) << " bits");
      Problem p = Problem::random(random, {n, 30, 6, 1});
      const Outputs<T> plain = attend<T>(csq::Softmax{}, p);
      for (const double bias : {-most, -most * 0.7, most * 0.9}) {  // of every pair: as if there were none
        Problem masked = p;
        masked.bias = Tensor(1, 1, 1, 30);
        masked.bias.values.assign(30, bias);
        double mean = 0;
        for (const double value : p.v.values) mean += value / 30;
        for (const T output : attend<T>(csq::Softmax{}, masked).output) CHECK(std::abs(double(output) - mean) < 1e-5);
      }
      for (const double sink : {1e30, 1e38, 1e300}) {
        Problem sunk = p;
        sunk.sink = {sink};
        sunk.dout = random_tensor(random, 1, 1, n, 1);
        PlacedBackward<T> placed(sunk);
        const GradientOutputs<T> gradients = placed.gradients(csq::Softmax{}, {});
        for (const T output : placed.output.elements()) CHECK(output == 0);
        for (const T statistic : placed.statistic.elements()) CHECK(statistic > T(1e29));
        CHECK(std::abs(gradients.sink[0]) == 0);
      }
      for (const double cap : {1e35, 3e38, 1e39, 1e300, 1.7e308}) {
        Problem capped = p;
        capped.soft_cap = cap;
        CHECK(distance(doubles(attend<T>(csq::Softmax{}, capped).output), doubles(plain.output)) <= 1e-6);
      }
    }
  });
}

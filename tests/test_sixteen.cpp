// Arrays of 16 bits: golden cases with the inputs rounded first, and the one property that carries all the others over
// from float: what is written is what a float call on the same numbers writes, rounded once.
#include <limits>

#include "agreement.hpp"
#include "catch.hpp"
#include "differences.hpp"
#include "golden.hpp"
#include "sixteen_pair.hpp"

namespace {

using csq::Centering;
using sixteen::doubles;
using sixteen::for_both_types;
using sixteen::gradient_tolerance;
using sixteen::output_tolerance;
using sixteen::Pair;
using sixteen::rounded;
using sixteen::statistic_tolerance;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

template <class Element>
const char* type_name() {
  return sixteen::Format<Element>::name;
}

template <class Element>
void check_output(const Outputs<Element>& result, const reference::Result& expected, double output, double statistic) {
  CHECK(distance(doubles(result.output), expected.output.values) <= output);
  CHECK(distance(doubles(result.statistic), expected.statistic.values) <= statistic);
}

template <class Element>
void check_gradients(const GradientOutputs<Element>& result, const GradientOutputs<double>& expected,
                     double cancels = 1) {
  // A matrix unit rounds weights and features too.
  const double several = sixteen::matrix_unit_in_use<Element>() ? cancels : 1;
  const double of_sums = sixteen::matrix_unit_in_use<Element>() ? sixteen::tolerance_of_sums * cancels : 1;
  const auto near = [](const std::vector<double>& x, std::vector<double> y, double times) {
    const double size = norm(y);
    const bool is_zero = size <= 1e-12;  // but for rounding: what float makes of that
    for (std::size_t i = 0; i < y.size(); ++i) y[i] -= x[i];
    return x.size() == y.size() && norm(y) <= times * gradient_tolerance() * size + (is_zero ? 5e-5 : 0);
  };
  CHECK(near(doubles(result.value), expected.value, 1));
  if (several == sixteen::infinity) return;
  CHECK(near(doubles(result.query), expected.query, several));
  CHECK(near(doubles(result.key), expected.key, several));
  CHECK(near(doubles(result.log_gate), expected.log_gate, of_sums));
  CHECK(near(result.sink, expected.sink, several));
  CHECK(near({result.shift}, {expected.shift}, of_sums));
}

// Whether the rounding of the output, which backward reads, is seen in the gradients of q and k: where they are what
// is left of G·v − G·o, which all but cancel or are multiplied by keys far from zero.
bool rounding_shows(const golden::Case& c) {
  return c.name.ends_with("equal_keys") || (c.name.starts_with("window_") && c.name.ends_with("_one")) ||
         c.name.starts_with("softmax_key_offset");
}

template <class M>
std::vector<csq::Method> methods_of(const NamedMechanism<M>& named, const Problem& p) {
  return methods(named.factored && p.window == 0 && (p.log_gate.batch == 0 || p.log_gate.heads == p.k.heads));
}

Tensor random_gates(Random& random, const Problem& p, Index heads, double size) {
  Tensor gates = random_tensor(random, p.k.batch, heads, p.k.tokens, 1, p.k_layout);
  for (double& gate : gates.values) gate = -std::abs(std::round(gate * size * 4096) / 4096);
  return gates;
}

// A call with any options and layouts.
template <class M>
Problem random_call(Random& random, const NamedMechanism<M>& named, const Sizes& s) {
  Problem p;
  p.causal = random.coin();
  p.centering = random.pick<Centering>(
      {Centering::automatic, Centering::none, Centering::sequence, Centering::prefix, Centering::prefix_exclusive});
  for (Layout* layout : {&p.q_layout, &p.k_layout, &p.v_layout})
    *layout = random.coin() ? random.pick(input_layouts) : Layout::contiguous;
  p.output_layout = random.pick(output_layouts);
  p.gradient_layout = random.pick(output_layouts);
  p.q = random_tensor(random, s.batch, s.heads, s.n, s.d, p.q_layout);
  p.k = random_tensor(random, s.batch, s.kv_heads, s.m, s.d, p.k_layout);
  p.v = random_tensor(random, s.batch, s.kv_heads, s.m, s.dv, p.v_layout);
  p.dout = random_tensor(random, s.batch, s.heads, s.n, s.dv);
  if (named.takes_scale && random.integer(0, 2) == 0) p.scale = random.pick<double>({-0.5, 0.3, 0});
  for (Index b = 0, has = random.integer(0, 2); b < s.batch && has == 0; ++b)
    p.key_length.push_back(random.integer(0, s.m));
  for (Index b = 0, has = random.integer(0, 2); b < s.batch && has == 0; ++b)
    p.query_length.push_back(random.integer(0, s.n));
  if (has_prefix_means(effective_centering(p, named.centred)) && random.coin()) {
    p.query_history = random_history(random, p.q, 0, 9);
    p.key_history = random_history(random, p.k, 0, 9);
  }
  if (random.integer(0, 2) == 0) p.window = random.integer(1, std::max(s.n, s.m) + 2);
  if (p.causal && random.coin())
    p.log_gate = random_gates(random, p, random.coin() ? s.kv_heads : s.heads, random.pick<double>({0.01, 0.3}));
  give_needed_history(random, p, named.centred);
  if constexpr (std::is_same_v<M, csq::Softmax>) {
    for (Index h = 0, has = random.integer(0, 1); h < s.heads && has == 0; ++h) p.sink.push_back(random.normal());
    if (random.coin()) p.soft_cap = random.pick<double>({0.75, 3});
    if (random.coin()) {
      p.bias =
          random_tensor(random, random.coin() ? 1 : s.batch, random.coin() ? 1 : s.heads, random.coin() ? 1 : s.n, s.m);
      for (double& bias : p.bias.values)
        if (random.integer(0, 6) == 0) bias = -infinity;
    }
  }
  return p;
}

Sizes random_sizes(Random& random, Index least_queries, Index most_queries, Index least_keys, Index most_keys,
                   Index widest) {
  Sizes s{random.integer(least_queries, most_queries), random.integer(least_keys, most_keys), random.integer(1, widest),
          random.integer(1, widest)};
  s.batch = random.integer(1, 2);
  s.kv_heads = random.integer(1, 2);
  s.heads = s.kv_heads * random.integer(1, 3);
  return s;
}

// Against float, and where the plain loops are fast enough, against them.
template <class Element, class M>
void check_call(const NamedMechanism<M>& named, const Problem& drawn, const std::vector<Index>& chunks,
                int threads = 1) {
  const Problem p = rounded<Element>(drawn);
  INFO(named.name << " in " << type_name<Element>() << ": " << p.describe());
  std::optional<reference::Result> expected;
  if (p.q.batch * p.q.heads * p.q.tokens * p.k.tokens <= 10000) expected = reference_result(named, p);
  Pair<Element> pair(p);
  for (const csq::Method method : methods_of(named, p))
    for (const Index chunk : chunks) {
      INFO(name_of(method) << ", chunk " << chunk);
      pair.check(named.mechanism, {method, chunk, threads});
      if (!expected) continue;
      const Tolerances<float> rounding(method, p, *expected);
      check_output<Element>({pair.narrow.output.elements(), pair.narrow.statistic.elements()}, *expected,
                            output_tolerance() + rounding.output, statistic_tolerance() + rounding.statistic);
    }
}

}  // namespace

TEST_CASE("sixteen: golden cases with rounded inputs, every mechanism, method and chunk") {
  const auto cases = golden::forward_cases();
  REQUIRE(cases.size() == golden::expected_count());
  for (const golden::Case& c : cases)
    for_both_types([&]<class Element>() {
      INFO(c.name << " in " << type_name<Element>());
      Problem p = golden::library_problem(c);
      p.dout = golden::load_gradients(c).output;
      p = rounded<Element>(p);
      reference::Call call = golden::reference_call(c);
      call.q = p.q;
      call.k = p.k;
      call.v = p.v;
      const reference::Result expected = reference::attention(call);
      golden::for_each_mechanism_of(c, [&](const char* name, const auto& mechanism, bool factored) {
        Pair<Element> pair(p);
        // Ill-conditioned cases, as float's tolerances know them.
        const double cancels = rounding_shows(c) ? sixteen::infinity : golden::float_tolerance(c.name) / 5e-5;
        const double several = sixteen::matrix_unit_in_use<Element>() ? cancels : 1;
        // The plain loops have no gradients; those of doubles are the golden ones where the inputs are not rounded.
        PlacedBackward<double> in_double(p);
        const GradientOutputs<double> gradients = in_double.gradients(mechanism, {csq::Method::direct});
        const auto check = [&](const Run& run) {
          INFO(name << ", " << name_of(run.method) << ", chunk " << run.chunk);
          const GradientOutputs<Element> result = pair.check(mechanism, run, cancels);
          const std::vector<Element> output = pair.narrow.output.elements();
          check_output<Element>({output, pair.narrow.statistic.elements()}, expected, output_tolerance(),
                                std::max(statistic_tolerance(), golden::float_tolerance(c.name)));
          CHECK(distance(doubles(result.value), gradients.value) <= gradient_tolerance());
          if (!rounding_shows(c)) {
            CHECK(distance(doubles(result.query), gradients.query) <= several * gradient_tolerance());
            CHECK(distance(doubles(result.key), gradients.key) <= several * gradient_tolerance());
          }
          if (run.chunk != 0) return;
          // Of the output that backward has been given.
          std::size_t at = 0;
          in_double.output.for_each([&](double& o, Index, Index, Index, Index) { o = double(output[at++]); });
          check_gradients(result, in_double.backward(mechanism, {csq::Method::direct}), cancels);
        };
        const bool is_half = std::is_same_v<Element, Eigen::half>;
        for (const Index chunk : is_half ? std::vector<Index>{0} : std::vector<Index>{7, 0})
          check({csq::Method::direct, chunk});
        for (const Index chunk : is_half ? std::vector<Index>{7, 0} : std::vector<Index>{1, 7, 16, 0})
          if (factored) check({csq::Method::factored, chunk});
      });
    });
}

TEST_CASE("sixteen: any options and layouts, few tokens") {
  Random random(1601);
  for (int draw = 0; draw < 12; ++draw)
    for_each_mechanism([&](const auto& named) {
      const Problem p = random_call(random, named, random_sizes(random, 0, 8, 0, 8, 20));
      for_both_types([&]<class Element>() { check_call<Element>(named, p, {0, 1}); });
    });
}

TEST_CASE("sixteen: any options and layouts, few queries and many keys") {
  Random random(1602);
  for (int draw = 0; draw < 4; ++draw)
    for_each_mechanism([&](const auto& named) {
      Sizes s = random_sizes(random, 1, 8, 9, random.coin() ? 300 : 3000, 20);
      if (draw % 2 == 0) s.d = random.pick<Index>({16, 32}), s.dv = random.pick<Index>({16, 48});
      const Problem p = random_call(random, named, s);
      for_both_types([&]<class Element>() { check_call<Element>(named, p, {0}); });
    });
}

TEST_CASE("sixteen: any options and layouts, a block and less") {
  Random random(1603);
  for (int draw = 0; draw < 8; ++draw)
    for_each_mechanism([&](const auto& named) {
      const Problem p = random_call(random, named, random_sizes(random, 9, 60, 9, 60, 40));
      for_both_types([&]<class Element>() { check_call<Element>(named, p, {0, 7}); });
    });
}

TEST_CASE("sixteen: any options and layouts, several blocks") {
  Random random(1604);
  for (int draw = 0; draw < 3; ++draw)
    for_each_mechanism([&](const auto& named) {
      Sizes s = random_sizes(random, 100, 330, 100, 330, 20);
      s.batch = 1;
      const Problem p = random_call(random, named, s);
      for_both_types([&]<class Element>() { check_call<Element>(named, p, {0, 16}); });
    });
}

TEST_CASE("sixteen: rows of every width around vectors and the pieces that rows are converted in") {
  Random random(1605);
  const auto check = [&](const auto& named) {
    for (const Index width : {1, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 70, 127, 128, 129, 200})
      for (const Index tokens : {5, 40}) {
        Problem p = Problem::random_backward(random, {tokens, tokens, std::min<Index>(width, 40), width}, true);
        p.output_layout = p.gradient_layout = random.pick(output_layouts);
        for_both_types([&]<class Element>() { check_call<Element>(named, p, {0}); });
        p = Problem::random_backward(random, {tokens, tokens, width, 3}, random.coin(), Centering::prefix);
        p.gradient_layout = random.pick(output_layouts);
        if (width <= 70) for_both_types([&]<class Element>() { check_call<Element>(named, p, {0}); });
      }
  };
  for_typical_mechanisms(check);
}

TEST_CASE("sixteen: long sequences") {
  Random random(1606);
  const auto check = [&](const auto& named) {
    for (const bool causal : {true, false}) {
      Problem p = Problem::random_backward(random, {2500, 2500, 6, 5}, causal);
      if (causal) p.log_gate = random_gates(random, p, 1, 0.01);
      for_both_types([&]<class Element>() { check_call<Element>(named, p, {0}); });
    }
  };
  for_typical_mechanisms(check);
}

// Means of 20,000 rows that lie 100 times their spread away: sums of what 16 bits hold, in double.
TEST_CASE("sixteen: centring far from zero") {
  Random random(1607);
  Problem p = Problem::random(random, {20000, 20000, 4, 3}, true);
  for (double& value : p.k.values) value += 100;
  for_both_types([&]<class Element>() {
    const Problem q = rounded<Element>(p);
    const Outputs<Element> result = attend<Element>(csq::Csq{}, q);
    CHECK(distance(doubles(result.output), attend<double>(csq::Csq{}, q).output) <= output_tolerance());
  });
}

TEST_CASE("sixteen: gradients against differences of the plain loops") {
  Random random(1608);
  const auto check = [&](const auto& named) {
    for (const bool causal : {false, true})
      for_both_types([&]<class Element>() {
        Problem p = Problem::random_backward(random, {6, 6, 3, 4, 1, 2, 1}, causal);
        if (causal) p.log_gate = random_gates(random, p, 1, 0.3);
        p = rounded<Element>(p);
        const auto of = [&](Tensor Problem::*tensor) {
          std::vector<double> result;
          for (std::size_t i = 0; i < (p.*tensor).values.size(); ++i)
            result.push_back(
                difference_quotient(named, p, [&](Problem& moved, double by) { (moved.*tensor).values[i] += by; }));
          return result;
        };
        for (const csq::Method method : methods_of(named, p)) {
          INFO(named.name << " in " << type_name<Element>() << ", " << name_of(method) << ": " << p.describe());
          const GradientOutputs<Element> result = gradients<Element>(named.mechanism, p, {method});
          CHECK(close(doubles(result.query), of(&Problem::q), gradient_tolerance()));
          CHECK(close(doubles(result.key), of(&Problem::k), gradient_tolerance()));
          CHECK(close(doubles(result.value), of(&Problem::v), gradient_tolerance()));
          CHECK(close(doubles(result.log_gate), of(&Problem::log_gate), gradient_tolerance()));
        }
      });
  };
  for_each_mechanism(check);
}

TEST_CASE("sixteen: the same bits for any number of threads, and with a dirty workspace") {
  Random random(1609);
  csq::Workspace workspace;
  const auto check = [&](const auto& named) {
    for (const Sizes& s : {Sizes{7, 6, 9, 5, 3, 4, 2}, Sizes{3, 2000, 16, 16, 1, 4, 2}, Sizes{300, 300, 12, 20},
                           Sizes{170, 170, 9, 7, 2, 4, 2}})
      for (const bool causal : {false, true}) {
        Problem p = Problem::random_backward(random, s, causal, s.n < s.m ? Centering::none : Centering::automatic);
        if (causal) p.log_gate = random_gates(random, p, s.kv_heads, 0.02);
        for_both_types([&]<class Element>() {
          const Problem q = rounded<Element>(p);
          for (const csq::Method method : methods_of(named, p)) {
            INFO(named.name << " in " << type_name<Element>() << ", " << name_of(method) << ": " << p.describe());
            PlacedBackward<Element> placed(q);
            const Outputs<Element> expected = placed.attend(named.mechanism, {method});
            const GradientOutputs<Element> gradients = placed.backward(named.mechanism, {method});
            for (const int threads : {2, 3, 7}) {
              if (workspace.bytes() > 0) std::memset(workspace.reserve(0), 0xff, workspace.bytes());
              CHECK(same_bits(placed.attend(named.mechanism, {method, 0, threads, &workspace}), expected));
              CHECK(same_bits(placed.backward(named.mechanism, {method, 0, threads, &workspace}), gradients));
            }
          }
        });
      }
  };
  for_typical_mechanisms(check);
}

TEST_CASE("sixteen: NaN and infinity reach the rows that see them, and no other") {
  Random random(1614);
  const auto check = [&](const auto& named) {
    for (const Index n : {6, 40, 300})
      for (const Centering centering : {Centering::none, Centering::prefix})
        for_both_types([&]<class Element>() {
          Problem clean = rounded<Element>(Problem::random_backward(random, {n, n, 6, 5}, true, centering));
          for (const csq::Method method : methods_of(named, clean)) {
            const Outputs<Element> expected = attend<Element>(named.mechanism, clean, {method, n > 40 ? 16 : 0});
            for (const bool in_key : {false, true})
              for (const double bad : {nan_value, infinity, -infinity}) {
                const Index at = 2 * n / 3;
                Problem poisoned = clean;
                (in_key ? poisoned.k : poisoned.v)(0, 0, at, 1) = bad;
                INFO(named.name << " in " << type_name<Element>() << ", " << n << " tokens, " << name_of(method)
                                << ", centring " << int(centering) << ", " << bad << (in_key ? " in k" : " in v"));
                Pair<Element> pair(poisoned);
                const Outputs<Element> result = pair.check_forward(named.mechanism, {method, n > 40 ? 16 : 0});
                bool rows_before_are_clean = true, rows_that_see_it_are_not_finite = true;
                for (Index i = 0; i < n; ++i) {
                  const Element* row = result.output.data() + i * 5;
                  const Element* clean_row = expected.output.data() + i * 5;
                  // A block that a matrix unit cannot serve is float's: its rows are other roundings of the same.
                  if (i < at)
                    rows_before_are_clean =
                        rows_before_are_clean &&
                        (sixteen::matrix_unit_in_use<Element>()
                             ? sixteen::are_near(std::vector<Element>(row, row + 5),
                                                 std::vector<Element>(clean_row, clean_row + 5), 2 * output_tolerance())
                             : std::memcmp(row, clean_row, 5 * sizeof(Element)) == 0);
                  else if (!in_key || std::isnan(bad))
                    rows_that_see_it_are_not_finite =
                        rows_that_see_it_are_not_finite && !std::isfinite(double(row[in_key ? 0 : 1]));
                }
                CHECK(rows_before_are_clean);
                CHECK(rows_that_see_it_are_not_finite);
              }
          }
        });
  };
  for_typical_mechanisms(check);
}

// One key a row: the output is its value, bit for bit, whatever number it is.
TEST_CASE("sixteen: every number passes through, subnormal ones, the largest, -0 and infinity included") {
  for_both_types([]<class Element>() {
    INFO(type_name<Element>());
    constexpr Index tokens = 512, dim = 128;
    std::vector<Element> q(tokens * 4, rounded<Element>(1)), values(tokens * dim), out(tokens * dim), dv(tokens * dim),
        dq(tokens * 4), dk(tokens * 4);
    for (std::uint32_t bits = 0; bits < 65536; ++bits) values[bits] = sixteen::from_bits<Element>(bits);
    std::vector<float> normalizer(tokens);
    const csq::Heads<Element> rows(q.data(), {1, tokens, 1, 4}), v(values.data(), {1, tokens, 1, dim}),
        to(out.data(), {1, tokens, 1, dim});
    csq::attention(csq::Softmax{}, rows, rows, v, to, csq::Heads<float>(normalizer.data(), {1, tokens, 1, 1}));
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const double value = sixteen::value_of(values[i]);
      if (!sixteen::is_rounding_of(out[i], value) && !(value == 0 && sixteen::value_of(out[i]) == 0)) ++wrong;
    }
    CHECK(wrong == 0);
    // And through backward: ∂L/∂v of one key is ∂L/∂o.
    const std::vector<Element> zero(tokens * dim, rounded<Element>(0));
    std::vector<Element> zeros = zero;
    csq::attention_backward(
        csq::Softmax{}, rows, rows, csq::Heads<Element>(zeros.data(), {1, tokens, 1, dim}),
        csq::Heads<Element>(zeros.data(), {1, tokens, 1, dim}), csq::Heads<float>(normalizer.data(), {1, tokens, 1, 1}),
        v,
        csq::Gradients<Element>{
            {dq.data(), {1, tokens, 1, 4}}, {dk.data(), {1, tokens, 1, 4}}, {dv.data(), {1, tokens, 1, dim}}});
    wrong = 0;
    for (std::size_t i = 0; i < dv.size(); ++i) {
      const double value = sixteen::value_of(values[i]);
      if (!sixteen::is_rounding_of(dv[i], value) && !(value == 0 && sixteen::value_of(dv[i]) == 0)) ++wrong;
    }
    CHECK(wrong == 0);
  });
}

TEST_CASE("sixteen: what is too large for the type becomes infinity, and what is too small 0") {
  Random random(1615);
  // Gradients beyond the type's largest number, outputs that are none: ∂L/∂v sums as many ∂L/∂o.
  for_both_types([&]<class Element>() {
    const double most = sixteen::value_of(sixteen::from_bits<Element>(sixteen::infinity_bits<Element> - 1));
    const double least = sixteen::value_of(sixteen::from_bits<Element>(1));
    for (const Index n : {4, 60})
      for (const double size : {most / 2, least}) {
        INFO(type_name<Element>() << ", " << n << " tokens, " << size);
        Problem p = Problem::random_backward(random, {n, 3, 4, 5, 1, 1, 1}, false, Centering::none);
        for (double& x : p.dout.values) x = random.coin() ? size : 0.75 * size;
        Pair<Element> pair(rounded<Element>(p));
        const GradientOutputs<Element> result = pair.check(csq::Softmax{}, {});
        bool has_infinity = false;
        for (const Element& x : result.value) has_infinity = has_infinity || double(x) == infinity;
        CHECK(has_infinity == (size > 1 && n == 60));
      }
  });
  // half's largest is 65504: the middle to the next power of two, 65520, is infinity.
  const auto stored = [](float x) {
    const std::vector<float> q{0, 0};
    std::vector<Eigen::half> one{Eigen::half(0.f)}, keys(2, Eigen::half(0.f)), values, out(1);
    values = {rounded<Eigen::half>(65504), rounded<Eigen::half>(double(x))};
    csq::attention(csq::Softmax{}, csq::Heads<Eigen::half>(one.data(), {1, 1, 1, 1}),
                   csq::Heads<Eigen::half>(keys.data(), {1, 1, 2, 1}),
                   csq::Heads<Eigen::half>(values.data(), {1, 1, 2, 1}),
                   csq::Heads<Eigen::half>(out.data(), {1, 1, 1, 1}));
    return double(out[0]);
  };
  CHECK(stored(65504) == 65504);
  CHECK(stored(32) == 32768);  // (65504 + 32)/2
  CHECK(stored(std::numeric_limits<float>::infinity()) == infinity);
  // A weight that is not a mean: of one value 1, whose penalty's gradient is beyond half.
  for_both_types([&]<class Element>() {
    std::vector<Element> q{rounded<Element>(240)}, k{rounded<Element>(240)}, dq{rounded<Element>(0)}, dk = dq;
    const csq::Heads<Element> x(q.data(), {1, 1, 1, 1}), y(k.data(), {1, 1, 1, 1}), dx(dq.data(), {1, 1, 1, 1}),
        dy(dk.data(), {1, 1, 1, 1});
    csq::bound_penalty(x, y, dx, dy, 0, -1, {.centering = Centering::none});
    const double exact = -2.0 * 240 * 240 * 240;
    CHECK(double(dq[0]) == sixteen::value_of(rounded<Element>(exact)));
    CHECK((double(dq[0]) == -infinity) == std::is_same_v<Element, Eigen::half>);
  });
}

TEST_CASE("sixteen: a call takes the scratch that is told") {
  const csq::Csq mechanism;
  for (const Sizes& s : {Sizes{6, 6, 16, 16}, Sizes{3, 500, 16, 16}, Sizes{400, 400, 16, 16}})
    for (const csq::Method method : {csq::Method::direct, csq::Method::factored})
      for_both_types([&]<class Element>() {
        Random random(1610);
        const Problem p = rounded<Element>(Problem::random_backward(random, s));
        const csq::Shape shape{.queries = s.n, .keys = s.m, .key_dim = 16, .value_dim = 16};
        const csq::Options options{.method = method, .threads = 1};
        csq::Workspace forward, backward;
        PlacedBackward<Element> placed(p);
        placed.attend(mechanism, {method, 0, 1, &forward});
        placed.backward(mechanism, {method, 0, 1, &backward});
        CHECK(csq::workspace_bytes<Element>(mechanism, shape, options) == forward.bytes());
        CHECK(csq::backward_workspace_bytes<Element>(mechanism, shape, options) == backward.bytes());
      });
}

// --- packed sequences ---

namespace {

// [1, heads, tokens, dim], tokens one after another with all their heads.
template <class T>
struct Tokens {
  Index heads = 0, dim = 0;
  std::vector<T> values;

  Tokens() = default;
  Tokens(Index h, Index tokens, Index d) : heads(h), dim(d), values(static_cast<std::size_t>(h * tokens * d)) {}
  csq::Heads<T> rows(Index first, Index count) {
    return {values.data() + first * heads * dim, {1, heads, count, dim}, {0, dim, heads * dim, 1}};
  }
  void fill(Random& random) {
    for (T& value : values) value = rounded<T>(random.normal());
  }
};

template <class Element>
struct PackedStep {
  static constexpr Index heads = 4, kv_heads = 2, key_dim = 6, value_dim = 5;

  Tokens<Element> q, k, v, out, dout, dq, dk, dv;
  Tokens<float> gate, normalizer, dgate;
  double dshift = 0;

  PackedStep(Index n, Index m)
      : q(heads, n, key_dim),
        k(kv_heads, m, key_dim),
        v(kv_heads, m, value_dim),
        out(heads, n, value_dim),
        dout(heads, n, value_dim),
        dq(heads, n, key_dim),
        dk(kv_heads, m, key_dim),
        dv(kv_heads, m, value_dim),
        gate(kv_heads, m, 1),
        normalizer(heads, n, 1),
        dgate(kv_heads, m, 1) {
    Random random(1611);
    for (auto* array : {&q, &k, &v, &dout}) array->fill(random);
    for (float& x : gate.values) x = -float(std::abs(random.normal())) / 20;
  }

  template <class M>
  void run(const M& mechanism, Index q_first, Index q_count, Index k_first, Index k_count, csq::Options options) {
    const csq::Heads<float> gates = gate.rows(k_first, k_count), statistic = normalizer.rows(q_first, q_count);
    if (options.causal) options.log_gate = gates;
    csq::attention(mechanism, q.rows(q_first, q_count), k.rows(k_first, k_count), v.rows(k_first, k_count),
                   out.rows(q_first, q_count), statistic, options);
    csq::Gradients<Element> gradients{dq.rows(q_first, q_count), dk.rows(k_first, k_count), dv.rows(k_first, k_count)};
    if constexpr (csq::ShiftableMechanism<M>) gradients.shift = &dshift;
    if (options.causal) gradients.log_gate = dgate.rows(k_first, k_count);
    csq::attention_backward(mechanism, q.rows(q_first, q_count), k.rows(k_first, k_count), v.rows(k_first, k_count),
                            out.rows(q_first, q_count), statistic, dout.rows(q_first, q_count), gradients, options);
  }
};

}  // namespace

TEST_CASE("sixteen: packed sequences are the sequences apart") {
  const auto check = [&](const auto& named) {
    for (const bool causal : {false, true})
      for (const csq::Method method : methods(named.factored))
        for_both_types([&]<class Element>() {
          INFO(named.name << " in " << type_name<Element>() << (causal ? ", causal, " : ", ") << name_of(method));
          const std::vector<Index> queries{0, 3, 3, 63, 64, 264, 273};
          const std::vector<Index> keys = causal ? queries : std::vector<Index>{0, 5, 9, 69, 70, 300, 300};
          PackedStep<Element> apart(queries.back(), keys.back());
          double shift = 0;
          for (std::size_t s = 0; s + 1 < queries.size(); ++s) {
            apart.run(named.mechanism, queries[s], queries[s + 1] - queries[s], keys[s], keys[s + 1] - keys[s],
                      {.causal = causal, .method = method});
            shift += apart.dshift;
          }
          for (const int threads : {1, 3}) {
            PackedStep<Element> packed(queries.back(), keys.back());
            packed.run(named.mechanism, 0, queries.back(), 0, keys.back(),
                       {.causal = causal,
                        .query_offsets = queries,
                        .key_offsets = keys,
                        .method = method,
                        .threads = threads});
            CHECK(same_bits(packed.out.values, apart.out.values));
            CHECK(same_bits(packed.normalizer.values, apart.normalizer.values));
            CHECK(same_bits(packed.dq.values, apart.dq.values));
            CHECK(same_bits(packed.dk.values, apart.dk.values));
            CHECK(same_bits(packed.dv.values, apart.dv.values));
            CHECK(same_bits(packed.dgate.values, apart.dgate.values));
            CHECK(packed.dshift == shift);
          }
        });
  };
  for_typical_mechanisms(check);
}

// --- summaries that forward keeps ---

TEST_CASE("sixteen: backward reads the summary that forward kept, and none of another type") {
  Random random(1612);
  for_both_types([&]<class Element>() {
    const Problem p = rounded<Element>(Problem::random_backward(random, {40, 300, 6, 5, 1, 4, 2}));
    const Run plain{csq::Method::factored};
    PlacedBackward<Element> placed(p);
    const GradientOutputs<Element> expected = placed.gradients(csq::Csq{}, plain);
    csq::KeptSummary summary;
    Run keeping = plain;
    keeping.summary = &summary;
    {
      INFO(type_name<Element>());
      Pair<Element> pair(p);
      csq::KeptSummary of_float;
      pair.narrow.attend(csq::Csq{}, keeping);
      CHECK_FALSE(summary.empty());
      const GradientOutputs<Element> kept = pair.narrow.backward(csq::Csq{}, keeping);
      CHECK(distance(doubles(kept.query), doubles(expected.query)) <= gradient_tolerance());
      CHECK(distance(doubles(kept.key), doubles(expected.key)) <= gradient_tolerance());
      CHECK(distance(doubles(kept.value), doubles(expected.value)) <= gradient_tolerance());
      // It is read.
      placed.attend(csq::Csq{}, keeping);
      for (std::size_t i = 0; i < summary.bytes() / sizeof(float); ++i) summary.head<float>(0)[i] = 0;
      CHECK_FALSE(same_bits(placed.backward(csq::Csq{}, keeping), expected));
    }
    // The same memory as the other type: the rows of its summary were other numbers.
    using Other = std::conditional_t<std::is_same_v<Element, Eigen::half>, Eigen::bfloat16, Eigen::half>;
    const auto as_other = [](const csq::Heads<Element>& view) {
      return csq::Heads<Other>(reinterpret_cast<Other*>(view.data), view.shape, view.stride);
    };
    Problem tame = p;  // whose bits are numbers of a reasonable size in both types
    for (Tensor* x : {&tame.q, &tame.k, &tame.v, &tame.dout})
      for (double& value : x->values) value = value < 0 ? -1 : 1.5;
    PlacedBackward<Element> own(tame);
    const GradientOutputs<Element> right = own.gradients(csq::Csq{}, plain);
    csq::attention(csq::Csq{}, as_other(own.q.view), as_other(own.k.view), as_other(own.v.view),
                   as_other(own.output.view), {.method = csq::Method::factored, .summary = &summary});
    CHECK_FALSE(summary.empty());
    own.attend(csq::Csq{}, plain);
    CHECK(same_bits(own.backward(csq::Csq{}, keeping), right));
  });
}

// --- penalties ---

namespace {

template <class T>
struct Penalties {
  csq::BoundPenalty exact, sampled;
  double rank = 0;
  std::array<std::vector<T>, 5> gradients;
  bool outside_untouched = true;
};

template <class T>
Penalties<T> penalties(const Problem& p, double start, int threads = 1) {
  const Array<T> q = place<T>(p.q_layout, p.q), k = place<T>(p.k_layout, p.k);
  std::array<Array<T>, 5> gradients;
  for (std::size_t i = 0; i < 5; ++i)
    gradients[i] = Array<T>(p.gradient_layout, i == 1 || i == 3 ? k.view.shape : q.view.shape, T(float(start)));
  const csq::Heads<const T> queries(q.view), keys(k.view);
  Penalties<T> result;
  with_options(p, {csq::Method::automatic, 0, threads}, [&](const csq::Options& options) {
    result.exact = csq::bound_penalty(queries, keys, gradients[0].view, gradients[1].view, 1, -1.5, options);
    result.sampled =
        csq::sampled_bound_penalty(queries, keys, gradients[2].view, gradients[3].view, 3, 7, 1, 2, options);
    if (p.q.tokens >= p.k.tokens) result.rank = csq::rank_penalty(queries, gradients[4].view, 1e-3, 0.5, options);
  });
  for (std::size_t i = 0; i < 5; ++i) {
    result.gradients[i] = gradients[i].elements();
    result.outside_untouched = result.outside_untouched && gradients[i].outside_untouched();
  }
  return result;
}

bool same(const csq::BoundPenalty& x, const csq::BoundPenalty& y) {
  return x.value == y.value && x.max_abs == y.max_abs && x.overflow == y.overflow;
}

}  // namespace

TEST_CASE("sixteen: penalties are those of float, their gradients added and rounded once") {
  Random random(1613);
  const NamedMechanism<csq::Csq> centred{"csq", {}, shifted_square(1), true, true, true};
  for (const Sizes& s : {Sizes{6, 5, 3, 1}, Sizes{5, 8, 2, 1, 2, 4, 2}, Sizes{7, 7, 17, 1, 2, 2, 1},
                         Sizes{170, 160, 9, 1}, Sizes{40, 40, 70, 1, 1, 3, 3}})
    for (const bool causal : {false, true})
      for (const Centering centering : {Centering::automatic, Centering::none, Centering::prefix_exclusive}) {
        Problem p = Problem::random(random, s, causal, centering);
        for (double& value : p.q.values) value *= 2;
        p.q_layout = random.pick<Layout>({Layout::contiguous, Layout::gaps, Layout::reversed, Layout::packed});
        p.k_layout = random.pick<Layout>({Layout::contiguous, Layout::tokens_first, Layout::column_major});
        p.gradient_layout = random.pick(output_layouts);
        if (s.batch == 2) p.key_length = {s.m, s.m / 2};
        give_needed_history(random, p, true);
        for_both_types([&]<class Element>() {
          const Problem q = rounded<Element>(p);
          INFO(type_name<Element>() << ": " << q.describe());
          const Penalties<Element> result = penalties<Element>(q, 0.75);
          const Penalties<float> expected = penalties<float>(q, 0.75);
          CHECK(same(result.exact, expected.exact));
          CHECK(same(result.sampled, expected.sampled));
          CHECK(result.rank == expected.rank);
          CHECK(result.outside_untouched);
          for (std::size_t i = 0; i < 5; ++i)
            CHECK(sixteen::are_roundings_of(result.gradients[i], expected.gradients[i]));
          const Penalties<Element> threaded = penalties<Element>(q, 0.75, 3);
          CHECK(same(result.exact, threaded.exact));
          for (std::size_t i = 0; i < 5; ++i) CHECK(same_bits(result.gradients[i], threaded.gradients[i]));
          const reference::Call call = reference_call(centred, q);
          CHECK(distance({result.exact.value}, {reference::bound_penalty(call, 1).value}) <= 1e-4);
          if (s.n >= s.m) CHECK(distance({result.rank}, {reference::rank_penalty(call, 1e-3)}) <= 1e-4);
        });
      }
}

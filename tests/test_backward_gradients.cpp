// Gradients without golden files: differences of the plain loops, agreement of the methods, and what the mathematics
// promises of every gradient.
#include <algorithm>
#include <limits>

#include "catch.hpp"
#include "differences.hpp"

namespace {

using csq::Centering;

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();
const std::vector<Centering> centrings{Centering::automatic, Centering::none, Centering::sequence, Centering::prefix,
                                       Centering::prefix_exclusive};

template <class T>
std::vector<double> doubles(const std::vector<T>& x) {
  return {x.begin(), x.end()};
}
template <class T>
bool all_equal(const std::vector<T>& values, T expected) {
  return std::all_of(values.begin(), values.end(), [&](T value) { return value == expected; });
}

template <class M>
double shift_difference(NamedMechanism<M> named, const Problem& p) {
  const auto loss_at = [&](double shift) {
    named.mechanism.shift = shift;
    named.weight = shifted_square(shift);
    return loss(named, p);
  };
  const double shift = named.mechanism.shift;
  return (loss_at(shift + difference_step) - loss_at(shift - difference_step)) / (2 * difference_step);
}

struct Expected {
  std::vector<double> query, key, value;
  double shift = 0;
};

void check_gradients(const GradientOutputs<double>& result, const Expected& expected) {
  CHECK(close(result.query, expected.query, difference_tolerance));
  CHECK(close(result.key, expected.key, difference_tolerance));
  CHECK(close(result.value, expected.value, difference_tolerance));
  CHECK(close({result.shift}, {expected.shift}, difference_tolerance));
  CHECK(result.outside_untouched);
}

template <class M, class Check>
void for_each_run(const NamedMechanism<M>& named, const Problem& p, const std::vector<Index>& chunks,
                  const Check& check) {
  for (const csq::Method method : methods(named.factored))
    for (const Index chunk : chunks) {
      INFO(named.name << ": " << p.describe() << ", " << name_of(method) << ", chunk " << chunk);
      check(Run{method, chunk});
    }
}

// Every element of q, k and v by itself.
template <class M>
void check_every_element(const NamedMechanism<M>& named, const Problem& p) {
  const auto differences = [&](Tensor Problem::*of) {
    std::vector<double> result;
    for (std::size_t i = 0; i < (p.*of).values.size(); ++i)
      result.push_back(difference_quotient(named, p, [&](Problem& moved, double by) { (moved.*of).values[i] += by; }));
    return result;
  };
  Expected expected{differences(&Problem::q), differences(&Problem::k), differences(&Problem::v)};
  if constexpr (requires { named.mechanism.shift_slope(); }) expected.shift = shift_difference(named, p);
  PlacedBackward<double> placed(p);
  for_each_run(named, p, {0, 1, 3},
               [&](const Run& run) { check_gradients(placed.gradients(named.mechanism, run), expected); });
}

// All elements at once, along random directions: for problems too large to take them one by one.
template <class M>
void check_directions(Random& random, const NamedMechanism<M>& named, const Problem& p,
                      const std::vector<Index>& chunks) {
  struct Direction {
    Tensor Problem::*of;
    std::vector<double> GradientOutputs<double>::*gradient;
    std::vector<double> along;
    double expected = 0;
  };
  std::vector<Direction> directions{{&Problem::q, &GradientOutputs<double>::query, {}},
                                    {&Problem::k, &GradientOutputs<double>::key, {}},
                                    {&Problem::v, &GradientOutputs<double>::value, {}}};
  for (Direction& direction : directions) {
    for (std::size_t i = 0; i < (p.*direction.of).values.size(); ++i) direction.along.push_back(random.coin() ? 1 : -1);
    direction.expected = difference_quotient(named, p, [&](Problem& moved, double by) {
      for (std::size_t i = 0; i < direction.along.size(); ++i)
        (moved.*direction.of).values[i] += by * direction.along[i];
    });
  }
  double shift = 0;
  if constexpr (requires { named.mechanism.shift_slope(); }) shift = shift_difference(named, p);
  PlacedBackward<double> placed(p);
  for_each_run(named, p, chunks, [&](const Run& run) {
    const GradientOutputs<double> result = placed.gradients(named.mechanism, run);
    for (const auto& [of, gradient, along, expected] : directions) {
      const std::vector<double>& x = result.*gradient;
      double projected = 0;
      for (std::size_t i = 0; i < along.size(); ++i) projected += x[i] * along[i];
      INFO((of == &Problem::q ? "dq" : of == &Problem::k ? "dk" : "dv"));
      CHECK(std::abs(projected - expected) <= difference_tolerance * std::max(1.0, norm(x)));
    }
    CHECK(close({result.shift}, {shift}, difference_tolerance));
    CHECK(result.outside_untouched);
  });
}

std::vector<Index> random_lengths(Random& random, Index batch, Index high) {
  std::vector<Index> lengths;
  for (Index b = 0; b < batch; ++b) lengths.push_back(random.coin() ? high : random.integer(0, high));
  return lengths;
}

// Equal tokens are zero once they are centred, where elu has its kink and no difference quotient is exact.
template <class M>
bool may_be_at_kink(const NamedMechanism<M>& named, Layout layout) {
  return named.weight.kind == reference::Weight::Kind::feature_product && layout == Layout::broadcast_tokens;
}

// Everything that is not given is drawn: sizes, groups, lengths, histories, scale, layouts.
template <class M>
Problem random_problem(Random& random, const NamedMechanism<M>& named, bool causal, Centering centering) {
  Sizes s{random.integer(2, 17), random.integer(2, 17), random.integer(1, 9), random.integer(1, 9)};
  s.batch = random.integer(1, 2);
  s.kv_heads = random.integer(1, 2);
  s.heads = s.kv_heads * random.integer(1, 3);
  Problem p;
  p.q_layout = random.pick(input_layouts);
  p.k_layout = random.pick(input_layouts);
  p.v_layout = random.pick(input_layouts);
  p.output_layout = random.pick(output_layouts);
  p.gradient_layout = random.pick(output_layouts);
  for (Layout* layout : {&p.q_layout, &p.k_layout})
    if (may_be_at_kink(named, *layout)) *layout = Layout::broadcast_heads;
  p.q = random_tensor(random, s.batch, s.heads, s.n, s.d, p.q_layout);
  p.k = random_tensor(random, s.batch, s.kv_heads, s.m, s.d, p.k_layout);
  p.v = random_tensor(random, s.batch, s.kv_heads, s.m, s.dv, p.v_layout);
  p.dout = random_tensor(random, s.batch, s.heads, s.n, s.dv);
  p.causal = causal;
  p.centering = centering;
  if (random.coin()) p.key_length = random_lengths(random, s.batch, s.m);
  if (random.coin()) p.query_length = random_lengths(random, s.batch, s.n);
  if (named.takes_scale && random.coin()) p.scale = random.pick<double>({-0.4, 0.2, 0.7});
  if (has_prefix_means(effective_centering(p, named.centred))) {
    if (random.coin()) p.query_history = random_history(random, p.q, 0, 50);
    if (random.coin()) p.key_history = random_history(random, p.k, 0, 50);
  }
  give_needed_history(random, p, named.centred);
  return p;
}

template <class M>
bool is_constant(const NamedMechanism<M>& named) {
  return named.weight.kind == reference::Weight::Kind::of_score && named.weight.of_score(0) == named.weight.of_score(9);
}

// The largest amplification of rounding in a row of the factored form: its weight is a sum of features of both signs.
template <class M>
double worst_condition(const NamedMechanism<M>& named, const Problem& p) {
  const reference::Result result = reference_result(named, p);
  double worst = 1;
  for (const double condition : result.condition.values) worst = std::max(worst, condition);
  return worst;
}

}  // namespace

TEST_CASE("central differences of every element: every mechanism, mask, centring and grouping") {
  Random random(101);
  for_each_mechanism([&](const auto& named) {
    for (const bool causal : {false, true})
      for (const Centering centering : centrings)
        for (const Sizes& s : {Sizes{4, 5, 2, 3}, Sizes{5, 4, 3, 1, 1, 4, 2}}) {
          Problem p = Problem::random_backward(random, s, causal, centering);
          give_needed_history(random, p, named.centred);
          check_every_element(named, p);
        }
  });
}

TEST_CASE("central differences of random problems: sizes, lengths, histories, scales, strides") {
  Random random(102);
  for_each_mechanism([&](const auto& named) {
    for (const bool causal : {false, true})
      for (const Centering centering : centrings)
        for (int draw = 0; draw < 6; ++draw)
          check_directions(random, named, random_problem(random, named, causal, centering),
                           {0, random.pick<Index>({1, 2, 7, 16})});
  });
}

TEST_CASE("central differences for every layout of inputs and outputs") {
  Random random(103);
  for (const bool causal : {false, true})
    for (const Layout input : input_layouts)
      for (const Layout output : output_layouts) {
        const auto check = [&](const auto& named) {
          if (may_be_at_kink(named, input)) return;
          Problem p;
          p.q_layout = p.k_layout = p.v_layout = input;
          p.output_layout = p.gradient_layout = output;
          p.q = random_tensor(random, 2, 4, 7, 5, input);
          p.k = random_tensor(random, 2, 2, 9, 5, input);
          p.v = random_tensor(random, 2, 2, 9, 3, input);
          p.dout = random_tensor(random, 2, 4, 7, 3);
          p.causal = causal;
          p.centering = Centering::sequence;
          check_directions(random, named, p, {0, 4});
        };
        for_typical_mechanisms(check);
      }
}

// Blocks hold 72 tokens in double, panels and tiles end in the middle for most widths.
TEST_CASE("central differences across blocks, panels and superblocks") {
  Random random(104);
  const std::vector<Sizes> sizes{{72, 72, 5, 4},  {73, 71, 5, 4},   {145, 80, 4, 3},        {80, 145, 4, 3},
                                 {1, 150, 5, 4},  {150, 1, 5, 4},   {30, 30, 17, 9},        {20, 24, 33, 40},
                                 {12, 12, 65, 6}, {10, 13, 6, 129}, {75, 75, 6, 5, 1, 4, 2}};
  const auto check = [&](const auto& named) {
    for (const Sizes& s : sizes)
      for (const bool causal : {false, true}) {
        Problem p = Problem::random_backward(random, s, causal);
        give_needed_history(random, p, named.centred);
        if (s.n > 70) p.query_length = {s.n - 5};
        if (s.m > 70) p.key_length = {s.m - 3};
        check_directions(random, named, p, {0, 16});
      }
  };
  for_typical_mechanisms(check);
}

TEST_CASE("factored gradients are the direct ones, in double and in float") {
  Random random(105);
  const std::vector<Sizes> sizes{{145, 145, 5, 4},   {287, 289, 5, 4},          {300, 145, 6, 9}, {1, 433, 5, 4},
                                 {1500, 1500, 4, 3}, {150, 150, 8, 8, 2, 4, 2}, {40, 40, 64, 64}, {25, 30, 96, 20}};
  for_each_mechanism([&](const auto& named) {
    if (!named.factored) return;
    for (const Sizes& s : sizes)
      for (const bool causal : {false, true}) {
        Problem p = Problem::random_backward(random, s, causal);
        give_needed_history(random, p, named.centred);
        const double condition = worst_condition(named, p);
        for_float_and_double([&]<class T>() {
          PlacedBackward<T> placed(p);
          const GradientOutputs<T> direct = placed.gradients(named.mechanism, {csq::Method::direct});
          for (const Index chunk : {0, 16, 100}) {
            INFO(named.name << ": " << p.describe() << ", chunk " << chunk << ", " << 8 * sizeof(T) << " bits");
            const GradientOutputs<T> factored = placed.gradients(named.mechanism, {csq::Method::factored, chunk});
            const double tolerance =
                (sizeof(T) == 8 ? 1e-10 : 5e-5) + 4 * double(std::numeric_limits<T>::epsilon()) * condition;
            CHECK(distance(doubles(factored.query), doubles(direct.query)) <= tolerance);
            CHECK(distance(doubles(factored.key), doubles(direct.key)) <= tolerance);
            CHECK(distance(doubles(factored.value), doubles(direct.value)) <= tolerance);
            CHECK(close({factored.shift}, {direct.shift}, 10 * tolerance));
          }
        });
      }
  });
}

// A constant added to all keys changes nothing: under sequence means, under inclusive prefix means from the start, and
// for Softmax without any. The same holds for the queries where they are centred.
TEST_CASE("the gradients of what a constant cannot change sum to zero") {
  Random random(106);
  for_each_mechanism([&](const auto& named) {
    const bool softmax = named.weight.kind == reference::Weight::Kind::exponential;
    if (is_constant(named)) return;  // its gradients are zero one by one
    for (const bool causal : {false, true})
      for (const Centering centering : {Centering::sequence, Centering::prefix, Centering::none}) {
        if (centering == Centering::none && !softmax) continue;
        Problem p = Problem::random_backward(random, {95, 90, 7, 5, 2, 4, 2}, causal, centering);
        p.key_length = {90, 61};
        p.query_length = {95, 80};
        for_float_and_double([&]<class T>() {
          for_each_run(named, p, {0, 16}, [&](const Run& run) {
            const GradientOutputs<T> result = gradients<T>(named.mechanism, p, run);
            const auto check_sums = [&](const std::vector<T>& gradient, const Tensor& x) {
              for (Index b = 0; b < x.batch; ++b)
                for (Index h = 0; h < x.heads; ++h) {
                  const T* rows = gradient.data() + (b * x.heads + h) * x.tokens * x.dim;
                  double size = 0, largest = 0;
                  for (Index a = 0; a < x.dim; ++a) {
                    double sum = 0;
                    for (Index t = 0; t < x.tokens; ++t) {
                      sum += double(rows[t * x.dim + a]);
                      size += std::abs(double(rows[t * x.dim + a]));
                    }
                    largest = std::max(largest, std::abs(sum));
                  }
                  CHECK(largest <= (sizeof(T) == 8 ? 1e-13 : 1e-5) * size);
                  CHECK(size > 0);
                }
            };
            check_sums(result.key, p.k);
            if (centering != Centering::none) check_sums(result.query, p.q);
          });
        });
      }
  });
}

TEST_CASE("automatic gives the gradients of one of the two methods") {
  Random random(107);
  for_each_mechanism([&](const auto& named) {
    for (const Sizes& s : {Sizes{20, 20, 8, 8}, Sizes{900, 900, 3, 3}}) {
      const Problem p = Problem::random_backward(random, s, true);
      PlacedBackward<double> placed(p);
      const GradientOutputs<double> chosen = placed.gradients(named.mechanism, {csq::Method::automatic});
      bool found = false;
      for (const csq::Method method : methods(named.factored)) {
        placed.attend(named.mechanism, {csq::Method::automatic});
        found = found || same_bits(placed.backward(named.mechanism, {method}), chosen);
      }
      INFO(named.name << ": " << p.describe());
      CHECK(found);
    }
  });
}

TEST_CASE("rows beyond the lengths have no gradient, and what lies there changes none, to the bit") {
  Random random(108);
  for_each_mechanism([&](const auto& named) {
    for (const bool causal : {false, true})
      for (const Centering centering : centrings) {
        Problem p = Problem::random_backward(random, {100, 130, 4, 5, 3, 2, 1}, causal, centering);
        give_needed_history(random, p, named.centred);
        p.key_length = {0, 77, 129};
        p.query_length = {100, 53, 0};
        Problem padded = p;
        const auto fill = [](Tensor& x, const std::vector<Index>& length) {
          for (Index b = 0; b < x.batch; ++b)
            for (Index h = 0; h < x.heads; ++h)
              for (Index t = length[std::size_t(b)]; t < x.tokens; ++t)
                for (Index a = 0; a < x.dim; ++a)
                  x(b, h, t, a) = t % 2 == 0 ? nan_value : -std::numeric_limits<double>::infinity();
        };
        fill(padded.q, p.query_length);
        fill(padded.k, p.key_length);
        fill(padded.v, p.key_length);
        fill(padded.dout, p.query_length);
        // Batch 0 sees no key and batch 2 has no query: only rows of batch 1 within its lengths have a gradient.
        const auto zero_elsewhere = [](const std::vector<float>& gradient, const Tensor& x, Index length) {
          const Index batch = x.heads * x.tokens * x.dim;
          for (Index i = 0; i < Index(gradient.size()); ++i)
            if ((i / batch != 1 || i / x.dim % x.tokens >= length) && gradient[std::size_t(i)] != 0) return false;
          return true;
        };
        for_each_run(named, p, {0, 1, 7, 64}, [&](const Run& run) {
          const GradientOutputs<float> expected = gradients<float>(named.mechanism, p, run);
          CHECK(zero_elsewhere(expected.query, p.q, 53));
          CHECK(zero_elsewhere(expected.key, p.k, 77));
          CHECK(zero_elsewhere(expected.value, p.v, 77));
          CHECK_FALSE(all_equal(expected.value, 0.0f));
          CHECK(same_bits(gradients<float>(named.mechanism, padded, run), expected));
        });
      }
  });
}

namespace {

enum class Poison { query, key, value, output_gradient };
const std::vector<std::pair<Poison, const char*>> poisons{{Poison::query, "NaN in q"},
                                                          {Poison::key, "NaN in k"},
                                                          {Poison::value, "NaN in v"},
                                                          {Poison::output_gradient, "NaN in dout"}};

// Tokens [first, last) of a gradient that a poison reaches, within its own batch and key head.
struct Reach {
  Index first = 0, last = 0;
};

// What NaN at `token` reaches. Let row i be struck when its output, its normaliser or its dout is NaN. Under a mask
// a struck row reaches the keys that it sees; a key or a value strikes all rows from the first that sees it to the
// last, which sees every key. Prefix means carry a query to all later rows and, backward, a row's gradient to all
// earlier ones. Values enter the gradient of no value.
struct Reached {
  Reach query, key, value;

  Reached(const Problem& p, bool prefix, Poison poison, Index token) {
    const Index n = p.q.tokens, m = p.k.tokens, offset = m - n;
    const bool of_key = poison == Poison::key || poison == Poison::value;
    const bool one_row = poison == Poison::output_gradient || (poison == Poison::query && !prefix);
    const Index first = of_key ? (p.causal ? std::max<Index>(token - offset, 0) : 0) : token;
    const Index last = one_row ? token + 1 : n;
    const Index seen = p.causal ? std::clamp<Index>(last + offset, 0, m) : m;
    if (first >= last) return;
    query = {prefix ? 0 : first, last};
    key = {0, seen};
    if (poison != Poison::value) value = {0, seen};
    // A row that sees no key has no gradient; under prefix means its q still enters the means of later rows.
    if (seen == 0) query = {};
    if (p.causal && !prefix) query.first = std::max(query.first, std::min(-offset, query.last));
  }
};

// Rows outside `reach` have the bits of `clean`; inside every row holds a NaN. With `rounds_anew` they need only
// be near `clean`: the factored form serves a whole head directly where gradients cancel, as those of a
// raw square may, and with a NaN in it a head is not known to.
void check_reach(const char* name, const std::vector<float>& result, const std::vector<float>& clean, const Tensor& x,
                 Index first_head, Index last_head, const Reach& reach, bool rounds_anew) {
  INFO(name);
  float largest = 0;
  for (const float y : clean) largest = std::max(largest, std::abs(y));
  bool unreached_unchanged = true, reached_struck = true;
  for (Index head = 0; head < x.batch * x.heads; ++head)
    for (Index t = 0; t < x.tokens; ++t) {
      const std::size_t row = std::size_t((head * x.tokens + t) * x.dim);
      const float* now = result.data() + row;
      if (head >= first_head && head < last_head && t >= reach.first && t < reach.last) {
        reached_struck = reached_struck && std::any_of(now, now + x.dim, [](float y) { return std::isnan(y); });
      } else if (rounds_anew) {
        for (std::size_t a = 0; a < std::size_t(x.dim); ++a)
          unreached_unchanged = unreached_unchanged && std::abs(now[a] - clean[row + a]) <= 1e-3f * largest;
      } else {
        unreached_unchanged =
            unreached_unchanged && std::memcmp(now, clean.data() + row, std::size_t(x.dim) * sizeof(float)) == 0;
      }
    }
  CHECK(unreached_unchanged);
  CHECK(reached_struck);
}

}  // namespace

TEST_CASE("NaN reaches exactly the gradients that depend on it") {
  Random random(109);
  const std::vector<Sizes> sizes{
      {90, 90, 4, 5, 2, 4, 2}, {60, 150, 4, 5, 2, 4, 2}, {150, 60, 4, 5, 2, 4, 2}, {310, 310, 3, 4, 1, 1, 1}};
  for_each_mechanism([&](const auto& named) {
    if (is_constant(named)) return;  // reads no query and no key
    for (const bool causal : {true, false})
      for (const Sizes& s : sizes)
        for (const Centering centering : {Centering::none, Centering::prefix}) {
          if (!causal && centering == Centering::prefix) continue;
          Problem p = Problem::random_backward(random, s, causal, centering);
          give_needed_history(random, p, named.centred);
          for_each_run(named, p, {0, 7}, [&](const Run& run) {
            const GradientOutputs<float> clean = gradients<float>(named.mechanism, p, run);
            for (const auto& [poison, poison_name] : poisons) {
              Problem poisoned = p;
              const bool of_key = poison == Poison::key || poison == Poison::value;
              Tensor& x = poison == Poison::query   ? poisoned.q
                          : poison == Poison::key   ? poisoned.k
                          : poison == Poison::value ? poisoned.v
                                                    : poisoned.dout;
              const Index token = random.integer(0, x.tokens - 1);
              x(x.batch - 1, x.heads - 1, token, x.dim / 2) = nan_value;
              INFO(poison_name << " at token " << token);
              const GradientOutputs<float> result = gradients<float>(named.mechanism, poisoned, run);
              const Reached reached(p, centering == Centering::prefix, poison, token);
              const Index heads = p.q.batch * p.q.heads, kv_heads = p.k.batch * p.k.heads;
              const Index struck_heads = of_key ? p.q.heads / p.k.heads : 1;
              const bool rounds_anew = std::string(named.name) == "squared" && run.method != csq::Method::direct;
              check_reach("dq", result.query, clean.query, p.q, heads - struck_heads, heads, reached.query,
                          rounds_anew);
              check_reach("dk", result.key, clean.key, p.k, kv_heads - 1, kv_heads, reached.key, rounds_anew);
              check_reach("dv", result.value, clean.value, p.v, kv_heads - 1, kv_heads, reached.value, rounds_anew);
            }
          });
        }
  });
}

TEST_CASE("rows that see no key have no gradient and give none") {
  Random random(110);
  for_each_mechanism([&](const auto& named) {
    for (const Centering centering : {Centering::none, Centering::prefix}) {
      const Problem p = Problem::random_backward(random, {200, 9, 3, 2}, true, centering);
      Problem poisoned = p;
      for (Index i = 0; i < 191; ++i)
        for (Index a = 0; a < 2; ++a) poisoned.dout(0, 0, i, a) = i % 2 == 0 ? nan_value : 1e30;
      for_float_and_double([&]<class T>() {
        for_each_run(named, p, {0, 1, 4}, [&](const Run& run) {
          const GradientOutputs<T> result = gradients<T>(named.mechanism, p, run);
          CHECK_FALSE(all_equal(result.value, T(0)));
          if (centering == Centering::none)
            CHECK(all_equal({result.query.begin(), result.query.begin() + 191 * 3}, T(0)));
          CHECK(same_bits(gradients<T>(named.mechanism, poisoned, run), result));
        });
      });
    }
  });
}

TEST_CASE("rows whose weights are all zero have no gradient and give none") {
  Random random(111);
  for (const bool causal : {false, true})
    for (const Centering centering : {Centering::none, Centering::prefix}) {
      // Under inclusive prefix means the first query is zero, else those that are made so.
      if (!causal && centering == Centering::prefix) continue;
      Problem p = Problem::random_backward(random, {100, 100, 3, 2}, causal, centering);
      std::vector<Index> zero_rows{0};
      if (centering == Centering::none) {
        zero_rows = {0, 17, 99};
        for (const Index i : zero_rows)
          for (Index a = 0; a < 3; ++a) p.q(0, 0, i, a) = 0;
      }
      Problem other = p;
      for (const Index i : zero_rows)
        for (Index a = 0; a < 2; ++a) other.dout(0, 0, i, a) = 1e6;
      for_float_and_double([&]<class T>() {
        for (const csq::Method method : methods(true))
          for (const Index chunk : {0, 16}) {
            INFO(name_of(method) << ", chunk " << chunk << ", " << 8 * sizeof(T) << " bits, " << p.describe());
            const GradientOutputs<T> result = gradients<T>(csq::Squared{}, p, {method, chunk});
            CHECK_FALSE(all_equal(result.key, T(0)));
            if (centering == Centering::none)
              for (const Index i : zero_rows)
                CHECK(all_equal({result.query.begin() + i * 3, result.query.begin() + i * 3 + 3}, T(0)));
            CHECK(same_bits(gradients<T>(csq::Squared{}, other, {method, chunk}), result));
          }
      });
    }
}

TEST_CASE("nothing to do: no batch, no queries, no keys, none visible") {
  for_each_mechanism([](const auto& named) {
    Random random(112);
    for (const bool causal : {false, true})
      for (const Sizes& s : {Sizes{5, 6, 3, 2, 0, 2, 1}, Sizes{0, 6, 3, 2, 2, 2, 1}, Sizes{9, 0, 3, 2, 2, 4, 2},
                             Sizes{0, 0, 3, 2}, Sizes{9, 9, 3, 2, 2, 4, 2}}) {
        Problem p = Problem::random_backward(random, s, causal, Centering::none);
        if (s.n == s.m) p.key_length = std::vector<Index>(std::size_t(s.batch), 0);
        for_float_and_double([&]<class T>() {
          for_each_run(named, p, {0, 4}, [&](const Run& run) {
            const GradientOutputs<T> result = gradients<T>(named.mechanism, p, run);
            CHECK(all_equal(result.query, T(0)));
            CHECK(all_equal(result.key, T(0)));
            CHECK(all_equal(result.value, T(0)));
            CHECK(result.shift == 0);
            CHECK(result.outside_untouched);
          });
        });
      }
  });
}

// The loss is linear in dout, exactly so for a power of two.
TEST_CASE("twice the gradient of the output is twice every gradient, to the bit") {
  Random random(113);
  for_each_mechanism([&](const auto& named) {
    const Problem p = Problem::random_backward(random, {90, 90, 6, 5, 1, 2, 1}, true);
    Problem twice = p;
    for (double& value : twice.dout.values) value *= 2;
    for_float_and_double([&]<class T>() {
      for_each_run(named, p, {0, 16}, [&](const Run& run) {
        GradientOutputs<T> expected = gradients<T>(named.mechanism, p, run);
        for (std::vector<T>* gradient : {&expected.query, &expected.key, &expected.value})
          for (T& value : *gradient) value *= 2;
        expected.shift *= 2;
        CHECK(same_bits(gradients<T>(named.mechanism, twice, run), expected));
      });
    });
  });
}

namespace {

// A user's mechanisms with a shift. The normaliser takes every factor of a weight out again, so that outputs and
// gradients are those of (s+β)², but for the rate at which β moves it.
struct Scaled {
  double shift = 1, factor = 2;
  csq::Quadratic quadratic() const { return {factor * shift * shift, 2 * factor * shift, factor}; }
  csq::Quadratic shift_slope() const { return {2 * factor * shift, 2 * factor, 0}; }
};
struct Backwards {  // 0.5·(s − 3β)²
  double shift = 1;
  csq::Quadratic quadratic() const { return {4.5 * shift * shift, -3 * shift, 0.5}; }
  csq::Quadratic shift_slope() const { return {9 * shift, -3, 0}; }
};
struct Undeclared {
  double shift = 1;
  csq::Quadratic quadratic() const { return {2 * shift * shift, 4 * shift, 2}; }
};
struct Bent {  // (s·β + 1)²: its slope is none of a shift
  double shift = 1;
  csq::Quadratic quadratic() const { return {1, 2 * shift, shift * shift}; }
  csq::Quadratic shift_slope() const { return {0, 2, 2 * shift}; }
};
struct Lifted {  // (s + β)² + β: more than a move
  double shift = 1;
  csq::Quadratic quadratic() const { return {shift * shift + shift, 2 * shift, 1}; }
  csq::Quadratic shift_slope() const { return {2 * shift + 1, 2, 0}; }
};

}  // namespace

TEST_CASE("a user's mechanism has the gradient of its shift that its equation has") {
  Random random(99);
  for (const bool causal : {false, true}) {
    const Problem p = Problem::random_backward(random, {50, 50, 5, 4, 2, 2, 1}, causal);
    for (const csq::Method method : methods(true))
      for (const double shift : {1.0, -0.75, 0.0}) {
        for_float_and_double([&]<class T>() {
          const Run run{method, 7};
          INFO(name_of(method) << (causal ? ", causal, " : ", ") << 8 * sizeof(T) << " bits, shift " << shift);
          const double tolerance = sizeof(T) == sizeof(double) ? 1e-9 : 1e-3;
          const auto near = [&](double x, double y) { return std::abs(x - y) <= tolerance * (1 + std::abs(y)); };
          const double expected = gradients<T>(csq::ShiftedQuadratic{shift}, p, run).shift;
          CHECK(near(gradients<T>(Scaled{shift, 2}, p, run).shift, expected));
          CHECK(near(gradients<T>(Scaled{shift, 0.125}, p, run).shift, expected));
          const double moved = gradients<T>(csq::ShiftedQuadratic{-3 * shift}, p, run).shift;
          CHECK(near(gradients<T>(Backwards{shift}, p, run).shift, -3 * moved));
        });
      }
  }
}

TEST_CASE("a shift whose slope is not said, or is that of no shift, is an error before anything is written") {
  Random random(100);
  const Problem p = Problem::random_backward(random, {9, 9, 3, 2});
  const auto message = [&](const auto& mechanism) {
    PlacedBackward<double> placed(p);
    placed.attend(mechanism, {});  // forward needs no slope
    double shift = 77;
    const std::string thrown = rejection([&] {
      csq::attention_backward(mechanism, placed.q.view, placed.k.view, placed.v.view, placed.output.view,
                              placed.statistic.view, placed.dout.view,
                              csq::Gradients<double>{placed.dq.view, placed.dk.view, placed.dv.view, &shift});
    });
    CHECK((shift == 77) == !thrown.empty());
    CHECK((placed.dq.elements()[0] == -12345.75) == !thrown.empty());
    return thrown;
  };
  CHECK(names(message(Undeclared{}), "dshift"));
  CHECK(names(message(Undeclared{}), "shift_slope"));
  CHECK(names(message(Bent{}), "shift_slope"));
  CHECK(names(message(Lifted{}), "shift_slope"));
  CHECK(message(Scaled{}).empty());
}

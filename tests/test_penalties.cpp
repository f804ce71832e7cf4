// The soft penalties: golden values and gradients, differences of the plain loops, and what sampling promises.
#include <algorithm>
#include <functional>
#include <limits>

#include "catch.hpp"
#include "golden.hpp"
#include "problem.hpp"

namespace {

using csq::Centering;

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

enum class Kind { exact, sampled, rank };  // rank: of q alone
const std::vector<Kind> every_kind{Kind::exact, Kind::sampled, Kind::rank};

const char* name_of(Kind kind) { return kind == Kind::exact ? "exact" : kind == Kind::sampled ? "sampled" : "rank"; }

struct Choice {
  Kind kind = Kind::exact;
  double radius = 1, ridge = 1e-3, weight = 1;
  Index samples = 3;
  std::uint64_t seed = 1;
  double start = 0;  // what the gradients hold before
  bool query_gradient = true, key_gradient = true;
  int threads = 1;
  csq::Workspace* workspace = nullptr;
};

template <class T>
struct Penalty {
  csq::BoundPenalty bound;  // rank: its value alone
  std::vector<T> query, key;
  bool outside_untouched = true;
};

template <class T>
Penalty<T> penalty(const Problem& p, const Choice& choice) {
  const Array<T> q = place<T>(p.q_layout, p.q), k = place<T>(p.k_layout, p.k);
  const Array<T> dq(p.gradient_layout, q.view.shape, T(choice.start));
  const Array<T> dk(p.gradient_layout, k.view.shape, T(choice.start));
  const csq::Heads<T> none, query_gradient = choice.query_gradient ? dq.view : none;
  const csq::Heads<T> key_gradient = choice.key_gradient ? dk.view : none;
  const csq::Heads<const T> queries(q.view), keys(k.view);
  Penalty<T> result;
  with_options(p, {csq::Method::automatic, 0, choice.threads, choice.workspace}, [&](const csq::Options& options) {
    if (choice.kind == Kind::exact)
      result.bound =
          csq::bound_penalty(queries, keys, query_gradient, key_gradient, choice.radius, choice.weight, options);
    if (choice.kind == Kind::sampled)
      result.bound = csq::sampled_bound_penalty(queries, keys, query_gradient, key_gradient, choice.samples,
                                                choice.seed, choice.radius, choice.weight, options);
    if (choice.kind == Kind::rank)
      result.bound.value = csq::rank_penalty(queries, query_gradient, choice.ridge, choice.weight, options);
  });
  result.query = dq.elements();
  result.key = dk.elements();
  result.outside_untouched = dq.outside_untouched() && dk.outside_untouched();
  return result;
}

using ::same_bits;
template <class T>
bool same_bits(const Penalty<T>& a, const Penalty<T>& b) {
  const auto numbers = [](const csq::BoundPenalty& x) { return std::vector<double>{x.value, x.max_abs, x.overflow}; };
  return same_bits(numbers(a.bound), numbers(b.bound)) && same_bits(a.query, b.query) && same_bits(a.key, b.key);
}

// Queries and keys for which many scores lie beyond the radius, and many do not.
Problem random_problem(Random& random, const Sizes& s, bool causal, Centering centering) {
  Problem p = Problem::random(random, s, causal, centering);
  for (double& value : p.q.values) value *= 2;
  give_needed_history(random, p, true);
  return p;
}

// Both penalties centre as Csq does.
const NamedMechanism<csq::Csq> centred{"csq", {}, shifted_square(1), true, true, true};

double plain_value(const Problem& p, const Choice& choice) {
  const reference::Call call = reference_call(centred, p);
  return choice.kind == Kind::rank ? reference::rank_penalty(call, choice.ridge)
                                   : reference::bound_penalty(call, choice.radius).value;
}

// ∂value/∂(each element of q or k) as central differences.
std::vector<double> differences(const Problem& p, const Choice& choice, Tensor Problem::*of) {
  constexpr double step = 0x1p-18;
  std::vector<double> result;
  Problem moved = p;
  for (double& element : (moved.*of).values) {
    const double before = element;
    element = before + step;
    const double up = plain_value(moved, choice);
    element = before - step;
    result.push_back((up - plain_value(moved, choice)) / (2 * step));
    element = before;
  }
  return result;
}

template <class T>
std::vector<double> doubles(const std::vector<T>& x) {
  return {x.begin(), x.end()};
}

template <class T>
bool all_equal_to(const std::vector<T>& values, T expected) {
  return std::all_of(values.begin(), values.end(), [&](T value) { return value == expected; });
}

// Sizes, lengths, histories and layouts for the checks of every penalty.
std::vector<Problem> varied_problems() {
  Random random(141);
  std::vector<Problem> problems;
  for (const bool causal : {false, true})
    for (const Centering centering :
         {Centering::automatic, Centering::none, Centering::sequence, Centering::prefix, Centering::prefix_exclusive}) {
      problems.push_back(random_problem(random, {6, 5, 3, 1}, causal, centering));
      problems.push_back(random_problem(random, {5, 8, 2, 1, 2, 4, 2}, causal, centering));
      Problem p = random_problem(random, {7, 7, 3, 1, 3, 2, 1}, causal, centering);
      p.key_length = {7, 3, 5};
      p.query_length = {4, 7, 0};
      p.scale = -0.8;
      p.q_layout = random.pick<Layout>({Layout::gaps, Layout::reversed, Layout::packed, Layout::broadcast_batch});
      p.k_layout = Layout::tokens_first;
      p.q = random_tensor(random, 3, 2, 7, 3, p.q_layout);
      for (double& value : p.q.values) value *= 2;
      p.gradient_layout = random.pick(output_layouts);
      if (has_prefix_means(effective_centering(p, true))) {
        p.query_history = random_history(random, p.q, 0, 9);
        p.key_history = random_history(random, p.k, 0, 9);
        give_needed_history(random, p, true);
      }
      problems.push_back(p);
    }
  return problems;
}

// The rank penalty has no keys, so that a query history is all that it needs.
bool same_arguments_for(Kind kind, const Problem& p) { return kind != Kind::rank || p.q.tokens >= p.k.tokens; }

}  // namespace

TEST_CASE("golden bound penalties") {
  for (const char* name : {"penalty_bound", "penalty_bound_causal"}) {
    const golden::Penalty expected = golden::load_penalty(name);
    Problem p;
    p.q = expected.q;
    p.k = expected.k;
    p.causal = expected.causal;
    p.scale = expected.scale;
    for (const bool by_default : {false, true}) {
      p.centering = by_default ? Centering::automatic : golden::centering_named(expected.centering);
      for_float_and_double([&]<class T>() {
        INFO(name << ", " << 8 * sizeof(T) << " bits");
        Choice choice;
        choice.radius = expected.radius;
        const Penalty<T> result = penalty<T>(p, choice);
        const double tolerance = golden::tolerance<T>(name);
        CHECK(distance({result.bound.value}, {expected.value}) <= tolerance);
        CHECK(distance({result.bound.max_abs}, {expected.max_abs}) <= tolerance);
        CHECK(distance({result.bound.overflow}, {expected.overflow}) <= 1e-12);
        CHECK(distance(result.query, expected.dq) <= tolerance);
        CHECK(distance(result.key, expected.dk) <= tolerance);
      });
    }
  }
}

TEST_CASE("golden rank penalties") {
  for (const char* name : {"penalty_rank_sequence", "penalty_rank_prefix"}) {
    const golden::Penalty expected = golden::load_penalty(name);
    Problem p;
    p.q = p.k = expected.q;
    for (const bool by_default : {false, true}) {
      p.centering = by_default ? Centering::automatic : golden::centering_named(expected.centering);
      p.causal = by_default && expected.centering == "prefix";
      for_float_and_double([&]<class T>() {
        INFO(name << ", " << 8 * sizeof(T) << " bits");
        Choice choice{Kind::rank};
        choice.ridge = expected.ridge;
        const Penalty<T> result = penalty<T>(p, choice);
        CHECK(distance({result.bound.value}, {expected.value}) <= golden::tolerance<T>(name));
        CHECK(distance(result.query, expected.dq) <= golden::tolerance<T>(name));
      });
    }
  }
}

TEST_CASE("values are those of the plain loops, gradients their central differences") {
  for (const Problem& p : varied_problems())
    for (const Kind kind : {Kind::exact, Kind::rank}) {
      if (!same_arguments_for(kind, p)) continue;
      INFO(name_of(kind) << ": " << p.describe());
      const Choice choice{kind};
      const Penalty<double> result = penalty<double>(p, choice);
      CHECK(std::abs(result.bound.value - plain_value(p, choice)) <= 1e-12);
      CHECK(distance(result.query, differences(p, choice, &Problem::q)) <= 1e-6);
      CHECK(result.outside_untouched);
      if (kind == Kind::rank) continue;
      const reference::BoundPenalty expected = reference::bound_penalty(reference_call(centred, p), choice.radius);
      CHECK(std::abs(result.bound.max_abs - expected.max_abs) <= 1e-12);
      CHECK(std::abs(result.bound.overflow - expected.overflow) <= 1e-12);
      CHECK((expected.overflow > 0 && expected.overflow < 1));
      CHECK(distance(result.key, differences(p, choice, &Problem::k)) <= 1e-6);
    }
}

// Blocks hold 72 tokens in double and 144 in float.
TEST_CASE("bound penalties across blocks of tokens") {
  Random random(142);
  for (const Sizes& s : {Sizes{145, 300, 5, 1}, Sizes{300, 145, 5, 1}, Sizes{200, 200, 17, 1, 2, 4, 2}})
    for (const bool causal : {false, true}) {
      Problem p = random_problem(random, s, causal, Centering::automatic);
      if (s.batch == 2) p.key_length = {73, 199};
      const reference::BoundPenalty expected = reference::bound_penalty(reference_call(centred, p), Choice{}.radius);
      for_float_and_double([&]<class T>() {
        INFO(p.describe() << ", " << 8 * sizeof(T) << " bits");
        const Penalty<T> result = penalty<T>(p, {});
        const double tolerance = sizeof(T) == sizeof(double) ? 1e-12 : 1e-4;
        CHECK(distance({result.bound.value}, {expected.value}) <= tolerance);
        CHECK(distance({result.bound.max_abs}, {expected.max_abs}) <= tolerance);
        CHECK(distance({result.bound.overflow}, {expected.overflow}) <= tolerance);
      });
      // Along a random direction, both gradients at once.
      const Penalty<double> result = penalty<double>(p, {});
      constexpr double step = 0x1p-18;
      Problem up = p, down = p;
      double projected = 0;
      const auto move = [&](Tensor Problem::*of, const std::vector<double>& gradient) {
        for (std::size_t i = 0; i < gradient.size(); ++i) {
          const double along = random.coin() ? 1 : -1;
          (up.*of).values[i] += step * along;
          (down.*of).values[i] -= step * along;
          projected += along * gradient[i];
        }
      };
      move(&Problem::q, result.query);
      move(&Problem::k, result.key);
      const double quotient = (plain_value(up, {}) - plain_value(down, {})) / (2 * step);
      CHECK(std::abs(projected - quotient) <= 1e-6 * (1 + std::abs(quotient)));
    }
}

TEST_CASE("gradients are added, times the weight, and the value does not depend on either") {
  for (const Problem& p : varied_problems())
    for (const Kind kind : every_kind) {
      if (!same_arguments_for(kind, p)) continue;
      for_float_and_double([&]<class T>() {
        INFO(name_of(kind) << ": " << p.describe() << ", " << 8 * sizeof(T) << " bits");
        Choice choice{kind};
        const Penalty<T> plain = penalty<T>(p, choice);
        choice.weight = -2.5;
        choice.start = 0.75;
        const Penalty<T> added = penalty<T>(p, choice);
        const auto expected = [](const std::vector<T>& gradient, double weight) {
          std::vector<double> sum;
          for (const T g : gradient) sum.push_back(0.75 + weight * double(g));
          return sum;
        };
        const double tolerance = sizeof(T) == sizeof(double) ? 1e-14 : 1e-6;
        CHECK(distance(doubles(added.query), expected(plain.query, -2.5)) <= tolerance);
        CHECK(distance(doubles(added.key), expected(plain.key, kind == Kind::rank ? 0 : -2.5)) <= tolerance);
        CHECK(added.bound.value == plain.bound.value);
        CHECK(added.outside_untouched);
        choice.weight = 0;
        CHECK(all_equal_to(penalty<T>(p, choice).query, T(0.75)));
      });
    }
}

TEST_CASE("a gradient that is not asked for changes nothing else") {
  for (const Problem& p : varied_problems())
    for (const Kind kind : every_kind) {
      if (!same_arguments_for(kind, p)) continue;
      INFO(name_of(kind) << ": " << p.describe());
      const Penalty<double> both = penalty<double>(p, {kind});
      for (const bool query : {false, true})
        for (const bool key : {false, true}) {
          Choice choice{kind};
          choice.query_gradient = query;
          choice.key_gradient = key;
          Penalty<double> expected = both;
          if (!query) std::fill(expected.query.begin(), expected.query.end(), 0.0);
          if (!key) std::fill(expected.key.begin(), expected.key.end(), 0.0);
          CHECK(same_bits(penalty<double>(p, choice), expected));
        }
    }
}

TEST_CASE("the same bits for 1, 2, 3, 7 and all threads, and with a dirty workspace") {
  Random random(143);
  csq::Workspace workspace;
  for (const Sizes& s : {Sizes{300, 300, 6, 1}, Sizes{160, 160, 5, 1, 3, 8, 4}})
    for (const bool causal : {false, true}) {
      const Problem p = random_problem(random, s, causal, Centering::automatic);
      for (const Kind kind : every_kind)
        for_float_and_double([&]<class T>() {
          const Penalty<T> expected = penalty<T>(p, {kind});
          for (const int threads : {2, 3, 7, 0}) {
            INFO(name_of(kind) << ": " << p.describe() << ", " << threads << " threads, " << 8 * sizeof(T) << " bits");
            Choice choice{kind};
            choice.threads = threads;
            CHECK(same_bits(penalty<T>(p, choice), expected));
            choice.workspace = &workspace;
            if (workspace.bytes() > 0) std::memset(workspace.reserve(0), 0xff, workspace.bytes());
            CHECK(same_bits(penalty<T>(p, choice), expected));
          }
        });
    }
}

// The mean over seeds is within three standard errors of the exact penalty: its value, its overflow, and the largest
// element of each gradient. Queries see different numbers of keys, so that a wrong weighting shows.
TEST_CASE("the sampled penalty is unbiased") {
  Random random(144);
  for (const bool causal : {false, true})
    for (const Index samples : {1, 4}) {
      Problem p = random_problem(random, {10, 12, 3, 1, 2, 2, 1}, causal, Centering::automatic);
      p.key_length = {12, 4};
      p.query_length = {7, 10};
      const Penalty<double> exact = penalty<double>(p, {});
      const auto largest = [](const std::vector<double>& x) {
        return std::size_t(std::max_element(x.begin(), x.end()) - x.begin());
      };
      const std::size_t query = largest(exact.query), key = largest(exact.key);
      const auto numbers = [&](const Penalty<double>& x) {
        return std::array<double, 4>{x.bound.value, x.bound.overflow, x.query[query], x.key[key]};
      };
      constexpr int seeds = 2000;
      std::array<double, 4> sum{}, square{};
      double largest_score = 0;
      for (int seed = 0; seed < seeds; ++seed) {
        Choice choice{Kind::sampled};
        choice.samples = samples;
        choice.seed = std::uint64_t(seed);
        const Penalty<double> drawn = penalty<double>(p, choice);
        largest_score = std::max(largest_score, drawn.bound.max_abs);
        for (std::size_t i = 0; i < 4; ++i) {
          sum[i] += numbers(drawn)[i];
          square[i] += numbers(drawn)[i] * numbers(drawn)[i];
        }
      }
      for (std::size_t i = 0; i < 4; ++i) {
        const double expected = numbers(exact)[i], mean = sum[i] / seeds;
        const double error = std::sqrt((square[i] / seeds - mean * mean) / (seeds - 1));
        INFO("number " << i << ", " << samples << " samples, " << p.describe());
        INFO("exact " << expected << ", mean " << mean << ", standard error " << error);
        CHECK(std::abs(mean - expected) <= 3 * error);
        CHECK(error < 0.06 * expected);  // a wrong weighting would show
      }
      CHECK(std::abs(largest_score - exact.bound.max_abs) <= 1e-12);  // every pair is drawn at some time
    }
}

TEST_CASE("a sample of the only visible key is exact") {
  Random random(145);
  for (const Sizes& s : {Sizes{9, 1, 3, 1}, Sizes{4, 1, 2, 1, 2, 4, 2}}) {
    Problem p = random_problem(random, s, false, Centering::none);
    p.scale = 3;
    const Penalty<double> exact = penalty<double>(p, {}), sampled = penalty<double>(p, {Kind::sampled});
    CHECK(exact.bound.value > 0);
    CHECK(std::abs(sampled.bound.value - exact.bound.value) <= 1e-12 * exact.bound.value);
    CHECK(distance(sampled.query, exact.query) <= 1e-12);
    CHECK(distance(sampled.key, exact.key) <= 1e-12);
  }
}

TEST_CASE("another seed draws other keys, the same seed the same") {
  Random random(146);
  const Problem p = random_problem(random, {20, 20, 3, 1}, false, Centering::automatic);
  Choice choice{Kind::sampled};
  const Penalty<double> first = penalty<double>(p, choice);
  CHECK(same_bits(penalty<double>(p, choice), first));
  choice.seed = 2;
  CHECK_FALSE(same_bits(penalty<double>(p, choice), first));
}

TEST_CASE("nothing visible, nothing there: the bound is zero and no gradient moves") {
  Random random(147);
  for (const Kind kind : {Kind::exact, Kind::sampled})
    for (const Sizes& s : {Sizes{5, 6, 3, 1, 0, 2, 1}, Sizes{0, 6, 3, 1}, Sizes{6, 0, 3, 1}, Sizes{6, 6, 3, 1}}) {
      Problem p = random_problem(random, s, false, Centering::automatic);
      if (s.n == s.m) p.key_length = {0};
      Choice choice{kind};
      choice.start = 0.5;
      const Penalty<double> result = penalty<double>(p, choice);
      INFO(name_of(kind) << ": " << p.describe());
      CHECK(result.bound.value == 0);
      CHECK(result.bound.max_abs == 0);
      CHECK(result.bound.overflow == 0);
      CHECK(all_equal_to(result.query, 0.5));
      CHECK(all_equal_to(result.key, 0.5));
    }
}

TEST_CASE("a rank penalty of no rows is that of the ridge alone, of no batch nothing") {
  Random random(148);
  Problem p = random_problem(random, {6, 6, 3, 1}, false, Centering::automatic);
  p.query_length = {0};
  Choice choice{Kind::rank};
  choice.ridge = 0.5;
  const Penalty<double> result = penalty<double>(p, choice);
  CHECK(std::abs(result.bound.value - 3 * std::log(2.0)) <= 1e-12);
  CHECK(all_equal_to(result.query, 0.0));
  const Problem no_batch = random_problem(random, {6, 6, 3, 1, 0, 1, 1}, false, Centering::automatic);
  CHECK(penalty<double>(no_batch, choice).bound.value == 0);
}

TEST_CASE("penalties that mean nothing are rejected, and write nothing") {
  using Heads = csq::Heads<float>;
  struct Call {
    std::vector<float> memory = std::vector<float>(4 * 256, 0.5f);
    Heads q{memory.data(), {2, 4, 6, 3}}, k{memory.data() + 256, {2, 2, 6, 3}};
    Heads dq{memory.data() + 512, {2, 4, 6, 3}}, dk{memory.data() + 768, {2, 2, 6, 3}};
    double radius = 4, ridge = 1e-3, weight = 1;
    Index samples = 2;
    csq::Options options;
  };
  const auto run = [](Call& c, Kind kind) {
    if (kind == Kind::exact) csq::bound_penalty(c.q, c.k, c.dq, c.dk, c.radius, c.weight, c.options);
    if (kind == Kind::sampled)
      csq::sampled_bound_penalty(c.q, c.k, c.dq, c.dk, c.samples, 1, c.radius, c.weight, c.options);
    if (kind == Kind::rank) csq::rank_penalty(c.q, c.dq, c.ridge, c.weight, c.options);
  };
  struct ErrorCase {
    std::vector<Kind> kinds;
    std::function<void(Call&)> edit;
    std::vector<const char*> words;
  };
  const std::vector<Kind> bounds{Kind::exact, Kind::sampled};
  const std::vector<ErrorCase> cases{
      {bounds, [](Call& c) { c.radius = -1; }, {"radius", "-1"}},
      {bounds, [](Call& c) { c.radius = nan_value; }, {"radius", "nan"}},
      {every_kind, [](Call& c) { c.weight = nan_value; }, {"weight", "nan"}},
      {{Kind::sampled}, [](Call& c) { c.samples = 0; }, {"samples", "0"}},
      {{Kind::rank}, [](Call& c) { c.ridge = 0; }, {"ridge", "0"}},
      {{Kind::rank}, [](Call& c) { c.ridge = nan_value; }, {"ridge", "nan"}},
      {bounds, [](Call& c) { c.k.shape[3] = 7; }, {"k", "dim", "7", "3"}},
      {bounds, [](Call& c) { c.k.shape[1] = 3; }, {"heads", "4", "3"}},
      {bounds, [](Call& c) { c.dq.shape[2] = 5; }, {"dq", "5", "6"}},
      {bounds, [](Call& c) { c.dk.shape[0] = 1; }, {"dk", "1", "2"}},
      {{Kind::rank}, [](Call& c) { c.dq.shape[2] = 5; }, {"dx", "x", "5", "6"}},
      {bounds, [](Call& c) { c.dq.data = c.q.data; }, {"dq", "q"}},
      {bounds, [](Call& c) { c.dk.data = c.q.data; }, {"dk", "q"}},
      {bounds, [](Call& c) { c.dk.data = c.k.data; }, {"dk", "k"}},
      {bounds, [](Call& c) { c.dk.data = c.dq.data; }, {"dq", "dk"}},
      {{Kind::rank}, [](Call& c) { c.dq.data = c.q.data; }, {"dx", "x"}},
      {bounds, [](Call& c) { c.dk.stride[2] = 0; }, {"dk", "stride", "6"}},
      {{Kind::rank}, [](Call& c) { c.dq.stride[2] = 0; }, {"dx", "stride", "6"}},
      {bounds, [](Call& c) { c.q.data = nullptr; }, {"q", "null"}},
      {{Kind::rank}, [](Call& c) { c.q.data = nullptr; }, {"x", "null"}},
      {bounds, [](Call& c) { c.options.scale = nan_value; }, {"scale", "nan"}},
      {every_kind, [](Call& c) { c.options.threads = -2; }, {"threads", "-2"}},
      {every_kind,
       [](Call& c) {
         static const std::vector<Index> lengths{6, 7};
         c.options.query_length = lengths;
       },
       {"query_length", "7", "6"}},
  };
  for (const Kind kind : every_kind) {
    Call right;
    CHECK_NOTHROW(run(right, kind));
  }
  for (const ErrorCase& error : cases)
    for (const Kind kind : error.kinds) {
      Call call;
      error.edit(call);
      const std::vector<float> before = call.memory;
      const std::string message = rejection([&] { run(call, kind); });
      INFO(name_of(kind) << ", message: " << message);
      CHECK(message.starts_with("csq: "));
      for (const char* word : error.words) {
        INFO("word: " << word);
        CHECK(names(message, word));
      }
      CHECK(same_bits(call.memory, before));
    }
}

// 16 centred rows of size 1e7 in 32 dimensions: 15 directions hold them, 17 hold the ridge alone. Beside entries of
// 1e14 a ridge of 1e-3 is nothing, and a covariance factored in double has eigenvalues of either sign there.
TEST_CASE("the rank penalty of rows that are large beside the ridge") {
  Random random(145);
  constexpr Index tokens = 16, dim = 32;
  Problem p;
  p.q = p.k = random_tensor(random, 1, 1, tokens, dim);
  Choice choice{Kind::rank};
  // det(XᵀX/n + λI) of small rows, with a ridge as much smaller: the same but for a factor in each direction.
  const double scale = 1e7;
  choice.ridge = 1e-3 / (scale * scale);
  const double small = penalty<double>(p, choice).bound.value;
  for (double& value : p.q.values) value *= scale;
  choice.ridge = 1e-3;
  const Penalty<double> large = penalty<double>(p, choice);
  CHECK(distance({large.bound.value}, {small - double(dim) * 2 * std::log(scale)}) <= 1e-6);
  // 15 eigenvalues near 1e14 and 17 ridges.
  CHECK(distance({large.bound.value}, {-(15 * std::log(1e14) + 17 * std::log(1e-3))}) <= 0.1);
  for (const double slope : large.query) CHECK(std::abs(slope) < 1);
}

TEST_CASE("the rank penalty of heads without rows is that of the ridge alone") {
  for_float_and_double([]<class T>() {
    const csq::Heads<T> none(nullptr, {2, 3, 0, 5}), no_gradient;
    const double ridge_alone = -5 * std::log(0.5);
    CHECK(distance({csq::rank_penalty(none, no_gradient, 0.5)}, {ridge_alone}) <= 1e-14);
    CHECK(distance({csq::rank_penalty(none, none, 0.5)}, {ridge_alone}) <= 1e-14);
    CHECK(csq::rank_penalty(csq::Heads<T>(nullptr, {0, 3, 4, 5}), no_gradient, 0.5) == 0);
    std::vector<T> memory(2 * 3 * 4 * 5, T(1)), gradient(memory.size(), T(7));
    const std::vector<Index> lengths{0, 0};
    csq::Options options;
    options.query_length = lengths;
    const csq::Heads<T> x(memory.data(), {2, 3, 4, 5}), dx(gradient.data(), {2, 3, 4, 5});
    CHECK(distance({csq::rank_penalty(x, dx, 0.5, 1, options)}, {ridge_alone}) <= 1e-14);
    CHECK(all_equal_to(gradient, T(7)));
  });
}

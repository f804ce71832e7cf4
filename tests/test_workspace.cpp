// Scratch: a call with a workspace of its size allocates nothing, and workspace_bytes says how much that is.
#include <functional>
#include <stdexcept>
#include <utility>

#include "allocations.hpp"
#include "catch.hpp"
#include "problem.hpp"

namespace {

struct WorkspaceCase {
  const char* name;
  Sizes sizes;
  bool causal;
};
const std::vector<WorkspaceCase> workspace_cases{
    {"one head", {300, 400, 12, 10}, false},
    {"one causal head", {900, 900, 12, 10}, true},
    {"grouped heads", {150, 200, 8, 8, 2, 8, 2}, false},
    {"causal group", {400, 400, 8, 8, 1, 8, 1}, true},
    {"few queries", {2, 3000, 16, 16, 2, 4, 2}, false},
    {"tiny", {3, 2, 1, 1}, false},
};

csq::Shape shape_of(const WorkspaceCase& c) {
  const Sizes& s = c.sizes;
  return {s.n, s.m, s.d, s.dv, s.batch, s.heads, s.kv_heads, c.causal};
}

// The call itself, without the copies that Placed::attend makes.
template <class T, class M>
long allocations_of(const M& mechanism, Placed<T>& placed, const csq::Options& options) {
  const long before = allocations::made;
  csq::attention(mechanism, csq::Heads<const T>(placed.q.view), csq::Heads<const T>(placed.k.view),
                 csq::Heads<const T>(placed.v.view), placed.output.view, placed.statistic.view, options);
  return allocations::made - before;
}

template <class Check>
void for_each_workspace_case(const Check& check) {
  Random random(51);
  const auto visit = [&](const auto& named) {
    for (const WorkspaceCase& c : workspace_cases) {
      const Problem p = Problem::random(random, c.sizes, c.causal);
      for_float_and_double([&]<class T>() {
        for (const csq::Method method : methods(named.factored))
          for (const int threads : {1, 2}) {
            INFO(named.name << ", " << c.name << ", " << name_of(method) << ", " << 8 * sizeof(T) << " bits, "
                            << threads << " threads");
            Placed<T> placed(p);
            csq::Workspace workspace;
            check(named, c, placed, options_of(p, {method, 0, threads, &workspace}, nullptr, nullptr));
          }
      });
    }
  };
  for_typical_mechanisms(visit);
}

}  // namespace

TEST_CASE("the counter counts") {
  // Read before anything is checked: a check may keep memory of its own.
  const long before = allocations::made, live = allocations::live;
  long made_within = 0, live_within = 0;
  {
    std::vector<int> one(100);
    const csq::Matrix<float> two(10, 10);
    made_within = allocations::made;
    live_within = allocations::live;
  }
  const long live_after = allocations::live;
  CHECK(made_within == before + 2);
  CHECK(live_within == live + 2);
  CHECK(live_after == live);
}

TEST_CASE("the second call with a workspace allocates nothing") {
  for_each_workspace_case(
      []<class T>(const auto& named, const WorkspaceCase&, Placed<T>& placed, const csq::Options& options) {
        const long first = allocations_of(named.mechanism, placed, options);
        const long second = allocations_of(named.mechanism, placed, options);
        CHECK(first >= 1);
        CHECK(second == 0);
      });
}

TEST_CASE("workspace_bytes is what a call takes") {
  for_each_workspace_case(
      []<class T>(const auto& named, const WorkspaceCase& c, Placed<T>& placed, const csq::Options& options) {
        const std::size_t said = csq::workspace_bytes<T>(named.mechanism, shape_of(c), options);
        allocations_of(named.mechanism, placed, options);
        const std::size_t taken = options.workspace->bytes();
        CHECK(taken <= said);
        CHECK(said <= taken + taken / 4 + 4096);
      });
}

TEST_CASE("a workspace reserved by hand serves the first call") {
  for_each_workspace_case(
      []<class T>(const auto& named, const WorkspaceCase& c, Placed<T>& placed, const csq::Options& options) {
        options.workspace->reserve(csq::workspace_bytes<T>(named.mechanism, shape_of(c), options));
        CHECK(allocations_of(named.mechanism, placed, options) == 0);
      });
}

TEST_CASE("a workspace can be moved, and is freed once") {
  csq::Workspace first;
  std::byte* const memory = first.reserve(1000);
  CHECK(reinterpret_cast<std::uintptr_t>(memory) % csq::detail::cache_line == 0);
  csq::Workspace second(std::move(first));
  CHECK(second.reserve(1000) == memory);
  CHECK(second.bytes() == 1000);
  csq::Workspace third;
  third.reserve(10);
  third = std::move(second);
  CHECK(third.reserve(500) == memory);
  CHECK(third.bytes() == 1000);
}

TEST_CASE("workspace_bytes refuses what a call refuses") {
  const csq::Shape shape{.queries = 9, .keys = 9, .key_dim = 3, .value_dim = 2};
  CHECK_THROWS_AS(csq::workspace_bytes(csq::Csq{}, shape, {.threads = -1}), std::invalid_argument);
  CHECK_THROWS_AS(csq::workspace_bytes(csq::Csq{}, shape, {.chunk = -16}), std::invalid_argument);
}

TEST_CASE("backward_workspace_bytes is what a backward call takes") {
  Random random(52);
  const auto visit = [&](const auto& named) {
    using M = std::remove_cvref_t<decltype(named.mechanism)>;
    for (const WorkspaceCase& c : workspace_cases) {
      const Problem p = Problem::random(random, c.sizes, c.causal);
      for (const csq::Method method : methods(named.factored)) {
        INFO(named.name << ", " << c.name << ", " << name_of(method));
        Placed<float> placed(p);
        csq::Workspace workspace;
        const csq::Options options = options_of(p, {method, 0, 2, &workspace}, nullptr, nullptr);
        const auto& q = placed.q.view;
        const auto& k = placed.k.view;
        const auto& v = placed.v.view;
        allocations_of(named.mechanism, placed, options);
        csq::Workspace own;
        csq::Options backward = options;
        backward.workspace = &own;
        const auto numbers = [](const auto& view) {
          return std::size_t(view.shape[0] * view.shape[1] * view.shape[2] * view.shape[3]);
        };
        std::vector<float> dout(numbers(placed.output.view), 1), dq(numbers(q)), dk(numbers(k)), dv(numbers(v));
        double shift = 0;
        csq::Gradients<float> gradients{{dq.data(), q.shape}, {dk.data(), k.shape}, {dv.data(), v.shape}};
        if constexpr (csq::ShiftableMechanism<M>) gradients.shift = &shift;
        csq::attention_backward(named.mechanism, q, k, v, placed.output.view, placed.statistic.view,
                                csq::Heads<float>(dout.data(), placed.output.view.shape), gradients, backward);
        CHECK(own.bytes() == csq::backward_workspace_bytes<float>(named.mechanism, shape_of(c), backward));
        if (method != csq::Method::automatic)
          CHECK(csq::used_backward_method(named.mechanism, shape_of(c), backward) == method);
      }
    }
  };
  for_typical_mechanisms(visit);
}

TEST_CASE("gates, windows, sinks and caps are counted, forward and backward") {
  Random random(53);
  const auto check = [&]<class M>(const M& mechanism, csq::Method method, const std::function<void(Problem&)>& edit) {
    Problem p = Problem::random_backward(random, {300, 300, 8, 6, 1, 4, 2}, true, csq::Centering::none);
    edit(p);
    INFO(p.describe() << ", " << name_of(method));
    PlacedBackward<float> placed(p);
    const csq::Shape shape{300, 300, 8, 6, 1, 4, 2, true};
    csq::Workspace forward, backward;
    placed.attend(mechanism, {method, 0, 2, &forward});
    placed.backward(mechanism, {method, 0, 2, &backward});
    with_options(p, {method, 0, 2}, [&](const csq::Options& plain) {
      const csq::Options options = placed.complete(plain);
      CHECK(forward.bytes() == csq::workspace_bytes<float>(mechanism, shape, options));
      CHECK(backward.bytes() == csq::backward_workspace_bytes<float>(mechanism, shape, options));
      CHECK(csq::used_method(mechanism, shape, options) == method);
    });
  };
  const auto gated = [](Index heads) {
    return [=](Problem& p) {
      p.log_gate = Tensor(1, heads, 300, 1);
      for (double& gate : p.log_gate.values) gate = -0.25;
    };
  };
  for (const csq::Method method : methods(true)) check(csq::Csq{}, method, gated(2));
  check(csq::Csq{}, csq::Method::direct, gated(4));
  check(csq::Softmax{}, csq::Method::direct, gated(2));
  check(csq::Softmax{}, csq::Method::direct, [](Problem& p) {
    p.window = 20;
    p.sink = {0.5, 1, 0, -1};
    p.soft_cap = 5;
  });
}

TEST_CASE("scratch that cannot be counted is an error, not a small number") {
  const auto absurd = [](const csq::Shape& shape) {
    for (const csq::Method method : {csq::Method::direct, csq::Method::factored})
      for (const bool causal : {false, true}) {
        const csq::Options options{.causal = causal, .method = method};
        INFO((method == csq::Method::direct ? "direct" : "factored") << (causal ? ", causal" : ""));
        CHECK_FALSE(rejection([&] { csq::workspace_bytes(csq::Csq{}, shape, options); }).empty());
        CHECK_FALSE(rejection([&] { csq::workspace_bytes<double>(csq::Csq{}, shape, options); }).empty());
        CHECK_FALSE(rejection([&] { csq::backward_workspace_bytes(csq::Csq{}, shape, options); }).empty());
      }
  };
  constexpr Index big = Index{1} << 52;
  absurd({.queries = big, .keys = big});
  absurd({.queries = 4, .keys = big, .key_dim = 64, .value_dim = 64});
  absurd({.queries = 4, .keys = 4, .key_dim = big});
  absurd({.queries = 4, .keys = 4, .value_dim = big});
  absurd({.queries = 100, .keys = 100, .key_dim = 64, .value_dim = 64, .batch = big});
  absurd({.queries = 100, .keys = 100, .key_dim = 64, .value_dim = 64, .heads = big});
  absurd({.queries = 100, .keys = 100, .key_dim = 64, .value_dim = 64, .heads = big, .kv_heads = 1});
  absurd({.queries = Index{1} << 30, .keys = Index{1} << 30, .key_dim = Index{1} << 20, .value_dim = Index{1} << 20});

  csq::detail::Arena arena;
  arena.take<float>(Index{1} << 60);
  CHECK_THROWS_AS(arena.take<float>(Index{1} << 60), std::invalid_argument);
  CHECK_THROWS_AS(csq::detail::Arena().take<double>(Index{1} << 61), std::invalid_argument);
}

// What a call takes from the system: memory that ends is std::bad_alloc and leaves outputs as they were, whoever the
// caller; a small stack is enough; and no number of threads asked for takes more scratch than there are threads.
#include <pthread.h>

#include <climits>
#include <functional>

#include "allocations.hpp"
#include "catch.hpp"
#include "problem.hpp"

namespace {

struct NamedCall {
  const char* name;
  std::function<void(const csq::Options&)> run;
  bool writes = true;
};

// Every call of the library on the same arrays, whose outputs hold 7 before.
template <class T>
struct Calls {
  static constexpr Index batch = 2, heads = 4, key_heads = 2, tokens = 300, dim = 128;

  std::vector<T> q, k, v, out, normalizer, dout, dq, dk, dv;
  double shift = 7;

  Calls() {
    Random random(171);
    const auto fill = [&](Index of_heads, Index width) {
      std::vector<T> values(std::size_t(batch * of_heads * tokens * width));
      for (T& value : values) value = T(random.normal());
      return values;
    };
    q = fill(heads, dim), k = fill(key_heads, dim), v = fill(key_heads, dim), dout = fill(heads, dim);
    out.resize(q.size()), normalizer.resize(q.size() / std::size_t(dim));
    csq::attention(csq::Csq{}, view(q, heads), view(k, key_heads), view(v, key_heads), view(out, heads),
                   view(normalizer, heads, 1), {.causal = true});
    saved_out = out, saved_normalizer = normalizer;
    clear();
  }

  void clear() {
    for (auto* values : {&dq, &dk, &dv}) values->assign(values == &dq ? q.size() : k.size(), T(7));
    out = saved_out, normalizer = saved_normalizer;
    shift = 7;
  }
  bool untouched() const {
    const auto is_seven = [](const std::vector<T>& values) {
      return std::all_of(values.begin(), values.end(), [](T value) { return value == 7; });
    };
    return is_seven(dq) && is_seven(dk) && is_seven(dv) && same_bits(out, saved_out) &&
           same_bits(normalizer, saved_normalizer) && shift == 7;
  }

  csq::Heads<T> view(std::vector<T>& values, Index of_heads, Index width = dim) {
    return {values.data(), {batch, of_heads, tokens, width}};
  }

  std::vector<NamedCall> all() {
    const auto causal = [](csq::Options options, csq::Method method) {
      options.causal = true;
      options.method = method;
      return options;
    };
    const auto forward = [this, causal](csq::Method method) {
      return [this, causal, method](const csq::Options& options) {
        csq::attention(csq::Csq{}, view(q, heads), view(k, key_heads), view(v, key_heads), view(dq, heads),
                       causal(options, method));
      };
    };
    const auto backward = [this, causal](csq::Method method) {
      return [this, causal, method](const csq::Options& options) {
        csq::attention_backward(csq::Csq{}, view(q, heads), view(k, key_heads), view(v, key_heads), view(out, heads),
                                view(normalizer, heads, 1), view(dout, heads),
                                csq::Gradients<T>{view(dq, heads), view(dk, key_heads), view(dv, key_heads), &shift},
                                causal(options, method));
      };
    };
    return {
        {"direct forward", forward(csq::Method::direct)},
        {"factored forward", forward(csq::Method::factored)},
        {"direct backward", backward(csq::Method::direct)},
        {"factored backward", backward(csq::Method::factored)},
        {"few queries",
         [this](const csq::Options& options) {
           const auto first = [&](std::vector<T>& values) {
             csq::Heads<T> some = view(values, heads);
             some.shape[2] = 3;
             return some;
           };
           csq::attention(csq::Softmax{}, first(q), view(k, key_heads), view(v, key_heads), first(dq), options);
         }},
        {"bound penalty",
         [this](const csq::Options& options) {
           csq::bound_penalty(view(q, heads), view(k, key_heads), view(dq, heads), view(dk, key_heads), 4, 1, options);
         }},
        {"sampled bound penalty",
         [this](const csq::Options& options) {
           csq::sampled_bound_penalty(view(q, heads), view(k, key_heads), view(dq, heads), view(dk, key_heads), 3, 1, 4,
                                      1, options);
         }},
        {"rank penalty",
         [this](const csq::Options& options) { csq::rank_penalty(view(q, heads), view(dq, heads), 1e-3, 1, options); }},
        {"rank penalty, the value alone",
         [this](const csq::Options& options) { csq::rank_penalty(view(q, heads), csq::Heads<T>(), 1e-3, 1, options); },
         false},
    };
  }

 private:
  std::vector<T> saved_out, saved_normalizer;
};

// Runs on a thread of its own with so much stack.
void on_a_stack_of(std::size_t bytes, const std::function<void()>& run) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  REQUIRE(pthread_attr_setstacksize(&attributes, bytes) == 0);
  pthread_t thread;
  const auto start = [](void* work) -> void* {
    (*static_cast<const std::function<void()>*>(work))();
    return nullptr;
  };
  REQUIRE(pthread_create(&thread, &attributes, start, const_cast<void*>(static_cast<const void*>(&run))) == 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

}  // namespace

TEST_CASE("memory that ends is std::bad_alloc, and outputs are as they were") {
  for_float_and_double([]<class T>() {
    Calls<T> calls;
    for (const NamedCall& call : calls.all())
      for (const int threads : {1, 2}) {
        csq::Options options;
        options.threads = threads;
        call.run(options);  // what the run time keeps for good
        calls.clear();
        long refusals = 0;
        for (bool threw = true; threw; calls.clear()) {
          threw = false;
          allocations::until_failure = refusals;
          try {
            call.run(options);
          } catch (const std::bad_alloc&) {
            threw = true;
          }
          allocations::until_failure = -1;
          INFO(call.name << ", " << 8 * sizeof(T) << " bits, " << threads << " threads");
          if (threw) CHECK(calls.untouched());
          if (threw) ++refusals;
          REQUIRE(refusals < 20);
        }
        CHECK(refusals >= 1);
      }
  });
}

TEST_CASE("the second call with a workspace allocates nothing, whatever it computes") {
  for_float_and_double([]<class T>() {
    Calls<T> calls;
    for (const NamedCall& call : calls.all()) {
      INFO(call.name << ", " << 8 * sizeof(T) << " bits");
      csq::Workspace workspace;
      csq::Options options;
      options.threads = 2;
      options.workspace = &workspace;
      call.run(options);
      CHECK(workspace.bytes() > 0);
      const long before = allocations::made;
      call.run(options);
      CHECK(allocations::made == before);
    }
  });
}

TEST_CASE("64 KiB of stack are enough") {
  for_float_and_double([]<class T>() {
    Calls<T> calls;
    for (const NamedCall& call : calls.all()) {
      INFO(call.name << ", " << 8 * sizeof(T) << " bits");
      csq::Options options;
      options.threads = 1;
      on_a_stack_of(static_cast<std::size_t>(PTHREAD_STACK_MIN) + (std::size_t{64} << 10), [&] { call.run(options); });
      CHECK(calls.untouched() == !call.writes);
      calls.clear();
    }
  });
}

TEST_CASE("threads that the machine does not have take no scratch") {
  const csq::Shape shape{
      .queries = 4000, .keys = 4000, .key_dim = 64, .value_dim = 64, .batch = 4, .heads = 8, .kv_heads = 8};
  const auto bytes = [&](int threads) {
    csq::Options options;
    options.threads = threads;
    return csq::workspace_bytes(csq::Csq{}, shape, options) + csq::backward_workspace_bytes(csq::Csq{}, shape, options);
  };
  CHECK(bytes(1'000'000) == bytes(100'000));
  CHECK(bytes(1'000'000) < std::size_t{4} << 30);
}

// Steps of a stream, some taken back, over several absorbed blocks: allocations after the first.
template <class Mechanism>
long allocations_of_steps(const Mechanism& mechanism, Index batch, Index dim, const csq::StreamOptions& options) {
  csq::Stream<float> stream(mechanism, {batch, 8, 2, dim, dim}, options);
  std::vector<float> rows(std::size_t(batch * 8 * dim * 40), 0.25f), out(rows.size());
  const std::vector<float> gates(std::size_t(batch * 2 * 40), -0.0625f);
  const auto step = [&](Index tokens) {
    const csq::Heads<const float> queries{rows.data(), {batch, 8, tokens, dim}},
        keys{rows.data(), {batch, 2, tokens, dim}};
    const csq::Heads<const float> gate{gates.data(), {batch, 2, tokens, 1}};
    stream.step(queries, keys, keys, csq::Heads<float>{out.data(), {batch, 8, tokens, dim}},
                options.gated ? gate : csq::Heads<const float>{});
  };
  step(options.window > 0 ? 40 : 1);
  for (Index seen = 40; seen < 4 * options.window; seen += 40) step(40);
  const long before = allocations::made;
  for (int i = 0; i < 200; ++i) {
    step(1);
    if (i % 5 == 0) step(1 + i % 40);
    if (i % 7 == 0) stream.truncate(stream.tokens() - 1);
  }
  return allocations::made - before;
}

TEST_CASE("a step of a stream with a summary or a full ring allocates nothing") {
  CHECK(allocations_of_steps(csq::Csq{}, 1, 16, {.threads = 1}) == 0);
  CHECK(allocations_of_steps(csq::Csq{}, 1, 40, {.gated = true, .threads = 2}) == 0);
  CHECK(allocations_of_steps(csq::Linear{}, 3, 16, {.gated = true, .threads = 2}) == 0);
  CHECK(allocations_of_steps(csq::Softmax{}, 1, 16, {.window = 300, .threads = 1}) == 0);
}

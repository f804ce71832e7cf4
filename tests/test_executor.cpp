// Calls on threads of the caller's own: every parallel loop goes through the executor, results are those of one thread
// to the bit whatever the pool does with its tasks, and a pool that fails is the caller's to see.
#include <atomic>
#include <condition_variable>
#include <functional>
#include <future>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>

#include "catch.hpp"
#include "problem.hpp"
#include "stream_tokens.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

using csq::Executor;
using csq::Heads;
using Task = Executor::Task;

// Threads that wait for tasks, as engines have them.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { serve(); });
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void run(Index count, const std::function<void(Index)>& task) {
    std::unique_lock lock(mutex_);
    Index left = count;
    for (Index i = 0; i < count; ++i)
      queue_.push_back([&, i] {
        task(i);
        const std::lock_guard done(mutex_);
        --left;
        changed_.notify_all();
      });
    changed_.notify_all();
    changed_.wait(lock, [&] { return left == 0; });
  }
  bool owns(std::thread::id id) const {
    return std::any_of(threads_.begin(), threads_.end(), [&](const std::thread& t) { return t.get_id() == id; });
  }

 private:
  void serve() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return ended_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const auto next = std::move(queue_.back());  // the last first
      queue_.pop_back();
      lock.unlock();
      next();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::function<void()>> queue_;
  bool ended_ = false;
  std::vector<std::thread> threads_;
};

void run_in_turn(Index count, Task task) {
  for (Index i = 0; i < count; ++i) task(i);
}

struct NamedExecutor {
  const char* name;
  std::function<void(Index, Task)> run;
};

Pool& shared_pool() {
  static Pool pool(3);  // fewer than most widths
  return pool;
}

// What pools do: tasks on threads that wait, backwards, one after another, and on a thread each.
const std::vector<NamedExecutor>& executors() {
  static const std::vector<NamedExecutor> all{
      {"pool", [](Index count, Task task) { shared_pool().run(count, task); }},
      {"backwards",
       [](Index count, Task task) {
         for (Index i = count; i-- > 0;) task(i);
       }},
      {"in turn", run_in_turn},
      {"a thread each",
       [](Index count, Task task) {
         std::vector<std::future<void>> running;
         for (Index i = 0; i < count; ++i) running.push_back(std::async(std::launch::async, [=] { task(i); }));
         for (std::future<void>& each : running) each.get();
       }},
  };
  return all;
}

// visit(threads, executor): one thread first, which says what is expected; each executor then with several widths, and
// it is asked for no more. `is_used`: calls of one thread's work apart, each of them asks for something.
template <class Visit>
void for_each_executor(const Visit& visit, bool is_used = true) {
  visit(1, Executor{});
  for (const NamedExecutor& named : executors())
    for (const Index width : {1, 2, 3, 7, 16}) {
      INFO(named.name << " of width " << width);
      Index calls = 0, most = 0;
      const auto counting = [&](Index count, Task task) {
        ++calls;
        most = std::max(most, count);
        named.run(count, task);
      };
      visit(0, Executor(counting, width));
      CHECK(most <= width);
      if (is_used) CHECK((calls > 0) == (width > 1));
    }
}

struct Case {
  const char* name;
  Sizes sizes;
  bool causal = false;
  bool gated = false;
};
const std::vector<Case> cases{
    {"one head", {200, 230, 16, 12}},
    {"one causal head, many chunks", {700, 700, 6, 5}, true},
    {"one causal group with gates", {200, 200, 12, 9, 1, 8, 1}, true, true},
    {"grouped heads", {100, 120, 8, 8, 2, 8, 4}, true},
    {"a few queries, many keys", {5, 900, 16, 16}},
    {"many short heads", {16, 16, 8, 8, 20, 8, 4}, false},
    {"many heads of a few tokens", {5, 7, 8, 8, 30, 8, 4}, true},
};

template <class Check>
void for_each_case(const Check& check) {
  for_typical_mechanisms([&](const auto& named) {
    Random random(31);
    for (const Case& c : cases) {
      Problem p = Problem::random_backward(random, c.sizes, c.causal);
      if (c.gated) {
        p.log_gate = random_tensor(random, c.sizes.batch, c.sizes.kv_heads, c.sizes.m, 1);
        for (double& gate : p.log_gate.values) gate = -std::abs(gate) / 32;
      }
      give_needed_history(random, p, named.centred);
      for_float_and_double([&]<class T>() {
        for (const csq::Method method : methods(named.factored)) {
          INFO(named.name << ", " << c.name << ", " << name_of(method) << ", " << 8 * sizeof(T) << " bits");
          PlacedBackward<T> placed(p);
          check(named.mechanism, placed, method);
        }
      });
    }
  });
}

Run run_of(csq::Method method, int threads, const Executor& executor, csq::Workspace* workspace = nullptr) {
  Run run;
  run.method = method;
  run.threads = threads;
  run.workspace = workspace;
  run.executor = executor;
  return run;
}

// Everything that takes an executor, each a call that returns what it wrote as doubles.
struct Calls {
  static constexpr Index n = 150;
  TokenSizes sizes{1, 4, 2, 6, 5};
  Random random{91};
  Tokens<float> tokens{sizes, n, random};
  std::vector<Index> offsets{0, 60, 61, 61, 90, n};
  std::vector<float> ones = std::vector<float>(std::size_t(4 * n * 5), 1.0f);
  TokenRows<float> out = output_of<float>(sizes, n), normalizer{1, 4, n, 1}, dq = tokens.q, dk = tokens.k,
                   dv = tokens.v;
  double value = 0;

  void clear() {
    for (auto* array : {&out, &normalizer, &dq, &dk, &dv}) std::fill(array->values.begin(), array->values.end(), 3.0f);
    value = 0;
  }
  std::vector<double> written() const {
    std::vector<double> all{value};
    for (const auto* array : {&out, &normalizer, &dq, &dk, &dv})
      all.insert(all.end(), array->values.begin(), array->values.end());
    return all;
  }
  Heads<const float> q() const { return tokens.q.rows(0, n); }
  Heads<const float> k() const { return tokens.k.rows(0, n); }
  Heads<const float> v() const { return tokens.v.rows(0, n); }
  Heads<const float> o() const { return out.rows(0, n); }
  Heads<const float> z() const { return normalizer.rows(0, n); }
  Heads<const float> dout() const { return {ones.data(), {1, sizes.heads, n, sizes.value_dim}}; }

  void attend(csq::Options options) {
    csq::attention(csq::Csq{}, q(), k(), v(), out.rows(0, n), normalizer.rows(0, n), options);
  }
  void pull_back(csq::Options options) {
    csq::Options before = options;
    before.executor = {};
    before.threads = 1;
    attend(before);
    csq::attention_backward(csq::Csq{}, q(), k(), v(), o(), z(), dout(),
                            {dq.rows(0, n), dk.rows(0, n), dv.rows(0, n), &value}, options);
  }
  void pack(csq::Options options) {
    options.causal = true;
    options.query_offsets = options.key_offsets = offsets;
    attend(options);
  }
  void pull_back_packed(csq::Options options) {
    options.causal = true;
    options.query_offsets = options.key_offsets = offsets;
    pull_back(options);
  }
  void bound(const csq::Options& options) {
    value = csq::bound_penalty(q(), k(), dq.rows(0, n), dk.rows(0, n), 0.5, 1, options).value;
  }
  void sampled_bound(const csq::Options& options) {
    value = csq::sampled_bound_penalty(q(), k(), dq.rows(0, n), dk.rows(0, n), 3, 7, 0.5, 1, options).value;
  }
  void rank(const csq::Options& options) { value = csq::rank_penalty(q(), dq.rows(0, n), 1e-3, 1, options); }
  void merge(const csq::Options& options) {
    const Heads<const float> statistic(ones.data(), {1, sizes.kv_heads, n, 1});
    const Heads<float> merged(normalizer.values.data(), {1, sizes.kv_heads, n, 1});
    csq::merge_partials(csq::Taylor{}, v(), statistic, v(), statistic, dv.rows(0, n), merged, options.threads,
                        options.executor);
  }

  void prefill(csq::Stream<float>& stream) {
    for (const auto& [first, count] : {std::pair<Index, Index>{0, n - 2}, {n - 2, 1}, {n - 1, 1}})
      stream.prefill(tokens.q.rows(first, count), tokens.k.rows(first, count), tokens.v.rows(first, count),
                     out.rows(first, count));
  }
  template <class Mechanism>
  csq::Stream<float> stream_of(const Mechanism& mechanism, const csq::Options& options, Index window = 0) const {
    return csq::Stream<float>(mechanism, {1, sizes.heads, sizes.kv_heads, sizes.key_dim, sizes.value_dim},
                              {.window = window, .threads = options.threads, .executor = options.executor});
  }
  void stream(const csq::Options& options) {
    csq::Stream<float> stream = stream_of(csq::Csq{}, options);
    prefill(stream);
  }
  void stream_window(const csq::Options& options) {
    csq::Stream<float> stream = stream_of(csq::Softmax{}, options, 40);
    prefill(stream);
  }
  csq::Summary<float> summary_of(const csq::Options& options) const {
    return csq::Summary<float>(
        csq::Csq{}, {1, sizes.kv_heads, sizes.key_dim, sizes.value_dim},
        {.centering = csq::Centering::none, .threads = options.threads, .executor = options.executor});
  }
  void summarise(csq::Summary<float>& summary) {
    summary.absorb(tokens.k.rows(0, 90), tokens.v.rows(0, 90));
    summary.attend(tokens.q.rows(90, 40), tokens.k.rows(90, 40), tokens.v.rows(90, 40), out.rows(90, 40));
    summary.read(tokens.q.rows(0, 80), out.rows(0, 80));
  }
  void summary(const csq::Options& options) {
    csq::Summary<float> summary = summary_of(options);
    summarise(summary);
  }
};

struct NamedCall {
  const char* name;
  std::function<void(Calls&, const csq::Options&)> run;
};
const std::vector<NamedCall> named_calls{
    {"attention", &Calls::attend},    {"backward", &Calls::pull_back},
    {"packed", &Calls::pack},         {"packed backward", &Calls::pull_back_packed},
    {"bound penalty", &Calls::bound}, {"sampled bound penalty", &Calls::sampled_bound},
    {"rank penalty", &Calls::rank},   {"partials", &Calls::merge},
    {"stream", &Calls::stream},       {"stream with a window", &Calls::stream_window},
    {"summary", &Calls::summary},
};

}  // namespace

TEST_CASE("executors: attention and its gradient are those of one thread, to the bit") {
  for_each_case([]<class Placed>(const auto& mechanism, Placed& placed, csq::Method method) {
    decltype(placed.attend(mechanism, {})) rows;
    decltype(placed.backward(mechanism, {})) gradients;
    for_each_executor([&](int threads, const Executor& executor) {
      const auto own_rows = placed.attend(mechanism, run_of(method, threads, executor));
      const auto own_gradients = placed.backward(mechanism, run_of(method, threads, executor));
      if (rows.output.empty()) {
        rows = own_rows;
        gradients = own_gradients;
      }
      CHECK(same_bits(own_rows, rows));
      CHECK(same_bits(own_gradients, gradients));
    });
  });
}

TEST_CASE("executors: every call that takes one gives the bits of one thread, and uses it") {
  Calls calls;
  for (const NamedCall& call : named_calls) {
    INFO(call.name);
    std::vector<double> expected;
    for_each_executor([&](int threads, const Executor& executor) {
      calls.clear();
      csq::Options options;
      options.threads = threads;
      options.executor = executor;
      call.run(calls, options);
      if (expected.empty()) expected = calls.written();
      CHECK(same_bits(calls.written(), expected));
    });
  }
}

TEST_CASE("executors: entries of a batch of streams and of summaries") {
  Random random(92);
  const TokenSizes sizes{3, 4, 2, 6, 5};
  const Tokens<double> tokens(sizes, 160, random);
  std::vector<double> expected;
  std::vector<std::byte> state;
  for_each_executor([&](int threads, const Executor& executor) {
    csq::Stream<double> stream(csq::Csq{}, {3, 4, 2, 6, 5}, {.gated = true, .threads = threads, .executor = executor});
    csq::Stream<double> fork = stream.fork();
    TokenRows<double> out = output_of<double>(sizes, 160);
    fork.prefill(tokens.q.rows(0, 159), tokens.k.rows(0, 159), tokens.v.rows(0, 159), out.rows(0, 159),
                 tokens.gate.rows(0, 159));
    fork.step(tokens.q.rows(159, 1), tokens.k.rows(159, 1), tokens.v.rows(159, 1), out.rows(159, 1),
              tokens.gate.rows(159, 1));
    if (expected.empty()) {
      expected = out.values;
      state = fork.save();
    }
    CHECK(same_bits(out.values, expected));
    CHECK(fork.save() == state);
  });
}

TEST_CASE("executors: tasks run on the pool's threads alone") {
  Calls calls;
  Pool pool(3);
  for (const NamedCall& call : named_calls) {
    INFO(call.name);
    std::atomic<bool> only_there = true, in_openmp = false;
    const auto run = [&](Index count, Task task) {
      pool.run(count, [&](Index i) {
        if (!pool.owns(std::this_thread::get_id())) only_there = false;
#ifdef _OPENMP
        if (omp_in_parallel() != 0) in_openmp = true;
#endif
        task(i);
      });
    };
    calls.clear();
    csq::Options options;
    options.executor = {run, 3};
    call.run(calls, options);
    CHECK(only_there);
    CHECK(!in_openmp);
  }
}

TEST_CASE("executors: threads and width, whichever is less; calls of one thread ask for nothing") {
  Calls calls;
  Index asked = 0, most = 0;
  const auto counting = [&](Index count, Task task) {
    ++asked;
    most = std::max(most, count);
    run_in_turn(count, task);
  };
  const auto most_of = [&](int threads, Index width) {
    asked = most = 0;
    calls.attend({.causal = true, .method = csq::Method::direct, .threads = threads, .executor = {counting, width}});
    return most;
  };
  CHECK(most_of(0, 3) == 3);
  CHECK(most_of(2, 3) == 2);
  CHECK(most_of(3, 2) == 2);
  CHECK(most_of(1, 3) == 0);
  CHECK(most_of(0, 1) == 0);
  CHECK(most_of(0, std::numeric_limits<Index>::max()) > 2);

  // Scratch is that of so many threads.
  const csq::Shape shape{.queries = 900, .keys = 900, .key_dim = 16, .value_dim = 16};
  const auto bytes = [&](int threads, Index width) {
    return csq::workspace_bytes(csq::Csq{}, shape, {.threads = threads, .executor = {counting, width}});
  };
  CHECK(bytes(0, 5) == bytes(5, 8));
  CHECK(bytes(0, 5) == bytes(9, 5));
  CHECK(bytes(0, 5) > bytes(0, 1));
  CHECK(bytes(0, 4096) == bytes(0, std::numeric_limits<Index>::max()));
}

// A function, a function with a pool, a const object, an object that is none of the caller's lambdas.
TEST_CASE("executors are made of functions and of objects") {
  struct Counter {
    mutable int calls = 0;
    void operator()(Index count, Task task) const {
      ++calls;
      run_in_turn(count, task);
    }
  };
  Calls calls;
  calls.clear();
  calls.attend({.threads = 1});
  const std::vector<double> expected = calls.written();
  const auto attend = [&](const Executor& executor) {
    calls.clear();
    calls.attend({.executor = executor});
    CHECK(same_bits(calls.written(), expected));
  };
  attend({run_in_turn, 4});
  const Counter constant;
  attend({constant, 4});
  CHECK(constant.calls > 0);
  Counter counter;
  attend(
      Executor([](void* pool, Index count, Task task) { (*static_cast<Counter*>(pool))(count, task); }, &counter, 4));
  CHECK(counter.calls > 0);
  const auto plain = [](Index count, Task task) {
    for (Index i = 0; i < count; ++i) task.function(task.context, i);
  };
  attend({plain, 4});
}

#ifdef _OPENMP
TEST_CASE("executors are used inside somebody's parallel region") {
  Calls calls;
  calls.clear();
  calls.attend({.threads = 1});
  const std::vector<double> expected = calls.written();
  std::atomic<int> asked = 0;
  const auto counting = [&](Index count, Task task) {
    ++asked;
    shared_pool().run(count, task);
  };
  std::array<std::vector<double>, 2> written;
#pragma omp parallel num_threads(2)
  {
    Calls own;
    own.clear();
    own.attend({.executor = {counting, 3}});
    written[std::size_t(omp_get_thread_num())] = own.written();
  }
  CHECK(asked > 0);
  CHECK(same_bits(written[0], expected));
}
#endif

TEST_CASE("a pool's own thread makes calls of one thread") {
  Calls calls;
  calls.clear();
  calls.attend({.threads = 1});
  const std::vector<double> expected = calls.written();
  Pool pool(2);
  const auto run = [&](Index count, Task task) { pool.run(count, task); };
  std::array<std::vector<double>, 5> written;
  pool.run(5, [&](Index i) {
    Calls own;
    own.clear();
    own.attend({.threads = 1, .executor = {run, 2}});
    written[std::size_t(i)] = own.written();
  });
  for (const std::vector<double>& each : written) CHECK(same_bits(each, expected));
}

TEST_CASE("executors: what a pool throws reaches the caller, wherever it does, and the next call is right") {
  for (const NamedCall& call : named_calls) {
    INFO(call.name);
    Calls calls;
    csq::Workspace workspace;
    calls.clear();
    csq::Options options;
    options.threads = 1;
    call.run(calls, options);
    const std::vector<double> expected = calls.written();
    options.threads = 0;
    options.workspace = &workspace;
    int failed = 0, passes = 0;
    for (int last = 0; passes < 1; ++last) {
      int left = last;
      const auto failing = [&](Index count, Task task) {
        if (left-- > 0) return shared_pool().run(count, task);
        task(0);
        throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again));
      };
      options.executor = {failing, 3};
      calls.clear();
      try {
        call.run(calls, options);
        ++passes;
      } catch (const std::system_error&) {
        ++failed;
        const auto good = [&](Index count, Task task) { run_in_turn(count, task); };
        options.executor = {good, 3};
        calls.clear();
        call.run(calls, options);
      }
      CHECK(same_bits(calls.written(), expected));
    }
    CHECK(failed > 0);
  }
}

TEST_CASE("executors: what a call has thrown in leaves no summary, and streams and summaries as new after reset") {
  Calls calls;
  int left = 0;
  const auto failing = [&](Index count, Task task) {
    if (left-- <= 0) throw std::runtime_error("no thread is left");
    run_in_turn(count, task);
  };
  csq::KeptSummary kept;
  csq::Options options;
  options.method = csq::Method::factored;
  options.summary = &kept;
  options.executor = {failing, 3};
  CHECK_THROWS_AS(calls.attend(options), std::runtime_error);
  CHECK(kept.empty());
  left = 1000;
  calls.attend(options);
  CHECK(!kept.empty());

  calls.clear();
  csq::Stream<float> expected_stream = calls.stream_of(csq::Csq{}, {.threads = 1});
  calls.prefill(expected_stream);
  const std::vector<double> rows = calls.written();
  csq::Stream<float> stream = calls.stream_of(csq::Csq{}, options);
  for (int last = 0; last < 30; last += 3) {
    left = last;
    try {
      calls.prefill(stream);
    } catch (const std::runtime_error&) {
    }
    stream.reset();
    left = 1000;
    calls.clear();
    calls.prefill(stream);
    CHECK(same_bits(calls.written(), rows));
    CHECK(stream.save() == expected_stream.save());
    stream.reset();
  }

  csq::Summary<float> expected_summary = calls.summary_of({.threads = 1}), summary = calls.summary_of(options);
  calls.summarise(expected_summary);
  for (int last = 0; last < 10; ++last) {
    left = last;
    CHECK_THROWS_AS(calls.summarise(summary), std::runtime_error);
    summary.reset();
    left = 1000;
    calls.summarise(summary);
    CHECK(summary.save() == expected_summary.save());
    summary.reset();
  }
}

TEST_CASE("executors: a pool that drops tasks is an error, not a wrong result") {
  Calls calls;
  for (const Index done : {0, 1}) {
    const auto dropping = [&](Index count, Task task) { run_in_turn(std::min(count, done), task); };
    for (const NamedCall& call : named_calls) {
      INFO(call.name << ", " << done << " done");
      csq::Options options;
      options.executor = {dropping, 3};
      CHECK(names(rejection([&] { call.run(calls, options); }), "executor"));
    }
  }
}

TEST_CASE("executors without a width or a function are refused before anything is written") {
  Calls calls;
  int pool = 0;
  const auto never = [](void*, Index, Task) { FAIL("ran"); };
  const std::vector<std::pair<Executor, std::string>> wrong{
      {Executor(never, &pool, 0), "width is 0"},      {Executor(never, nullptr, -3), "width is -3"},
      {Executor(run_in_turn, 0), "width is 0"},       {Executor(nullptr, &pool, 4), "no function"},
      {Executor(nullptr, nullptr, 4), "no function"},
  };
  for (const auto& [executor, sentence] : wrong)
    for (const int threads : {0, 1, 3})
      for (const NamedCall& call : named_calls) {
        if (std::string(call.name).find("backward") != std::string::npos) continue;  // below: its forward writes
        INFO(call.name << ", " << sentence << ", threads " << threads);
        calls.clear();
        const std::vector<double> before = calls.written();
        csq::Options options;
        options.threads = threads;
        options.executor = executor;
        const std::string message = rejection([&] { call.run(calls, options); });
        CHECK(names(message, "executor"));
        CHECK(message.find(sentence) != std::string::npos);
        CHECK(same_bits(calls.written(), before));
      }
  calls.clear();
  calls.attend({.threads = 1});
  const std::vector<double> before = calls.written();
  csq::Options options{.executor = wrong[0].first};
  const csq::Gradients<float> gradients{calls.dq.rows(0, Calls::n), calls.dk.rows(0, Calls::n),
                                        calls.dv.rows(0, Calls::n)};
  const auto backward = [&] {
    csq::attention_backward(csq::Csq{}, calls.q(), calls.k(), calls.v(), calls.o(), calls.z(), calls.dout(), gradients,
                            options);
  };
  CHECK(names(rejection(backward), "executor"));
  options.query_offsets = options.key_offsets = calls.offsets;
  CHECK(names(rejection(backward), "executor"));
  CHECK(same_bits(calls.written(), before));
  const csq::Shape shape{.queries = 9, .keys = 9, .key_dim = 4, .value_dim = 4};
  CHECK(names(rejection([&] { csq::workspace_bytes(csq::Csq{}, shape, {.executor = wrong[0].first}); }), "executor"));
  CHECK(names(rejection([&] { csq::backward_workspace_bytes(csq::Csq{}, shape, {.executor = wrong[3].first}); }),
              "executor"));
}

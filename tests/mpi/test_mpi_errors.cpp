// An error of one rank is an error of all: the rank's own sentence there, its rank and sentence elsewhere, nothing
// written, nobody left waiting, and the next call as if nothing had been.   mpirun -n R test_mpi_errors [die]
#include <csignal>
#include <cstdlib>
#include <functional>
#include <new>
#include <string_view>

#include "compared.hpp"

namespace {

bool memory_fails = false;

}  // namespace

// What workspaces are made of.
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto line = static_cast<std::size_t>(alignment);
  void* memory = memory_fails ? nullptr : std::aligned_alloc(line, (bytes + line - 1) / line * line);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

// A rank's arrays and how it calls: what a test spoils.
struct Call {
  Case sizes{.n = 12, .m = 12, .batch = 1, .heads = 2, .kv_heads = 1};
  Arrays<double> arrays{sizes};
  Starts starts = cut(12, 0, 1);
  csq::Csq mechanism{};
  csq::Options options{.causal = true};
  csq::Heads<double> q = piece(arrays.q, 2, 6), k = piece(arrays.k, 1, 6), v = piece(arrays.v, 1, 5),
                     out = piece(arrays.out, 2, 5), normalizer = piece(arrays.normalizer, 2, 1),
                     dout = piece(arrays.dout, 2, 5);
  csq::Gradients<double> gradients{piece(arrays.dq, 2, 6), piece(arrays.dk, 1, 6), piece(arrays.dv, 1, 5),
                                   &arrays.dshift};

  csq::Heads<double> piece(std::vector<double>& numbers, Index heads, Index dim) {
    return piece_of(view_of(numbers, {1, heads, 12, dim}), starts, rank_here);
  }
  void forward() { csq::mpi::attention(MPI_COMM_WORLD, mechanism, q, k, v, out, normalizer, options); }
  void backward() {
    csq::mpi::attention_backward(MPI_COMM_WORLD, mechanism, q, k, v, out, normalizer, dout, gradients, options);
  }
  bool is_untouched() const {
    for (const auto* numbers : {&arrays.out, &arrays.normalizer, &arrays.dq, &arrays.dk, &arrays.dv})
      for (const double x : *numbers)
        if (!std::isnan(x)) return false;
    return arrays.dshift == 0;
  }
};

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  } catch (const std::bad_alloc&) {
    return "no memory";
  }
  return "no error";
}
bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

void expect_untouched(const Call& call, const std::string& what) {
  expect(call.is_untouched(), what + ": something was written");
  Call good;
  const std::string next = message_of([&] { good.forward(); });
  expect(next == "no error", what + ": the next call says " + next);
}

// An error of the last rank.
void check_one(const std::string& name, std::string_view sentence, const std::function<void(Call&)>& spoil,
               bool is_backward = false) {
  Call call;
  const int last = rank_count - 1;
  if (rank_here == last) spoil(call);
  const std::string message = message_of([&] { is_backward ? call.backward() : call.forward(); });
  expect(has(message, sentence), name + ": says " + message);
  const std::string origin = "csq::mpi: rank " + std::to_string(last) + ": ";
  expect(message.starts_with(rank_here == last ? "csq: " : origin), name + ": says " + message);
  expect_untouched(call, name);
}

// One that all ranks see in what they were told.
void check_all(const std::string& name, std::string_view sentence, const std::function<void(Call&)>& spoil,
               bool is_backward = false) {
  Call call;
  spoil(call);
  const std::string message = message_of([&] { is_backward ? call.backward() : call.forward(); });
  expect(has(message, sentence), name + ": says " + message);
  expect_untouched(call, name);
}

void check_arguments() {
  check_one("dim", "k: dim is 5 but q has 6", [](Call& c) { c.k.shape[3] = 5; });
  check_one("shift", "shift is inf but must be finite", [](Call& c) { c.mechanism.shift = HUGE_VAL; });
  check_one("output", "out: shares memory with", [](Call& c) { c.out.data = c.v.data; });
  check_one("scale", "scale: is nan", [](Call& c) { c.options.scale = std::nan(""); });
  check_one("gates", "log_gate: shape is", [](Call& c) { c.options.log_gate = csq::Heads(c.v.data, {1, 1, 99, 1}); });
  check_one("bias", "bias: pieces of sequences take none", [](Call& c) {
    c.options.bias = csq::Heads(c.v.data, {1, 1, 1, 1});
  });
  static const Index lengths[] = {3};
  check_one("lengths", "key_length: pieces", [](Call& c) { c.options.key_length = lengths; });
  check_one("query lengths", "query_length: pieces", [](Call& c) { c.options.query_length = lengths; });
  static const Index offsets[] = {0, 12};
  check_one("packed", "not packed", [](Call& c) { c.options.query_offsets = c.options.key_offsets = offsets; });
  check_one("threads", "threads: is -1", [](Call& c) { c.options.threads = -1; });
  check_one("window", "window: is -1", [](Call& c) { c.options.window = -1; });
  check_one(
      "gradient", "dk: shape is", [](Call& c) { c.gradients.key.shape[3] = 5; }, true);
  static double gate = 0;
  check_one(
      "dlog_gate", "dlog_gate: the options have no log_gate",
      [](Call& c) {
        c.gradients.log_gate = csq::Heads(&gate, {1, 1, 1, 1});
      },
      true);
}

void check_agreement() {
  const auto on_last = [](const std::function<void(Call&)>& spoil) {
    return [spoil](Call& call) {
      if (rank_here == rank_count - 1) spoil(call);
    };
  };
  if (rank_count > 1) {
    const std::string last = "csq::mpi: rank " + std::to_string(rank_count - 1) + ": ";
    check_all("causal", last + "causal is not what rank 0 has", on_last([](Call& c) { c.options.causal = false; }));
    check_all("coefficients", last + "coefficients is not", on_last([](Call& c) { c.mechanism.shift = 3; }));
    check_all("window", last + "window is not", on_last([](Call& c) { c.options.window = 3; }));
    check_all("wanted", last + "wanted gradients is not", on_last([](Call& c) { c.gradients.shift = nullptr; }), true);
    Call call;
    const std::string message = message_of([&] { rank_here == rank_count - 1 ? call.backward() : call.forward(); });
    expect(has(message, last + "function is not"), "function: says " + message);
    expect_untouched(call, "function");
  }
  check_all("prefix", "query_history: causal prefix centring with 0 queries",
            [](Call& c) { c.q.shape[2] = c.out.shape[2] = c.normalizer.shape[2] = 0; });
  Call call;
  call.options.method = csq::Method::factored;
  const std::string method = message_of([&] {
    csq::mpi::attention(MPI_COMM_WORLD, csq::Softmax{}, call.q, call.k, call.v, call.out, call.normalizer,
                        call.options);
  });
  expect(has(method, "method: factored needs a weight of degree 2"), "method: says " + method);
  expect_untouched(call, "method");
}

void check_memory() {
  for (const bool is_backward : {false, true}) {
    Call call;
    memory_fails = rank_here == rank_count - 1;
    const std::string message = message_of([&] { is_backward ? call.backward() : call.forward(); });
    memory_fails = false;
    expect(message == "no memory", "memory: says " + message);
    expect_untouched(call, "memory");
  }
}

// A rank that ends takes the job with it: mpirun's affair, and nothing here keeps the others alive.
void die() {
  Call call;
  for (int i = 0;; ++i) {
    if (rank_here == rank_count - 1 && i == 300) std::raise(SIGKILL);
    call.forward();
    if (rank_here == 0 && i == 100) {
      std::puts("under way");
      std::fflush(stdout);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  begin_test(&argc, &argv);
  if (argc > 1 && std::string_view(argv[1]) == "die") die();
  check_arguments();
  check_agreement();
  check_memory();
  return finish_test();
}

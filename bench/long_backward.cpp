// A long causal sequence forward and backward, in linear memory, and how far float is from double.
//
//   build/release/bench/long_backward [tokens]      n = 65,536 unless given; d = 64, one head, method factored
//
// 1. float: time, and the peak memory of the process beside the bytes of the arrays that the caller holds anyway.
// 2. the same in double: relative error of float's out, dq, dk and dv, on random numbers and on real heads.
// 3. double factored against double direct at n = 4096, so that what float is compared with is itself checked.
// Exit 1 when float is further than 1e-3 from double, or factored further than 1e-10 from direct in double.
#include <sys/resource.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "support/inputs.hpp"
#include "support/passes.hpp"
#include "support/statistics.hpp"
#include "support/threads.hpp"

namespace {

using bench::Index;

constexpr Index dim = 64, checked_tokens = 4096;  // long enough for forward to read its summary
constexpr double float_tolerance = 1e-3, double_tolerance = 1e-10;
constexpr double megabyte = 1e6;
constexpr csq::Csq mechanism{};

csq::Shape shape_of(Index tokens) {
  return {
      .queries = tokens, .keys = tokens, .key_dim = dim, .value_dim = dim, .heads = 1, .kv_heads = 1, .causal = true};
}

double peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

struct Seconds {
  double forward = 0, backward = 0;
};

template <class T>
Seconds run(bench::Passes<T>& passes, const bench::Operands<T>& operands, csq::Method method) {
  const csq::Options options{.causal = true, .method = method};
  passes.reserve(mechanism, shape_of(operands.q.tokens()), true, options);
  const auto now = [] { return std::chrono::steady_clock::now(); };
  const auto start = now();
  passes.forward(mechanism, operands, options);
  const auto middle = now();
  passes.backward(mechanism, operands, options);
  return {std::chrono::duration<double>(middle - start).count(), std::chrono::duration<double>(now() - middle).count()};
}

// One head in double.
struct DoubleHead {
  explicit DoubleHead(const csq::Heads<const float>& head) : shape(head.shape) {
    for (Index t = 0; t < head.tokens(); ++t)
      for (Index a = 0; a < head.dim(); ++a) values.push_back(head.head(0, 0)(t, a));
  }
  csq::Heads<const double> view(Index tokens) const { return {values.data(), {1, 1, tokens, shape[3]}}; }

  csq::Heads<const float>::Shape shape;
  std::vector<double> values;
};

// Prints the relative errors of out, dq, dk, dv; false when one is above `tolerance`.
template <class T, class U>
bool compare(const char* what, const bench::Passes<T>& passes, const bench::Passes<U>& reference, double tolerance) {
  const std::array<double, 4> errors = {
      bench::relative_error(passes.out, reference.out), bench::relative_error(passes.dq, reference.dq),
      bench::relative_error(passes.dk, reference.dk), bench::relative_error(passes.dv, reference.dv)};
  bool good = true;
  for (const double error : errors) good = good && error <= tolerance;
  std::printf("  %-46s out %.1e   dq %.1e   dk %.1e   dv %.1e   %s %.0e\n", what, errors[0], errors[1], errors[2],
              errors[3], good ? "<=" : "FAILS", tolerance);
  return good;
}

void print_memory(const bench::Passes<float>& passes, const Seconds& seconds, Index tokens) {
  const double rows = static_cast<double>(tokens) * sizeof(float);
  const double arrays = 8 * rows * dim + rows, weights = rows * static_cast<double>(tokens);
  std::printf("  float         forward %.0f ms, backward %.0f ms\n", seconds.forward * 1e3, seconds.backward * 1e3);
  std::printf("  arrays        %.1f MB: q, k, v, out, dout, dq, dk, dv of %.1f MB and one normaliser a row\n",
              arrays / megabyte, rows * dim / megabyte);
  std::printf("  workspace     %.1f MB\n", static_cast<double>(passes.workspace_bytes()) / megabyte);
  std::printf("  peak memory   %.1f MB of the whole process, %.2f times the arrays (n*m weights: %.0f MB)\n",
              peak_memory() / megabyte, peak_memory() / arrays, weights / megabyte);
}

// Float against double at `tokens`, and double factored against double direct at `checked_tokens`.
bool check(const std::string& name, bench::Inputs& inputs, Index tokens, bool with_memory) {
  inputs.reserve(1, 1, tokens);
  inputs.reserve_output_gradient(1, tokens);
  const bench::Operands<float> operands{inputs.q(1, tokens), inputs.k(1, tokens), inputs.v(1, tokens),
                                        inputs.dout(1, tokens)};
  bench::Passes<float> in_float;
  const Seconds seconds = run(in_float, operands, csq::Method::factored);
  if (with_memory) print_memory(in_float, seconds, tokens);  // before double takes its own

  const DoubleHead q(operands.q), k(operands.k), v(operands.v), dout(operands.dout);
  const auto doubles = [&](Index count) {
    return bench::Operands<double>{q.view(count), k.view(count), v.view(count), dout.view(count)};
  };
  bench::Passes<double> in_double, short_factored, short_direct;
  run(in_double, doubles(tokens), csq::Method::factored);
  std::printf("\n  relative error, %s\n", name.c_str());
  const bool float_agrees = compare("float against double, factored", in_float, in_double, float_tolerance);

  const Index count = std::min(tokens, checked_tokens);
  run(short_factored, doubles(count), csq::Method::factored);
  run(short_direct, doubles(count), csq::Method::direct);
  const std::string what = "double, factored against direct, n = " + std::to_string(count);
  return compare(what.c_str(), short_factored, short_direct, double_tolerance) && float_agrees;
}

}  // namespace

int main(int count, char** words) {
  bench::let_waiting_threads_sleep(words);
  const Index tokens = count > 1 ? std::atoll(words[1]) : 65536;
  if (count > 2 || tokens < 1 || tokens > (Index{1} << 24)) {
    std::fprintf(stderr, "long_backward: takes one number, the tokens, between 1 and 16777216\n");
    return 2;
  }
  try {
    std::printf("CSQ forward and backward, n = %lld, d = %lld, causal, one head, factored; %s, %d threads\n",
                static_cast<long long>(tokens), static_cast<long long>(dim), csq::build_info().c_str(),
                bench::threads_for("threads", 0));
    bench::Inputs random(dim);
    const bool random_good = check("normal random numbers", random, tokens, true);
    const std::string stem = bench::data_folder() + "/byte_lm_softmax_";
    bench::Inputs real(bench::read_triple(stem + "q.npy", stem + "k.npy", stem + "v.npy"), "real heads");
    const bool real_good = check("a real head, its rows repeated", real, tokens, false);
    return random_good && real_good ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "long_backward: %s\n", error.what());
    return 2;
  }
}

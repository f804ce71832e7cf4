// Google Benchmark of single forward calls, one thread, one head, float: GF/s and the fraction of the FMA peak.
//
//   build/release/bench/forward --benchmark_filter='causal:0/d:64/n:4096'
//
// Flops are those of the formulas, whatever the kernels do: direct 4·n²·d, factored 2·(n+m)·D·(d+1) with
// D = (d+1)(d+2)/2; under a causal mask the cost model's multiply-adds times 2. The peak is measured first, by this
// process, with the instructions that the kernels use; it is the best of many short runs, so a busy machine lowers the
// fractions.
#include <benchmark/benchmark.h>

#include <chrono>
#include <csq/csq.hpp>
#include <string>
#include <vector>

#include "support/fma_peak.hpp"
#include "support/inputs.hpp"

namespace {

using csq::Index;

double fma_peak = 0;

template <class M>
void forward(benchmark::State& state, const M& mechanism, csq::Method method) {
  const Index n = state.range(2), d = state.range(1);
  const bool causal = state.range(0) != 0;
  bench::Inputs inputs(d);
  inputs.reserve(1, 1, n);
  std::vector<float> output(static_cast<std::size_t>(n * d));
  const csq::Heads<float> out(output.data(), {1, 1, n, d});
  csq::Workspace workspace;
  const csq::Options options{.causal = causal, .method = method, .threads = 1, .workspace = &workspace};
  const auto q = inputs.q(1, n), k = inputs.k(1, n), v = inputs.v(1, n);
  csq::attention(mechanism, q, k, v, out, options);  // the workspace grows here

  const auto start = std::chrono::steady_clock::now();
  for (auto _ : state) {
    csq::attention(mechanism, q, k, v, out, options);
    benchmark::DoNotOptimize(output.data());
    benchmark::ClobberMemory();
  }

  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  const csq::Shape shape{.queries = n, .keys = n, .key_dim = d, .value_dim = d, .causal = causal};
  const bool factored = method == csq::Method::factored;
  const double flops = 2 * (factored ? csq::factored_multiply_adds(shape) : csq::direct_multiply_adds(shape));
  const double rate = flops * static_cast<double>(state.iterations()) / elapsed.count();
  state.counters["GF/s"] = rate / 1e9;
  state.counters["of_peak"] = rate / fma_peak;
  if (factored && csq::served_directly(shape)) state.SetLabel("served directly");
}

void add_sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"causal", "d", "n"})
      ->ArgsProduct({{0, 1}, {16, 32, 64, 128}, {1024, 4096}})
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime();
}

BENCHMARK_CAPTURE(forward, softmax_direct, csq::Softmax{}, csq::Method::direct)->Apply(add_sizes);
BENCHMARK_CAPTURE(forward, csq_direct, csq::Csq{}, csq::Method::direct)->Apply(add_sizes);
BENCHMARK_CAPTURE(forward, csq_factored, csq::Csq{}, csq::Method::factored)->Apply(add_sizes);

}  // namespace

int main(int count, char** words) {
  benchmark::Initialize(&count, words);
  if (benchmark::ReportUnrecognizedArguments(count, words)) return 2;
  fma_peak = bench::measure_fma_peak(csq::simd_name(), 1, 30);
  benchmark::AddCustomContext("csq", csq::build_info());
  benchmark::AddCustomContext("FMA peak, one thread, float",
                              std::to_string(static_cast<int>(fma_peak / 1e9 + 0.5)) + " GF/s");
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}

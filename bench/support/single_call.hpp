// Google Benchmark of single calls, one thread, one head, of --dtype: GF/s and the fraction of the FMA peak, on normal
// random numbers. What forward.cpp and backward.cpp share.
//
// The peak is measured first, by the same process, with the instructions that the kernels use; it is the best of many
// short runs, so a busy machine lowers the fractions. It is float's, whatever the dtype.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "dtype.hpp"
#include "fma_peak.hpp"
#include "inputs.hpp"
#include "passes.hpp"

namespace bench {

inline double fma_peak = 0;
inline Dtype single_call_dtype = Dtype::float32;

template <class Element, class M>
void single_call_of(benchmark::State& state, const M& mechanism, csq::Method method, Pass pass,
                    const CallExtras& extras) {
  const Index n = state.range(2), d = state.range(1);
  const bool causal = state.range(0) != 0, backward = pass == Pass::backward;
  const csq::Shape shape{
      .queries = n, .keys = n, .key_dim = d, .value_dim = d, .heads = 1, .kv_heads = 1, .causal = causal};
  csq::Options options{.causal = causal, .window = extras.window, .method = method, .threads = 1};
  const std::vector<float> gates = extras.gated ? mild_gates(1, n) : std::vector<float>();
  if (extras.gated) options.log_gate = csq::Heads<const float>(gates.data(), {1, 1, n, 1});
  Inputs inputs(d, d, single_call_dtype);
  inputs.reserve(1, 1, n);
  if (backward) inputs.reserve_output_gradient(1, n);
  const Operands<Element> operands{inputs.q<Element>(1, n), inputs.k<Element>(1, n), inputs.v<Element>(1, n),
                                   inputs.dout<Element>(1, n)};
  Passes<Element> passes;
  passes.reserve(mechanism, shape, backward, options);
  passes.forward(mechanism, operands, options);

  const auto start = std::chrono::steady_clock::now();
  for (auto _ : state) {
    if (backward)
      passes.backward(mechanism, operands, options);
    else
      passes.forward(mechanism, operands, options);
    benchmark::ClobberMemory();
  }

  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  const bool factored = method == csq::Method::factored;
  const double rate = flops(shape, factored, pass, {.window = extras.window}) *
                      static_cast<double>(state.iterations()) / elapsed.count();
  state.counters["GF/s"] = rate / 1e9;
  state.counters["of_peak"] = rate / fma_peak;
  if (factored && !backward && csq::used_method(mechanism, shape, options) == csq::Method::direct)
    state.SetLabel("served directly");
}

template <class M>
void single_call(benchmark::State& state, const M& mechanism, csq::Method method, Pass pass,
                 const CallExtras& extras = {}) {
  with_element(single_call_dtype, [&]<class Element>(std::type_identity<Element>) {
    single_call_of<Element>(state, mechanism, method, pass, extras);
  });
}

inline void add_sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"causal", "d", "n"})
      ->ArgsProduct({{0, 1}, {16, 32, 64, 128}, {1024, 4096}})
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime();
}

inline void add_causal_sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"causal", "d", "n"})
      ->ArgsProduct({{1}, {16, 32, 64, 128}, {1024, 4096}})
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime();
}

// Takes --dtype out of the words: the others are Google Benchmark's. False, and a line, for what is none.
inline bool take_dtype(int& count, char** words) {
  int kept = 1;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word != "--dtype" && !word.starts_with("--dtype=")) {
      words[kept++] = words[i];
      continue;
    }
    const std::string name = word != "--dtype" ? word.substr(8) : i + 1 < count ? words[++i] : "";
    try {
      single_call_dtype = dtype_of("--dtype", name);
    } catch (const std::invalid_argument& error) {
      std::fprintf(stderr, "%s: %s\n", words[0], error.what());
      return false;
    }
  }
  count = kept;
  return true;
}

inline int run_benchmarks(int count, char** words) {
  if (!take_dtype(count, words)) return 2;
  benchmark::Initialize(&count, words);
  if (benchmark::ReportUnrecognizedArguments(count, words)) return 2;
  fma_peak = measure_fma_peak(csq::simd_name(), 1, 150);
  benchmark::AddCustomContext("csq", csq::build_info());
  benchmark::AddCustomContext("dtype", name_of(single_call_dtype));
  benchmark::AddCustomContext("FMA peak, one thread, float",
                              std::to_string(static_cast<int>(fma_peak / 1e9 + 0.5)) + " GF/s");
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace bench

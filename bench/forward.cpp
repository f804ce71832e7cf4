// Google Benchmark of single forward calls, one thread, one head: GF/s and the fraction of the float FMA peak.
//
//   build/release/bench/forward --benchmark_filter='causal:0/d:64/n:4096' [--dtype float|bfloat16|float16]
//
// Flops are those of the formulas, whatever the kernels do: direct 4·n²·d, factored 2·(n+m)·D·(d+1) with
// D = (d+1)(d+2)/2; under a causal mask the cost model's multiply-adds times 2.
#include "support/single_call.hpp"

namespace {

template <class M>
void forward(benchmark::State& state, const M& mechanism, csq::Method method, const bench::CallExtras& extras = {}) {
  bench::single_call(state, mechanism, method, bench::Pass::forward, extras);
}
const bench::CallExtras gates{.gated = true}, window{.window = 512};

BENCHMARK_CAPTURE(forward, softmax_direct, csq::Softmax{}, csq::Method::direct)->Apply(bench::add_sizes);
BENCHMARK_CAPTURE(forward, csq_direct, csq::Csq{}, csq::Method::direct)->Apply(bench::add_sizes);
BENCHMARK_CAPTURE(forward, csq_factored, csq::Csq{}, csq::Method::factored)->Apply(bench::add_sizes);
BENCHMARK_CAPTURE(forward, softmax_gated, csq::Softmax{}, csq::Method::direct, gates)->Apply(bench::add_causal_sizes);
BENCHMARK_CAPTURE(forward, softmax_window_512, csq::Softmax{}, csq::Method::direct, window)
    ->Apply(bench::add_causal_sizes);
BENCHMARK_CAPTURE(forward, csq_factored_gated, csq::Csq{}, csq::Method::factored, gates)
    ->Apply(bench::add_causal_sizes);

}  // namespace

int main(int count, char** words) { return bench::run_benchmarks(count, words); }

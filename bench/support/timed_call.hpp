// One call that is timed again and again: a mechanism, a method, a pass and a shape, on normal random numbers, with
// everything allocated before. Calls of a group take turns, so that a slow moment of the machine meets them all.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fma_peak.hpp"
#include "inputs.hpp"
#include "passes.hpp"
#include "statistics.hpp"

namespace bench {

struct TimedCall {
  std::string name;
  double flops = 0;  // by the formulas of passes.hpp
  std::function<void()> run;
  std::vector<double> samples;  // seconds of one call

  double seconds() const { return quartiles(samples).median; }
  double rate() const { return flops / seconds(); }
};

// Time of x over time of y, and rate of x over rate of y: medians over the rounds in which both took their turns, so
// that a slow moment of the machine cancels.
inline double time_ratio(const TimedCall& x, const TimedCall& y) {
  std::vector<double> ratios;
  for (std::size_t round = 0; round < x.samples.size(); ++round) ratios.push_back(x.samples[round] / y.samples[round]);
  return quartiles(ratios).median;
}
inline double rate_ratio(const TimedCall& x, const TimedCall& y) { return x.flops / y.flops / time_ratio(x, y); }

// The FMA peak as a call that takes its turn with the others: 4 ms of it.
inline TimedCall peak_call(int threads) {
  const PeakRun run(csq::simd_name(), threads, 0.004);
  return {"FMA peak", run.flops(), [run] { run(); }, {}};
}

// `method` is direct or factored. Backward runs forward once, untimed.
template <class M>
TimedCall timed_call(const std::string& name, const M& mechanism, csq::Method method, Pass pass,
                     const csq::Shape& shape, int threads, const CallExtras& extras = {}) {
  struct State {
    Inputs inputs;
    Operands<float> operands;
    Passes<float> passes;
    std::vector<float> gates;
  };
  csq::Options options{.causal = shape.causal, .window = extras.window, .method = method, .threads = threads};
  const bool backward = pass == Pass::backward;
  auto state = std::make_shared<State>(State{Inputs(shape.key_dim, shape.value_dim), {}, {}, {}});
  if (extras.gated) {
    state->gates = mild_gates(shape.kv_heads, shape.keys);
    options.log_gate = csq::Heads<const float>(state->gates.data(), {1, shape.kv_heads, shape.keys, 1});
  }
  state->inputs.reserve(shape.heads, shape.kv_heads, std::max(shape.queries, shape.keys));
  if (backward) state->inputs.reserve_output_gradient(shape.heads, shape.queries);
  const Inputs& in = state->inputs;
  state->operands = {in.q(shape.heads, shape.queries), in.k(shape.kv_heads, shape.keys),
                     in.v(shape.kv_heads, shape.keys), in.dout(shape.heads, shape.queries)};
  state->passes.reserve(mechanism, shape, backward, options);
  state->passes.forward(mechanism, state->operands, options);
  return {name,
          flops(shape, method == csq::Method::factored, pass),
          [=] {
            if (backward)
              state->passes.backward(mechanism, state->operands, options);
            else
              state->passes.forward(mechanism, state->operands, options);
          },
          {}};
}

// `rounds` samples of each call in turn; calls shorter than `shortest` seconds are repeated within a sample.
inline void time_in_turn(const std::vector<TimedCall*>& calls, int rounds, double shortest = 0.002) {
  const auto seconds = [](const TimedCall& call, int count) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < count; ++i) call.run();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / count;
  };
  std::vector<int> counts;
  for (TimedCall* call : calls) {
    call->run();
    counts.push_back(static_cast<int>(std::clamp(shortest / seconds(*call, 1), 1.0, 10000.0)));
  }
  for (int round = 0; round < rounds; ++round)
    for (std::size_t i = 0; i < calls.size(); ++i) calls[i]->samples.push_back(seconds(*calls[i], counts[i]));
}

}  // namespace bench

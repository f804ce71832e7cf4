// Gates: sums of logs, from which every decay comes as a difference.
//
//   L_j = Σ_{t ≤ j} ℓ_t,   the decay of key j seen from position p: exp(L_p − L_j)
//
// Kept in units of ln 2 as high + low, two numbers of T: a difference of two of them is right to a rounding of itself,
// whatever the sums are (ten thousand resets make them 1e8). ℓ below −10⁴, −∞ too, counts as −10⁴, whose exponential
// is 0; a positive one as NaN, which no later sum forgets; gates from the key length on as 0. ℓ_0 decays nothing.
// Cost O(m) a head, memory two numbers a token.
#pragma once

#include "csq/detail/base/blocks.hpp"
#include "csq/detail/base/parallel.hpp"
#include "csq/detail/call/problem.hpp"
#include "csq/detail/simd/targets.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

inline constexpr double lowest_log_gate = -1e4;

// ℓ as it is read.
inline double readable_gate(double gate) {
  if (gate < lowest_log_gate) return lowest_log_gate;
  return gate > 0 ? std::numeric_limits<double>::quiet_NaN() : gate;
}
// What gates of that sum leave; 0 where it is too faint to count.
template <class T>
double decay_of_gates(double sum) {
  const double decay = std::exp(sum);
  return decay < static_cast<double>(simd::smallest_decay<T>) ? 0 : decay;
}

// The sums of one gate head.
template <class T>
struct GateSums {
  const T* high = nullptr;  // null: no gates
  const T* low = nullptr;

  GateSums from(Index token) const { return high == nullptr ? GateSums{} : GateSums{high + token, low + token}; }
  // What gates leave of a token until another that is not before it; 0 where it is too faint to count.
  double decay(Index from, Index to) const {
    const double sum = (static_cast<double>(high[to]) - static_cast<double>(high[from])) +
                       (static_cast<double>(low[to]) - static_cast<double>(low[from]));
    const double left = std::exp2(sum);
    return left < static_cast<double>(simd::smallest_decay<T>) ? 0 : left;
  }
  // The same between `at` and each of `count` tokens from `first` on, none of them on both sides of it: to [B], 0
  // behind.
  void decays(Index at, Index first, Index count, T* to) const {
    simd::kernels<T>().decays(count, high[at], low[at], high + first, low + first, to);
    std::fill(to + count, to + simd::block_tokens<T>, T(0));
  }
};

// Those of the key heads in flight.
template <class T>
struct Gates {
  Index per_key_head = 0;  // gate heads: 0 without gates, 1, or one for each query head
  Blocks<T, 2> high, low;  // [heads][per_key_head] [positions, and more than a vector behind them]

  static Gates lay_out(Arena& arena, const Problem<T>& problem, Index heads) {
    Gates gates;
    if (!problem.has_gates()) return gates;
    gates.per_key_head = problem.gates_of_key_head();
    const Index size = padded_size(problem.gate_positions());
    gates.high = {arena, {heads, gates.per_key_head}, size};
    gates.low = {arena, {heads, gates.per_key_head}, size};
    return gates;
  }

  GateSums<T> of(Index h, Index g) const {
    if (per_key_head == 0) return {};
    const Index head = per_key_head == 1 ? 0 : g;
    return {high(h, head), low(h, head)};
  }

  void bind(const Problem<T>& problem, Index first, Index heads) const {
    parallel_for(heads * per_key_head, problem.threads, [&](Index task, int) {
      const Index h = task / per_key_head, g = task % per_key_head;
      const Index batch = (first + h) / problem.key.heads(), key_head = (first + h) % problem.key.heads();
      // Beyond the keys of a piece stand those of others.
      const Index length = problem.ahead > 0 ? problem.gate_positions() : problem.visible_keys(batch);
      sum(problem.log_gate.head(batch, key_head * per_key_head + g), length, high(h, g), low(h, g));
    });
  }

 private:
  static Index padded_size(Index keys) { return simd::padded_columns<T>(keys) + simd::padded_columns<T>(1); }
  static void sum(const Head<const T>& gate, Index length, T* high, T* low) {
    constexpr double log2_e = 1.442695040888963407359924681001892137;
    // A sum of two doubles that are exact together (Knuth 1969): for T double one would not be enough.
    double total = 0, rest = 0;
    for (Index t = 0; t < padded_size(gate.tokens); ++t) {
      if (t > 0 && t < length) {
        const double value = readable_gate(static_cast<double>(gate(t, 0))) * log2_e;
        const double sum = total + value, back = sum - total;
        rest += (total - (sum - back)) + (value - back);
        total = sum;
      }
      high[t] = static_cast<T>(total);
      low[t] = static_cast<T>((total - static_cast<double>(high[t])) + rest);
    }
  }
};

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail

// One call as data, its single-machine result, and the same over the ranks of a communicator.
#pragma once

#include <csq/csq.hpp>
#include <csq/mpi.hpp>
#include <cstdio>
#include <limits>
#include <optional>
#include <string>
#include <vector>

using csq::Index;

// The same numbers on every rank.
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() {  // splitmix64
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform() { return (static_cast<double>(bits() >> 11) + 0.5) * 0x1p-53; }
  double normal() {
    return uniform() + uniform() + uniform() + uniform() - uniform() - uniform() - uniform() - uniform();
  }
  Index below(Index count) { return static_cast<Index>(bits() % static_cast<std::uint64_t>(count)); }

 private:
  std::uint64_t state_;
};

struct Case {
  std::string name{};
  Index n = 40, m = 40, d = 6, dv = 5, batch = 2, heads = 2, kv_heads = 1;
  bool causal = false;
  csq::Centering centering = csq::Centering::automatic;
  Index gate_heads = 0;
  double gate_size = 0.1;
  Index window = 0;
  bool sink = false;
  double soft_cap = 0;
  csq::Method method = csq::Method::automatic;
  Index chunk = 0;
  std::optional<double> scale{};
  bool history = false;
  bool gradients = true;
  Index nan_key = -1;  // of every head
  int threads = 0;
  std::uint64_t seed = 1;
};

// Where pieces start: [ranks + 1].
using Starts = std::vector<Index>;

template <class T>
csq::Heads<T> view_of(std::vector<T>& numbers, std::array<Index, 4> shape) {
  return {numbers.data(), shape};
}
template <class T>
csq::Heads<T> piece_of(csq::Heads<T> heads, const Starts& starts, int rank) {
  const auto r = static_cast<std::size_t>(rank);
  heads.data += starts[r] * heads.stride[2];
  heads.shape[2] = starts[r + 1] - starts[r];
  return heads;
}

template <class T>
struct Arrays {
  std::vector<T> q, k, v, gate, dout, out, normalizer, dq, dk, dv, dgate;
  std::vector<double> sink, dsink, query_mean, key_mean;
  std::vector<Index> query_count, key_count;
  double dshift = 0;

  explicit Arrays(const Case& c) {
    Numbers numbers(c.seed);
    const auto fill = [&](std::vector<T>& to, Index count, double offset) {
      to.resize(static_cast<std::size_t>(count));
      for (T& x : to) x = static_cast<T>(numbers.normal() + offset);
    };
    fill(q, c.batch * c.heads * c.n * c.d, 0.3);
    fill(k, c.batch * c.kv_heads * c.m * c.d, -0.2);
    for (Index h = 0; h < c.batch * c.kv_heads && c.nan_key >= 0; ++h)
      k[static_cast<std::size_t>((h * c.m + c.nan_key) * c.d)] = std::numeric_limits<T>::quiet_NaN();
    fill(v, c.batch * c.kv_heads * c.m * c.dv, 0.1);
    fill(dout, c.batch * c.heads * c.n * c.dv, 0);
    fill(gate, c.batch * c.gate_heads * c.m, 0);
    for (T& x : gate) x = -static_cast<T>(c.gate_size) * (x < 0 ? -x : x);
    if (gate.size() > 7) gate[gate.size() - 5] = -std::numeric_limits<T>::infinity();
    const T nan = std::numeric_limits<T>::quiet_NaN();
    out.assign(dout.size(), nan);
    normalizer.assign(static_cast<std::size_t>(c.batch * c.heads * c.n), nan);
    dq.assign(q.size(), nan);
    dk.assign(k.size(), nan);
    dv.assign(v.size(), nan);
    dgate.assign(gate.size(), nan);
    for (Index h = 0; h < c.heads && c.sink; ++h) sink.push_back(0.4 * static_cast<double>(h) - 0.2);
    dsink.assign(sink.size(), 0);
    if (!c.history) return;
    for (Index b = 0; b < c.batch; ++b) {
      query_count.push_back(c.m - c.n + 3 + b);
      key_count.push_back(3 + b);
    }
    for (Index i = 0; i < c.batch * c.heads * c.d; ++i) query_mean.push_back(numbers.normal());
    for (Index i = 0; i < c.batch * c.kv_heads * c.d; ++i) key_mean.push_back(numbers.normal());
  }
};

// Runs forward and backward of the rows between `starts` of a rank; with one rank, of all, by the ordinary call.
template <class T, class Mechanism>
void run(const Mechanism& mechanism, const Case& c, Arrays<T>& a, const Starts& queries, const Starts& keys, int rank,
         std::optional<MPI_Comm> communicator) {
  const auto Q = piece_of(view_of(a.q, {c.batch, c.heads, c.n, c.d}), queries, rank);
  const auto K = piece_of(view_of(a.k, {c.batch, c.kv_heads, c.m, c.d}), keys, rank);
  const auto V = piece_of(view_of(a.v, {c.batch, c.kv_heads, c.m, c.dv}), keys, rank);
  const auto O = piece_of(view_of(a.out, {c.batch, c.heads, c.n, c.dv}), queries, rank);
  const auto L = piece_of(view_of(a.normalizer, {c.batch, c.heads, c.n, 1}), queries, rank);
  const auto dO = piece_of(view_of(a.dout, {c.batch, c.heads, c.n, c.dv}), queries, rank);
  csq::Options options{.scale = c.scale,
                       .causal = c.causal,
                       .window = c.window,
                       .sink = a.sink,
                       .soft_cap = c.soft_cap,
                       .centering = c.centering,
                       .method = c.method,
                       .chunk = c.chunk};
  const csq::History query_history{a.query_count, a.query_mean}, key_history{a.key_count, a.key_mean};
  if (c.history) {
    options.query_history = &query_history;
    options.key_history = &key_history;
  }
  options.threads = c.threads;
  csq::Gradients<T> gradients;
  gradients.query = piece_of(view_of(a.dq, {c.batch, c.heads, c.n, c.d}), queries, rank);
  gradients.key = piece_of(view_of(a.dk, {c.batch, c.kv_heads, c.m, c.d}), keys, rank);
  gradients.value = piece_of(view_of(a.dv, {c.batch, c.kv_heads, c.m, c.dv}), keys, rank);
  if constexpr (csq::ShiftableMechanism<Mechanism>) gradients.shift = &a.dshift;
  if (c.gate_heads > 0) {
    options.log_gate = piece_of(view_of(a.gate, {c.batch, c.gate_heads, c.m, 1}), keys, rank);
    gradients.log_gate = piece_of(view_of(a.dgate, {c.batch, c.gate_heads, c.m, 1}), keys, rank);
  }
  gradients.sink = a.dsink;
  if (communicator) {
    csq::mpi::attention(*communicator, mechanism, Q, K, V, O, L, options);
    if (c.gradients) csq::mpi::attention_backward(*communicator, mechanism, Q, K, V, O, L, dO, gradients, options);
  } else {
    csq::attention(mechanism, Q, K, V, O, L, options);
    if (c.gradients) csq::attention_backward(mechanism, Q, K, V, O, L, dO, gradients, options);
  }
}

// Streams: causal attention a few tokens at a time, from a state that can be kept, forked and taken back.
//
//   csq::Stream<float> stream(csq::Csq{}, {.batch = 1, .heads = 32, .kv_heads = 8, .key_dim = 64, .value_dim = 64});
//   stream.prefill(Q, K, V, O);                 // any number of tokens, in any number of pieces
//   stream.step(q1, k1, v1, o1);                // the next one
//   stream.truncate(stream.tokens() - 3);       // three of them back: speculative decoding
//   auto other = stream.fork();
//
// Whatever the pieces, rows are those of one causal call over all tokens, up to rounding, and the state is the same to
// the bit: so is what comes after it. Weights of degree 2 and Linear keep a summary, D·(dᵥ+1) numbers for each key head
// (twice, where it may be taken back), and the last tokens: a constant number of bytes. The others, and streams with a
// window, keep keys and values: of the window, or all. How: detail/stream/state.hpp.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "csq/detail/block/stored.hpp"
#include "csq/detail/call/scalars.hpp"
#include "csq/detail/stream/core.hpp"

namespace CSQ_TYPES {

/// kv_heads 0: as many as heads.
struct StreamShape {
  Index batch = 1, heads = 1, kv_heads = 0, key_dim = 1, value_dim = 1;
};

/// As attention's options of the same names; the mask is causal.
struct StreamOptions {
  std::optional<double> scale{};
  Index window = 0;
  std::span<const double> sink{};  ///< copied
  double soft_cap = 0;
  bool gated = false;  ///< every call then brings log gates of the key heads
  Centering centering = Centering::automatic;
  Index rollback = 16;  ///< R: tokens that can be taken back, at most 72
  int threads = 0;
  Executor executor{};  ///< copied; its pool must outlive the stream and its forks
};

}  // namespace CSQ_TYPES

namespace CSQ_CODE {

/// The state of `batch` sequences, and what goes on from it. Copies are forks; the first call of one allocates its
/// scratch. Errors are std::invalid_argument or std::bad_alloc, and then nothing has changed; what an executor
/// throws leaves a state that is good for nothing but reset, load and assignment. One call at a time; threads share the
/// entries of the batch, or the key heads of one.
template <class T>
class Stream {
 public:
  /// Polynomial weights of degree 2 without a window keep a summary, others keys and values. std::invalid_argument for
  /// what a causal call of attention refuses, and for the centring `sequence`, which no stream can know.
  template <class Mechanism>
  Stream(const Mechanism& mechanism, const StreamShape& shape, const StreamOptions& options = {})
      : core_(detail::weight_of(mechanism),
              {shape.batch, shape.heads, shape.kv_heads, shape.key_dim, shape.value_dim, options.scale, options.window,
               options.sink, options.soft_cap, options.gated,
               options.centering == Centering::automatic ? default_centering<Mechanism>(true) : options.centering,
               options.rollback, detail::Threads{options.threads, options.executor}},
              detail::simd::storage_of<T>()) {}

  /// Appends tokens: q [batch, heads, n, d], k [batch, kv_heads, n, d], v [batch, kv_heads, n, dᵥ] → out
  /// [batch, heads, n, dᵥ], overwritten. log_gate [batch, kv_heads, n, 1] where the stream is gated. `lengths` [batch]:
  /// how many of the n tokens each entry gets, all unless given; rows behind them are 0.
  template <class Query, class Key, class Value, class Output>
  void prefill(Heads<Query> q, Heads<Key> k, Heads<Value> v, Heads<Output> out,
               Heads<const detail::Computed<T>> log_gate = {}, std::span<const Index> lengths = {}) {
    if constexpr (detail::can_go_together(detail::Read<T, Query, Key, Value>{}, detail::Written<Output>{}))
      core_.append(
          {detail::stored(q), detail::stored(k), detail::stored(v), detail::stored(out), detail::normalized(log_gate)},
          lengths);
  }
  /// The same of the next token, or a few.
  template <class Query, class Key, class Value, class Output>
  void step(Heads<Query> q, Heads<Key> k, Heads<Value> v, Heads<Output> out,
            Heads<const detail::Computed<T>> log_gate = {}, std::span<const Index> lengths = {}) {
    prefill(q, k, v, out, log_gate, lengths);
  }

  /// Tokens that an entry has seen.
  Index tokens(Index entry = 0) const { return core_.position(entry).tokens; }
  /// Tokens that can be taken back from an entry.
  Index can_take_back(Index entry = 0) const { return core_.position(entry).tokens - core_.position(entry).floor; }
  /// Back to the state after so many tokens, of every entry or of one: what came behind them has never been. At most
  /// `rollback` below the most that it has seen.
  void truncate(Index tokens) {
    for (Index e = 0; e < core_.state().sizes().batch; ++e) core_.check_truncation(e, tokens);
    for (Index e = 0; e < core_.state().sizes().batch; ++e) core_.truncate(e, tokens);
  }
  void truncate_entry(Index entry, Index tokens) {
    core_.check_truncation(entry, tokens);
    core_.truncate(entry, tokens);
  }
  Stream fork() const { return *this; }
  /// As new.
  void reset() {
    for (Index e = 0; e < core_.state().sizes().batch; ++e) core_.reset(e);
  }
  void reset_entry(Index entry) {
    static_cast<void>(core_.position(entry));
    core_.reset(entry);
  }

  /// Bytes of the state in memory.
  std::size_t bytes() const { return core_.state().bytes(); }
  /// The state as bytes, the same for every way to it (as long as nothing is taken back), in a format that every
  /// machine reads; `load` takes them into a stream of the same shape, mechanism and options, or throws and leaves it
  /// as it was.
  std::vector<std::byte> save() const { return core_.save(); }
  void load(std::span<const std::byte> bytes) { core_.load(bytes); }

 private:
  detail::StreamCore<detail::Computed<T>> core_;
};

}  // namespace CSQ_CODE

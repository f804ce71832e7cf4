// The K⊗V summary as a value: all that CSQ and its relatives know of any number of keys, in D·(dᵥ+1) numbers.
//
//   csq::Summary<float> document(csq::Csq{}, {.kv_heads = 8, .key_dim = 64, .value_dim = 64},
//                                {.centering = csq::Centering::none});
//   document.absorb(K, V);                       // any number of keys, in any number of pieces
//   document.read(Q, O);                         // rows of queries that see all of them
//   document.merge(next);                        // the keys of another one behind these: pieces of other machines
//   document.attend(Q, K, V, O);                 // a causal piece: its rows see the summary and each other; absorbed
//
//   S = Σ_j e^(Σ_{t > j} ℓ_t) φ_k(k_j) ⊗ [v_j, 1]        [N_i, δ_i] = φ_q(αq_i)ᵀ S        (detail/factored/summary.hpp)
//
// What it costs to hold, send and read does not depend on the number of keys. A Stream (stream.hpp) holds raw tokens
// beside it, and can take some back; this cannot. Keys are gone: rows whose features cancel are NaN, where a call of
// attention would serve them directly.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "csq/detail/block/stored.hpp"
#include "csq/detail/call/scalars.hpp"
#include "csq/detail/stream/summary_core.hpp"

namespace CSQ_TYPES {

struct SummaryShape {
  Index batch = 1, kv_heads = 1, key_dim = 1, value_dim = 1;
};

/// As attention's options of the same names.
struct SummaryOptions {
  std::optional<double> scale{};
  bool gated = false;  ///< every absorb and attend then brings log gates of the key heads
  Centering centering = Centering::automatic;
  /// With a prefix centring: the keys that came before the first of this summary, on another machine, say; what another
  /// summary's `tokens_before_end` and `key_mean` are. Copied.
  Index start_count = 0;
  std::span<const double> start_mean{};  ///< [batch, kv_heads, key_dim]
  int threads = 0;
  Executor executor{};  ///< copied; its pool must outlive the summary and its copies
};

}  // namespace CSQ_TYPES

namespace CSQ_CODE {

/// All entries of the batch hold the same number of keys. Summaries of `kv_heads` key heads of `batch` sequences. A
/// value: copies are independent. Errors are std::invalid_argument or std::bad_alloc, and then nothing has changed;
/// what an executor throws leaves a state that is good for nothing but reset, load and assignment. Results do not
/// depend on `threads` or the executor.
template <class T>
class Summary {
 public:
  /// std::invalid_argument for a mechanism without a factored form, and for the centring `sequence`.
  template <class Mechanism>
  Summary(const Mechanism& mechanism, const SummaryShape& shape, const SummaryOptions& options = {})
      : core_(detail::weight_of(mechanism),
              {shape.batch, shape.kv_heads, shape.key_dim, shape.value_dim, options.scale,
               options.centering == Centering::automatic ? default_centering<Mechanism>(true) : options.centering,
               options.gated, options.start_count, options.start_mean,
               detail::Threads{options.threads, options.executor}}) {}

  /// Takes up k [batch, kv_heads, m, d] and v [batch, kv_heads, m, dᵥ]; O(m·D·dᵥ) a head. log_gate [batch, kv_heads, m,
  /// 1] where the summary is gated: what is held decays by all of them, the first included.
  template <class Key, class Value>
  void absorb(Heads<Key> k, Heads<Value> v, Heads<const detail::Computed<T>> log_gate = {}) {
    if constexpr (detail::can_go_together(detail::Read<T, Key, Value>{}, detail::Written<>{}))
      core_.absorb(detail::stored(k), detail::stored(v), detail::normalized(log_gate));
  }
  /// q [batch, heads, n, d] → out [batch, heads, n, dᵥ], overwritten, and its normaliser [batch, heads, n, 1]:
  /// attention of queries that see all keys held and no other, decayed as at the last of them. O(n·D·dᵥ) a head,
  /// whatever the number of keys. With a prefix centring `query_history` is that of the first query. Merge it with what
  /// other keys give: csq::merge_partials.
  template <class Query, class Output>
  void read(Heads<Query> q, Heads<Output> out, const History* query_history = nullptr) const {
    if constexpr (detail::can_go_together(detail::Read<T, Query>{}, detail::Written<Output>{}))
      core_.read(detail::stored(q), detail::stored(out), nullptr, query_history);
  }
  template <class Query, class Output, class Normalizer>
  void read(Heads<Query> q, Heads<Output> out, Heads<Normalizer> normalizer,
            const History* query_history = nullptr) const {
    if constexpr (detail::can_go_together(detail::Read<T, Query>{}, detail::Written<Output>{}, detail::ReadComputed<>{},
                                          detail::WrittenComputed<Normalizer>{}))
      core_.read(detail::stored(q), detail::stored(out), &normalizer, query_history);
  }
  /// A piece of a causal sequence: row i sees what is held and the piece's keys up to i; then the piece is absorbed.
  /// The rows are those of one causal call over all tokens, up to rounding. n queries and n keys. With a prefix
  /// centring, and tokens before: query_history, the mean of the queries that went with them. Each call copies the
  /// summary twice: a few tokens at a time belong into a Stream.
  template <class Query, class Key, class Value, class Output>
  void attend(Heads<Query> q, Heads<Key> k, Heads<Value> v, Heads<Output> out,
              Heads<const detail::Computed<T>> log_gate = {}, const History* query_history = nullptr) {
    if constexpr (detail::can_go_together(detail::Read<T, Query, Key, Value>{}, detail::Written<Output>{}))
      core_.attend(detail::stored(q), detail::stored(k), detail::stored(v), detail::stored(out),
                   detail::normalized(log_gate), query_history);
  }

  /// The keys of `right` follow: S ← e^(Σ of right's gates)·S + S of right. Both of the same mechanism, sizes and
  /// options; with a prefix centring right must start where this ends (std::invalid_argument).
  void merge(const Summary& right) { core_.merge(right.core_); }
  /// Without keys; the start stays.
  void reset() { core_.reset(); }

  Index tokens() const { return core_.tokens(); }
  /// Of all keys up to the last, those before the first included: how many, and with a prefix centring their mean
  /// [batch, kv_heads, key_dim]. What the summary of the piece behind starts with.
  Index tokens_before_end() const { return core_.end_count(); }
  std::vector<double> key_mean() const { return core_.end_mean(); }
  std::size_t bytes() const { return core_.bytes(); }

  /// As bytes, in a format that every machine reads. `load` takes those of a summary of the same sizes, mechanism and
  /// options, or throws and changes nothing.
  std::vector<std::byte> save() const { return core_.save(); }
  void load(std::span<const std::byte> bytes) { core_.load(bytes); }

 private:
  detail::SummaryCore<detail::Computed<T>> core_;
};

}  // namespace CSQ_CODE

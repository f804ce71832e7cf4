// What a stream keeps of the tokens that it has seen, and the memory that holds it.
//
//   a summary   S and z of all keys before position b(t), W tokens absorbed at a time, only at multiples of W
//   a tail      centred keys, values and gates of the tokens from b(f) on, not yet absorbed or needed to go back
//   sums        of k for each key head and of q for each query head, at the positions f … t, for the prefix means
//
// t tokens have been seen, b(t) = W·⌊t/W⌋, and the stream can go back to f = t − R. Where a multiple of W lies between
// f and t, the summary at b(f) is kept beside that at b(t). So everything is a function of the tokens, not of the calls
// that brought them. A mechanism without a summary, or with a window, keeps its tail alone: from 0 on, or as far as the
// window reaches from f.
//
// Values, and keys that are not centred, are kept in the type in which they came, so that 16 bits lose nothing; all
// else is of T.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "csq/detail/base/blocks.hpp"
#include "csq/detail/factored/summary.hpp"
#include "csq/workspace.hpp"

namespace CSQ_CODE::detail {

// Sizes that never change.
struct StreamSizes {
  Index batch = 1, heads = 1, kv_heads = 1, key_dim = 1, value_dim = 1;
  Index rollback = 0;  // R
  Index absorbed = 0;  // W; 0: no summary
  Index window = 0;
  bool gated = false, centred = false;
  simd::FeatureMap map{};

  Index group() const { return heads / kv_heads; }
  bool has_summary() const { return absorbed > 0; }
  Index boundary(Index position) const { return has_summary() ? position / absorbed * absorbed : 0; }
  // The first token that the query at a position sees in the tail.
  Index first_seen(Index position) const {
    if (has_summary()) return boundary(position);
    return window > 0 ? larger<Index>(0, position + 1 - window) : 0;
  }
  // The first token that the tail must hold when the stream can go back to `floor`.
  Index first_needed(Index floor) const { return first_seen(floor); }
};

// One entry of the batch.
struct StreamPosition {
  Index tokens = 0;  // t
  Index floor = 0;   // f
  Index base = 0;    // the position of the tail's first row
};

template <class T>
class StreamState {
 public:
  StreamState(const StreamSizes& sizes, const Storage<T>* storage)
      : StreamState(sizes, storage, sizes.has_summary() ? 2 * sizes.absorbed + sizes.rollback : 64) {
    for (Index e = 0; e < sizes.batch; ++e) reset(e);
  }
  StreamState(const StreamState& other) : StreamState(other.sizes_, other.storage_, other.capacity_) {
    at_ = other.at_;
    if (memory_.bytes() > 0) std::memcpy(memory_.reserve(0), other.begin(), memory_.bytes());
  }
  StreamState(StreamState&&) noexcept = default;
  StreamState& operator=(StreamState&&) noexcept = default;
  StreamState& operator=(const StreamState& other) { return *this = StreamState(other); }

  const StreamSizes& sizes() const { return sizes_; }
  const Storage<T>* storage() const { return storage_; }
  const Storage<T>* key_storage() const { return sizes_.centred ? nullptr : storage_; }
  const Storage<T>* value_storage() const { return storage_; }
  std::size_t bytes() const { return memory_.bytes(); }
  Index capacity() const { return capacity_; }  // tokens of a tail
  StreamPosition& at(Index e) { return at_[static_cast<std::size_t>(e)]; }
  const StreamPosition& at(Index e) const { return at_[static_cast<std::size_t>(e)]; }

  void reset(Index e) {
    at(e) = {};
    for (Index h = 0; h < sizes_.kv_heads; ++h) {
      for (Index which = 0; which < kept(); ++which) std::fill_n(summaries_(e, h, which), summaries_.size(), T(0));
      std::fill_n(key_sums_(e, h), key_sums_.size(), 0.0);
    }
    for (Index h = 0; h < sizes_.heads; ++h) std::fill_n(query_sums_(e, h), query_sums_.size(), 0.0);
  }

  // Rows of the tail by position.
  T* key(Index e, Index h, Index position) const {
    return moved(reinterpret_cast<T*>(keys_(e, h)), (position - at(e).base) * sizes_.key_dim, key_storage());
  }
  T* value(Index e, Index h, Index position) const {
    return moved(reinterpret_cast<T*>(values_(e, h)), (position - at(e).base) * sizes_.value_dim, value_storage());
  }
  T* gate(Index e, Index h, Index position) const { return gates_(e, h) + (position - at(e).base); }
  // Elements from head to head.
  Index key_stride() const { return capacity_ * sizes_.key_dim; }
  Index value_stride() const { return capacity_ * sizes_.value_dim; }
  Index gate_stride() const { return gates_.size(); }
  // Sums of the rows before a position between floor and tokens.
  double* key_sum(Index e, Index h, Index position) const { return sum_of(key_sums_(e, h), position); }
  double* query_sum(Index e, Index h, Index position) const { return sum_of(query_sums_(e, h), position); }

  // Which: 0 the summary at b(t), 1 that at b(f).
  SummarySlice<T> summary(Index e, Index h, Index which = 0) const {
    SummarySlice<T> slice;
    slice.map = sizes_.map;
    slice.value_stride = simd::padded_columns<T>(sizes_.value_dim);
    slice.last = sizes_.map.size();
    slice.summary = summaries_(e, h, which);
    slice.normalizer = slice.summary + slice.summary_size();
    return slice;
  }
  Index summary_numbers() const { return summaries_.size(); }

  // Tokens that may be added to an entry at once: up to the next multiple of W, or what a ring has room for.
  Index room(Index e) const { return room_at(at(e)); }
  Index room_at(const StreamPosition& p) const {
    if (sizes_.has_summary()) return sizes_.boundary(p.tokens) + sizes_.absorbed - p.tokens;
    return capacity_ - (p.tokens - sizes_.first_needed(p.floor));
  }
  // A cache that grows, a ring up to what it ever needs: room for so many more tokens of every entry. True when it has
  // grown.
  bool grow(Index more) {
    if (sizes_.has_summary()) return false;
    Index most = 0;
    for (const StreamPosition& p : at_) most = larger(most, p.tokens - sizes_.first_needed(p.floor));
    return grow_to(checked_sum(most, more, "tokens"));
  }
  bool grow_to(Index tokens) {
    if (sizes_.window > 0) tokens = smaller(tokens, ring());
    Index wanted = capacity_;
    while (wanted < tokens) wanted = checked_product(wanted, 2, "tokens");
    if (wanted == capacity_) return false;
    StreamState larger(sizes_, storage_, wanted);
    larger.take(*this);
    *this = std::move(larger);
    return true;
  }
  // Forgets rows of the tail that nobody can ask for, where `more` would not fit behind them.
  void make_room(Index e, Index more) {
    StreamPosition& p = at(e);
    const Index needed = sizes_.first_needed(p.floor), held = p.tokens - p.base;
    if (needed == p.base || (!sizes_.has_summary() && held + more <= capacity_)) return;
    const Index drop = needed - p.base, left = held - drop;
    for (Index h = 0; h < sizes_.kv_heads; ++h) {
      std::copy_n(keys_(e, h) + drop * key_row_bytes(), left * key_row_bytes(), keys_(e, h));
      std::copy_n(values_(e, h) + drop * value_row_bytes(), left * value_row_bytes(), values_(e, h));
      if (sizes_.gated) std::copy_n(gates_(e, h) + drop, left, gates_(e, h));
    }
    p.base = needed;
  }
  // Back to an earlier position, not before the floor.
  void go_back(Index e, Index tokens) {
    StreamPosition& p = at(e);
    if (sizes_.boundary(tokens) < sizes_.boundary(p.tokens))
      for (Index h = 0; h < sizes_.kv_heads; ++h)
        std::copy_n(summaries_(e, h, 1), summaries_.size(), summaries_(e, h, 0));
    p.tokens = tokens;
  }

  // Bytes of the numbers, and the sums, that for_each_part visits of an entry that stood there.
  Index number_bytes_at(const StreamPosition& p) const {
    constexpr auto bytes = static_cast<Index>(sizeof(T));
    const Index tail = p.tokens - sizes_.first_needed(p.floor);
    const Index row = key_row_bytes() + value_row_bytes() + (sizes_.gated ? bytes : 0);
    const Index summaries = checked_product(summaries_.size() * bytes, holds_two(p) ? 2 : 1, "load");
    return checked_product(checked_sum(checked_product(tail, row, "load"), summaries, "load"), sizes_.kv_heads, "load");
  }
  Index sums_at(const StreamPosition& p) const {
    return sizes_.centred ? (p.tokens - p.floor + 1) * sizes_.key_dim * (sizes_.kv_heads + sizes_.heads) : 0;
  }

  // The state of an entry as bytes that depend on nothing but its tokens: visit(pointer, count) for all its numbers.
  template <class Visit>
  void for_each_part(Index e, const Visit& visit) const {
    const StreamPosition& p = at(e);
    const bool two = holds_two(p);
    const Index first = sizes_.first_needed(p.floor);
    for (Index h = 0; h < sizes_.kv_heads; ++h) {
      if (sizes_.has_summary()) {
        visit(summaries_(e, h, 0), summaries_.size());
        if (two) visit(summaries_(e, h, 1), summaries_.size());
      }
      visit_rows(key(e, h, first), key_storage(), (p.tokens - first) * sizes_.key_dim, visit);
      visit_rows(value(e, h, first), value_storage(), (p.tokens - first) * sizes_.value_dim, visit);
      if (sizes_.gated) visit(gate(e, h, first), p.tokens - first);
      for (Index position = p.floor; sizes_.centred && position <= p.tokens; ++position)
        visit(key_sum(e, h, position), sizes_.key_dim);
    }
    for (Index h = 0; sizes_.centred && h < sizes_.heads; ++h)
      for (Index position = p.floor; position <= p.tokens; ++position) visit(query_sum(e, h, position), sizes_.key_dim);
  }

 private:
  StreamState(const StreamSizes& sizes, const Storage<T>* storage, Index capacity)
      : sizes_(sizes), storage_(storage), capacity_(capacity) {
    allocate();
  }
  static Index element_bytes(const Storage<T>* storage) {
    return storage == nullptr ? static_cast<Index>(sizeof(T)) : storage->bytes;
  }
  Index key_row_bytes() const { return checked_product(sizes_.key_dim, element_bytes(key_storage()), "key_dim"); }
  Index value_row_bytes() const {
    return checked_product(sizes_.value_dim, element_bytes(value_storage()), "value_dim");
  }
  template <class Visit>
  static void visit_rows(T* rows, const Storage<T>* storage, Index count, const Visit& visit) {
    if (storage == nullptr)
      visit(rows, count);
    else
      visit(reinterpret_cast<std::uint16_t*>(rows), count);
  }

  bool holds_two(const StreamPosition& p) const { return sizes_.boundary(p.floor) < sizes_.boundary(p.tokens); }
  Index kept() const { return sizes_.rollback > 0 ? 2 : 1; }  // summaries of a key head
  // Rows that a window ever needs, and as many again, so that they are moved once for each of them.
  Index ring() const {
    return checked_sum(checked_product(checked_sum(sizes_.window, sizes_.rollback, "window"), 2, "window"), 512,
                       "window");
  }

  void allocate() {
    at_.resize(static_cast<std::size_t>(sizes_.batch));
    Arena counter;
    lay_out(counter);
    Arena arena(memory_.reserve(counter.bytes()));
    lay_out(arena);
  }
  void lay_out(Arena& arena) {
    const Index b = sizes_.batch, h = sizes_.kv_heads, features = sizes_.map.size();
    const Index stride = simd::padded_columns<T>(sizes_.value_dim);
    const Index numbers = sizes_.has_summary()
                              ? checked_sum(checked_product(SummarySlice<T>::padded_rows(features), stride, "key_dim"),
                                            features, "key_dim")
                              : 0;
    const Index sums = sizes_.centred ? checked_product(sizes_.rollback + 1, sizes_.key_dim, "rollback") : 0;
    summaries_ = {arena, {b, h, kept()}, numbers};
    keys_ = {arena, {b, h}, checked_product(capacity_, key_row_bytes(), "key_dim")};
    values_ = {arena, {b, h}, checked_product(capacity_, value_row_bytes(), "value_dim")};
    gates_ = {arena, {b, h}, sizes_.gated ? capacity_ : 0};
    key_sums_ = {arena, {b, h}, sums};
    query_sums_ = {arena, {b, sizes_.heads}, sums};
  }
  // All that another state of the same sizes and less room holds.
  void take(const StreamState& other) {
    at_ = other.at_;
    for (Index e = 0; e < sizes_.batch; ++e) {
      for (Index h = 0; h < sizes_.kv_heads; ++h) {
        std::copy_n(other.keys_(e, h), other.keys_.size(), keys_(e, h));
        std::copy_n(other.values_(e, h), other.values_.size(), values_(e, h));
        std::copy_n(other.gates_(e, h), other.gates_.size(), gates_(e, h));
        std::copy_n(other.key_sums_(e, h), key_sums_.size(), key_sums_(e, h));
      }
      for (Index h = 0; h < sizes_.heads; ++h)
        std::copy_n(other.query_sums_(e, h), query_sums_.size(), query_sums_(e, h));
    }
  }
  double* sum_of(double* ring, Index position) const {
    return ring + position % (sizes_.rollback + 1) * sizes_.key_dim;
  }
  const std::byte* begin() const { return const_cast<Workspace&>(memory_).reserve(0); }

  StreamSizes sizes_;
  const Storage<T>* storage_ = nullptr;  // of the tokens
  Index capacity_ = 0;                   // tokens of a tail
  std::vector<StreamPosition> at_;
  Workspace memory_;
  Blocks<T, 3> summaries_;                   // [batch][kv heads][now, before]
  Blocks<std::byte, 2> keys_, values_;       // [batch][kv heads] [capacity][dim]
  Blocks<T, 2> gates_;                       // [batch][kv heads] [capacity]
  Blocks<double, 2> key_sums_, query_sums_;  // [batch][heads] [R + 1][d], a ring by position
};

}  // namespace CSQ_CODE::detail

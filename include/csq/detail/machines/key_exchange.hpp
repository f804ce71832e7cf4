// Keys and values on their way between ranks: in round t a rank has the keys of the rank t before it, and sends its own
// to the rank t behind it (around the end), while it computes with those of round t − 1.
//
// From their owner and not handed on from neighbour to neighbour: as many bytes, and under a window or a mask ranks get
// what they see and nothing is passed through them. A rank holds two pieces that are not its own. Every rank waits for
// round t before it begins round t + 1, so that no wait is for one that waits.
#pragma once

#include "csq/detail/machines/piece_arrays.hpp"

namespace CSQ_CODE::detail {

// `rows` of each head of two arrays, one array behind the other.
template <class T>
struct RowPair {
  static Index numbers(const Heads<T>& key, const Heads<T>& value, Index rows) {
    return key.batch() * key.heads() * rows * (key.dim() + value.dim());
  }
  // Views of such memory, for arrays of these heads.
  static PieceKeys<T> views(T* memory, const Heads<T>& key, const Heads<T>& value, Index rows) {
    PieceKeys<T> result;
    result.key = Heads<T>(memory, {key.batch(), key.heads(), rows, key.dim()});
    T* const behind = memory == nullptr ? nullptr : memory + element_count(result.key);
    result.value = Heads<T>(behind, {key.batch(), key.heads(), rows, value.dim()});
    return result;
  }
};

template <class T>
Heads<T> rows_of_heads(Heads<T> heads, Index first, Index count) {
  if (heads.data != nullptr) heads.data += first * heads.stride[2];  // null while scratch is laid out
  heads.shape[2] = count;
  return heads;
}

template <class T>
class KeyExchange {
 public:
  static KeyExchange lay_out(Arena& arena, const Communicator& ranks, const PieceCall<T>& call,
                             const PieceArrays<T>& arrays) {
    KeyExchange exchange;
    exchange.ranks_ = &ranks;
    exchange.call_ = &call;
    exchange.key_ = arrays.key;
    exchange.value_ = arrays.value;
    const Problem<T>& p = call.problem();
    const int size = ranks.size();
    Index sent = 0, received = 0;
    for (int round = 1; round < size; ++round) {
      sent = larger(sent, exchange.sent_in(round).count());
      received = larger(received, exchange.received_in(round).count());
    }
    exchange.sent_ = arena.template take<T>(RowPair<T>::numbers(arrays.key, arrays.value, sent));
    for (T*& memory : exchange.received_)
      memory = arena.template take<T>(RowPair<T>::numbers(arrays.key, arrays.value, received));
    if (!p.has_gates()) return exchange;
    const Index gate_heads = p.query.batch() * p.log_gate.heads();
    exchange.gathered_ = arena.template take<T>(gate_heads * call.pieces.keys());
    exchange.gates_ = arena.template take<T>(gate_heads * call.pieces.keys());
    exchange.own_gates_ = arena.template take<T>(gate_heads * p.keys());
    exchange.counts_ = arena.template take<int>(2 * size);
    return exchange;
  }

  Index rounds() const { return ranks_->size(); }
  int source(Index round) const { return around(-round); }
  int target(Index round) const { return around(round); }
  // Rows of this rank that the target sees, and of the source that this rank sees.
  KeyRange sent_in(Index round) const { return call_->pieces.seen(target(round), ranks_->rank()); }
  KeyRange received_in(Index round) const { return call_->pieces.seen(ranks_->rank(), source(round)); }

  // The gates of all ranks on each: a number a token, where a key has d + dᵥ.
  void gather_gates() const {
    const Problem<T>& p = call_->problem();
    if (!p.has_gates()) return;
    const Pieces& pieces = call_->pieces;
    const Index heads = p.query.batch() * p.log_gate.heads();
    copy_in(StoredHeads<const T>(p.log_gate), Heads<T>(own_gates_, p.log_gate.shape));
    int* const starts = counts_ + ranks_->size();
    for (int rank = 0; rank < ranks_->size(); ++rank) {
      counts_[rank] = static_cast<int>(heads * pieces.keys_of(rank));
      starts[rank] = static_cast<int>(heads * pieces.first_key(rank));
    }
    ranks_->gather(own_gates_, counts_, starts, gathered_);
    for (int rank = 0; rank < ranks_->size(); ++rank)
      for (Index h = 0; h < heads; ++h)
        std::copy_n(gathered_ + starts[rank] + h * pieces.keys_of(rank), pieces.keys_of(rank),
                    gates_ + h * pieces.keys() + pieces.first_key(rank));
  }

  // Begins round 1, 2, …: before the one before it is computed with.
  void begin(Index round, Communicator::Exchange& exchange) const {
    if (round >= rounds()) return;
    const KeyRange received = received_in(round), sent = sent_in(round);
    if (received.count() > 0)
      exchange.receive(received_[round % 2], RowPair<T>::numbers(key_, value_, received.count()), source(round));
    if (sent.count() == 0) return;
    const PieceKeys<T> to = RowPair<T>::views(sent_, key_, value_, sent.count());
    copy_in(StoredHeads<const T>(rows_of_heads(key_, sent.first, sent.count())), to.key);
    copy_in(StoredHeads<const T>(rows_of_heads(value_, sent.first, sent.count())), to.value);
    exchange.send(sent_, RowPair<T>::numbers(key_, value_, sent.count()), target(round));
  }
  // The keys of a round that has come; of round 0 its own.
  PieceKeys<T> keys(Index round) const {
    const KeyRange range = received_in(round);
    PieceKeys<T> keys;
    if (round == 0) {
      keys.key = rows_of_heads(key_, range.first, range.count());
      keys.value = rows_of_heads(value_, range.first, range.count());
    } else {
      keys = RowPair<T>::views(received_[round % 2], key_, value_, range.count());
    }
    keys.first = call_->pieces.first_key(source(round)) + range.first;
    const Problem<T>& p = call_->problem();
    if (!p.has_gates()) return keys;
    const Index all = call_->pieces.keys();
    const Visibility visibility = call_->pieces.between(ranks_->rank(), keys.first, range.count());
    keys.log_gate =
        Heads<const T>(gates_ == nullptr ? nullptr : gates_ + keys.first,
                       {p.query.batch(), p.log_gate.heads(), range.count() + larger<Index>(visibility.ahead, 0), 1},
                       {p.log_gate.heads() * all, all, 1, 1});
    return keys;
  }

 private:
  int around(Index round) const {
    const Index size = ranks_->size();
    return static_cast<int>(((ranks_->rank() + round) % size + size) % size);
  }

  const Communicator* ranks_ = nullptr;
  const PieceCall<T>* call_ = nullptr;
  Heads<T> key_, value_;
  T* sent_ = nullptr;
  T* received_[2] = {};
  T *gathered_ = nullptr, *gates_ = nullptr, *own_gates_ = nullptr;  // the second [batch][gate heads][all keys]
  int* counts_ = nullptr;                                            // and starts: [2][ranks]
};

}  // namespace CSQ_CODE::detail

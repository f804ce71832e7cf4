// Gradients of direct attention over ranks: keys and values travel as they do forward, and what a rank's queries make
// of a piece's ∂k, ∂v and terms of gates goes back to its owner, while the next piece is computed with.
//
// Every pair of pieces is an ordinary backward call with the output, the normaliser and their gradient of the whole:
// weights are recomputed as w/δ, so that its gradients are the pair's share. Each rank sends what it does forward, and
// as much again back.
#pragma once

#include "csq/detail/machines/key_exchange.hpp"

namespace CSQ_CODE::detail {

template <class T>
class DirectBackwardPieces {
 public:
  static DirectBackwardPieces lay_out(Arena& arena, const Communicator& ranks, const PieceCall<T>& call,
                                      const PieceArrays<T>& arrays) {
    DirectBackwardPieces pieces;
    pieces.ranks_ = &ranks;
    pieces.call_ = &call;
    pieces.whole_ = pieces.part_ = arrays;
    pieces.exchange_ = KeyExchange<T>::lay_out(arena, ranks, call, arrays);
    pieces.part_.query_gradient = take_rows<T>(arena, arrays.query_gradient.shape);
    Index sent = 0, received = 0, terms = 0;
    for (Index round = 0; round < pieces.rounds(); ++round) {
      // The other way round.
      sent = larger(sent, pieces.numbers(pieces.exchange_.received_in(round).count()));
      received = larger(received, pieces.numbers(pieces.exchange_.sent_in(round).count()));
      terms = larger(terms, pieces.terms(pieces.exchange_.received_in(round).count()));
    }
    for (T*& memory : pieces.sent_) memory = arena.template take<T>(sent);
    pieces.received_ = arena.template take<T>(received);
    if (call.wants_gates) pieces.part_.key_terms = arena.template take<double>(terms);
    return pieces;
  }

  Index rounds() const { return exchange_.rounds(); }
  BackwardProblem<T> round_call(Index round, double* shift) const {
    PieceArrays<T> part = part_;
    const PieceKeys<T> keys = exchange_.keys(round);
    const PieceKeys<T> gradients =
        RowPair<T>::views(sent_[round % 2], whole_.key, whole_.value, exchange_.received_in(round).count());
    part.key_gradient = gradients.key;
    part.value_gradient = gradients.value;
    BackwardProblem<T> problem = piece_backward_problem(*call_, ranks_->rank(), part, keys);
    if (call_->given.gradients.shift != nullptr) problem.gradients.shift = shift;
    plan_directly(problem.forward, call_->threads);
    return problem;
  }

  void run(std::byte* scratch, PieceArrays<T>& arrays) const {
    Communicator::Exchange keys(*ranks_), gradients(*ranks_);
    exchange_.gather_gates();
    clear(arrays.query_gradient);
    clear(arrays.key_gradient);
    clear(arrays.value_gradient);
    if (call_->wants_gates) std::fill_n(arrays.key_terms, terms(call_->problem().keys()), 0.0);
    for (Index round = 0; round < rounds(); ++round) {
      keys.wait();
      exchange_.begin(round + 1, keys);
      const KeyRange seen = exchange_.received_in(round);
      if (seen.count() > 0) compute(round, scratch, arrays);
      finish_return(round - 1, gradients, arrays);
      if (round == 0)
        add_keys(sent_[0], seen, arrays);
      else
        begin_return(round, gradients);
    }
    finish_return(rounds() - 1, gradients, arrays);
  }

 private:
  Index gate_heads() const { return call_->problem().query.batch() * call_->problem().log_gate.heads(); }
  Index terms(Index rows) const { return call_->wants_gates ? gate_heads() * rows : 0; }
  Index numbers(Index rows) const { return RowPair<T>::numbers(whole_.key, whole_.value, rows) + terms(rows); }

  void compute(Index round, std::byte* scratch, PieceArrays<T>& arrays) const {
    double shift = 0;
    Arena arena(scratch);
    run_in(arena, round_call(round, &shift));
    arrays.shift += shift;
    add_numbers(element_count(arrays.query_gradient), part_.query_gradient.data, arrays.query_gradient.data);
    const Index rows = exchange_.received_in(round).count();
    T* const to = sent_[round % 2] + RowPair<T>::numbers(whole_.key, whole_.value, rows);
    for (Index i = 0; i < terms(rows); ++i) to[i] = static_cast<T>(part_.key_terms[i]);
  }
  // What this rank has made of the source's keys goes there; what the target has made of its own comes.
  void begin_return(Index round, Communicator::Exchange& exchange) const {
    const Index received = exchange_.sent_in(round).count(), sent = exchange_.received_in(round).count();
    if (received > 0) exchange.receive(received_, numbers(received), exchange_.target(round));
    if (sent > 0) exchange.send(sent_[round % 2], numbers(sent), exchange_.source(round));
  }
  void finish_return(Index round, Communicator::Exchange& exchange, PieceArrays<T>& arrays) const {
    exchange.wait();
    if (round > 0) add_keys(received_, exchange_.sent_in(round), arrays);
  }
  void add_keys(T* memory, const KeyRange& range, PieceArrays<T>& arrays) const {
    if (range.count() == 0) return;
    const PieceKeys<T> part = RowPair<T>::views(memory, whole_.key, whole_.value, range.count());
    add_rows(part.key, range, arrays.key_gradient);
    add_rows(part.value, range, arrays.value_gradient);
    const T* from = memory + RowPair<T>::numbers(whole_.key, whole_.value, range.count());
    for (Index h = 0; h < gate_heads() && call_->wants_gates; ++h)
      for (Index row = range.first; row < range.last; ++row)
        arrays.key_terms[h * call_->problem().keys() + row] += static_cast<double>(*from++);
  }
  static void add_rows(const Heads<T>& from, const KeyRange& range, const Heads<T>& to) {
    const Index numbers = range.count() * to.dim();
    for (Index b = 0; b < to.batch(); ++b)
      for (Index h = 0; h < to.heads(); ++h) add_numbers(numbers, from.head(b, h).data, &to.head(b, h)(range.first, 0));
  }
  // Of any number: the kernel takes whole vectors.
  static void add_numbers(Index count, const T* from, T* to) {
    for (Index i = 0; i < count; ++i) to[i] += from[i];
  }

  const Communicator* ranks_ = nullptr;
  const PieceCall<T>* call_ = nullptr;
  PieceArrays<T> whole_, part_;
  KeyExchange<T> exchange_;
  T* sent_[2] = {};
  T* received_ = nullptr;
};

}  // namespace CSQ_CODE::detail

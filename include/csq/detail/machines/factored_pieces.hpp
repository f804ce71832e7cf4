// Factored attention over ranks: what travels is summaries, whose size does not depend on the number of tokens.
//
//   causal        S of the ranks before, by an exclusive scan; the pairs within a piece by an ordinary call on it
//   no mask       S of all ranks, by an all-reduce; there is nothing else
//   backward      the same, and dS of the ranks behind, by the same scan the other way round
//
// A causal call on a piece leaves the S of its keys behind, where it is itself factored; the first rank takes nothing,
// and nobody needs the last one's. Each rank sends D·(dᵥ+1) numbers a key head log₂ R times, twice that backward (an
// all-reduce of them without a mask).
#pragma once

#include "csq/detail/factored/other_keys.hpp"
#include "csq/detail/machines/piece_arrays.hpp"

namespace CSQ_CODE::detail {

template <class T>
class FactoredPieces {
 public:
  static FactoredPieces lay_out(Arena& arena, const Communicator& ranks, const PieceCall<T>& call,
                                const PieceArrays<T>& arrays, bool is_backward) {
    FactoredPieces pieces;
    pieces.ranks_ = &ranks;
    pieces.causal_ = call.problem().causal;
    pieces.takes_ = !pieces.causal_ || ranks.rank() > 0;
    pieces.gives_ = !pieces.causal_ || ranks.rank() + 1 < ranks.size();
    pieces.piece_ = piece_backward_problem(
        call, ranks.rank(), arrays,
        {arrays.key, arrays.value, call.problem().log_gate, call.pieces.first_key(ranks.rank())});
    pieces.whole_keys_ = call.pieces.keys();
    Problem<T>& p = pieces.piece_.forward;
    const double tokens = static_cast<double>((p.queries() * p.group() + p.keys()) * p.key_heads());
    const double work = tokens * static_cast<double>(feature_count(p.key_dim())) * static_cast<double>(p.value_dim());
    p.threads = threads_for_work(work, call.threads);
    pieces.others_ = OtherKeys<T>::lay_out(arena, pieces.piece_, is_backward, call.given.gradients.shift != nullptr);
    pieces.numbers_ = pieces.others_.numbers();
    const Index all = checked_product(p.key_heads(), pieces.numbers_, "workspace");
    pieces.own_ = arena.template take<T>(all);
    if (pieces.causal_) pieces.received_ = arena.template take<T>(all);
    pieces.result_ = pieces.causal_ ? arena.template take<T>(all) : pieces.own_;
    pieces.gates_ = arena.template take<double>(p.key_heads() * (ranks.size() + 1));
    if (is_backward) pieces.shifts_ = arena.template take<double>(p.key_heads() * p.group());
    return pieces;
  }

  // The pairs within the piece.
  Problem<T> own_pairs(const PieceCall<T>& call) const {
    Problem<T> problem = piece_.forward;
    problem.threads = {};
    plan_either(problem, problem, call);
    if (gives_ && leaves_summary(problem)) {
      problem.continued = own_;
      problem.plan.scan.first_kept = block_count(problem.keys(), problem.plan.scan.chunk);
    }
    return problem;
  }
  BackwardProblem<T> own_backward_pairs(const PieceCall<T>& call, double* shift) const {
    BackwardProblem<T> problem = piece_;
    problem.forward.threads = {};
    if (call.given.gradients.shift != nullptr) problem.gradients.shift = shift;
    plan_either(problem, problem.forward, call);
    return problem;
  }

  // To what the rows have of their own piece, from the call `own`, what they have of others.
  void add_others(const PieceArrays<T>& arrays, const Problem<T>* own) {
    begin();
    if (own == nullptr || own->continued == nullptr) absorb_keys();
    share(1);
    if (takes_) others_.read(result_, whole_keys_, arrays.output, arrays.normalizer);
  }
  void add_gradients_of_others(PieceArrays<T>& arrays) {
    begin();
    absorb_keys();
    share(1);
    std::fill_n(shifts_, key_heads() * piece_.forward.group(), 0.0);
    if (takes_) others_.pull_back_queries(result_, arrays.query_gradient, shifts_);
    for (Index head = 0; head < key_heads() * piece_.forward.group(); ++head) arrays.shift += shifts_[head];
    if (takes_)
      others_.absorb_queries(own_);
    else
      std::fill_n(own_, key_heads() * numbers_, T(0));
    share(-1);
    if (gives_) others_.pull_back_keys(result_, arrays.key_gradient, arrays.value_gradient, arrays.key_terms);
  }

 private:
  Index key_heads() const { return piece_.forward.key_heads(); }
  // Where its first rows read, and it does not return before it has absorbed.
  static bool leaves_summary(const Problem<T>& problem) {
    return problem.plan.engine == Engine::factored && problem.keys() > 0 &&
           problem.plan.scan.first_read < block_count(problem.keys(), problem.plan.scan.chunk);
  }
  void absorb_keys() const {
    if (gives_)
      others_.absorb_keys(own_);
    else
      std::fill_n(own_, key_heads() * numbers_, T(0));
  }
  void begin() {
    others_.bind();
    double* const own = gates_ + key_heads() * ranks_->size();
    others_.sum_gates(own);
    if (piece_.forward.has_gates())
      ranks_->gather(own, key_heads(), gates_);
    else
      std::fill_n(gates_, key_heads() * ranks_->size(), 0.0);
  }
  // own → result: of the ranks before (1) or behind (−1), or of all.
  void share(int direction) {
    if (!causal_) {
      ranks_->sum(own_, key_heads() * numbers_);
      return;
    }
    if (direction < 0) others_.pass_first_gate(own_);
    ranks_->exclusive_scan(direction, key_heads(), numbers_, own_, received_, result_,
                           [&](Index head, int rank) { return gates_[rank * key_heads() + head]; });
    if (direction > 0) others_.pass_first_gate(result_);
  }

  const Communicator* ranks_ = nullptr;
  bool causal_ = false;
  bool takes_ = true, gives_ = true;  // from and to ranks before and behind
  BackwardProblem<T> piece_;
  Index whole_keys_ = 0, numbers_ = 0;
  OtherKeys<T> others_;
  T *own_ = nullptr, *received_ = nullptr, *result_ = nullptr;  // [key heads] summaries, or gradients of them
  double* gates_ = nullptr;   // [ranks, and this one's before they are gathered][key heads], Σℓ
  double* shifts_ = nullptr;  // [query heads]
};

}  // namespace CSQ_CODE::detail

// Direct attention over ranks, forward: keys and values travel (key_exchange.hpp), the partial rows that each piece
// gives are merged by their statistics (csq/partials.hpp).
//
// Each rank computes n_r·m of the pairs, or what its queries see of them; pieces of equal length under a causal mask
// leave the first ranks idle at the end. It sends its m_r·(d+dᵥ) numbers a key head to every rank whose queries see
// them: R − 1 times, or what lies within a window to its neighbours.
#pragma once

#include "csq/detail/machines/key_exchange.hpp"
#include "csq/detail/merge.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

template <class T>
class DirectPieces {
 public:
  static DirectPieces lay_out(Arena& arena, const Communicator& ranks, const PieceCall<T>& call,
                              const PieceArrays<T>& arrays) {
    DirectPieces pieces;
    pieces.ranks_ = &ranks;
    pieces.call_ = &call;
    pieces.whole_ = pieces.part_ = arrays;
    pieces.exchange_ = KeyExchange<T>::lay_out(arena, ranks, call, arrays);
    pieces.part_.output = take_rows<T>(arena, arrays.output.shape);
    pieces.part_.normalizer = take_rows<T>(arena, arrays.normalizer.shape);
    return pieces;
  }

  Index rounds() const { return exchange_.rounds(); }
  // The call of a round; the first leaves its rows where all end.
  Problem<T> round_call(Index round) const {
    Problem<T> problem = piece_problem(*call_, ranks_->rank(), round == 0 ? whole_ : part_, exchange_.keys(round));
    plan_directly(problem, call_->threads);
    return problem;
  }

  void run(std::byte* scratch) const {
    Communicator::Exchange exchange(*ranks_);
    exchange_.gather_gates();
    for (Index round = 0; round < rounds(); ++round) {
      exchange.wait();
      exchange_.begin(round + 1, exchange);
      if (round > 0 && exchange_.received_in(round).count() == 0) continue;
      Arena arena(scratch);
      run_in(arena, round_call(round));
      if (round > 0) merge();
    }
    add_sinks();
  }

 private:
  bool exponential() const { return call_->problem().weight.kind == Weight::Kind::exponential; }
  void merge() const {
    const Index heads = whole_.output.batch() * whole_.output.heads(), per_entry = whole_.output.heads();
    const double work = static_cast<double>(element_count(whole_.output) + 32 * element_count(whole_.normalizer));
    parallel_for(heads, threads_for_work(work, call_->threads), [&](Index h, int) {
      const Head<T> whole = whole_.output.head(h / per_entry, h % per_entry);
      const Head<const T> part = Heads<const T>(part_.output).head(h / per_entry, h % per_entry);
      T* const sums = whole_.normalizer.head(h / per_entry, h % per_entry).data;
      const T* const others = part_.normalizer.head(h / per_entry, h % per_entry).data;
      for (Index row = 0; row < whole.tokens; ++row) {
        const double a = static_cast<double>(sums[row]), b = static_cast<double>(others[row]);
        const MergedRow merged = exponential() ? MergedRow::of_exponential(a, b) : MergedRow::of_polynomial(a, b);
        merge_rows<T>(merged, {whole.data, whole.tokens, whole.dim, whole.token_stride, 1}, part, whole, row);
        sums[row] = static_cast<T>(merged.statistic);
      }
    });
  }
  // Once, when all keys are in.
  void add_sinks() const {
    const std::span<const double> sinks = call_->problem().sink;
    for (Index h = 0; h < whole_.output.batch() * whole_.output.heads() && !sinks.empty(); ++h) {
      const Index head = h % whole_.output.heads();
      const Head<T> rows = whole_.output.head(h / whole_.output.heads(), head);
      T* const sums = whole_.normalizer.head(h / whole_.output.heads(), head).data;
      for (Index row = 0; row < rows.tokens; ++row) {
        const MergedRow merged =
            MergedRow::of_exponential(static_cast<double>(sums[row]), sinks[static_cast<std::size_t>(head)]);
        for (Index a = 0; a < rows.dim; ++a)
          rows(row, a) = static_cast<T>(merged.first == 0 ? 0 : merged.first * static_cast<double>(rows(row, a)));
        sums[row] = static_cast<T>(merged.statistic);
      }
    }
  }

  const Communicator* ranks_ = nullptr;
  const PieceCall<T>* call_ = nullptr;
  PieceArrays<T> whole_, part_;
  KeyExchange<T> exchange_;
};

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail

// Centring of sequences in pieces: the sums of a piece's rows, scanned over the ranks, make each rank's means those of
// the whole, so that everything behind sees centred rows and no centring.
//
//   sequence            an all-reduce of Σ x
//   prefix, exclusive   an exclusive scan of Σ x over the ranks before; of the adjoint Σ g_j/j over those behind
//
// Sums, means and differences in double, rounded once (block/centering.hpp). O(n_r·d) on each rank; each sends d
// doubles a head, log₂ R times.
#pragma once

#include "csq/detail/base/parallel.hpp"
#include "csq/detail/block/centering.hpp"
#include "csq/detail/machines/piece_call.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

// A head's rows x → centred rows, contiguous. `sum`: the mean, or Σ of the `count` rows before, and then that of all.
template <class T>
void center_rows(const StoredHead<const T>& rows, Centering centering, double count, double* sum, T* to) {
  for (Index t = 0; t < rows.tokens; ++t, ++count)
    for (Index a = 0; a < rows.dim; ++a) {
      const T value = rows(t, a);
      const double x = static_cast<double>(value);
      T& centred = to[t * rows.dim + a];
      if (centering == Centering::none) {
        centred = value;
      } else if (centering == Centering::sequence) {
        centred = static_cast<T>(x - sum[a]);
      } else if (centering == Centering::prefix) {
        sum[a] += x;
        centred = static_cast<T>(x - sum[a] / (count + 1));
      } else {
        centred = count > 0 ? static_cast<T>(x - sum[a] / count) : value;
        sum[a] += x;
      }
    }
}

// What row `count` (of all, those of a history included) shares of its gradient with each row before it.
inline double shared_with_prefix(Centering centering, double count) {
  if (centering == Centering::prefix) return 1 / (count + 1);
  return count > 0 ? 1 / count : 0;
}
// The adjoint. `sum`: the mean of the gradients, or what rows behind the piece share.
template <class T>
void uncenter_rows(const T* gradient, Centering centering, double count, double* sum, const StoredHead<T>& to) {
  for (Index t = to.tokens - 1; t >= 0; --t)
    for (Index a = 0; a < to.dim; ++a) {
      const double g = static_cast<double>(gradient[t * to.dim + a]);
      double value = g;
      if (centering == Centering::sequence) {
        value -= sum[a];
      } else if (is_prefix(centering)) {
        const double shared = g * shared_with_prefix(centering, count + static_cast<double>(t));
        if (centering == Centering::prefix_exclusive) value -= sum[a];
        sum[a] += shared;
        if (centering == Centering::prefix) value -= sum[a];
      }
      to.write(t, a, static_cast<T>(value));
    }
}

#include "csq/detail/base/precise_end.inl"

// The means of all heads of q and of k.
template <class T>
class PieceCentering {
 public:
  PieceCentering() = default;
  PieceCentering(Arena& arena, const PieceCall<T>& call) : call_(&call) {
    const Index numbers = heads() * dim();
    own_ = arena.take<double>(numbers);
    received_ = arena.take<double>(numbers);
    sums_ = arena.take<double>(numbers);
  }

  void center(const Communicator& ranks, const Heads<T>& query, const Heads<T>& key, const Threads& threads) const {
    const Problem<T>& p = call_->problem();
    if (p.centering != Centering::none) {
      for_each_head(threads, [&](Index h, bool is_query, Index b, Index head) {
        double* const sum = own_ + h * dim();
        std::fill_n(sum, dim(), 0.0);
        const StoredHead<const T> rows = (is_query ? p.query : p.key).head(b, head);
        for (Index t = 0; t < rows.tokens; ++t)
          for (Index a = 0; a < dim(); ++a) sum[a] += static_cast<double>(rows(t, a));
      });
      share(ranks, 1);
    }
    for_each_head(threads, [&](Index h, bool is_query, Index b, Index head) {
      double* const sum = sums_ + h * dim();
      const History* const history = is_query ? p.query_history : p.key_history;
      if (history != nullptr)
        for (Index a = 0; a < dim(); ++a)
          sum[a] += static_cast<double>(history->count[static_cast<std::size_t>(b)]) *
                    history->mean[static_cast<std::size_t>((is_query ? h : h - query_heads()) * dim() + a)];
      center_rows((is_query ? p.query : p.key).head(b, head), p.centering, rows_before(ranks, is_query, b), sum,
                  (is_query ? query : key).head(b, head).data);
    });
  }

  // From gradients of centred rows to the caller's.
  void uncenter(const Communicator& ranks, const Heads<T>& query, const Heads<T>& key, const Threads& threads) const {
    const Problem<T>& p = call_->problem();
    if (p.centering != Centering::none) {
      for_each_head(threads, [&](Index h, bool is_query, Index b, Index head) {
        double* const sum = own_ + h * dim();
        std::fill_n(sum, dim(), 0.0);
        const Head<T> rows = (is_query ? query : key).head(b, head);
        const double count = rows_before(ranks, is_query, b);
        for (Index t = 0; t < rows.tokens; ++t) {
          const double share =
              p.centering == Centering::sequence ? 1 : shared_with_prefix(p.centering, count + static_cast<double>(t));
          for (Index a = 0; a < dim(); ++a) sum[a] += share * static_cast<double>(rows(t, a));
        }
      });
      share(ranks, -1);
    }
    const StoredGradients<T>& to = call_->given.gradients;
    for_each_head(threads, [&](Index h, bool is_query, Index b, Index head) {
      uncenter_rows<T>((is_query ? query : key).head(b, head).data, p.centering, rows_before(ranks, is_query, b),
                       sums_ + h * dim(), (is_query ? to.query : to.key).head(b, head));
    });
  }

 private:
  Index dim() const { return call_->problem().key_dim(); }
  Index query_heads() const { return call_->problem().query.batch() * call_->problem().query.heads(); }
  Index heads() const { return query_heads() + call_->problem().key_heads(); }
  template <class Visit>  // visit(index among all, whether of q, entry of the batch, head)
  void for_each_head(const Threads& threads, const Visit& visit) const {
    const Index per_query = call_->problem().query.heads(), per_key = call_->problem().key.heads();
    parallel_for(heads(), threads, [&](Index h, int) {
      const bool is_query = h < query_heads();
      const Index index = is_query ? h : h - query_heads(), per_entry = is_query ? per_query : per_key;
      visit(h, is_query, index / per_entry, index % per_entry);
    });
  }
  double rows_before(const Communicator& ranks, bool is_query, Index b) const {
    const Problem<T>& p = call_->problem();
    const History* const history = is_query ? p.query_history : p.key_history;
    const Index before = history == nullptr ? 0 : history->count[static_cast<std::size_t>(b)];
    return static_cast<double>(
        before + (is_query ? call_->pieces.first_query(ranks.rank()) : call_->pieces.first_key(ranks.rank())));
  }
  // Sums of the pieces → the mean of all, or the sum of the pieces before or behind.
  void share(const Communicator& ranks, int direction) const {
    if (is_prefix(call_->problem().centering)) {
      ranks.exclusive_scan(direction, 1, heads() * dim(), own_, received_, sums_, [](Index, int) { return 0.0; });
      return;
    }
    std::copy_n(own_, heads() * dim(), sums_);
    ranks.sum(sums_, heads() * dim());
    for (Index h = 0; h < heads(); ++h) {
      const Index rows = h < query_heads() ? call_->pieces.queries() : call_->pieces.keys();
      for (Index a = 0; a < dim() && rows > 0; ++a) sums_[h * dim() + a] /= static_cast<double>(rows);
    }
  }

  const PieceCall<T>* call_ = nullptr;
  double *own_ = nullptr, *received_ = nullptr, *sums_ = nullptr;  // [heads of q and of k][d]
};

}  // namespace CSQ_CODE::detail

// The rows of a factored backward call whose features cancel (cancellation.hpp): taken out of the sweeps, and served
// directly after them, one head after another where heads are few.
#pragma once

#include "csq/detail/factored/backward_heads.hpp"
#include "csq/detail/factored/cancellation.hpp"

namespace CSQ_CODE::detail {

template <class T>
class CancelledRows : FactoredBackwardHeads<T> {
  using Base = FactoredBackwardHeads<T>;

 public:
  explicit CancelledRows(const Base& heads) : Base(heads) {}

  void clear(Index h) const {
    std::fill_n(scratch_.gradient_bound(h, 0), group_ * scratch_.query_chunks, 0.0);
    std::fill_n(scratch_.cancels(h, 0), group_ * scratch_.query_chunks, false);
  }

  // Σ|k|² of the keys that the rows of each chunk read, a slice's part: what the sweep fills in.
  double* square_sums(Index h, Index slice) const { return scratch_.square_sums(h, slice); }

  // Rows that may not be read are silenced, with what was pulled back for them where it was, and noted.
  void take_out(Index h, Index g, Index chunk, const BackwardQueryBlock<T>& query, const PulledBack<T>* read) const {
    if (coefficients_.c2 == 0 || keys_read(h, chunk) == 0) return;
    const double key_squares = key_squares_of(h, chunk);
    double& gradient_bound = scratch_.gradient_bound(h, g)[chunk];
    gradient_bound = 0;
    const GradientBound<T> bound(coefficients_, key_squares, keys_left(h, chunk), p_.key_dim());
    const Index first = queries_in(h, chunk).first;
    for_each_row(h, g, chunk, query, key_squares, [&](Index row, bool allowed, double square, double sum) {
      if (allowed) {
        if (query.dot[row] != 0)
          gradient_bound +=
              bound.term(square, sum, static_cast<double>(query.dot[row]), row_decay(h, chunk, first + row));
        return;
      }
      scratch_.cancels(h, g)[chunk] = true;
      silence(query, row);
      if (read == nullptr) return;
      for (Index a = 0; a < scratch_.key_stride; ++a) read->lanes[a * size + row] = 0;
      read->shift[row] = 0;
    });
  }
  void take_out(Index first, Index last) const {
    parallel_for(heads_ * group_ * (last - first), p_.threads, [&](Index task, int) {
      const Index slot = task % (last - first), head = task / (last - first);
      const Index h = head / group_, g = head % group_;
      if (queries_in(h, first + slot).count > 0) take_out(h, g, first + slot, query_block(h, g, slot), nullptr);
    });
  }

  // When both sweeps are done.
  void serve() const {
    if (coefficients_.c2 == 0) return;
    parallel_for(heads_, p_.threads, [&](Index h, int thread) {
      serve_rows(h, false, thread);
      if (p_.is_piece) return;  // nobody here knows all keys of a row
      for (Index g = 0; g < group_; ++g) {
        if (!gradient_cancels(h, g)) continue;
        clear_gradients(h);
        serve_rows(h, true, thread);
        return;
      }
    });
  }

 private:
  using Base::add_pairs;
  using Base::batch;
  using Base::clear_gradients;
  using Base::coefficients_;
  using Base::group_;
  using Base::heads_;
  using Base::key_block;
  using Base::key_head;
  using Base::keys_in;
  using Base::p_;
  using Base::problem_;
  using Base::queries_in;
  using Base::query_block;
  using Base::query_gradient;
  using Base::row_decay;
  using Base::scratch_;
  using Base::size;
  using typename Base::Rows;

  // Keys that the rows of a chunk read.
  Index keys_read(Index h, Index chunk) const {
    const Index length = scratch_.packers.key[h].length;
    return p_.causal ? smaller(chunk * scratch_.chunk, length) : length;
  }

  // The same, or the sum of what gates have left of each.
  double keys_left(Index h, Index chunk) const {
    if (!p_.has_gates()) return static_cast<double>(keys_read(h, chunk));
    double sum = 0;
    for (Index slice = 0; slice < scratch_.slices; ++slice) sum += scratch_.count_sums(h, slice)[chunk];
    return sum;
  }

  // The gradient of a row's output, and with it everything that comes of the row, becomes 0.
  void silence(const BackwardQueryBlock<T>& query, Index row) const {
    for (Index c = 0; c <= p_.value_dim(); ++c) query.gradient_packed[c * size + row] = 0;
    std::fill_n(query.gradient_rows + row * scratch_.value_stride, scratch_.value_stride, T(0));
    query.dot[row] = 0;
  }

  // visit(row, whether the row may be read, |αq|², δ) for the rows of a packed chunk.
  template <class Visit>
  void for_each_row(Index h, Index g, Index chunk, const BackwardQueryBlock<T>& query, double key_squares,
                    const Visit& visit) const {
    const Rows rows = queries_in(h, chunk);
    const CancellationBound<T> bound(
        coefficients_, key_squares, keys_left(h, chunk),
        scratch_.unit ? CancellationBound<T>::limit_on_unit(scratch_.features) : CancellationBound<T>::limit());
    const Head<const T> normalizer = problem_.normalizer.head(batch(h), key_head(h) * group_ + g);
    T squares[std::size_t{size}];
    simd::kernels<T>().square_norms(query.packed, rows.count, p_.key_dim(), squares);
    for (Index row = 0; row < rows.count; ++row) {
      const T sum = weight_sum(p_, normalizer(rows.first + row, 0));
      const double square = static_cast<double>(squares[row]);
      const bool allowed = !(sum > 0) || bound.allows(square, sum, T(0), row_decay(h, chunk, rows.first + row));
      visit(row, allowed, square, static_cast<double>(sum));
    }
  }
  double key_squares_of(Index h, Index chunk) const {
    double sum = 0;
    for (Index slice = 0; slice < scratch_.slices; ++slice) sum += square_sums(h, slice)[chunk];
    return sum;
  }

  // Whether the sums over the features are too large beside the gradient of the queries that is left of them.
  bool gradient_cancels(Index h, Index g) const {
    double bound = 0;
    for (Index chunk = 0; chunk < scratch_.query_chunks; ++chunk) bound += scratch_.gradient_bound(h, g)[chunk];
    // Rows up to whole blocks: all of them as one packed block of so many columns.
    T squares[std::size_t{size}];
    simd::kernels<T>().square_norms(query_gradient(h, g, 0), size, scratch_.query_rows / size * scratch_.key_stride,
                                    squares);
    double sum = 0;
    for (const T square : squares) sum += static_cast<double>(square);
    return GradientBound<T>::exceeds(bound, sum, p_.key_dim());
  }

  // A block of queries with outputs and normalisers computed again: what forward has lost in them is what cancels.
  void pack_anew(Index h, Index g, const Rows& rows, const BackwardQueryBlock<T>& query, int thread) const {
    const RowPacker<T>& packer = scratch_.packers.query[h * group_ + g];
    const DirectThreadScratch<T>& forward = scratch_.forward[thread];
    const BackwardThreadScratch<T>& mine = scratch_.threads[thread];
    serve_on_demand(p_, packer, scratch_.packers.key[h], batch(h), key_head(h), rows.first, rows.count, forward,
                    scratch_.forward_keys[thread]);
    simd::DivideRows<T> divide;
    divide.numerator = forward.numerator;
    divide.normalizer = forward.normalizer;
    divide.tokens = rows.count;
    divide.dim = p_.value_dim();
    divide.value_stride = divide.token_stride = scratch_.value_stride;
    divide.output = mine.value_gradient;
    simd::kernels<T>().divide(divide);
    pack_query_block(
        problem_, packer, batch(h), key_head(h) * group_ + g, rows.first, rows.count,
        {mine.value_gradient, scratch_.value_stride, 1, rows.count, p_.value_dim()},
        [&](Index row) { return scaled_normalizer(forward.normalizer[row], rescaled_exponent(forward.maximum[row])); },
        mine.sums, query);
  }

  // A head's rows directly, those noted or all of them, with all the keys that they see.
  void serve_rows(Index h, bool all, int thread) const {
    const BackwardQueryBlock<T> query = query_block(h, 0, 0);
    const BackwardKeyBlock<T> key = key_block(h, 0);
    for (Index g = 0; g < group_; ++g)
      for (Index chunk = 0; chunk < scratch_.query_chunks; ++chunk) {
        const Rows rows = queries_in(h, chunk);
        if (rows.count == 0 || !(all || scratch_.cancels(h, g)[chunk])) continue;
        if (all) {
          pack_anew(h, g, rows, query, thread);
        } else {
          pack_query_block(problem_, scratch_.packers.query[h * group_ + g], batch(h), key_head(h) * group_ + g,
                           rows.first, rows.count, scratch_.threads[thread].sums, query);
          for_each_row(h, g, chunk, query, key_squares_of(h, chunk), [&](Index row, bool allowed, double, double) {
            if (allowed) silence(query, row);
          });
        }
        for (Index c = 0; c < scratch_.chunks; ++c) {
          const Rows keys = keys_in(h, c);
          if (!p_.visibility().any(rows.first, rows.count, keys.first, keys.count)) continue;
          pack_key_block(problem_, scratch_.packers.key[h], batch(h), key_head(h), keys.first, keys.count,
                         scratch_.threads[thread].sums, scratch_.threads[thread].copy, key);
          add_pairs(h, g, chunk, query, c, key, thread);
        }
      }
  }
};

}  // namespace CSQ_CODE::detail

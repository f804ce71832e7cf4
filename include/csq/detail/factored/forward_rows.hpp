// The rows of a factored forward call that have lost too much (cancellation.hpp, or a weight that has left the range of
// T): served again, directly.
#pragma once

#include "csq/detail/factored/cancellation.hpp"
#include "csq/detail/factored/forward_heads.hpp"

namespace CSQ_CODE::detail {

template <class T>
class FactoredRows : protected FactoredHeads<T> {
  using Base = FactoredHeads<T>;

 protected:
  using Base::Base;
  using Base::batch;
  using Base::coefficients_;
  using Base::group_;
  using Base::key_head;
  using Base::problem_;
  using Base::scratch_;
  using Base::write;
  using typename Base::Rows;

  // Which rows of a block have lost too much; true where any has.
  using Marks = bool[std::size_t{simd::block_tokens<T>}];

  // Writes a block of rows from their sums. Those that lost(marks) marks are served again, or NaN where keys that they
  // see are in a summary alone; the others stay what they were: what is wrong with one row, as a NaN in a key that it
  // alone sees, may not show in the bits of its neighbours.
  template <class Lost>
  void write_checked(Index h, Index g, const Rows& rows, const DirectThreadScratch<T>& sums, int thread,
                     const Lost& lost) const {
    Marks again;
    const bool any = rows.real > 0 && lost(again);
    if (any && !has_all_keys())
      for (Index row = 0; row < rows.real; ++row)
        if (again[row]) sums.normalizer[row] = std::numeric_limits<T>::quiet_NaN();
    write(h, g, rows, sums);
    if (any && has_all_keys()) serve_again(h, g, rows, again, thread);
  }

  // Weights out of T's range, where they may be rescaled.
  bool mark_out_of_range(Index rows, const T* normalizer, Marks& again) const {
    bool any = false;
    for (Index row = 0; row < rows; ++row) {
      again[row] = problem_.weight.is_scale_blind() && !is_in_range(normalizer[row], problem_.keys_and_held());
      any = any || again[row];
    }
    return any;
  }

  // Rows that have read nothing: as many as of a weight that could cancel.
  bool mark_unread(Index rows, const T* normalizer, Marks& again) const {
    return coefficients_.c2 != 0 && mark_out_of_range(rows, normalizer, again);
  }

  // Features that cancel, of rows that have read `keys` keys with that Σ|k|², and hold `decay` of them where it is not
  // null.
  bool mark_cancelled(const T* query, Index rows, const T* normalizer, double key_squares, double keys, const T* decay,
                      Marks& again) const {
    if (coefficients_.c2 == 0) return false;
    // What cannot be served again may lose more.
    const bool on_unit = scratch_.matrix != nullptr && has_all_keys();
    const CancellationBound<T> bound(
        coefficients_, key_squares, keys,
        on_unit ? CancellationBound<T>::limit_on_unit(scratch_.features) : CancellationBound<T>::limit());
    const T least = least_normalizer<T>(problem_.keys_and_held());
    T squares[std::size_t{simd::block_tokens<T>}];
    simd::kernels<T>().square_norms(query, rows, problem_.key_dim(), squares);
    bool any = false;
    for (Index row = 0; row < rows; ++row) {
      again[row] = !bound.allows(static_cast<double>(squares[row]), normalizer[row], least,
                                 decay == nullptr ? 1 : static_cast<double>(decay[row])) &&
                   (has_all_keys() || normalizer[row] != 0 || !is_zero(query, row));
      any = any || again[row];
    }
    return any;
  }

 private:
  bool has_all_keys() const { return problem_.continued == nullptr || (problem_.causal && problem_.held == 0); }
  // A query of zeros, as padding is, may weigh nothing; one whose products have underflowed has lost them.
  bool is_zero(const T* query, Index row) const {
    for (Index a = 0; a < problem_.key_dim(); ++a)
      if (query[a * simd::block_tokens<T> + row] != 0) return false;
    return true;
  }

  void serve_again(Index h, Index g, const Rows& rows, const Marks& again, int thread) const {
    const DirectThreadScratch<T>& mine = scratch_.threads[thread];
    serve_on_demand(problem_, scratch_.packers.query[h * group_ + g], scratch_.packers.key[h], batch(h), key_head(h),
                    rows.first, rows.real, mine, scratch_.direct_keys[thread]);
    for (Index row = 0; row < rows.real; ++row) {
      if (!again[row]) continue;
      DirectThreadScratch<T> one = mine;
      one.numerator += row * scratch_.value_stride;
      one.normalizer += row;
      one.maximum += row;
      write(h, g, {rows.first + row, 1, 1}, one);
    }
  }
};

}  // namespace CSQ_CODE::detail

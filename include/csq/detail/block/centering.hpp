// The C in CSQ: which mean is subtracted from row j of one head, kept as sums at the start of every block of rows so
// that any block can be centred by itself.
//
//   sequence           x_j − (1/L) Σ_t x_t over the L rows within the length
//   prefix             x_j − (1/(c+j+1)) (history + Σ_{t≤j} x_t)     j from 0, c rows of history
//   prefix_exclusive   x_j − (1/(c+j)) (history + Σ_{t<j} x_t)       nothing where c + j = 0
//
// Sums, means and differences in double. Cost O(n·d); memory one double per row of d per block.
#pragma once

#include <algorithm>

#include "csq/detail/call/stored_heads.hpp"
#include "csq/detail/simd/targets.hpp"
#include "csq/options.hpp"

namespace CSQ_CODE::detail {

inline bool is_prefix(Centering centering) {
  return centering == Centering::prefix || centering == Centering::prefix_exclusive;
}

// The means of one head's rows. `sums` has centering_doubles(rows, dim) numbers.
struct HeadCentering {
  Centering centering = Centering::none;
  Index padded_dim = 0;
  double history_count = 0;
  double* sums = nullptr;  // prefix: [blocks+1][padded_dim], sums before each block. sequence: row 0 is the mean
};

template <class T>
Index centering_doubles(Centering centering, Index rows, Index dim) {
  if (centering == Centering::none) return 0;
  return (block_count(rows, simd::block_tokens<T>) + 1) * simd::padded_columns<double>(dim);
}

// Rows [first, first + count) of a head, as the kernels take them.
template <class T>
simd::Source<T> rows_of(const StoredHead<const T>& head, Index first, Index count) {
  return {head.at(first), head.token_stride, head.dim_stride, count, head.dim, head.storage};
}

// First pass, independent for each block: the block's own sum lands one row further down.
template <class T>
void sum_block(const HeadCentering& means, const StoredHead<const T>& head, Index length, Index block) {
  constexpr Index size = simd::block_tokens<T>;
  double* sum = means.sums + (block + 1) * means.padded_dim;
  std::fill_n(sum, means.padded_dim, 0.0);
  const Index first = block * size;
  if (first < length) simd::kernels<T>().add_rows(rows_of(head, first, smaller(size, length - first)), sum);
}

// Second pass, one after another: running sums over the blocks, or the mean of them all. `history` may be null.
template <class T>
void finish_sums(const HeadCentering& means, Index length, Index blocks, const double* history, Index dim) {
  double* start = means.sums;
  for (Index a = 0; a < means.padded_dim; ++a)
    start[a] = history != nullptr && a < dim ? means.history_count * history[a] : 0.0;
  for (Index block = 0; block < blocks; ++block) {
    const double* before = means.sums + block * means.padded_dim;
    double* after = means.sums + (block + 1) * means.padded_dim;
    for (Index a = 0; a < means.padded_dim; ++a) after[a] += before[a];
  }
  if (means.centering == Centering::sequence) {
    const double* total = means.sums + blocks * means.padded_dim;
    for (Index a = 0; a < means.padded_dim; ++a) start[a] = length > 0 ? total[a] / static_cast<double>(length) : 0.0;
  }
}

}  // namespace CSQ_CODE::detail

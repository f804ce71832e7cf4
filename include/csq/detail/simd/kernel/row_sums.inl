// Sums of rows times factors, for a few sets of factors at a time: each row is loaded once, and that is what it costs.

// totals[r] += Σ_j factors[r][j]·rows[j], rows of elements as Rows says.
template <class T, class Rows = Own<T>>
struct RowSums {
  const T* factors;
  Index factor_stride;
  const typename Rows::Element* rows;
  Index row_stride;
  T* totals;
  Index total_stride;
};

// For Sets sets of factors and Columns vectors. Sums of several rows at a time hide the latency of one. What lies `ahead`
// elements on is asked for: the processor's own prefetching keeps up with neither the third level nor memory (reading
// the summaries of 8 heads of d = 128: 690 µs with it, 820 without).
template <class T, int Sets, int Columns, class Rows>
CSQ_INLINE void add_strip(const RowSums<T, Rows>& sums, Index count, Index column, Index ahead) {
  constexpr int together = Sets * Columns < 8 ? 8 / (Sets * Columns) : 1;
  Vector<T> sum[std::size_t{together}][std::size_t{Sets}][std::size_t{Columns}] = {};
  const typename Rows::Element* rows = sums.rows + column;
  Index j = 0;
  for (; j + together <= count; j += together) {
    CSQ_UNROLL
    for (int k = 0; k < together; ++k) {
      CSQ_UNROLL
      for (int c = 0; c < Columns; ++c) {
        Vector<T> value;
        const typename Rows::Element* const row = rows + (j + k) * sums.row_stride + c * lanes<T>;
        ask_for(row, ahead);
        Rows::load_row(row, value);
        CSQ_UNROLL
        for (int r = 0; r < Sets; ++r) sum[k][r][c] += value * sums.factors[r * sums.factor_stride + j + k];
      }
    }
  }
  for (; j < count; ++j) {
    CSQ_UNROLL
    for (int c = 0; c < Columns; ++c) {
      Vector<T> value;
      Rows::load_row(rows + j * sums.row_stride + c * lanes<T>, value);
      CSQ_UNROLL
      for (int r = 0; r < Sets; ++r) sum[0][r][c] += value * sums.factors[r * sums.factor_stride + j];
    }
  }
  CSQ_UNROLL
  for (int r = 0; r < Sets; ++r) {
    CSQ_UNROLL
    for (int c = 0; c < Columns; ++c) {
      T* target = sums.totals + r * sums.total_stride + column + c * lanes<T>;
      Vector<T> total;
      load<T>(target, total);
      CSQ_UNROLL
      for (int k = 0; k < together; ++k) total += sum[k][r][c];
      store<T>(target, total);
    }
  }
}

// `length` of a row: whole vectors. The widest strip whose sums fit the registers, then halves of it.
template <class T, int Sets, class Rows>
__attribute__((noinline)) void add_rows_times(const RowSums<T, Rows>& sums, Index count, Index length, Index ahead) {
  constexpr int widest = Sets == 1 ? 2 * widest_tile : widest_tile;
  Index column = 0;
  for (; column + widest * lanes<T> <= length; column += widest * lanes<T>)
    add_strip<T, Sets, widest>(sums, count, column, ahead);
  if constexpr (widest == 8) {
    if (column + 4 * lanes<T> <= length) {
      add_strip<T, Sets, 4>(sums, count, column, ahead);
      column += 4 * lanes<T>;
    }
  }
  for (; column + 2 * lanes<T> <= length; column += 2 * lanes<T>) add_strip<T, Sets, 2>(sums, count, column, ahead);
  if (column < length) add_strip<T, Sets, 1>(sums, count, column, ahead);
}

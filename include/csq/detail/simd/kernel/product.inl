// The register tile that carries every product: C += Aᵀ·B with a block of C held in registers.
//
// B and C are row-major, columns in lanes. A is a packed array with rows of block_tokens; DepthMajor says which of its
// axes is the depth: true, A[depth][row] (scores, read, weights·values); false, A[row][depth] (absorb).
// Rows·Columns = accumulator_vectors keeps both FMA ports busy: per depth step AVX-512 issues 24 FMAs for 4 loads of B
// and 6 broadcasts of A (6×64), or 3 and 8 (8×48). Sums start from zero and are added to C once at the end: one
// rounding against the large total per block, not per product. What C held is multiplied by `keep` on the way.
//
// On the way a tile brings `upcoming` memory into the second-level cache, a line every four steps of depth: about once
// and a half the rate at which the direct form needs it. Without, the first tiles of each block wait for the third
// level: softmax forward .83 instead of .87 of the FMA peak, factored backward .84 instead of .86 (d = 128, n = 4096, a
// Xeon). Asking at every step, four times for each line, was lost where the second level holds it already: .80 became
// .75.
// With nothing to bring, the loop asks for the start of b, which is there: one loop without a branch serves both.

template <class T, int Rows, int Columns, bool DepthMajor>
CSQ_INLINE void tile(Index depth, const T* a, const T* b, Index b_stride, T* c, Index c_stride, bool accumulate,
                     Upcoming& upcoming, T keep = 1) {
  constexpr Index stride = block_tokens<T>;
  const bool fetches = upcoming.at < upcoming.end;
  std::uintptr_t next = fetches ? upcoming.at : reinterpret_cast<std::uintptr_t>(b);
  const std::uintptr_t line = fetches ? 64 : 0;
  Vector<T> sum[std::size_t{Rows}][std::size_t{Columns}] = {};
  for (Index k = 0; k < depth; ++k) {
    if (k % 4 == 0) {
      __builtin_prefetch(reinterpret_cast<const void*>(next), 0, 2);
      next += line;
    }
    Vector<T> b_row[std::size_t{Columns}];
    CSQ_UNROLL
    for (int column = 0; column < Columns; ++column) load<T>(b + column * lanes<T>, b_row[column]);
    CSQ_UNROLL
    for (int row = 0; row < Rows; ++row) {
      const T value = a[DepthMajor ? row : row * stride];
      CSQ_UNROLL
      for (int column = 0; column < Columns; ++column) sum[row][column] += b_row[column] * value;
    }
    a += DepthMajor ? stride : 1;
    b += b_stride;
  }
  if (fetches) upcoming.advance(next);
  CSQ_UNROLL
  for (int row = 0; row < Rows; ++row) {
    CSQ_UNROLL
    for (int column = 0; column < Columns; ++column) {
      T* target = c + row * c_stride + column * lanes<T>;
      if (accumulate) {
        Vector<T> old;
        load<T>(target, old);
        sum[row][column] += old * keep;
      }
      store<T>(target, sum[row][column]);
    }
  }
}

// One column alone is bound by the loads of A whatever its height, so that half of the registers do.
template <int Columns>
constexpr int tile_rows = accumulator_vectors / (Columns > 2 ? Columns : 2);

// Widths that cover `vectors` columns: threes where they divide, so that 9 is 3+3+3 rather than 4+4+1. With few
// registers pairs alone, the last one past the end where their number is odd: values and packed tokens are padded to
// whole pairs.
CSQ_INLINE Index next_width(Index vectors) {
  if constexpr (widest_tile >= 4) {
    if (vectors % 3 == 0) return 3;
    return vectors < 4 ? vectors : 4;
  } else {
    return widest_tile;
  }
}

// The height of the tiles of strips of `width` columns.
CSQ_INLINE Index tile_rows_of(Index width) { return width > 2 ? accumulator_vectors / width : accumulator_vectors / 2; }

// C[rows][columns] (= keep·C) + Aᵀ·B for one strip of columns. Rows are rounded up to the tile's, so A and C must be padded.
// (A tile of half the height for the last rows gained nothing measurable, and cost a second of compile time.)
template <class T, int Columns, bool DepthMajor>
__attribute__((noinline)) void strip(Index rows, Index depth, const T* a, const T* b, Index b_stride, T* c,
                                     Index c_stride, bool accumulate, Upcoming& upcoming, T keep = 1) {
  constexpr int height = tile_rows<Columns>;
  constexpr Index a_step = DepthMajor ? 1 : block_tokens<T>;
  for (Index row = 0; row < rows; row += height)
    tile<T, height, Columns, DepthMajor>(depth, a + row * a_step, b, b_stride, c + row * c_stride, c_stride, accumulate,
                                         upcoming, keep);
}

// The same for any number of column vectors.
template <class T, bool DepthMajor>
__attribute__((noinline)) void product(Index rows, Index vectors, Index depth, const T* a, const T* b, Index b_stride,
                                       T* c, Index c_stride, bool accumulate, Upcoming& upcoming, T keep = 1) {
  for (Index done = 0; done < vectors;) {
    const Index width = next_width(vectors - done);
    const T* b_strip = b + done * lanes<T>;
    T* c_strip = c + done * lanes<T>;
    if constexpr (widest_tile >= 4) {
      if (width == 4)
        strip<T, 4, DepthMajor>(rows, depth, a, b_strip, b_stride, c_strip, c_stride, accumulate, upcoming,
                            keep);
      if (width == 3)
        strip<T, 3, DepthMajor>(rows, depth, a, b_strip, b_stride, c_strip, c_stride, accumulate, upcoming,
                            keep);
      if (width == 1)
        strip<T, 1, DepthMajor>(rows, depth, a, b_strip, b_stride, c_strip, c_stride, accumulate, upcoming,
                            keep);
    }
    if (width == 2) strip<T, 2, DepthMajor>(rows, depth, a, b_strip, b_stride, c_strip, c_stride, accumulate, upcoming,
                                          keep);
    done += width;
  }
}

// Tiles read whole heights of A, past what was computed. What comes of that goes to padding rows of C; but what lies
// there may be a signalling NaN, and a program may trap those: zero instead. Up to where the heights 6, 8 and 12, or 4
// and 6, of `rows` may reach:
constexpr Index tile_end(Index rows) {
  constexpr Index tall = accumulator_vectors / 2, low = accumulator_vectors / 3;
  const Index tall_end = (rows + tall - 1) / tall * tall, low_end = (rows + low - 1) / low * low;
  return tall_end > low_end ? tall_end : low_end;
}
// A[depth][row], computed up to whole vectors of rows.
template <class T>
CSQ_INLINE void clear_lanes_past(Index rows, Index depth, T* a) {
  for (Index lane = (rows + lanes<T> - 1) / lanes<T> * lanes<T>; lane < tile_end(rows); lane += lanes<T>)
    for (Index k = 0; k < depth; ++k) store<T>(a + k * block_tokens<T> + lane, Vector<T>{});
}
// A[row][depth].
template <class T>
CSQ_INLINE void clear_rows_past(Index rows, Index depth, T* a) {
  for (Index row = rows; row < tile_end(rows); ++row)
    for (Index k = 0; k < depth; k += lanes<T>) store<T>(a + row * block_tokens<T> + k, Vector<T>{});
}

// S += Φ(X)ᵀ Y on the matrix unit: A = features as rows over tokens, B = values as pairs of tokens, C = S itself.
//
// A panel of 32 features over a block of tokens is made while the unit multiplies the one before. For 32 tokens it takes
// 32 products and sums and 32 conversions of vectors; the unit 64 cycles for every 32 columns of values.

// Rows [row, row + Rows) of a panel, left·right[r], with their weighted sums over tokens, added to those of the lanes.
template <class T, int Rows>
CSQ_INLINE void absorb_rows(const T* left, const T* right, const T* weights, Index vectors, BFloat16Bits* rows,
                            Vector<T>* sums) {
  constexpr Index stride = block_tokens<T>;
  Vector<T> sum[std::size_t{Rows}];
  CSQ_UNROLL
  for (int row = 0; row < Rows; ++row) sum[row] = sums[row];
  for (Index v = 0; v < vectors; v += 2) {
    const bool both = v + 1 < vectors;
    const Index at = v * lanes<T>, next = both ? at + lanes<T> : at;
    Vector<T> l0, l1, w0, w1;
    load<T>(left + at, l0);
    load<T>(left + next, l1);
    load<T>(weights + at, w0);
    load<T>(weights + next, w1);
    if (!both) l1 = w1 = Vector<T>{};
    CSQ_UNROLL
    for (int row = 0; row < Rows; ++row) {
      Vector<T> x0, x1;
      load<T>(right + row * stride + at, x0);
      load<T>(right + row * stride + next, x1);
      x0 *= l0;
      x1 *= l1;
      if (!both) x1 = Vector<T>{};  // also where x is not finite
      sum[row] += x0 * w0;
      sum[row] += x1 * w1;
      Bits bits;
      round_to_bits(x0, x1, bits);
      store_bits(rows + row * tile_depth, bits);
    }
    rows += tile_numbers;
  }
  CSQ_UNROLL
  for (int row = 0; row < Rows; ++row) sums[row] = sum[row];
}

// The panel of the listed features: tiles [row tile][token step].
template <class T>
__attribute__((noinline)) void absorb_panel_of(const Factors<T>& factors, const T* packed, const T* weights,
                                               Index vectors, BFloat16Bits* tiles, Vector<T>* sums,
                                               Background& background) {
  const Index row_tile = (vectors + 1) / 2 * tile_numbers;
  for (Index f = 0; f < factors.count;) {
    BFloat16Bits* const rows = tiles + f / tile_side * row_tile + f % tile_side * tile_depth;
    const T* const left = packed + factors.left[f];
    const T* const right = packed + factors.right[f];
    // Four in one run share what is loaded of the left factor; they must be in one tile as well.
    const Index in_tile = tile_side - f % tile_side;
    Index together = 1;
    while (together < 4 && together < in_tile && f + together < factors.count &&
           factors.left[f + together] == factors.left[f] &&
           factors.right[f + together] == factors.right[f] + together * block_tokens<T>)
      ++together;
    if (together == 4) {
      absorb_rows<T, 4>(left, right, weights, vectors, rows, sums + f);
    } else {
      together = 1;
      absorb_rows<T, 1>(left, right, weights, vectors, rows, sums + f);
    }
    f += together;
    background.tick(together);
  }
}

template <class T>
void matrix_absorb(const MatrixAbsorb<T>& block) {
  const Tiles tiles;
  constexpr Index panel = matrix_absorb_panel;
  constexpr Index panel_numbers = 2 * depth_steps(block_tokens<T>) * tile_numbers;
  BFloat16Bits* const panels = static_cast<BFloat16Bits*>(block.scratch);
  float* const last_rows = reinterpret_cast<float*>(panels + 2 * panel_numbers);
  const Index stride = block.value_stride, value_tiles = tiles_of(stride);
  alignas(64) Vector<T> sums[std::size_t{panel}];
  Factors<T> factors;
  Background background;
  Index item = 0;
  for (Index first = block.first; first < block.last; first += panel) {
    const Index last = first + panel < block.last ? first + panel : block.last, count = last - first;
    factors.list(block.map, {}, first, last);
    T* const summary = block.summary + (first - block.first) * stride;
    T* const normalizer = block.normalizer + (first - block.first);
    for (auto& sum : sums) sum = Vector<T>{};
    // The next panel's rows of S, on their way while this one is made.
    for (Index cell = 0; cell < panel * stride; cell += lanes<T>) ask_for(summary + panel * stride, cell);
    if (block.keep != 1)
      for (Index f = 0; f < count; ++f) {
        normalizer[f] *= block.keep;
        for (Index column = 0; column < stride; column += lanes<T>) {
          Vector<T> value;
          load<T>(summary + f * stride + column, value);
          value *= block.keep;
          store<T>(summary + f * stride + column, value);
        }
      }
    for (Index b = 0; b < block.blocks; ++b, ++item) {
      const Index tokens = b + 1 < block.blocks ? block.tokens : block.last_tokens;
      const Index vectors = (tokens + lanes<T> - 1) / lanes<T>, steps = depth_steps(tokens);
      BFloat16Bits* const a = panels + item % 2 * panel_numbers;
      absorb_panel_of<T>(factors, block.packed + b * block.packed_step, block.row_weights + b * block.row_weight_step,
                         vectors, a, sums, background);
      background.finish();
      TileProduct product;
      product.a = a;
      product.a_row_step = steps * tile_numbers;
      product.a_depth_step = tile_numbers;
      product.b = block.values + b * block.value_step;
      product.b_column_step = tile_numbers;
      product.b_depth_step = value_tiles * tile_numbers;
      product.c = summary;
      product.c_row_step = tile_side * stride;
      product.c_column_step = tile_side;
      product.c_stride = stride;
      product.rows = tiles_of(count);
      product.columns = value_tiles;
      product.depth = steps;
      if (count % tile_side == 0) {
        background.start(panel, product);
        continue;
      }
      // The end of a slice: rows of S that are not there must not be touched.
      product.c = last_rows;
      product.accumulate = false;
      product.finish();
      for (Index cell = 0; cell < count * stride; cell += lanes<T>) {
        Vector<T> value, added;
        load<T>(summary + cell, value);
        load<T>(last_rows + cell, added);
        value += added;
        store<T>(summary + cell, value);
      }
    }
    for (Index f = 0; f < count; ++f) normalizer[f] += sum_of_lanes<T>(sums[f]);
  }
  background.finish();
}

// N += Φ(Q) S on the matrix unit, transposed: A = Sᵀ, B = features as pairs over tokens, C = rows' sums, [value][token].
//
// S is rounded, with the features' coefficients in it, a panel of 128 features at a time, and transposed: 100 cycles for
// 32 features and 16 values, as long as the unit needs for 100 tokens. So several blocks of tokens share it.
// (With S as B, and features as rows of A, it need not be transposed; but features over tokens would.)

// 32 features × 16 values of S, rounded, as rows of features.
template <class T>
CSQ_INLINE void summary_tile(const T* summary, Index stride, Index features, const T* coefficients,
                             BFloat16Bits* tile) {
  for (Index pair = 0; pair < tile_side; ++pair) {
    Vector<T> x[2] = {};
    CSQ_UNROLL
    for (Index half = 0; half < 2; ++half) {
      const Index feature = 2 * pair + half;
      if (feature >= features) continue;
      load<T>(summary + feature * stride, x[half]);
      x[half] *= coefficients[feature];
    }
    Bits bits;
    round_pairs_fast(x[0], x[1], bits);
    store_bits(tile + pair * tile_depth, bits);
  }
  transpose_pair_tile(tile);
}

// Features over Width tiles of tokens, pairs [token tile][feature step], with the normaliser's sums.
template <class T, int Width>
__attribute__((noinline)) void read_features(const Factors<T>& factors, const T* packed, T* normalizer_rows,
                                             BFloat16Bits* tiles, Background& background) {
  constexpr Index tile_step = matrix_read_panel / tile_depth * tile_numbers;
  Vector<T> sum[std::size_t{Width}], left[std::size_t{Width}] = {};
  CSQ_UNROLL
  for (int w = 0; w < Width; ++w) load<T>(normalizer_rows + w * lanes<T>, sum[w]);
  Index loaded = -1;
  const Index count = factors.count, pairs = depth_steps(count) * tile_side;
  for (Index pair = 0; pair < pairs; ++pair) {
    Vector<T> x[2][std::size_t{Width}] = {};
    CSQ_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Index f = 2 * pair + half;
      if (f >= count) continue;
      if (factors.left[f] != loaded) {
        loaded = factors.left[f];
        CSQ_UNROLL
        for (int w = 0; w < Width; ++w) load<T>(packed + loaded + w * lanes<T>, left[w]);
      }
      const T* const right = packed + factors.right[f];
      const T weight = factors.weight[f];
      CSQ_UNROLL
      for (int w = 0; w < Width; ++w) {
        load<T>(right + w * lanes<T>, x[half][w]);
        x[half][w] *= left[w];
        sum[w] += x[half][w] * weight;
      }
    }
    CSQ_UNROLL
    for (int w = 0; w < Width; ++w) {
      Bits bits;
      round_pairs_fast(x[0][w], x[1][w], bits);
      store_bits(tiles + w * tile_step + pair * tile_depth, bits);
    }
    background.tick(Width);
  }
  CSQ_UNROLL
  for (int w = 0; w < Width; ++w) store<T>(normalizer_rows + w * lanes<T>, sum[w]);
}

template <class T>
void matrix_read(const MatrixRead<T>& block) {
  const Tiles tiles;
  constexpr Index panel = matrix_read_panel, panel_steps = panel / tile_depth;
  constexpr Index strip = 2;           // tiles of tokens
  constexpr Index rounding_ticks = 8;  // what rounding a tile takes, in vectors of pairs of features
  const Index stride = block.value_stride, value_tiles = tiles_of(stride);
  BFloat16Bits* const features = static_cast<BFloat16Bits*>(block.scratch);
  BFloat16Bits* const summaries = features + 2 * strip * panel_steps * tile_numbers;
  Factors<T> factors;
  Background background;
  Index item = 0, panels = 0;
  for (Index first = block.first; first < block.last; first += panel, ++panels) {
    const Index last = first + panel < block.last ? first + panel : block.last, count = last - first;
    const Index steps = depth_steps(count);
    factors.list(block.map, block.coefficients, first, last);
    for (Index f = 0; f < count; ++f)
      factors.weight[f] = factors.coefficient[f] * block.normalizer[first - block.first + f];
    const T* const summary = block.summary + (first - block.first) * stride;
    BFloat16Bits* const a = summaries + panels % 2 * value_tiles * panel_steps * tile_numbers;
    for (Index step = 0; step < steps; ++step)
      for (Index tile = 0; tile < value_tiles; ++tile) {
        const T* const from = summary + step * tile_depth * stride + tile * tile_side;
        // The next panel's rows, on their way meanwhile.
        for (Index row = 0; row < tile_depth; ++row) ask_for(from + row * stride, panel * stride);
        summary_tile<T>(from, stride, count - step * tile_depth, factors.coefficient + step * tile_depth,
                        a + (tile * panel_steps + step) * tile_numbers);
        background.tick(rounding_ticks);
      }
    for (Index b = 0; b < block.blocks; ++b) {
      const bool is_last = b + 1 == block.blocks;
      const Index token_tiles = tiles_of(is_last ? block.last_tokens : block.tokens);
      for (Index token = 0; token < token_tiles; token += strip, ++item) {
        const Index width = token + 1 < token_tiles ? 2 : 1;
        BFloat16Bits* const right = features + item % 2 * strip * panel_steps * tile_numbers;
        const T* const packed = block.packed + b * block.packed_step + token * tile_side;
        T* const rows = block.normalizer_rows + b * block.normalizer_step + token * tile_side;
        if (width == 2)
          read_features<T, 2>(factors, packed, rows, right, background);
        else
          read_features<T, 1>(factors, packed, rows, right, background);
        background.finish();
        TileProduct product;
        product.a = a;
        product.a_row_step = panel_steps * tile_numbers;
        product.a_depth_step = tile_numbers;
        product.b = right;
        product.b_column_step = panel_steps * tile_numbers;
        product.b_depth_step = tile_numbers;
        product.c = block.sums + b * block.sum_step + token * value_tiles * sum_tile_size;
        product.c_row_step = sum_tile_size;
        product.c_column_step = value_tiles * sum_tile_size;
        product.c_stride = tile_side;
        product.rows = value_tiles;
        product.columns = width;
        product.depth = steps;
        const bool rounds_next = is_last && token + strip >= token_tiles;
        background.start(panel / 2 * strip + (rounds_next ? rounding_ticks * panel_steps * value_tiles : 0), product);
      }
    }
  }
  background.finish();
}

// Direct pairs on the matrix unit: scores [key][query], A = keys as rows, B = queries as pairs of dimensions; weights by
// the code of the float kernels, rounded to pairs of keys; sums [value][query], A = values as lanes.
//
// Two tiles of queries at a time, a strip: while vectors make weights of one, the unit multiplies the weights of the one
// before and makes the scores of the one after.

// 2^(s − origin), as exact as weights need that are rounded to bfloat16.
template <class T>
struct CoarseExponentialWeight : WeightTraits {
  static constexpr bool is_relative = true;
  Vector<T> origin;

  CSQ_INLINE CoarseExponentialWeight(const KernelWeight&, const Vector<T>& relative_to) : origin(relative_to) {}
  CSQ_INLINE void value(Vector<T>& score) const {
    score -= origin;
    coarse_exp2_in_place(score);
  }
};

// Scores of pairs of keys [first, last) → weights, added to `sum`; keys from `end` on are not there.
template <class T, bool Masked, class Weight>
CSQ_INLINE void weigh_pairs(const T* column, const Mask<T>& mask, const Weight& evaluate, Index first, Index last,
                            Index end, BFloat16Bits* pairs, Vector<T>& sum, Background& background) {
  constexpr Index stride = block_tokens<T>;
  Vector<T> total = sum;
  for (Index pair = first; pair < last; ++pair) {
    Vector<T> weight[2] = {};
    CSQ_UNROLL
    for (Index half = 0; half < 2; ++half) {
      const Index key = 2 * pair + half;
      if (Masked && key >= end) continue;
      load<T>(column + key * stride, weight[half]);
      evaluate.value(weight[half]);
      if constexpr (Masked) {
        Integers<T> sees;
        mask.sees(key, sees);
        weight[half] = sees ? weight[half] : Vector<T>{};
      }
      total += weight[half];
    }
    Bits bits;
    round_pairs_fast(weight[0], weight[1], bits);
    store_bits(pairs + pair * tile_depth, bits);
    background.tick();
  }
  sum = total;
}
template <class T, class Weight>
CSQ_INLINE void weigh_all_pairs(const T* column, const Mask<T>& mask, const Weight& evaluate,
                                const KeysOfColumn<T>& keys, BFloat16Bits* pairs, Vector<T>& sum,
                                Background& background) {
  const Index first = keys.first / 2, last = (keys.last + 1) / 2;
  Index from = (keys.from + 1) / 2, to = keys.to / 2;
  if (Weight::is_rare || to <= from) from = to = last;
  weigh_pairs<T, true>(column, mask, evaluate, first, from, keys.last, pairs, sum, background);
  if constexpr (!Weight::is_rare)
    weigh_pairs<T, false>(column, mask, evaluate, from, to, keys.last, pairs, sum, background);
  weigh_pairs<T, true>(column, mask, evaluate, to, last, keys.last, pairs, sum, background);
}

// What the weights of a column of lanes are made with, and where they go.
template <class T>
struct MatrixColumn {
  const MatrixDirect<T>& matrix;
  Index lane;       // of the block
  const T* scores;  // [key][B]
  const KeysOfColumn<T>& keys;
  BFloat16Bits* pairs;
  Background& background;

  CSQ_INLINE T* sums() const { return matrix.sums + lane / tile_side * tiles_of(matrix.block.value_stride) * sum_tile_size; }

  // As relative_weights of the float kernel.
  template <class Weight>
  CSQ_INLINE bool relative() const {
    const DirectBlock<T>& block = matrix.block;
    const Mask<T> mask(lane, block.band_start, block.diagonal);
    Vector<T> highest[4];
    for (auto& value : highest) broadcast<T>(lowest_score<T>, value);
    raise_highest<T, true>(scores, mask, keys.first, keys.from, highest);
    raise_highest<T, false>(scores, mask, keys.from, keys.to, highest);
    raise_highest<T, true>(scores, mask, keys.to, keys.last, highest);
    highest[0] = highest[1] > highest[0] ? highest[1] : highest[0];
    highest[2] = highest[3] > highest[2] ? highest[3] : highest[2];
    highest[0] = highest[2] > highest[0] ? highest[2] : highest[0];

    Vector<T> old, total;
    load<T>(block.maximum + lane, old);
    load<T>(block.normalizer + lane, total);
    const Integers<T> rises = highest[0] > old + static_cast<T>(maximum_slack);
    const Vector<T> maximum = rises ? highest[0] : old;
    Vector<T> scale = old - maximum, one;
    exp2_in_place(scale);
    broadcast<T>(1, one);
    scale = rises ? scale : one;  // also where both are +∞
    store<T>(block.maximum + lane, maximum);
    store<T>(block.scale + lane, scale);

    Vector<T> sum = {};
    weigh_all_pairs<T>(scores, mask, Weight(block.weight, maximum), keys, pairs, sum, background);
    total = total * scale + sum;
    store<T>(block.normalizer + lane, total);
    bool any = false;
    for (Index i = 0; i < lanes<T>; ++i) any = any || rises[i] != 0;
    return any;
  }

  template <class Weight>
  CSQ_INLINE bool run() const {
    if constexpr (Weight::is_gradient_only) {
      return false;
    } else if constexpr (Weight::is_relative) {
      return relative<CoarseExponentialWeight<T>>();
    } else {
      const DirectBlock<T>& block = matrix.block;
      Vector<T> sum = {}, total;
      weigh_all_pairs<T>(scores, Mask<T>(lane, block.band_start, block.diagonal), Weight(block.weight, Vector<T>{}),
                         keys, pairs, sum, background);
      load<T>(block.normalizer + lane, total);
      total += sum;
      store<T>(block.normalizer + lane, total);
      return false;
    }
  }

  // Weights that options adjust are made as the float kernel makes them, then rounded.
  __attribute__((noinline)) bool run_adjusted(const VisiblePairs& visible, GateParts<T>& gates) const {
    const bool scaled = adjusted_weights_of_lanes<T>(matrix.block, visible, lane, keys, gates);
    for (Index pair = keys.first / 2; pair < (keys.last + 1) / 2; ++pair) {
      Vector<T> weight[2] = {};
      for (Index half = 0; half < 2; ++half) {
        const Index key = 2 * pair + half;
        if (key >= keys.first && key < keys.last) load<T>(scores + key * block_tokens<T>, weight[half]);
      }
      Bits bits;
      round_pairs_fast(weight[0], weight[1], bits);
      store_bits(pairs + pair * tile_depth, bits);
      background.tick();
    }
    return scaled;
  }

  // Pairs of keys [from, to) that no lane sees.
  CSQ_INLINE void clear(Index from, Index to) const {
    for (Index pair = from; pair < to; ++pair) store_bits(pairs + pair * tile_depth, Bits{});
  }
  CSQ_INLINE void scale_sums() const {
    Vector<T> scale;
    load<T>(matrix.block.scale + lane, scale);
    T* row = sums();
    for (Index value = 0; value < matrix.block.value_stride; ++value, row += tile_side) {
      Vector<T> sum;
      load<T>(row, sum);
      sum *= scale;
      store<T>(row, sum);
    }
  }
};

// Strips of a block of queries, and their products.
template <class T>
struct MatrixStrips {
  static constexpr Index width = 2;  // tiles of queries
  static constexpr Index pair_step = depth_steps(block_tokens<T>) * tile_numbers;  // of a column's weights

  const MatrixDirect<T>& matrix;
  VisiblePairs visible;
  bool adjusted;

  CSQ_INLINE Index count() const { return (tiles_of(visible.queries) + width - 1) / width; }
  CSQ_INLINE Index lane(Index strip) const { return strip * width * tile_side; }
  CSQ_INLINE Index columns(Index strip) const {
    const Index left = tiles_of(visible.queries) - strip * width;
    return left < width ? left : width;
  }
  CSQ_INLINE Index first_key(Index strip) const { return visible.first_key_of(lane(strip)); }
  CSQ_INLINE Index end_key(Index strip) const { return visible.keys_of_lanes(lane(strip), width * tile_side); }
  // Scores of two strips at a time, in one place, so that they stay in cache; what adjusts them finds them by their lane.
  CSQ_INLINE T* scores(Index strip) const {
    return matrix.block.weights + (adjusted ? lane(strip) : strip % 2 * width * tile_side);
  }
  CSQ_INLINE BFloat16Bits* pairs(Index strip) const {
    return static_cast<BFloat16Bits*>(matrix.scratch) + strip % 2 * width * pair_step;
  }

  CSQ_INLINE TileProduct score_product(Index strip) const {
    TileProduct product;
    if (strip >= count()) return product;
    const Index from = first_key(strip) / tile_side, to = tiles_of(end_key(strip));
    const Index steps = depth_steps(matrix.block.dim), tile = steps * tile_numbers;
    if (from >= to) return product;
    product.a = matrix.key + from * tile;
    product.b = matrix.query + strip * width * tile;
    product.a_row_step = product.b_column_step = tile;
    product.a_depth_step = product.b_depth_step = tile_numbers;
    product.c = scores(strip) + from * tile_side * block_tokens<T>;
    product.c_row_step = tile_side * block_tokens<T>;
    product.c_column_step = tile_side;
    product.c_stride = block_tokens<T>;
    product.rows = to - from;
    product.columns = columns(strip);
    product.depth = steps;
    product.accumulate = false;
    return product;
  }
  CSQ_INLINE TileProduct value_product(Index strip) const {
    TileProduct product;
    const Index from = first_key(strip) / tile_depth, to = depth_steps(end_key(strip));
    const Index value_tiles = tiles_of(matrix.block.value_stride);
    if (from >= to) return product;
    product.a = matrix.values + from * tile_numbers;
    product.a_row_step = depth_steps(matrix.block.keys) * tile_numbers;
    product.b = pairs(strip) + from * tile_numbers;
    product.b_column_step = pair_step;
    product.a_depth_step = product.b_depth_step = tile_numbers;
    product.c = matrix.sums + strip * width * value_tiles * sum_tile_size;
    product.c_row_step = sum_tile_size;
    product.c_column_step = value_tiles * sum_tile_size;
    product.c_stride = tile_side;
    product.rows = value_tiles;
    product.columns = columns(strip);
    product.depth = to - from;
    return product;
  }
};

template <class T>
void matrix_direct(const MatrixDirect<T>& matrix) {
  const DirectBlock<T>& block = matrix.block;
  const VisiblePairs visible{block.queries, block.keys, block.band_start, block.diagonal};
  if (!matrix.values_are_finite && !visible.all()) {
    move_sums<T>(block.queries, block.value_stride, matrix.sums, block.numerator);
    direct<T>(block);
    return;
  }
  const FlushesSubnormal flushes(true);
  const Tiles tiles;
  const MatrixStrips<T> strips{matrix, visible, block.adjust.any()};
  GateParts<T> gates(block.weight.kind != WeightKind::exponential);
  Background background;
  TileProduct before;  // the values of the strip before
  bool scaled = false;
  TileProduct first_scores = strips.score_product(0);
  first_scores.finish();
  for (Index strip = 0; strip < strips.count(); ++strip) {
    const Index from = strips.first_key(strip) / tile_depth * tile_side;
    const Index to = depth_steps(strips.end_key(strip)) * tile_side;
    background.start((to - from) * strips.columns(strip), before, strips.score_product(strip + 1));
    for (Index column = 0; column < strips.columns(strip); ++column) {
      const Index lane = strips.lane(strip) + column * tile_side;
      const KeysOfColumn<T> keys(visible, lane);
      const MatrixColumn<T> work{matrix,     lane, strips.scores(strip) + column * tile_side,
                                 keys,       strips.pairs(strip) + column * MatrixStrips<T>::pair_step,
                                 background};
      const bool any = strips.adjusted ? work.run_adjusted(visible, gates) : visit_weight<T>(block.weight.kind, work);
      const Index first = keys.first / 2, last = (keys.last + 1) / 2;
      work.clear(from, first < to ? first : to);
      work.clear(last > from ? last : from, to);
      if (any) work.scale_sums();
      scaled = scaled || any;
    }
    background.finish();
    before = strips.value_product(strip);
  }
  before.finish();
  if (scaled)
    for (Index query = 0; query < block.queries; ++query)
      if (block.scale[query] != 1)
        scale_row<T>(block.scale[query], block.value_stride, block.numerator + query * block.value_stride);
}

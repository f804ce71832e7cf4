// The gradients of a block of queries against a block of keys on the matrix unit. With r the scaled gradient rows:
//   scores, r·v  [key][query]  A = keys, values as rows      B = queries, r as pairs of dimensions
//   ∂v, ∂k       [key][e]      A = weights, slopes as rows   B = r, queries as pairs of tokens
//   ∂qᵀ          [a][query]    A = keys as lanes             B = slopes as pairs of keys
//
// In units of 32 keys × 32 queries, 2×2 tiles, along the keys' rows. The scores and r·v of the unit after this one are
// multiplied before vectors make weights and slopes of this one, which so need not wait for them, with a share of ∂v
// and ∂k of the 32 keys before, whose sums are complete but for other blocks. ∂q comes last, as a term of its own: sums
// over blocks of keys are then the same whether terms are added at once or kept beside each other.
//
// For 144 × 144 pairs of d = 64: 864 products, 13,800 cycles of the matrix unit, and 760 stores of tiles of sums, 16
// cycles each and not beside it; 1,300 vectors of pairs, for the exponential 18 operations each, 11,700 cycles of two
// ports. (Slopes as rows over keys, ∂q as [query][a], would take a transposition for every tile of them.) Seen on a
// Sapphire Rapids core that others did not disturb: 260 ns of vectors for a unit, 500 to 540 GF/s for d = 64 and 560 to
// 610 for d = 128, the float kernel 150 and 160; blocks on the diagonal, counted by half, 0.8 of that.

// 2^(s − origin), as exact as weights need that are rounded to bfloat16.
template <class T>
struct CoarseExponentialSlope : CoarseExponentialWeight<T> {
  CSQ_INLINE CoarseExponentialSlope(const KernelWeight& weight, const Vector<T>& relative_to)
      : CoarseExponentialWeight<T>(weight, relative_to) {}
  CSQ_INLINE void value_and_slope(Vector<T>& score, Vector<T>& slope) const {
    this->value(score);
    slope = score;
  }
};

// Where everything of a pair of blocks is, in units of a group of 32 keys and a strip of 32 queries.
template <class T>
struct MatrixBackward {
  static constexpr Index side = 2 * tile_side;
  static constexpr Index unit_size = side * side;
  static constexpr Index steps = depth_steps(block_tokens<T>);
  static constexpr Index slopes_behind = 2 * steps * tile_numbers;  // the weights of a group

  const MatrixDirectBackward<T>& matrix;
  const DirectBackwardBlock<T>& block;
  VisiblePairs visible;
  bool stored;          // weights and slopes of all pairs are in those of the block already
  T* scores;            // of two units, [key][32 queries], with r·v behind each
  BFloat16Bits* rows;   // weights of two groups of keys, [key tile][query step], with slopes behind each
  BFloat16Bits* pairs;  // slopes, [query tile][key step]
  T* query_terms;       // of two strips

  explicit CSQ_INLINE MatrixBackward(const MatrixDirectBackward<T>& of)
      : matrix(of), block(of.block), visible{block.queries, block.keys, block.band_start, block.diagonal} {
    stored = block.adjust.any() || block.key_sums != nullptr;
    scores = static_cast<T*>(of.scratch);
    rows = reinterpret_cast<BFloat16Bits*>(scores + 4 * unit_size);
    pairs = rows + Index{4} * slopes_behind;
    query_terms = reinterpret_cast<T*>(pairs + tiles_of(block_tokens<T>) * steps * tile_numbers);
  }

  CSQ_INLINE Index groups() const { return depth_steps(block.keys); }
  CSQ_INLINE Index strips() const { return depth_steps(block.queries); }
  CSQ_INLINE Index key_tiles(Index group) const { return tiles_in(group, block.keys); }
  CSQ_INLINE Index query_tiles(Index strip) const { return tiles_in(strip, block.queries); }
  CSQ_INLINE Index dim_tiles() const { return tiles_of(block.key_dim); }
  CSQ_INLINE Index value_tiles() const { return tiles_of(block.value_dim); }
  CSQ_INLINE T* scores_of(Index unit) const { return scores + unit % 2 * 2 * unit_size; }
  CSQ_INLINE BFloat16Bits* rows_of(Index group) const { return rows + group % 2 * 2 * slopes_behind; }
  CSQ_INLINE T* query_term(Index strip) const { return query_terms + strip % 2 * 2 * dim_tiles() * sum_tile_size; }

  // Whether any query of a strip sees a key of a group, and whether all see all. The strips that see a group follow
  // each other, and so do the groups that a strip sees.
  CSQ_INLINE bool sees(Index group, Index strip) const {
    return visible.keys_of_lanes(strip * side, side) > group * side &&
           visible.first_key_of(strip * side) < least(group * side + side, block.keys);
  }
  CSQ_INLINE bool sees_all(Index group, Index strip) const {
    const Index last = strip * side + side - 1;
    return last < block.queries && group * side + side <= visible.keys_of(strip * side) &&
           visible.first_key_of(last) <= group * side;
  }
  struct Range {
    Index first = 0, end = 0;
  };
  CSQ_INLINE Range strips_of(Index group) const {
    Range range;
    while (range.first < strips() && !sees(group, range.first)) ++range.first;
    range.end = range.first;
    while (range.end < strips() && sees(group, range.end)) ++range.end;
    return range;
  }
  CSQ_INLINE Range groups_of(Index strip) const {
    Range range;
    while (range.first < groups() && !sees(range.first, strip)) ++range.first;
    range.end = range.first;
    while (range.end < groups() && sees(range.end, strip)) ++range.end;
    return range;
  }

  // Scores, or r·v, of tiles of keys and tiles of queries.
  CSQ_INLINE static TileProduct score_product(const BFloat16Bits* keys, const BFloat16Bits* queries, Index dim,
                                              Index key_tile, Index rows, Index query_tile, Index columns, T* scores,
                                              Index stride) {
    const Index depth = depth_steps(dim), tile = depth * tile_numbers;
    TileProduct product;
    product.a = keys + key_tile * tile;
    product.b = queries + query_tile * tile;
    product.a_row_step = product.b_column_step = tile;
    product.a_depth_step = product.b_depth_step = tile_numbers;
    product.c = scores;
    product.c_row_step = tile_side * stride;
    product.c_column_step = tile_side;
    product.c_stride = stride;
    product.rows = rows;
    product.columns = columns;
    product.depth = depth;
    product.accumulate = false;
    return product;
  }
  CSQ_INLINE void multiply_scores(Index group, Index strip, Index unit) const {
    if (stored) return;
    T* const to = scores_of(unit);
    multiply_tiles(score_product(matrix.key, matrix.query, block.key_dim, 2 * group, key_tiles(group), 2 * strip,
                                 query_tiles(strip), to, side));
    multiply_tiles(score_product(matrix.value, matrix.gradient, block.value_dim, 2 * group, key_tiles(group), 2 * strip,
                                 query_tiles(strip), to + unit_size, side));
  }

  // gradient[j] += Σ_i factor_ij row_i for the keys of a group, columns of tiles [first, end).
  CSQ_INLINE TileProduct key_product(Index group, const Range& seen, const BFloat16Bits* factors,
                                     const BFloat16Bits* row_pairs, Index tiles, T* gradient, Index first,
                                     Index end) const {
    const Index stride = tiles * tile_side;
    TileProduct product;
    product.a = factors + seen.first * tile_numbers;
    product.a_row_step = steps * tile_numbers;
    product.a_depth_step = product.b_column_step = tile_numbers;
    product.b = row_pairs + (seen.first * tiles + first) * tile_numbers;
    product.b_depth_step = tiles * tile_numbers;
    product.c = gradient + group * side * stride + first * tile_side;
    product.c_row_step = tile_side * stride;
    product.c_column_step = tile_side;
    product.c_stride = stride;
    product.rows = key_tiles(group);
    product.columns = end > first ? end - first : 0;
    product.depth = seen.end - seen.first;
    return product;
  }
  // Part `index` of `parts` of ∂v and ∂k of a group.
  CSQ_INLINE void multiply_key_rows(Index group, Index index, Index parts) const {
    const Range seen = strips_of(group);
    const BFloat16Bits* const weights = rows_of(group);
    const Index all_values = value_tiles(), all_dims = dim_tiles();
    const Index values = (all_values + 1) / 2, pairs_of_tiles = values + (all_dims + 1) / 2;
    const Index first = pairs_of_tiles * index / parts, end = pairs_of_tiles * (index + 1) / parts;
    multiply_tiles(key_product(group, seen, weights, matrix.gradient_pairs, all_values, block.value_gradient, 2 * first,
                               least(2 * end, all_values)));
    multiply_tiles(key_product(group, seen, weights + slopes_behind, matrix.query_pairs, all_dims, block.key_gradient,
                               first > values ? 2 * (first - values) : 0, least(2 * (end - values), all_dims)));
  }

  CSQ_INLINE TileProduct query_product(Index strip) const {
    const Range seen = groups_of(strip);
    TileProduct product;
    product.a = matrix.key_lanes + seen.first * tile_numbers;
    product.a_row_step = groups() * tile_numbers;
    product.a_depth_step = product.b_depth_step = tile_numbers;
    product.b = pairs + (2 * strip * steps + seen.first) * tile_numbers;
    product.b_column_step = steps * tile_numbers;
    product.c = query_term(strip);
    product.c_row_step = sum_tile_size;
    product.c_column_step = dim_tiles() * sum_tile_size;
    product.c_stride = tile_side;
    product.rows = dim_tiles();
    product.columns = query_tiles(strip);
    product.depth = seen.end - seen.first;
    product.accumulate = false;
    return product;
  }
  CSQ_INLINE void add_query_term(Index strip) const {
    const T* const from = query_term(strip);
    T* const to = matrix.query_sums + 2 * strip * dim_tiles() * sum_tile_size;
    for (Index cell = 0; cell < query_tiles(strip) * dim_tiles() * sum_tile_size; cell += lanes<T>) {
      Vector<T> sum, term;
      load<T>(to + cell, sum);
      load<T>(from + cell, term);
      sum += term;
      store<T>(to + cell, sum);
    }
  }

  CSQ_INLINE static Index least(Index a, Index b) { return a < b ? a : b; }

 private:
  CSQ_INLINE static Index tiles_in(Index index, Index tokens) {
    const Index left = tiles_of(tokens) - 2 * index;
    return left < 2 ? left : 2;
  }
};

// One unit's scores and r·v → weights and slopes, rounded for their products. Zero where invisible, and where there is
// no key or query.
template <class T>
struct BackwardUnit {
  const MatrixBackward<T>& all;
  Index group, strip;
  const T* scores;
  Vector<T>* slope_sums;  // of two columns of lanes
  Upcoming& upcoming;

  // Weight void: they are there, made by the float kernels.
  template <bool Masked, class Weight>
  __attribute__((noinline)) void weigh() const {
    constexpr Index side = MatrixBackward<T>::side, steps = MatrixBackward<T>::steps;
    constexpr bool stored = std::is_void_v<Weight>;
    const DirectBackwardBlock<T>& block = all.block;
    const Index lane = strip * side, first_key = group * side;
    const Index columns = all.query_tiles(strip), keys = block.keys - first_key;
    BFloat16Bits* const weight_rows = all.rows_of(group) + strip * tile_numbers;
    BFloat16Bits* const slope_pairs = all.pairs + (2 * strip * steps + group) * tile_numbers;
    Vector<T> origin[2] = {}, dot[2] = {}, sum[2] = {};
    if constexpr (!stored) {
      CSQ_UNROLL
      for (Index c = 0; c < 2; ++c) {
        if (Masked && c >= columns) continue;
        if constexpr (Weight::is_relative) load<T>(block.log_normalizer + lane + c * lanes<T>, origin[c]);
        load<T>(block.dot + lane + c * lanes<T>, dot[c]);
      }
    }
    using Evaluate = std::conditional_t<stored, WeightTraits, Weight>;
    const Evaluate evaluate[2] = {evaluator<Evaluate>(origin[0]), evaluator<Evaluate>(origin[1])};
    const Mask<T> mask[2] = {mask_of(lane), mask_of(lane + lanes<T>)};
    for (Index pair = 0; pair < tile_side; ++pair) {
      Vector<T> weight[2][2] = {}, slope[2][2] = {};  // of two keys
      CSQ_UNROLL
      for (Index half = 0; half < 2; ++half) {
        const Index key = 2 * pair + half;
        CSQ_UNROLL
        for (Index c = 0; c < 2; ++c) {
          if (Masked && (key >= keys || c >= columns)) continue;
          Vector<T>&w = weight[half][c], &w_slope = slope[half][c];
          if constexpr (stored) {
            const Index at = (first_key + key) * block_tokens<T> + lane + c * lanes<T>;
            load<T>(block.weights + at, w);
            load<T>(block.slopes + at, w_slope);
          } else {
            const Index at = key * side + c * lanes<T>;
            Vector<T> gradient;
            load<T>(scores + at, w);
            load<T>(scores + MatrixBackward<T>::unit_size + at, gradient);
            evaluate[c].value_and_slope(w, w_slope);
            w_slope *= gradient - dot[c];
          }
          if constexpr (Masked) {
            Integers<T> sees;
            mask[c].sees(first_key + key, sees);
            w = sees ? w : Vector<T>{};
            w_slope = sees ? w_slope : Vector<T>{};
          }
          if constexpr (!stored) sum[c] += w_slope;
        }
        BFloat16Bits* const row = weight_rows + key / tile_side * steps * tile_numbers + key % tile_side * tile_depth;
        Bits bits;
        round_to_bits(weight[half][0], weight[half][1], bits);
        store_bits(row, bits);
        round_to_bits(slope[half][0], slope[half][1], bits);
        store_bits(row + MatrixBackward<T>::slopes_behind, bits);
      }
      CSQ_UNROLL
      for (Index c = 0; c < 2; ++c) {
        if (Masked && c >= columns) continue;
        Bits bits;
        round_pairs(slope[0][c], slope[1][c], bits);
        store_bits(slope_pairs + c * steps * tile_numbers + pair * tile_depth, bits);
      }
      ask_for_next();
    }
    slope_sums[0] += sum[0];
    slope_sums[1] += sum[1];
  }

  template <class Weight>
  CSQ_INLINE bool run() const {
    using Mine = std::conditional_t<Weight::is_relative, CoarseExponentialSlope<T>, Weight>;
    if constexpr (!Weight::is_rare && !Weight::is_gradient_only) {
      if (all.sees_all(group, strip)) {
        weigh<false, Mine>();
        return false;
      }
    }
    weigh<true, Mine>();
    return false;
  }

 private:
  template <class Weight>
  CSQ_INLINE Weight evaluator(const Vector<T>& origin) const {
    if constexpr (std::is_same_v<Weight, WeightTraits>)
      return {};
    else
      return Weight(all.block.weight, origin);
  }
  // Of queries that are there.
  CSQ_INLINE Mask<T> mask_of(Index lane) const {
    Mask<T> mask(lane, all.visible.start, all.visible.diagonal);
    const Mask<T> place(lane, 0, 0);
    mask.visible &= place.visible < static_cast<typename Mask<T>::Number>(all.block.queries);
    return mask;
  }
  // What the next pairs of blocks will read: all of it within a pair of blocks.
  CSQ_INLINE void ask_for_next() const {
    constexpr std::uintptr_t line = 64, lines = 8;
    if (upcoming.at >= upcoming.end) return;
    for (std::uintptr_t i = 0; i < lines; ++i)
      __builtin_prefetch(reinterpret_cast<const void*>(upcoming.at + i * line));
    upcoming.advance(upcoming.at + lines * line);
  }
};

// Weights and slopes that options adjust, or whose sums are asked for: of all pairs, by the float kernels.
template <class T>
__attribute__((noinline)) void store_backward_weights(const MatrixBackward<T>& all) {
  const DirectBackwardBlock<T>& block = all.block;
  constexpr Index stride = block_tokens<T>;
  const Index rows = tiles_of(block.keys), columns = tiles_of(block.queries);
  multiply_tiles(MatrixBackward<T>::score_product(all.matrix.key, all.matrix.query, block.key_dim, 0, rows, 0, columns,
                                                  block.weights, stride));
  multiply_tiles(MatrixBackward<T>::score_product(all.matrix.value, all.matrix.gradient, block.value_dim, 0, rows, 0,
                                                  columns, block.slopes, stride));
  GateParts<T> gates(block.weight.kind != WeightKind::exponential);
  for (Index lane = 0; lane < block.queries; lane += lanes<T>) {
    const KeysOfColumn<T> seen(all.visible, lane);
    if (block.adjust.any())
      adjusted_backward_weights_of_lanes<T>(block, all.visible, lane, seen, gates);
    else
      backward_weights_of_lanes<T>(block, lane, seen);
  }
  if (block.key_sums != nullptr) add_key_sums<T>(all.visible, block.weights, block.dot, block.key_sums);
}

// The float kernel's ∂q, rows, to tiles.
template <class T>
__attribute__((noinline)) void direct_backward_in_float(const MatrixDirectBackward<T>& matrix) {
  const DirectBackwardBlock<T>& block = matrix.block;
  const Index stride = padded_columns<T>(block.key_dim);
  for (Index cell = 0; cell < block_tokens<T> * stride; cell += lanes<T>)
    store<T>(block.query_gradient + cell, Vector<T>{});
  direct_backward<T>(block);
  T* sums = matrix.query_sums;
  alignas(64) T columns[std::size_t{sum_tile_size}];
  for (Index token = 0; token < block.queries; token += tile_side)
    for (Index dim = 0; dim < stride; dim += tile_side) {
      transpose_square<T>(block.query_gradient + token * stride + dim, stride, columns, tile_side);
      for (Index row = 0; row < tile_side; ++row, sums += tile_side) {
        Vector<T> sum, term;
        load<T>(sums, sum);
        load<T>(columns + row * tile_side, term);
        sum += term;
        store<T>(sums, sum);
      }
    }
}

template <class T>
void matrix_direct_backward(const MatrixDirectBackward<T>& matrix) {
  const MatrixBackward<T> all(matrix);
  const DirectBackwardBlock<T>& block = all.block;
  if (!matrix.rows_are_finite && !all.visible.all()) {
    direct_backward_in_float<T>(matrix);
    return;
  }
  const FlushesSubnormal flushes(true);
  const Tiles tiles;
  Upcoming upcoming = block.upcoming;
  if (all.stored) store_backward_weights<T>(all);

  alignas(64) Vector<T> slope_sums[std::size_t{2 * MatrixBackward<T>::steps}] = {};
  struct Place {
    Index group, strip;
  };
  Place places[std::size_t{MatrixBackward<T>::steps * MatrixBackward<T>::steps} + 1];
  Index count = 0;
  for (Index group = 0; group < all.groups(); ++group)
    for (Index strip = 0; strip < all.strips(); ++strip)
      if (all.sees(group, strip)) places[count++] = {group, strip};
  if (count == 0) return;

  all.multiply_scores(places[0].group, places[0].strip, 0);
  for (Index unit = 0, first = 0; unit < count; ++unit) {
    const auto [group, strip] = places[unit];
    if (unit > 0 && places[unit - 1].group != group) first = unit;  // of the group
    Index end = unit + 1;
    while (end < count && places[end].group == group) ++end;
    if (unit + 1 < count) all.multiply_scores(places[unit + 1].group, places[unit + 1].strip, unit + 1);
    if (first > 0) all.multiply_key_rows(places[first - 1].group, unit - first, end - first);
    const BackwardUnit<T> work{all, group, strip, all.scores_of(unit), slope_sums + 2 * strip, upcoming};
    if (all.stored)
      work.template weigh<true, void>();
    else
      visit_weight<T>(block.weight.kind, work);
  }
  if (!all.stored && block.slope_sum != nullptr)
    for (Index query = 0; query < block.queries; ++query)
      *block.slope_sum += static_cast<double>(slope_sums[query / lanes<T>][query % lanes<T>]);

  all.multiply_key_rows(places[count - 1].group, 0, 1);
  for (Index strip = 0; strip < all.strips(); ++strip) {
    const TileProduct product = all.query_product(strip);
    if (product.depth == 0) continue;
    multiply_tiles(product);
    all.add_query_term(strip);
  }
}

// The gradients of one block of queries against one block of keys: scores and weights are computed again.

// r·o must cancel Σ_j w_ij r·v_j, and the shift's gradient is what is left of that. Where the tiles fuse their
// products, r·o is summed in double. Where they do not, they round r·v twice a step, and that is not enough: summed in
// their order, r·o is as wrong as r·v and cancels it where v is o.
//
// Whether they fuse is up to the compiler, its level of optimisation and -ffp-contract: so a tile is asked.
template <class T>
bool tiles_are_fused() {
  constexpr T step = sizeof(T) == 4 ? static_cast<T>(0x1p-13) : static_cast<T>(0x1p-28);
  constexpr T above = 1 + step, below = 1 - step;  // above·below = 1 − step², which rounds to 1
  T a[1 + block_tokens<T>] = {1};
  T b[2 * lanes<T>] = {}, c[lanes<T>];
  volatile T asked = above;  // a compiler that knew the numbers would answer for itself
  a[block_tokens<T>] = asked;
  b[0] = -1;
  b[lanes<T>] = below;
  Upcoming nothing;
  tile<T, 1, 1, true>(2, a, b, lanes<T>, c, lanes<T>, false, nothing);
  return c[0] != 0;  // −1 + above·below, rounded once
}

// r·o for a few tokens, one in each lane, summed in the tile's order by the tile's operation.
template <class T>
CSQ_INLINE void dot_of_lanes(const ScaleGradient<T>& block, Index first, Vector<T>& dot) {
  Source<T> output = block.output;
  skip_rows(output, first);
  const Index left = block.gradient.tokens - first;
  output.tokens = left < lanes<T> ? left : lanes<T>;
  const Index dim = output.dim;
  // Rows that do not exist are zero, not what scratch held before.
  alignas(64) T rows[lanes<T> * lanes<T>] = {}, gradient_rows[lanes<T> * lanes<T>] = {};
  alignas(64) T gradient[lanes<T> * lanes<T>], transposed[lanes<T> * lanes<T>];
  dot = Vector<T>{};
  for (Index column = 0; column < dim; column += lanes<T>) {
    output.dim = dim - column < lanes<T> ? dim - column : lanes<T>;
    const T* scaled = block.rows + first * block.value_stride + column;
    copy_rows(Source<T>{scaled, block.value_stride, 1, output.tokens, output.dim}, lanes<T>, gradient_rows);
    copy_rows(output, lanes<T>, rows);
    skip_columns(output, lanes<T>);
    transpose_square<T>(rows, lanes<T>, transposed, lanes<T>);
    transpose_square<T>(gradient_rows, lanes<T>, gradient, lanes<T>);
    for (Index row = 0; row < output.dim; ++row) {
      Vector<T> r, o;
      load<T>(gradient + row * lanes<T>, r);
      load<T>(transposed + row * lanes<T>, o);
      dot += r * o;
    }
  }
}

// r·o of one token whose output lies in another type.
template <class T>
__attribute__((noinline)) double dot_with_converted(const Source<T>& output, Index token, const T* row) {
  constexpr Index columns = 64;
  T o[std::size_t{columns}];
  double dot = 0;
  Source<T> some = output;
  skip_rows(some, token);
  some.tokens = 1;
  for (Index column = 0; column < output.dim; column += columns, skip_columns(some, columns)) {
    some.dim = column + columns < output.dim ? columns : output.dim - column;
    copy_rows(some, columns, o);
    for (Index a = 0; a < some.dim; ++a) dot += static_cast<double>(row[column + a]) * static_cast<double>(o[a]);
  }
  return dot;
}

template <class T>
void scale_gradient(const ScaleGradient<T>& block) {
  constexpr Index step = lanes<double>;
  const bool fused = tiles_are_fused<T>();
  const Source<T>& output = block.output;
  for (Index token = 0; token < block.gradient.tokens; ++token) {
    T* row = block.rows + token * block.value_stride;
    Source<T> gradient = block.gradient;
    skip_rows(gradient, token);
    gradient.tokens = 1;
    copy_rows(gradient, block.value_stride, row);
    const T factor = block.factor[token];
    block.dot[token] = 0;
    for (Index column = 0; column < block.value_stride; column += lanes<T>) {
      Vector<T> value = {};
      if (factor != 0) load<T>(row + column, value);
      value *= factor;
      store<T>(row + column, value);
    }
    if (!fused || factor == 0) continue;
    if (output.storage != nullptr) {
      block.dot[token] = static_cast<T>(dot_with_converted(output, token, row));
      continue;
    }
    const T* o = row_at(output, token);
    Doubles sum = {};
    Index column = 0;
    for (; output.dim_stride == 1 && column + step <= output.dim; column += step) {
      Doubles x, y;
      load_as_double<T>(row + column, x);
      ask_for(o + column, token_group * output.token_stride);
      load_as_double<T>(o + column, y);
      sum += x * y;
    }
    double dot = sum_of_lanes<double>(sum);
    for (; column < output.dim; ++column)
      dot += static_cast<double>(row[column]) * static_cast<double>(o[column * output.dim_stride]);
    block.dot[token] = static_cast<T>(dot);
  }
  if (fused) return;
  const Index tokens = block.gradient.tokens;
  for (Index first = 0; first < tokens; first += lanes<T>) {
    Vector<T> dot;
    dot_of_lanes(block, first, dot);
    for (Index lane = 0; lane < lanes<T> && first + lane < tokens; ++lane)
      block.dot[first + lane] = block.factor[first + lane] == 0 ? 0 : dot[lane];
  }
}

// Scores and r·v of the keys [first, last) → weights and slopes, the latter added to `sum`. Zero where invisible.
template <class T, bool Masked, class Weight>
CSQ_INLINE void weigh_with_slopes(const DirectBackwardBlock<T>& block, Index lane, const Mask<T>& mask,
                                  const Weight& evaluate, Index first, Index last, Vector<T>& sum) {
  constexpr Index stride = block_tokens<T>;
  T* weights = block.weights + lane;
  T* slopes = block.slopes + lane;
  Vector<T> dot, total = sum;
  load<T>(block.dot + lane, dot);
  for (Index key = first; key < last; ++key) {
    Vector<T> weight, slope, gradient;
    load<T>(weights + key * stride, weight);
    load<T>(slopes + key * stride, gradient);
    evaluate.value_and_slope(weight, slope);
    slope *= gradient - dot;
    if constexpr (Masked) {
      Integers<T> sees;
      mask.sees(key, sees);
      weight = sees ? weight : Vector<T>{};
      slope = sees ? slope : Vector<T>{};
    }
    store<T>(weights + key * stride, weight);
    store<T>(slopes + key * stride, slope);
    total += slope;
  }
  sum = total;
}

// Scores and r·v of one column of lanes → weights and slopes; those that no lane sees stay as they are.
template <class T, class Weight>
void backward_weights(const DirectBackwardBlock<T>& block, Index lane, const KeysOfColumn<T>& keys) {
  Vector<T> origin = {}, sum = {};
  if constexpr (Weight::is_relative) load<T>(block.log_normalizer + lane, origin);
  const Weight evaluate(block.weight, origin);
  const Mask<T> mask(lane, block.band_start, block.diagonal);
  if constexpr (Weight::is_rare) {
    weigh_with_slopes<T, true>(block, lane, mask, evaluate, keys.first, keys.last, sum);
  } else {
    weigh_with_slopes<T, true>(block, lane, mask, evaluate, keys.first, keys.from, sum);
    weigh_with_slopes<T, false>(block, lane, mask, evaluate, keys.from, keys.to, sum);
    weigh_with_slopes<T, true>(block, lane, mask, evaluate, keys.to, keys.last, sum);
  }
  if (block.slope_sum != nullptr)
    for (Index i = 0; i < lanes<T> && lane + i < block.queries; ++i) *block.slope_sum += static_cast<double>(sum[i]);
}

template <class T>
struct BackwardWeightsOfLanes {
  const DirectBackwardBlock<T>& block;
  Index lane;
  const KeysOfColumn<T>& keys;

  template <class Weight>
  CSQ_INLINE bool run() const {
    backward_weights<T, Weight>(block, lane, keys);
    return false;
  }
};
template <class T>
CSQ_INLINE void backward_weights_of_lanes(const DirectBackwardBlock<T>& block, Index lane,
                                          const KeysOfColumn<T>& keys) {
  visit_weight<T>(block.weight.kind, BackwardWeightsOfLanes<T>{block, lane, keys});
}

// Weights and slopes of one column of lanes whose scores or weights are adjusted.
template <class T>
__attribute__((noinline)) void adjusted_backward_weights_of_lanes(const DirectBackwardBlock<T>& block,
                                                                  const VisiblePairs& pairs, Index lane,
                                                                  const KeysOfColumn<T>& keys, GateParts<T>& gates) {
  constexpr Index stride = block_tokens<T>;
  if (block.weight.kind == WeightKind::exponential) {
    adjust_scores<T>(block.adjust, pairs, lane, keys, gates, block.weights, block.cap_slopes);
    backward_weights_of_lanes<T>(block, lane, keys);
    if (block.adjust.soft_cap == 0) return;
    for (Index key = keys.first; key < keys.last; ++key) {
      Vector<T> slope, rate;
      load<T>(block.slopes + key * stride + lane, slope);
      load<T>(block.cap_slopes + key * stride + lane, rate);
      slope = slope == Vector<T>{} ? slope : slope * rate;  // where invisible the rate may be NaN
      store<T>(block.slopes + key * stride + lane, slope);
    }
    return;
  }
  DirectBackwardBlock<T> plain = block;
  plain.slope_sum = nullptr;
  backward_weights_of_lanes<T>(plain, lane, keys);
  Vector<T> weight_sum = {}, slope_sum = {};
  decay_weights<T>(block.adjust, pairs, lane, keys, gates, block.weights, block.slopes, weight_sum, slope_sum);
  if (block.slope_sum != nullptr)
    for (Index i = 0; i < lanes<T> && lane + i < block.queries; ++i)
      *block.slope_sum += static_cast<double>(slope_sum[i]);
}

template <class T>
void direct_backward(const DirectBackwardBlock<T>& block) {
  const FlushesSubnormal flushes(block.adjust.has_gates());
  constexpr Index stride = block_tokens<T>;
  const Index vectors = (block.queries + lanes<T> - 1) / lanes<T>;
  const Index key_stride = padded_columns<T>(block.key_dim);
  const Index value_stride = padded_columns<T>(block.value_dim);
  const VisiblePairs pairs{block.queries, block.keys, block.band_start, block.diagonal};
  GateParts<T> gates(block.weight.kind != WeightKind::exponential);
  Upcoming upcoming = block.upcoming;
  for (Index done = 0; done < vectors;) {
    const Index width = next_width(vectors - done);
    const Index lane = done * lanes<T>;
    const Index first = pairs.first_key_of_lanes(lane, tile_rows_of(width));
    const Index keys = pairs.keys_of_lanes(lane, width * lanes<T>);
    product<T, true>(keys - first, width, block.key_dim, block.key + first, block.query + lane, stride,
                     block.weights + first * stride + lane, stride, false, upcoming);
    product<T, true>(keys - first, width, block.value_dim, block.value + first, block.gradient + lane, stride,
                     block.slopes + first * stride + lane, stride, false, upcoming);
    for (Index v = 0; v < width && done + v < vectors; ++v) {
      const Index column = lane + v * lanes<T>;
      const KeysOfColumn<T> seen(pairs, column);
      if (block.adjust.any())
        adjusted_backward_weights_of_lanes<T>(block, pairs, column, seen, gates);
      else
        backward_weights_of_lanes<T>(block, column, seen);
    }
    done += width;
  }
  if (block.key_sums != nullptr) add_key_sums<T>(pairs, block.weights, block.dot, block.key_sums);
  clear_rows_past<T>(block.keys, block.queries, block.weights);
  clear_rows_past<T>(block.keys, block.queries, block.slopes);
  clear_lanes_past<T>(block.queries, block.keys, block.slopes);
  visible_product<T, false>(pairs, value_stride / lanes<T>, block.weights, block.gradient_rows, value_stride,
                            block.value_gradient, value_stride, upcoming);
  visible_product<T, false>(pairs, key_stride / lanes<T>, block.slopes, block.query_rows, key_stride,
                            block.key_gradient, key_stride, upcoming);
  visible_product<T, true>(pairs, key_stride / lanes<T>, block.slopes, block.key_rows, key_stride, block.query_gradient,
                           key_stride, upcoming);
}

template <class T>
void score_statistics(const ScoreStatistics<T>& block) {
  constexpr Index stride = block_tokens<T>;
  const Index vectors = (block.queries + lanes<T> - 1) / lanes<T>;
  Upcoming nothing;
  product<T, true>(block.keys, vectors, block.dim, block.key, block.query, stride, block.scores, stride, false,
                   nothing);
  for (Index key = 0; key < block.keys; ++key) {
    const Index unseen = key + 1 - block.diagonal, last = key + 1 - block.band_start;
    const Index end = last < block.queries ? last : block.queries;
    for (Index query = unseen > 0 ? unseen : 0; query < end; ++query) {
      const double score = static_cast<double>(block.scores[key * stride + query]);
      const double size = score < 0 ? -score : score;
      if (size > *block.largest || size != size) *block.largest = size;  // NaN stays
      if (!(size <= block.radius)) {
        *block.excess += (size - block.radius) * (size - block.radius);
        *block.beyond += 1;
      }
    }
  }
}

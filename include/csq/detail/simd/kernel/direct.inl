// One block of queries against one block of keys: scores, weights, weights·values. Queries in lanes, so maxima and sums
// over keys are vertical; invisible pairs enter nothing, not even as 0·NaN.

// The running maximum of a row moves only when it must rise by more than this (in units of ln 2): until then weights
// are relative to the old one, at most 2^8, and the numerators need no rescaling.
constexpr int maximum_slack = 8;

// The highest scores of the keys [first, last), four by four.
template <class T, bool Masked>
CSQ_INLINE void raise_highest(const T* column, const Mask<T>& mask, Index first, Index last, Vector<T>* highest) {
  constexpr Index stride = block_tokens<T>;
  Vector<T> never;
  broadcast<T>(lowest_score<T>, never);
  for (Index key = first; key < last;) {
    const bool four = key + 4 <= last;
    CSQ_UNROLL
    for (int k = 0; k < 4; ++k) {
      Vector<T> score;
      load<T>(column + (four ? key + k : key) * stride, score);  // the last few keys: one at a time, seen four times
      if constexpr (Masked) {
        Integers<T> sees;
        mask.sees(four ? key + k : key, sees);
        score = sees ? score : never;
      }
      highest[k] = score > highest[k] ? score : highest[k];
    }
    key += four ? 4 : 1;
  }
}

// Scores of the keys [first, last) → weights, added to `sum`.
template <class T, bool Masked, class Weight>
CSQ_INLINE void weigh(T* column, const Mask<T>& mask, const Weight& evaluate, Index first, Index last, Vector<T>& sum) {
  constexpr Index stride = block_tokens<T>;
  Vector<T> total = sum;  // in a register
  for (Index key = first; key < last; ++key) {
    Vector<T> weight;
    load<T>(column + key * stride, weight);
    evaluate.value(weight);
    if constexpr (Masked) {
      Integers<T> sees;
      mask.sees(key, sees);
      weight = sees ? weight : Vector<T>{};
    }
    store<T>(column + key * stride, weight);
    total += weight;
  }
  sum = total;
}
template <class T, class Weight>
CSQ_INLINE void weigh_all(T* column, const Mask<T>& mask, const Weight& evaluate, const KeysOfColumn<T>& keys,
                          Vector<T>& sum) {
  if constexpr (Weight::is_rare) {
    weigh<T, true>(column, mask, evaluate, keys.first, keys.last, sum);
  } else {
    weigh<T, true>(column, mask, evaluate, keys.first, keys.from, sum);
    weigh<T, false>(column, mask, evaluate, keys.from, keys.to, sum);
    weigh<T, true>(column, mask, evaluate, keys.to, keys.last, sum);
  }
}

// Scores of one column of lanes → weights 2^(s − maximum), with the row statistics; those that no lane sees stay as they
// are. True when a numerator must be scaled.
// The maximum starts at lowest_score, a number: a score of −∞ is then below it and weighs nothing, whether or not
// others were seen before, and no difference is −∞ − (−∞).
template <class T, class Weight>
bool relative_weights(const DirectBlock<T>& block, Index lane, const KeysOfColumn<T>& keys) {
  const Mask<T> mask(lane, block.band_start, block.diagonal);
  T* column = block.weights + lane;

  Vector<T> highest[4];
  for (auto& value : highest) broadcast<T>(lowest_score<T>, value);
  raise_highest<T, true>(column, mask, keys.first, keys.from, highest);
  raise_highest<T, false>(column, mask, keys.from, keys.to, highest);
  raise_highest<T, true>(column, mask, keys.to, keys.last, highest);
  highest[0] = highest[1] > highest[0] ? highest[1] : highest[0];
  highest[2] = highest[3] > highest[2] ? highest[3] : highest[2];
  highest[0] = highest[2] > highest[0] ? highest[2] : highest[0];

  Vector<T> old, total;
  load<T>(block.maximum + lane, old);
  load<T>(block.normalizer + lane, total);
  const Integers<T> rises = highest[0] > old + static_cast<T>(maximum_slack);
  const Vector<T> maximum = rises ? highest[0] : old;
  Vector<T> scale = old - maximum;
  exp2_in_place(scale);
  Vector<T> one;
  broadcast<T>(1, one);
  scale = rises ? scale : one;  // also where both are +∞
  store<T>(block.maximum + lane, maximum);
  store<T>(block.scale + lane, scale);

  Vector<T> sum = {};
  weigh_all<T>(column, mask, Weight(block.weight, maximum), keys, sum);
  total = total * scale + sum;
  store<T>(block.normalizer + lane, total);
  bool any = false;
  for (Index i = 0; i < lanes<T>; ++i) any = any || rises[i] != 0;
  return any;
}

template <class T, class Weight>
void absolute_weights(const DirectBlock<T>& block, Index lane, const KeysOfColumn<T>& keys) {
  Vector<T> sum = {}, total;
  weigh_all<T>(block.weights + lane, Mask<T>(lane, block.band_start, block.diagonal),
               Weight(block.weight, Vector<T>{}), keys, sum);
  load<T>(block.normalizer + lane, total);
  total += sum;
  store<T>(block.normalizer + lane, total);
}

template <class T>
struct WeightsOfLanes {
  const DirectBlock<T>& block;
  Index lane;
  const KeysOfColumn<T>& keys;

  template <class Weight>
  CSQ_INLINE bool run() const {
    if constexpr (Weight::is_gradient_only) {
      return false;
    } else if constexpr (Weight::is_relative) {
      return relative_weights<T, Weight>(block, lane, keys);
    } else {
      absolute_weights<T, Weight>(block, lane, keys);
      return false;
    }
  }
};
template <class T>
CSQ_INLINE bool weights_of_lanes(const DirectBlock<T>& block, Index lane, const KeysOfColumn<T>& keys) {
  return visit_weight<T>(block.weight.kind, WeightsOfLanes<T>{block, lane, keys});
}

// The weights of one column of lanes whose scores or weights are adjusted.
template <class T>
__attribute__((noinline)) bool adjusted_weights_of_lanes(const DirectBlock<T>& block, const VisiblePairs& pairs,
                                                         Index lane, const KeysOfColumn<T>& keys,
                                                         GateParts<T>& gates) {
  const bool exponential = block.weight.kind == WeightKind::exponential;
  if (exponential) adjust_scores<T>(block.adjust, pairs, lane, keys, gates, block.weights, nullptr);
  Vector<T> total, sum = {}, ignored = {};
  load<T>(block.normalizer + lane, total);
  const bool scaled = weights_of_lanes<T>(block, lane, keys);
  if (exponential || !block.adjust.has_gates()) return scaled;
  decay_weights<T>(block.adjust, pairs, lane, keys, gates, block.weights, nullptr, sum, ignored);
  total += sum;
  store<T>(block.normalizer + lane, total);
  return false;
}

template <class T>
CSQ_INLINE void scale_row(T factor, Index length, T* row) {
  for (Index column = 0; column < length; column += lanes<T>) {
    Vector<T> value;
    load<T>(row + column, value);
    value *= factor;
    store<T>(row + column, value);
  }
}

template <class T>
void direct(const DirectBlock<T>& block) {
  const FlushesSubnormal flushes(block.adjust.has_gates());
  constexpr Index stride = block_tokens<T>;
  const Index vectors = (block.queries + lanes<T> - 1) / lanes<T>;
  const VisiblePairs pairs{block.queries, block.keys, block.band_start, block.diagonal};
  bool scaled = false;
  GateParts<T> gates(block.weight.kind != WeightKind::exponential);
  Upcoming upcoming = block.upcoming;
  // A few lanes at a time: their scores stay in the first-level cache until they are weights.
  for (Index done = 0; done < vectors;) {
    const Index width = next_width(vectors - done);
    const Index lane = done * lanes<T>;
    const Index first = pairs.first_key_of_lanes(lane, tile_rows_of(width));
    const Index keys = pairs.keys_of_lanes(lane, width * lanes<T>);
    product<T, true>(keys - first, width, block.dim, block.key + first, block.query + lane, stride,
                     block.weights + first * stride + lane, stride, false, upcoming);
    for (Index v = 0; v < width && done + v < vectors; ++v) {
      const Index column = lane + v * lanes<T>;
      const KeysOfColumn<T> seen(pairs, column);
      const bool any = block.adjust.any() ? adjusted_weights_of_lanes<T>(block, pairs, column, seen, gates)
                                          : weights_of_lanes<T>(block, column, seen);
      scaled = scaled || any;
    }
    done += width;
  }
  if (scaled)
    for (Index query = 0; query < block.queries; ++query)
      if (block.scale[query] != 1)
        scale_row<T>(block.scale[query], block.value_stride, block.numerator + query * block.value_stride);
  clear_lanes_past<T>(block.queries, block.keys, block.weights);
  visible_product<T, true>(pairs, block.value_stride / lanes<T>, block.weights, block.values, block.value_stride,
                           block.numerator, block.value_stride, upcoming);
}

template <class T>
void divide(const DivideRows<T>& rows);

// Into rows of another type: a piece of a row at a time.
template <class T>
__attribute__((noinline)) void divide_and_convert(const DivideRows<T>& rows) {
  constexpr Index columns = 64;
  T quotients[std::size_t{columns}];
  for (Index token = 0; token < rows.tokens; ++token)
    for (Index column = 0; column < rows.dim; column += columns) {
      DivideRows<T> some = rows;
      some.numerator += token * rows.value_stride + column;
      some.normalizer += token;
      some.tokens = 1;
      some.dim = column + columns < rows.dim ? columns : rows.dim - column;
      some.output = quotients;
      some.dim_stride = 1;
      some.storage = nullptr;
      divide(some);
      rows.storage->store(quotients, some.dim,
                          element_at(rows.output, token * rows.token_stride + column * rows.dim_stride, rows.storage),
                          rows.dim_stride);
    }
}

template <class T>
void divide(const DivideRows<T>& rows) {
  if (rows.storage != nullptr) return divide_and_convert(rows);
  for (Index token = 0; token < rows.tokens; ++token) {
    const T normalizer = rows.normalizer[token];
    const T* from = rows.numerator + token * rows.value_stride;
    T* to = rows.output + token * rows.token_stride;
    Index column = 0;
    if (normalizer > 0 && normalizer < static_cast<T>(__builtin_inf())) {
      const T reciprocal = 1 / normalizer;
      if (rows.dim_stride == 1 && reciprocal <= static_cast<T>(1e30)) {
        for (; column + lanes<T> <= rows.dim; column += lanes<T>) {
          Vector<T> value;
          load<T>(from + column, value);
          value *= reciprocal;
          store<T>(to + column, value);
        }
      }
      for (; column < rows.dim; ++column) to[column * rows.dim_stride] = from[column] / normalizer;
    } else {
      const T value = normalizer == 0 ? 0 : static_cast<T>(__builtin_nan(""));
      for (; column < rows.dim; ++column) to[column * rows.dim_stride] = value;
    }
  }
}

template <class T>
void add(Index count, const T* from, T* to) {
  for (Index cell = 0; cell < count; cell += lanes<T>) {
    Vector<T> x, y;
    load<T>(from + cell, x);
    load<T>(to + cell, y);
    y += x;
    store<T>(to + cell, y);
  }
}

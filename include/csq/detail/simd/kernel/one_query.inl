// A few queries against a block of keys in rows: scores, weights, weights·values, with keys in lanes. What a key or a
// value costs is to load it, once for up to four queries.

// One query and its block, as weights are made.
template <class T>
struct OneQueryBlock {
  const T* query = nullptr;
  const T* key = nullptr;
  Index key_stride = 0;
  const T* values = nullptr;
  Index value_stride = 0;
  Index keys = 0;
  Index dim = 0, value_dim = 0;
  KernelWeight weight;
  T* weights = nullptr;  // [keys], whole vectors
  T* numerator = nullptr;
  T* normalizer = nullptr;
  T* maximum = nullptr;
  Adjustment<T> adjust;
};

// How many elements ahead to ask for what comes next. A few rows; from memory the rows of the other array, so that memory
// works while scores are made: the block's values while its keys are read, and the next block's keys while its values
// are. (1 query, m = 4096, d = 128, 32 heads on 8: 900 to 960 µs with it, 1,100 without; m = 1024, in the third level, 165
// with it, 136 without.)
constexpr Index rows_ahead = 8;
template <class T>
CSQ_INLINE Index ahead_of(bool from_memory, const T* from, Index from_stride, const T* to, Index to_stride) {
  if (!from_memory || from_stride != to_stride) return rows_ahead * from_stride;
  const auto bytes =
      static_cast<std::intptr_t>(reinterpret_cast<std::uintptr_t>(to) - reinterpret_cast<std::uintptr_t>(from));
  return static_cast<Index>(bytes / static_cast<std::intptr_t>(sizeof(T)));
}

// totals[lane] = the sum of all lanes of sums[lane]: a tree of interleaved sums.
template <class T>
CSQ_INLINE void sum_each(Vector<T>* sums, Vector<T>& totals) {
  using All = std::make_integer_sequence<Index, lanes<T>>;
  CSQ_UNROLL
  for (int half = static_cast<int>(lanes<T>) / 2; half > 0; half /= 2) {
    CSQ_UNROLL
    for (int lane = 0; lane < half; ++lane) {
      Vector<T> low, high;
      interleave<T>(sums[lane], sums[lane + half], low, high, All{});
      sums[lane] = low + high;
    }
  }
  totals = sums[0];
}

// scores[j] = query·key_j for a whole vector of keys. Each key's products stay in a vector of their own; a tree of
// interleaved sums then leaves the totals in the order of the keys, zero from `count` on.
template <class T>
CSQ_INLINE void scores_of_keys(const OneQueryBlock<T>& block, Index first, Index count, Vector<T>& scores) {
  constexpr int size = static_cast<int>(lanes<T>);
  const bool odd_length = 2 * vector_bytes > 64 && block.dim % (2 * lanes<T>) != 0;  // rows are whole cache lines
  Vector<T> sums[std::size_t{size}];
  // All keys unrolled is 8% faster at m = 4096 than four, and 0.2 s slower to compile.
  CSQ_UNROLL
  for (int lane = 0; lane < size; ++lane) {
    Vector<T> even = {}, odd = {};
    Index a = lane < count ? 0 : block.dim;
    const T* key = block.key + (first + lane) * block.key_stride;
    if (odd_length && a == 0) {
      Vector<T> q, k;
      load<T>(block.query, q);
      load<T>(key, k);
      odd = q * k;
      a = lanes<T>;
    }
    for (; a < block.dim; a += 2 * lanes<T>) {
      Vector<T> q, k;
      load<T>(block.query + a, q);
      load<T>(key + a, k);
      even += q * k;
      load<T>(block.query + a + lanes<T>, q);
      load<T>(key + a + lanes<T>, k);
      odd += q * k;
    }
    sums[lane] = even + odd;
  }
  sum_each<T>(sums, scores);
}

// Raises the running maximum where it must rise, and scales what was summed relative to the old one.
template <class T>
CSQ_INLINE void raise_maximum(const OneQueryBlock<T>& block) {
  const Mask<T> position(0, far_before, 0);
  Vector<T> highest_of_lanes;
  broadcast<T>(lowest_score<T>, highest_of_lanes);
  const Vector<T> never = highest_of_lanes;
  for (Index key = 0; key < block.keys; key += lanes<T>) {
    Vector<T> score;
    load<T>(block.weights + key, score);
    const Integers<T> real = position.visible < static_cast<typename Mask<T>::Number>(block.keys - key);
    score = real ? score : never;
    highest_of_lanes = score > highest_of_lanes ? score : highest_of_lanes;  // NaN raises nothing
  }
  T highest = highest_of_lanes[0];
  for (Index lane = 1; lane < lanes<T>; ++lane) highest = highest_of_lanes[lane] > highest ? highest_of_lanes[lane] : highest;
  const T old = *block.maximum;
  if (!(highest > old + static_cast<T>(maximum_slack))) return;
  Vector<T> scale;
  broadcast<T>(old - highest, scale);
  exp2_in_place(scale);
  *block.maximum = highest;
  *block.normalizer *= scale[0];
  scale_row<T>(scale[0], block.value_dim, block.numerator);
}

// Scores → weights, and their sum.
template <class T, class Weight>
CSQ_INLINE void weigh(const OneQueryBlock<T>& block, const Weight& evaluate) {
  const Mask<T> position(0, far_before, 0);
  Vector<T> sum = {};
  for (Index key = 0; key < block.keys; key += lanes<T>) {
    Vector<T> weight;
    load<T>(block.weights + key, weight);
    evaluate.value(weight);
    // `visible` counts lanes here: those at or beyond the last key weigh nothing.
    const Integers<T> real = position.visible < static_cast<typename Mask<T>::Number>(block.keys - key);
    weight = real ? weight : Vector<T>{};
    store<T>(block.weights + key, weight);
    sum += weight;
  }
  *block.normalizer += sum_of_lanes<T>(sum);
}

template <class T>
struct WeightsOfOneQuery {
  const OneQueryBlock<T>& block;

  template <class Weight>
  CSQ_INLINE bool run() const {
    if constexpr (!Weight::is_gradient_only) {
      Vector<T> origin = {};
      if constexpr (Weight::is_relative) {
        raise_maximum(block);
        broadcast<T>(*block.maximum, origin);
      }
      weigh(block, Weight(block.weight, origin));
    }
    return false;
  }
};

// numerator += Σ_j weight_j·value_j for Columns vectors, even and odd keys apart to hide the latency of a sum.
template <class T, int Columns>
CSQ_INLINE void add_values(const OneQueryBlock<T>& block, Index column) {
  Vector<T> sum[2][std::size_t{Columns}] = {};
  const T* values = block.values + column;
  Index key = 0;
  for (; key + 2 <= block.keys; key += 2) {
    CSQ_UNROLL
    for (int odd = 0; odd < 2; ++odd) {
      const T weight = block.weights[key + odd];
      CSQ_UNROLL
      for (int c = 0; c < Columns; ++c) {
        Vector<T> value;
        load<T>(values + (key + odd) * block.value_stride + c * lanes<T>, value);
        sum[odd][c] += value * weight;
      }
    }
  }
  if (key < block.keys) {
    CSQ_UNROLL
    for (int c = 0; c < Columns; ++c) {
      Vector<T> value;
      load<T>(values + key * block.value_stride + c * lanes<T>, value);
      sum[0][c] += value * block.weights[key];
    }
  }
  CSQ_UNROLL
  for (int c = 0; c < Columns; ++c) {
    Vector<T> total;
    load<T>(block.numerator + column + c * lanes<T>, total);
    total += sum[0][c] + sum[1][c];
    store<T>(block.numerator + column + c * lanes<T>, total);
  }
}

// The scores in block.weights, adjusted, → weights, and their sum. Out of line: short.inl calls it too, and twice inline
// it took a tenth of the quickstart's compilation.
template <class T>
__attribute__((noinline)) void weigh_scores(const OneQueryBlock<T>& block) {
  const bool exponential = block.weight.kind == WeightKind::exponential;
  const T before = *block.normalizer;
  visit_weight<T>(block.weight.kind, WeightsOfOneQuery<T>{block});
  if (!exponential && block.adjust.has_gates())
    *block.normalizer = before + decay_row<T>(block.adjust, block.keys, block.weights);
}
template <class T>
CSQ_INLINE void weigh_values(const OneQueryBlock<T>& block) {
  weigh_scores(block);
  Index column = 0;
  for (; column + 4 * lanes<T> <= block.value_dim; column += 4 * lanes<T>) add_values<T, 4>(block, column);
  for (; column < block.value_dim; column += lanes<T>) add_values<T, 1>(block, column);
}

// scores[r][j] = query_r·(key_j − reference) for Rows queries: a few keys at a time, each loaded once for all.
template <class T, int Rows>
__attribute__((noinline)) void scores_of_rows(const FewQueriesBlock<T>& block, const T* query, T* scores) {
  constexpr int size = static_cast<int>(lanes<T>), keys = widest_tile;
  Vector<T> sums[std::size_t{Rows}][std::size_t{size}];
  const bool moved = block.reference != nullptr;
  const Index ahead =
      ahead_of(block.from_memory, block.key, block.key_stride, block.values, block.value_stride);
  for (Index first = 0; first < block.keys; first += lanes<T>) {
    for (int lane = 0; lane < size; lane += keys) {
      const Index left = block.keys - first - lane;
      const T* key[std::size_t{keys}];
      CSQ_UNROLL
      for (int k = 0; k < keys; ++k) key[k] = block.key + (first + (left > k ? lane + k : 0)) * block.key_stride;
      Vector<T> sum[std::size_t{keys}][std::size_t{Rows}] = {};
      for (Index a = 0; left > 0 && a < block.dim; a += lanes<T>) {
        Vector<T> x[std::size_t{keys}], from = {};
        if (moved) load<T>(block.reference + a, from);
        CSQ_UNROLL
        for (int k = 0; k < keys; ++k) {
          if (block.from_memory) ask_for(key[k] + a, rows_ahead / 2 * block.key_stride);
          ask_for(key[k] + a, ahead);
          load<T>(key[k] + a, x[k]);
          if (moved) x[k] -= from;
        }
        CSQ_UNROLL
        for (int r = 0; r < Rows; ++r) {
          Vector<T> q;
          load<T>(query + r * block.query_stride + a, q);
          CSQ_UNROLL
          for (int k = 0; k < keys; ++k) sum[k][r] += q * x[k];
        }
      }
      CSQ_UNROLL
      for (int k = 0; k < keys; ++k) {
        CSQ_UNROLL
        for (int r = 0; r < Rows; ++r) sums[r][lane + k] = left > k ? sum[k][r] : Vector<T>{};
      }
    }
    for (int r = 0; r < Rows; ++r) {
      Vector<T> totals;
      sum_each<T>(sums[r], totals);
      store<T>(scores + r * block.weight_stride + first, totals);
    }
  }
}

template <class T>
CSQ_INLINE OneQueryBlock<T> one_of(const FewQueriesBlock<T>& block, Index r) {
  OneQueryBlock<T> one;
  one.query = block.query + r * block.query_stride;
  one.key = block.key;
  one.key_stride = block.key_stride;
  one.values = block.values;
  one.value_stride = block.value_stride;
  one.keys = block.keys;
  one.dim = block.dim;
  one.value_dim = block.value_dim;
  one.weight = block.weight;
  one.weights = block.weights + r * block.weight_stride;
  one.numerator = block.numerator + r * block.numerator_stride;
  one.normalizer = block.normalizer + r * block.statistic_stride;
  one.maximum = block.maximum + r * block.statistic_stride;
  if (block.adjust != nullptr) one.adjust = block.adjust[r];
  return one;
}

template <class T>
void few_scores(const FewQueriesBlock<T>& block) {
  constexpr int together = FewQueriesBlock<T>::queries_together;
  for (Index r = 0; r < block.queries;) {
    const T* query = block.query + r * block.query_stride;
    T* scores = block.weights + r * block.weight_stride;
    if (block.queries - r >= together) {
      scores_of_rows<T, together>(block, query, scores);
      r += together;
      continue;
    }
    if (block.reference != nullptr) {
      scores_of_rows<T, 1>(block, query, scores);
    } else {
      const OneQueryBlock<T> one = one_of(block, r);
      for (Index key = 0; key < block.keys; key += lanes<T>) {
        const Index left = block.keys - key;
        Vector<T> totals;
        scores_of_keys(one, key, left < lanes<T> ? left : lanes<T>, totals);
        store<T>(scores + key, totals);
      }
    }
    ++r;
  }
}

// vector[i] += vector[i − Shift], 0 before the first.
template <Index Shift, Index... Lane>
CSQ_INLINE void add_shifted(Doubles& vector, std::integer_sequence<Index, Lane...>) {
  const Doubles zero = {};
  vector += __builtin_shufflevector(zero, vector, (Lane < Shift ? Lane : lanes<double> + Lane - Shift)...);
}

// s_j ← t_j − (Σ_{i ≤ j} t_i)/(count + j + 1) in double, or the exclusive mean: prefix centring of keys, by their scores.
template <class T>
void center_scores(const CenterScores<T>& block) {
  constexpr Index step = lanes<double>;
  constexpr std::make_integer_sequence<Index, step> all{};
  double sum = *block.sum;
  alignas(64) double counts[std::size_t{step}], offsets[std::size_t{step}];
  for (Index i = 0; i < step; ++i) offsets[i] = static_cast<double>(i) + (block.exclusive ? 0 : 1);
  Doubles offset;
  load<double>(offsets, offset);
  for (Index key = 0; key < block.keys; key += step) {
    Doubles x, through, count = offset + (block.count + static_cast<double>(key));
    load_as_double<T>(block.scores + key, x);
    through = x;
    add_shifted<1>(through, all);
    if constexpr (step > 2) add_shifted<2>(through, all);
    if constexpr (step > 4) add_shifted<4>(through, all);
    through += sum;
    const Doubles total = block.exclusive ? through - x : through;
    store<double>(counts, count);
    if (counts[0] == 0) count[0] = 1;  // the mean of no rows is 0, and so is their sum
    store_from_double<T>(block.scores + key, x - total / count);
    const Index left = block.keys - key;
    sum = through[left < step ? left - 1 : step - 1];
  }
  *block.sum = sum;
}

// The scores in block.weights → numerators and statistics of all queries.
template <class T>
void few_values(const FewQueriesBlock<T>& block) {
  constexpr int together = FewQueriesBlock<T>::queries_together;
  for (Index r = 0; r < block.queries;) {
    const bool several = block.queries - r >= together;
    for (Index each = r; each < r + (several ? together : 1); ++each) {
      const OneQueryBlock<T> one = one_of(block, each);
      if (one.weight.kind == WeightKind::exponential && one.adjust.any())
        adjust_row<T>(one.adjust, one.keys, one.weights);
      if (several)
        weigh_scores(one);
      else
        weigh_values(one);
    }
    if (several) {
      const RowSums<T> sums{block.weights + r * block.weight_stride, block.weight_stride, block.values,
                            block.value_stride, block.numerator + r * block.numerator_stride, block.numerator_stride};
      const Index ahead = ahead_of(block.from_memory, block.values, block.value_stride,
                                   block.key + block.keys * block.key_stride, block.key_stride);
      add_rows_times<T, together>(sums, block.keys, block.value_dim, ahead);
    }
    r += several ? together : 1;
  }
}

// One query against a block of keys in rows: scores, weights, weights·values, with keys in lanes.

// scores[j] = query·key_j for a whole vector of keys. Each key's products stay in a vector of their own; a tree of
// interleaved sums then leaves the totals in the order of the keys, zero from `count` on.
template <class T>
CSQ_INLINE void scores_of_keys(const OneQueryBlock<T>& block, Index first, Index count, Vector<T>& scores) {
  constexpr int size = static_cast<int>(lanes<T>);
  using All = std::make_integer_sequence<Index, lanes<T>>;
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
  CSQ_UNROLL
  for (int half = size / 2; half > 0; half /= 2) {
    CSQ_UNROLL
    for (int lane = 0; lane < half; ++lane) {
      Vector<T> low, high;
      interleave<T>(sums[lane], sums[lane + half], low, high, All{});
      sums[lane] = low + high;
    }
  }
  scores = sums[0];
}

// Raises the running maximum where it must rise, and scales what was summed relative to the old one.
template <class T>
CSQ_INLINE void raise_maximum(const OneQueryBlock<T>& block) {
  T highest = lowest_score<T>;
  for (Index key = 0; key < block.keys; ++key) highest = block.weights[key] > highest ? block.weights[key] : highest;
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

// The scores in block.weights, adjusted, → weights, their sum, and weights·values. Out of line: short.inl calls it too, and twice
// inline it took a tenth of the quickstart's compilation.
template <class T>
__attribute__((noinline)) void weigh_values(const OneQueryBlock<T>& block) {
  const bool exponential = block.weight.kind == WeightKind::exponential;
  const T before = *block.normalizer;
  visit_weight<T>(block.weight.kind, WeightsOfOneQuery<T>{block});
  if (!exponential && block.adjust.has_gates())
    *block.normalizer = before + decay_row<T>(block.adjust, block.keys, block.weights);
  Index column = 0;
  for (; column + 4 * lanes<T> <= block.value_dim; column += 4 * lanes<T>) add_values<T, 4>(block, column);
  for (; column < block.value_dim; column += lanes<T>) add_values<T, 1>(block, column);
}

template <class T>
void one_query(const OneQueryBlock<T>& block) {
  for (Index key = 0; key < block.keys; key += lanes<T>) {
    const Index left = block.keys - key;
    Vector<T> scores;
    scores_of_keys(block, key, left < lanes<T> ? left : lanes<T>, scores);
    store<T>(block.weights + key, scores);
  }
  if (block.weight.kind == WeightKind::exponential && block.adjust.any())
    adjust_row<T>(block.adjust, block.keys, block.weights);
  weigh_values(block);
}

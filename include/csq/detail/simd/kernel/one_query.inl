// A few queries against a block of keys in rows: scores, weights, weights·values, with keys in lanes. What a key or a
// value costs is to load it, once for up to four queries.

// One query and its block, as weights are made.
template <class T>
struct OneQueryBlock {
  const T* values = nullptr;
  Index value_stride = 0;
  Index keys = 0;
  Index value_dim = 0;
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
CSQ_INLINE Index ahead_of(bool from_memory, const T* from, Index from_stride, const void* to, Index to_stride) {
  if (!from_memory || from_stride != to_stride) return rows_ahead * from_stride;
  const auto bytes =
      static_cast<std::intptr_t>(reinterpret_cast<std::uintptr_t>(to) - reinterpret_cast<std::uintptr_t>(from));
  return bytes / static_cast<std::intptr_t>(sizeof(T));
}
// Rows of keys or values in the type in which they lie.
template <class Rows, class T>
CSQ_INLINE const typename Rows::Element* elements_of(const T* rows) {
  return reinterpret_cast<const typename Rows::Element*>(rows);
}

// totals[lane] = the sum of all lanes of sums[lane]: a tree of interleaved sums.
template <class T, int Half = static_cast<int>(lanes<T>) / 2>
CSQ_INLINE void sum_each(Vector<T>* sums, Vector<T>& totals) {
  using All = std::make_integer_sequence<Index, lanes<T>>;
  CSQ_UNROLL
  for (int lane = 0; lane < Half; ++lane) {
    Vector<T> low, high;
    interleave<T>(sums[lane], sums[lane + Half], low, high, All{});
    sums[lane] = low + high;
  }
  if constexpr (Half > 1)
    sum_each<T, Half / 2>(sums, totals);
  else
    totals = sums[0];
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
// scores[r][j] = query_r·(key_j − reference) for Rows queries: a few keys at a time, each loaded once for all.
template <class T, int Rows, class Keys>
__attribute__((noinline)) void scores_of_rows(const FewQueriesBlock<T>& block, const T* query, T* scores) {
  using Element = typename Keys::Element;
  const Element* const all = elements_of<Keys>(block.key);
  // As many sums as hide the latency of one.
  constexpr int size = static_cast<int>(lanes<T>), wanted = Rows == 1 ? 8 : widest_tile;
  constexpr int keys = wanted < size ? wanted : size;
  Vector<T> sums[std::size_t{Rows}][std::size_t{size}];
  const bool moved = block.reference != nullptr;
  const Index ahead =
      ahead_of(block.from_memory, all, block.key_stride, block.values, block.value_stride);
  for (Index first = 0; first < block.keys; first += lanes<T>) {
    for (int lane = 0; lane < size; lane += keys) {
      const Index left = block.keys - first - lane;
      const Element* key[std::size_t{keys}];
      CSQ_UNROLL
      for (int k = 0; k < keys; ++k) key[k] = all + (first + (left > k ? lane + k : 0)) * block.key_stride;
      Vector<T> sum[std::size_t{keys}][std::size_t{Rows}] = {};
      for (Index a = 0; left > 0 && a < block.dim; a += lanes<T>) {
        Vector<T> x[std::size_t{keys}], from = {};
        if (moved) load<T>(block.reference + a, from);
        CSQ_UNROLL
        for (int k = 0; k < keys; ++k) {
          if (block.from_memory) ask_for(key[k] + a, rows_ahead / 2 * block.key_stride);
          ask_for(key[k] + a, ahead);
          Keys::load_row(key[k] + a, x[k]);
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
  one.values = block.values;
  one.value_stride = block.value_stride;
  one.keys = block.keys;
  one.value_dim = block.value_dim;
  one.weight = block.weight;
  one.weights = block.weights + r * block.weight_stride;
  one.numerator = block.numerator + r * block.numerator_stride;
  one.normalizer = block.normalizer + r * block.statistic_stride;
  one.maximum = block.maximum + r * block.statistic_stride;
  if (block.adjust != nullptr) one.adjust = block.adjust[r];
  return one;
}

template <class T, class Keys = Own<T>>
void few_scores(const FewQueriesBlock<T>& block) {
  constexpr int together = FewQueriesBlock<T>::queries_together;
  for (Index r = 0; r < block.queries;) {
    const T* query = block.query + r * block.query_stride;
    T* scores = block.weights + r * block.weight_stride;
    if (block.queries - r >= together) {
      scores_of_rows<T, together, Keys>(block, query, scores);
      r += together;
      continue;
    }
    scores_of_rows<T, 1, Keys>(block, query, scores);
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
template <class T, class Values = Own<T>>
void few_values(const FewQueriesBlock<T>& block) {
  const FlushesSubnormal flushes(block.adjust != nullptr && block.adjust->has_gates());
  constexpr int together = FewQueriesBlock<T>::queries_together;
  for (Index r = 0; r < block.queries;) {
    const bool several = block.queries - r >= together;
    for (Index each = r; each < r + (several ? together : 1); ++each) {
      const OneQueryBlock<T> one = one_of(block, each);
      if (one.weight.kind == WeightKind::exponential && one.adjust.any())
        adjust_row<T>(one.adjust, one.keys, one.weights);
      weigh_scores(one);
    }
    const RowSums<T, Values> sums{block.weights + r * block.weight_stride,
                                  block.weight_stride,
                                  elements_of<Values>(block.values),
                                  block.value_stride,
                                  block.numerator + r * block.numerator_stride,
                                  block.numerator_stride};
    if (several) {
      const Index ahead = ahead_of(block.from_memory, sums.rows, block.value_stride,
                                   elements_of<Values>(block.key) + block.keys * block.key_stride, block.key_stride);
      add_rows_times<T, together>(sums, block.keys, block.value_dim, ahead);
    } else {
      add_rows_times<T, 1>(sums, block.keys, block.value_dim, rows_ahead * block.value_stride);
    }
    r += several ? together : 1;
  }
}

// How elements of an array are read and written that lie in another type than float.
template <class Element>
using FormatOf = std::conditional_t<std::is_same_v<Element, Eigen::half>, Half, Bfloat16>;
template <class Element>
inline constexpr Storage<float> storage = {2,
                                           FormatOf<Element>::code,
                                           load_sixteen<FormatOf<Element>>,
                                           store_sixteen<FormatOf<Element>>,
                                           few_scores<float, Stored<FormatOf<Element>>>,
                                           few_values<float, Stored<FormatOf<Element>>>};

// Absorb and read: feature panels made in cache, a few rows at a time, and consumed at once by the register tile.

// Position of feature f among the pairs: the first index a, and where a's run [a, dim) starts.
struct PairPosition {
  Index a = 0;
  Index run_start = 0;
};
CSQ_INLINE PairPosition find_pair(const FeatureMap& map, Index feature) {
  PairPosition position;
  while (position.run_start + map.dim - position.a <= feature) {
    position.run_start += map.dim - position.a;
    ++position.a;
  }
  return position;
}

// Calls visitor.pair(feature, left row, right row, whether they are one) or visitor.single(feature, row, whether it is
// the constant's row of ones) for each feature in [first, last). A plain loop over runs: finding (a, b) anew for each
// feature would cost more than the feature.
template <class T, class Visitor>
CSQ_INLINE void for_each_feature(const FeatureMap& map, const T* packed, Index first, Index last,
                                 const Visitor& visitor) {
  constexpr Index stride = block_tokens<T>;
  const T* ones = packed + map.dim * stride;
  const Index pairs = map.pair_count();
  Index feature = first;
  if (feature < pairs) {
    PairPosition position = find_pair(map, feature);
    while (feature < last && feature < pairs) {
      const Index run_end = position.run_start + map.dim - position.a;
      const Index stop = run_end < last ? run_end : last;
      const T* left = packed + position.a * stride;
      for (; feature < stop; ++feature) {
        const Index b = position.a + feature - position.run_start;
        visitor.pair(feature, left, packed + b * stride, b == position.a);
      }
      position.run_start = run_end;
      ++position.a;
    }
  }
  const Index linear_end = pairs + (map.linear ? map.dim : 0);
  for (; feature < last; ++feature) {
    const bool constant = feature >= linear_end;
    visitor.single(feature, constant ? ones : packed + (feature - pairs) * stride, constant);
  }
}

// Panel rows for absorb, each with its weighted sum over tokens.
template <class T>
struct AbsorbPanel {
  Index first;
  Index length;  // tokens rounded up to whole vectors
  const T* row_weights;
  T* panel;
  T* normalizer;
  T keep;

  CSQ_INLINE void pair(Index feature, const T* left, const T* right, bool) const {
    T* row = panel + (feature - first) * block_tokens<T>;
    Vector<T> sum = {};
    for (Index token = 0; token < length; token += lanes<T>) {
      Vector<T> x, y, weight;
      load<T>(left + token, x);
      load<T>(right + token, y);
      load<T>(row_weights + token, weight);
      x *= y;
      store<T>(row + token, x);
      sum += x * weight;
    }
    add(feature, sum);
  }
  CSQ_INLINE void single(Index feature, const T* only, bool) const {
    T* row = panel + (feature - first) * block_tokens<T>;
    Vector<T> sum = {};
    for (Index token = 0; token < length; token += lanes<T>) {
      Vector<T> x, weight;
      load<T>(only + token, x);
      load<T>(row_weights + token, weight);
      store<T>(row + token, x);
      sum += x * weight;
    }
    add(feature, sum);
  }

 private:
  CSQ_INLINE void add(Index feature, const Vector<T>& sum) const {
    T& total = normalizer[feature - first];
    total = total * keep + sum_of_lanes<T>(sum);
  }
};

// A summary that the second-level cache does not hold, beside tokens and panels, is brought in panel by panel.
template <class T>
CSQ_INLINE bool is_large_summary(Index features, Index value_stride) {
  return features * value_stride * static_cast<Index>(sizeof(T)) > second_level_bytes / 2;
}

template <class T>
void absorb(const AbsorbBlock<T>& block) {
  const Index vectors = block.value_stride / lanes<T>;
  const Index length = (block.tokens + lanes<T> - 1) / lanes<T> * lanes<T>;
  const bool is_large = is_large_summary<T>(block.last - block.first, block.value_stride);
  for (Index first = block.first; first < block.last; first += absorb_panel) {
    const Index last = first + absorb_panel < block.last ? first + absorb_panel : block.last;
    const AbsorbPanel<T> panel{first, length, block.row_weights, block.panel, block.normalizer + (first - block.first),
                               block.keep};
    for_each_feature(block.map, block.packed, first, last, panel);
    T* summary = block.summary + (first - block.first) * block.value_stride;
    Upcoming upcoming;
    if (is_large) upcoming.add(summary + (last - first) * block.value_stride, absorb_panel * block.value_stride);
    clear_rows_past<T>(last - first, block.tokens, block.panel);
    product<T, false>(last - first, vectors, block.tokens, block.panel, block.values, block.value_stride, summary,
                      block.value_stride, true, upcoming, block.keep);
  }
}

// Panel rows for read, in strips of Width vectors of tokens, so that the normaliser's sums stay in registers.
template <class T, int Width>
struct ReadPanel {
  Index first;
  T* panel;
  const T* normalizer;
  FeatureCoefficients<T> coefficients;
  Vector<T>* sum;

  CSQ_INLINE void put(Index feature, const T* left, const T* right, T coefficient) const {
    T* row = panel + (feature - first) * block_tokens<T>;
    const T weight = normalizer[feature - first];
    CSQ_UNROLL
    for (int v = 0; v < Width; ++v) {
      Vector<T> x, y;
      load<T>(left + v * lanes<T>, x);
      load<T>(right + v * lanes<T>, y);
      x = x * y * coefficient;
      store<T>(row + v * lanes<T>, x);
      sum[v] += x * weight;
    }
  }
  CSQ_INLINE void pair(Index feature, const T* left, const T* right, bool diagonal) const {
    put(feature, left, right, diagonal ? coefficients.diagonal : coefficients.pair);
  }
  CSQ_INLINE void single(Index feature, const T* only, bool constant) const {
    const T coefficient = constant ? coefficients.constant : coefficients.linear;
    T* row = panel + (feature - first) * block_tokens<T>;
    const T weight = normalizer[feature - first];
    CSQ_UNROLL
    for (int v = 0; v < Width; ++v) {
      Vector<T> x;
      load<T>(only + v * lanes<T>, x);
      x *= coefficient;
      store<T>(row + v * lanes<T>, x);
      sum[v] += x * weight;
    }
  }
};

template <class T, int Width>
CSQ_INLINE void read_strip(const ReadBlock<T>& block, Index first, Index last, Index token) {
  Vector<T> sum[std::size_t{Width}];
  CSQ_UNROLL
  for (int v = 0; v < Width; ++v) load<T>(block.normalizer_rows + token + v * lanes<T>, sum[v]);
  const ReadPanel<T, Width> panel{first, block.panel + token, block.normalizer + (first - block.first),
                                  block.coefficients, sum};
  for_each_feature(block.map, block.packed + token, first, last, panel);
  CSQ_UNROLL
  for (int v = 0; v < Width; ++v) store<T>(block.normalizer_rows + token + v * lanes<T>, sum[v]);
}

template <class T>
void read(const ReadBlock<T>& block) {
  const Index vectors = block.value_stride / lanes<T>;
  const bool is_large = is_large_summary<T>(block.last - block.first, block.value_stride);
  for (Index first = block.first; first < block.last; first += read_panel) {
    const Index last = first + read_panel < block.last ? first + read_panel : block.last;
    Index token = 0;
    for (; token + 3 * lanes<T> <= block.tokens; token += 3 * lanes<T>) read_strip<T, 3>(block, first, last, token);
    for (; token < block.tokens; token += lanes<T>) read_strip<T, 1>(block, first, last, token);
    const T* summary = block.summary + (first - block.first) * block.value_stride;
    Upcoming upcoming;
    if (is_large) upcoming.add(summary + (last - first) * block.value_stride, read_panel * block.value_stride);
    clear_lanes_past<T>(block.tokens, last - first, block.panel);
    product<T, true>(block.tokens, vectors, last - first, block.panel, summary, block.value_stride, block.numerator,
                     block.value_stride, true, upcoming);
  }
}

// A few queries read a summary, as in decoding: each row of the summary is loaded once for up to four of them, and that
// is what it costs. (Through tiles of tokens, whose rows would be empty, one query took twice the time.)

// φ_f(q) of `count` features, from where the cursor stands: f counts them, a and b are the coordinates of a pair.
struct FeatureCursor {
  Index f = 0, a = 0, b = 0;

  template <class T>
  CSQ_INLINE void make(const ReadRows<T>& block, const T* query, Index count, T* to) {
    const FeatureMap& map = block.map;
    const Index pairs = map.pair_count(), linear = pairs + (map.linear ? map.dim : 0);
    for (Index done = 0; done < count;) {
      const Index left = count - done;
      Index run = 1;
      if (f < pairs) {
        run = map.dim - b < left ? map.dim - b : left;
        multiply<T>(query + b, query[a], block.coefficients.pair, run, to + done);
        if (b == a) to[done] = query[a] * query[a] * block.coefficients.diagonal;
        b += run;
        if (b == map.dim) b = ++a;
      } else if (f < linear) {
        run = linear - f < left ? linear - f : left;
        multiply<T>(query + (f - pairs), T(1), block.coefficients.linear, run, to + done);
      } else {
        to[done] = block.coefficients.constant;
      }
      f += run;
      done += run;
    }
  }

 private:
  // Whole vectors: what lies behind is written again, or has room.
  template <class T>
  CSQ_INLINE static void multiply(const T* from, T factor, T coefficient, Index count, T* to) {
    for (Index i = 0; i < count; i += lanes<T>) {
      Vector<T> value;
      load<T>(from + i, value);
      value = value * factor * coefficient;
      store<T>(to + i, value);
    }
  }
};

template <class T>
CSQ_INLINE T dot_of_features(const T* features, const T* normalizer, Index count) {
  Vector<T> sum = {};
  Index f = 0;
  for (; f + lanes<T> <= count; f += lanes<T>) {
    Vector<T> x, y;
    load<T>(features + f, x);
    load<T>(normalizer + f, y);
    sum += x * y;
  }
  T total = sum_of_lanes<T>(sum);
  for (; f < count; ++f) total += features[f] * normalizer[f];
  return total;
}

template <class T>
void read_rows(const ReadRows<T>& block) {
  constexpr int most = ReadRows<T>::rows_together;
  // From memory further ahead than from the third level.
  const bool is_large = block.map.size() * block.value_stride * Index(sizeof(T)) > second_level_bytes;
  const Index ahead = (is_large ? 4096 : 1024) / Index(sizeof(T));
  for (Index row = 0; row < block.queries; row += most) {
    const Index rows = block.queries - row < most ? block.queries - row : most;
    const T* query = block.query + row * block.query_stride;
    T* numerator = block.numerator + row * block.value_stride;
    for (Index cell = 0; cell < rows * block.value_stride; cell += lanes<T>) store<T>(numerator + cell, Vector<T>{});
    for (Index r = 0; r < rows; ++r) block.sums[row + r] = 0;
    FeatureCursor cursor;
    for (Index first = 0; first < block.map.size(); first += ReadRows<T>::features_together) {
      const Index left = block.map.size() - first;
      const Index count = left < ReadRows<T>::features_together ? left : ReadRows<T>::features_together;
      FeatureCursor next;
      for (Index r = 0; r < rows; ++r) {
        next = cursor;
        T* features = block.features + r * ReadRows<T>::feature_stride;
        next.make<T>(block, query + r * block.query_stride, count, features);
        block.sums[row + r] += dot_of_features<T>(features, block.normalizer + first, count);
      }
      cursor = next;
      RowSums<T> sums{block.features,     ReadRows<T>::feature_stride, block.summary + first * block.value_stride,
                      block.value_stride, numerator,                   block.value_stride};
      if (rows == most) {
        add_rows_times<T, most>(sums, count, block.value_stride, ahead);
        continue;
      }
      for (Index r = 0; r < rows; ++r) {
        add_rows_times<T, 1>(sums, count, block.value_stride, ahead);
        sums.factors += sums.factor_stride;
        sums.totals += sums.total_stride;
      }
    }
  }
}

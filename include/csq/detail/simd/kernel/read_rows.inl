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

// numerator[r] += Σ_f φ_f(q_r) S_f for Rows queries and Columns vectors. Sums of several features at a time hide the
// latency of one.
//
// The row `ahead` bytes on is asked for: the processor's own prefetching keeps up with neither the third level nor
// memory (d = 128, 8 heads: 690 µs with it, 820 without).
template <class T, int Rows, int Columns>
CSQ_INLINE void read_strip(const ReadRows<T>& block, const T* features, Index count, const T* summary, T* numerator) {
  constexpr int together = Rows * Columns < 8 ? 8 / (Rows * Columns) : 1;
  Vector<T> sum[std::size_t{together}][std::size_t{Rows}][std::size_t{Columns}] = {};
  // From memory further ahead than from the second level.
  const Index ahead = block.map.size() * block.value_stride * Index(sizeof(T)) > second_level_bytes
                          ? 4096 / Index(sizeof(T))
                          : 1024 / Index(sizeof(T));
  Index f = 0;
  for (; f + together <= count; f += together) {
    CSQ_UNROLL
    for (int k = 0; k < together; ++k) {
      CSQ_UNROLL
      for (int c = 0; c < Columns; ++c) {
        Vector<T> value;
        const T* const row = summary + (f + k) * block.value_stride + c * lanes<T>;
        ask_for(row, ahead);
        load<T>(row, value);
        CSQ_UNROLL
        for (int r = 0; r < Rows; ++r) sum[k][r][c] += value * features[r * ReadRows<T>::feature_stride + f + k];
      }
    }
  }
  for (; f < count; ++f) {
    CSQ_UNROLL
    for (int c = 0; c < Columns; ++c) {
      Vector<T> value;
      load<T>(summary + f * block.value_stride + c * lanes<T>, value);
      CSQ_UNROLL
      for (int r = 0; r < Rows; ++r) sum[0][r][c] += value * features[r * ReadRows<T>::feature_stride + f];
    }
  }
  CSQ_UNROLL
  for (int r = 0; r < Rows; ++r) {
    CSQ_UNROLL
    for (int c = 0; c < Columns; ++c) {
      T* target = numerator + r * block.value_stride + c * lanes<T>;
      Vector<T> total;
      load<T>(target, total);
      CSQ_UNROLL
      for (int k = 0; k < together; ++k) total += sum[k][r][c];
      store<T>(target, total);
    }
  }
}

// The widest strip whose sums fit the registers, then halves of it.
template <class T, int Rows>
__attribute__((noinline)) void read_strips(const ReadRows<T>& block, const T* features, Index count, const T* summary,
                                           T* numerator) {
  constexpr int widest = Rows == 1 ? 2 * widest_tile : widest_tile;
  const Index vectors = block.value_stride / lanes<T>;
  Index done = 0;
  for (; done + widest <= vectors; done += widest)
    read_strip<T, Rows, widest>(block, features, count, summary + done * lanes<T>, numerator + done * lanes<T>);
  if constexpr (widest == 8) {
    for (; done + 4 <= vectors; done += 4)
      read_strip<T, Rows, 4>(block, features, count, summary + done * lanes<T>, numerator + done * lanes<T>);
  }
  for (; done + 2 <= vectors; done += 2)
    read_strip<T, Rows, 2>(block, features, count, summary + done * lanes<T>, numerator + done * lanes<T>);
  if (done < vectors)
    read_strip<T, Rows, 1>(block, features, count, summary + done * lanes<T>, numerator + done * lanes<T>);
}

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
      const T* summary = block.summary + first * block.value_stride;
      if (rows == most) {
        read_strips<T, most>(block, block.features, count, summary, numerator);
      } else {
        for (Index r = 0; r < rows; ++r)
          read_strips<T, 1>(block, block.features + r * ReadRows<T>::feature_stride, count, summary,
                            numerator + r * block.value_stride);
      }
    }
  }
}

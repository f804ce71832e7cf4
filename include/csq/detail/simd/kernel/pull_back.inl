// The gradient of a read: P = Σ_c S_fc·y_c a panel of features at a time, then each feature's product rule.

template <class T>
struct PullBackPanel {
  Index first;
  Index length;  // tokens rounded up to whole vectors
  const T* panel;
  const T* packed;
  T* gradient;
  T* shift;
  FeatureCoefficients<T> coefficients;
  T shift_constant;

  CSQ_INLINE const T* row_of(Index feature) const { return panel + (feature - first) * block_tokens<T>; }
  CSQ_INLINE T* gradient_of(const T* row) const { return gradient + (row - packed); }

  CSQ_INLINE void pair(Index feature, const T* left, const T* right, bool diagonal) const {
    const T* row = row_of(feature);
    T* left_gradient = gradient_of(left);
    T* right_gradient = gradient_of(right);
    const T coefficient = coefficients.pair;
    for (Index token = 0; token < length; token += lanes<T>) {
      Vector<T> p, x, y, dx;
      load<T>(row + token, p);
      load<T>(left + token, x);
      load<T>(right + token, y);
      load<T>(left_gradient + token, dx);
      p *= coefficient;
      dx += p * y;
      store<T>(left_gradient + token, dx);
      if (diagonal) continue;  // c2·x_a²: its derivative 2·c2·x_a is complete
      load<T>(right_gradient + token, dx);
      dx += p * x;
      store<T>(right_gradient + token, dx);
    }
  }
  CSQ_INLINE void single(Index feature, const T* only, bool constant) const {
    const T* row = row_of(feature);
    if (constant) {
      for (Index token = 0; token < length; token += lanes<T>) {
        Vector<T> p, sum;
        load<T>(row + token, p);
        load<T>(shift + token, sum);
        sum += p * shift_constant;
        store<T>(shift + token, sum);
      }
      return;
    }
    T* only_gradient = gradient_of(only);
    for (Index token = 0; token < length; token += lanes<T>) {
      Vector<T> p, x, dx;
      load<T>(row + token, p);
      load<T>(only + token, x);
      load<T>(only_gradient + token, dx);
      dx += p * coefficients.linear;
      store<T>(only_gradient + token, dx);
      load<T>(shift + token, dx);
      dx += p * coefficients.pair * x;
      store<T>(shift + token, dx);
    }
  }
};

template <class T>
void pull_back(const PullBackBlock<T>& block) {
  constexpr Index stride = block_tokens<T>;
  const Index vectors = (block.tokens + lanes<T> - 1) / lanes<T>;
  const Index value_stride = padded_columns<T>(block.value_dim);
  const bool is_large = is_large_summary<T>(block.last - block.first, value_stride);
  for (Index first = block.first; first < block.last; first += absorb_panel) {
    const Index last = first + absorb_panel < block.last ? first + absorb_panel : block.last;
    // The summary's rows are copied to the stride of A, the normaliser as one more column; 144 columns at a time.
    Upcoming upcoming;
    if (is_large) upcoming.add(block.summary + (last - block.first) * value_stride, absorb_panel * value_stride);
    for (Index column = 0; column <= block.value_dim; column += stride) {
      const Index end = column + stride <= block.value_dim ? column + stride : block.value_dim + 1;
      for (Index feature = first; feature < last; ++feature) {
        const T* from = block.summary + (feature - block.first) * value_stride;
        T* to = block.summary_panel + (feature - first) * stride;
        for (Index c = column; c < end && c < value_stride; c += lanes<T>) {
          Vector<T> value;
          load<T>(from + c, value);
          store<T>(to + c - column, value);
        }
        if (end == block.value_dim + 1) to[block.value_dim - column] = block.normalizer[feature - block.first];
      }
      clear_rows_past<T>(last - first, end - column, block.summary_panel);
      product<T, false>(last - first, vectors, end - column, block.summary_panel, block.target + column * stride,
                        stride, block.panel, stride, column > 0, upcoming);
    }
    const PullBackPanel<T> panel{first,          vectors * lanes<T>, block.panel,        block.packed,
                                 block.gradient, block.shift,        block.coefficients, block.shift_constant};
    for_each_feature(block.map, block.packed, first, last, panel);
  }
}

template <class T>
void add_transposed(const AddTransposed<T>& block) {
  const Index row_stride = padded_columns<T>(block.dim);
  for (Index column = 0; column < block.dim; column += lanes<T>) {
    for (Index token = 0; token < block.tokens; token += lanes<T>) {
      alignas(64) T square[lanes<T> * lanes<T>];
      transpose_square<T>(block.lanes + column * block_tokens<T> + token, block_tokens<T>, square, lanes<T>);
      for (Index row = 0; row < lanes<T> && token + row < block.tokens; ++row) {
        Vector<T> sum, value;
        T* target = block.rows + (token + row) * row_stride + column;
        load<T>(target, sum);
        load<T>(square + row * lanes<T>, value);
        sum += value;
        store<T>(target, sum);
      }
    }
  }
}

template <class T>
void multiply_elu_slope(Index count, const T* features, T* gradient) {
  Vector<T> one;
  broadcast<T>(1, one);
  for (Index cell = 0; cell < count; cell += lanes<T>) {
    Vector<T> feature, value;
    load<T>(features + cell, feature);
    load<T>(gradient + cell, value);
    // A row that sees no key has no gradient, NaN in it or not.
    const Vector<T> slope = feature > one ? one : feature;
    value = value == Vector<T>{} ? Vector<T>{} : value * slope;
    store<T>(gradient + cell, value);
  }
}

template <class T>
void uncenter_some(const UncenterBlock<T>& block);
template <class T>
CSQ_INLINE Index row_stride_of(const UncenterBlock<T>& block) {
  return block.row_stride != 0 ? block.row_stride : padded_columns<T>(block.dim);
}

// Into rows of another type: some columns at a time.
template <class T>
__attribute__((noinline)) void uncenter_and_convert(const UncenterBlock<T>& block) {
  constexpr Index columns = 64;
  T rows[std::size_t{token_group * columns}];
  for (Index column = 0; column < block.dim; column += columns) {
    UncenterBlock<T> some = block;
    some.rows += column;
    some.row_stride = row_stride_of(block);
    some.dim = column + columns < block.dim ? columns : block.dim - column;
    if (some.mean != nullptr) some.mean += column;
    if (some.suffix_sum != nullptr) some.suffix_sum += column;
    some.output = rows;
    some.token_stride = columns;
    some.dim_stride = 1;
    some.storage = nullptr;
    uncenter_some(some);
    for (Index token = 0; token < block.tokens; ++token)
      block.storage->store(rows + token * columns, some.dim,
                           element_at(block.output, token * block.token_stride + column * block.dim_stride, block.storage),
                           block.dim_stride);
  }
}

template <class T>
void uncenter_some(const UncenterBlock<T>& block) {
  if (block.storage != nullptr) return uncenter_and_convert(block);
  constexpr Index step = lanes<double>;
  const Index row_stride = row_stride_of(block);
  double reciprocal[token_group];
  for (Index token = 0; token < block.tokens && block.suffix_sum != nullptr; ++token) {
    const double count = block.count + static_cast<double>(token) + (block.exclusive ? 0 : 1);
    reciprocal[token] = count > 0 ? 1 / count : 0;
  }
  for (Index column = 0; column < block.dim; column += step) {
    Doubles sum = {}, center = {};
    if (block.suffix_sum != nullptr) load<double>(block.suffix_sum + column, sum);
    if (block.mean != nullptr) load<double>(block.mean + column, center);
    for (Index token = block.tokens - 1; token >= 0; --token) {
      Doubles g;
      load_as_double<T>(block.rows + token * row_stride + column, g);
      if (block.suffix_sum != nullptr) {
        const Doubles through = sum + g * reciprocal[token];
        center = block.exclusive ? sum : through;
        sum = through;
      }
      g = (g - center) * block.factor;
      T* to = block.output + token * block.token_stride + column * block.dim_stride;
      if (block.dim_stride == 1 && column + step <= block.dim) {
        store_from_double<T>(to, g);
      } else {
        for (Index i = 0; i < step && column + i < block.dim; ++i) to[i * block.dim_stride] = static_cast<T>(g[i]);
      }
    }
    if (block.suffix_sum != nullptr) store<double>(block.suffix_sum + column, sum);
  }
}

// Groups of tokens from the last to the first, each while it is in the first-level cache.
template <class T>
void uncenter(const UncenterBlock<T>& block) {
  for (Index first = (block.tokens - 1) / token_group * token_group; first >= 0; first -= token_group) {
    UncenterBlock<T> some = block;
    some.rows += first * row_stride_of(block);
    some.tokens = first + token_group < block.tokens ? token_group : block.tokens - first;
    some.count += static_cast<double>(first);
    some.output = element_at(block.output, first * block.token_stride, block.storage);
    uncenter_some(some);
  }
}

// Heads of a few tokens, forward and backward: nothing is packed, rows are centred where the kernels can have whole
// vectors of them, and each pair is a product of two rows. Weights are those of one_query.inl and direct_backward.inl.

// Columns up to a whole vector.
template <class T>
CSQ_INLINE Index whole_vectors(Index columns) {
  return (columns + lanes<T> - 1) / lanes<T> * lanes<T>;
}

template <class T>
CSQ_INLINE T dot_of_rows(Index length, const T* a, const T* b) {
  Vector<T> sum = {};
  for (Index column = 0; column < length; column += lanes<T>) {
    Vector<T> x, y;
    load<T>(a + column, x);
    load<T>(b + column, y);
    sum += x * y;
  }
  return sum_of_lanes<T>(sum);
}

template <class T>
CSQ_INLINE void add_multiple_of_row(Index length, T factor, const T* from, T* to) {
  for (Index column = 0; column < length; column += lanes<T>) {
    Vector<T> x, y;
    load<T>(from + column, x);
    load<T>(to + column, y);
    y += x * factor;
    store<T>(to + column, y);
  }
}

template <class T>
CSQ_INLINE void clear_rows(Index count, T* rows) {
  for (Index cell = 0; cell < count; cell += lanes<T>) store<T>(rows + cell, Vector<T>{});
}

// rows ← factor·source, as center_rows multiplies; false, and nothing done, where rows have to be gathered first.
template <class T>
CSQ_INLINE bool scale_short(const Source<T>& source, double factor, T* rows) {
  constexpr Index step = lanes<double>;
  if (source.storage != nullptr || source.dim_stride != 1 || source.dim % step != 0) return false;
  const Index stride = padded_columns<T>(source.dim), padded = whole_vectors<T>(source.dim);
  for (Index token = 0; token < source.tokens; ++token) {
    const T* from = source.data + token * source.token_stride;
    T* to = rows + token * stride;
    for (Index column = 0; column < source.dim; column += step) {
      Doubles x;
      load_as_double<T>(from + column, x);
      store_from_double<T>(to + column, x * factor);
    }
    for (Index column = source.dim; column < padded; column += step) store_from_double<T>(to + column, Doubles{});
  }
  return true;
}

template <class T>
void center_short(const ShortRows<T>& input, double* sums, T* rows) {
  const bool plain = input.centering == ShortRows<T>::Centering::none && !input.elu;
  if (plain && scale_short<T>(input.source, input.factor, rows)) return;
  PackBlock<T> block;
  block.source = input.source;
  block.factor = input.factor;
  block.elu = input.elu;
  block.rows = rows;
  if (input.centering != ShortRows<T>::Centering::none) {
    const Index padded = padded_columns<double>(input.source.dim);
    for (Index a = 0; a < padded; ++a)
      sums[a] = input.history != nullptr && a < input.source.dim ? input.history_count * input.history[a] : 0;
    if (input.centering == ShortRows<T>::Centering::sequence) {
      add_rows(input.source, sums);
      const double count = static_cast<double>(input.source.tokens);
      for (Index a = 0; a < padded && input.source.tokens > 0; ++a) sums[a] /= count;
      block.mean = sums;
    } else {
      block.running_sum = sums;
      block.running_count = input.history_count;
      block.exclusive = input.centering == ShortRows<T>::Centering::prefix_exclusive;
    }
  }
  pack_some<T>(block, nullptr);
}

// The adjustment of one query of a head, and the keys from `key` on.
template <class T>
CSQ_INLINE void move_to_query(const Adjustment<T>& head, Index query, Index key, Adjustment<T>& adjust) {
  adjust = head;
  if (adjust.has_gates()) {
    adjust.query_gate += query;
    adjust.query_gate_low += query;
    adjust.key_gate += key;
    adjust.key_gate_low += key;
  }
  if (adjust.bias != nullptr) adjust.bias += query * adjust.bias_query_stride + key * adjust.bias_key_stride;
}

// numerator = Σ_j weight_j·value_j for Columns vectors, even and odd keys apart. For so few keys add_rows_times takes up to
// 15% longer in all.
template <class T, int Columns>
CSQ_INLINE void add_short_values(const OneQueryBlock<T>& block, Index column) {
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
  for (int c = 0; c < Columns; ++c) store<T>(block.numerator + column + c * lanes<T>, sum[0][c] + sum[1][c]);
}

template <class T>
void short_head(const ShortHead<T>& head) {
  const Index key_stride = padded_columns<T>(head.query.source.dim), dim = whole_vectors<T>(head.query.source.dim);
  const Index value_stride = padded_columns<T>(head.value.dim);
  if (head.prepares_keys) {
    center_short<T>(head.key, head.sums, head.keys);
    copy_rows(head.value, value_stride, head.values);
  }
  center_short<T>(head.query, head.sums, head.queries);
  const Index real = head.query.source.tokens;
  clear_rows<T>(real * value_stride, head.numerator);
  const VisiblePairs pairs{real, head.key.source.tokens, head.band_start, head.diagonal};
  const bool exponential = head.weight.kind == WeightKind::exponential, adjusted = head.adjust.any();
  OneQueryBlock<T> block;
  block.value_stride = value_stride;
  block.value_dim = whole_vectors<T>(head.value.dim);
  block.weight = head.weight;
  block.weights = head.weights;
  for (Index query = 0; query < real; ++query) {
    head.normalizer[query] = 0;
    head.maximum[query] = lowest_score<T>;
    const Index first = pairs.first_key_of(query);
    block.keys = pairs.keys_of(query) - first;
    if (block.keys <= 0) continue;
    block.values = head.values + first * value_stride;
    if (adjusted) move_to_query(head.adjust, query, first, block.adjust);
    const T* row = head.queries + query * key_stride;
    // Past the keys: whole vectors of weights are evaluated.
    clear_rows<T>(block.keys, head.weights);
    for (Index key = 0; key < block.keys; ++key)
      head.weights[key] = dot_of_rows<T>(dim, row, head.keys + (first + key) * key_stride);
    if (exponential) {
      if (adjusted) adjust_row<T>(block.adjust, block.keys, head.weights);
      // All keys are here: the maximum need not rise from nothing.
      T highest = lowest_score<T>;
      for (Index key = 0; key < block.keys; ++key)
        highest = head.weights[key] > highest ? head.weights[key] : highest;
      head.maximum[query] = highest;
    }
    block.numerator = head.numerator + query * value_stride;
    block.normalizer = head.normalizer + query;
    block.maximum = head.maximum + query;
    weigh_scores(block);
    Index column = 0;
    for (; column + 4 * lanes<T> <= block.value_dim; column += 4 * lanes<T>) add_short_values<T, 4>(block, column);
    for (; column < block.value_dim; column += lanes<T>) add_short_values<T, 1>(block, column);
  }
}

template <class T>
CSQ_INLINE void put(const Target<T>& output, Index token, Index a, T value) {
  T* const element = element_at(output.data, token * output.token_stride + a * output.dim_stride, output.storage);
  if (output.storage == nullptr)
    *element = value;
  else
    output.storage->store(&value, 1, element, 1);
}

// Rows from `first` on have no gradient.
template <class T>
void clear_tokens(Index first, const Target<T>& output) {
  for (Index token = first; token < output.tokens; ++token)
    for (Index a = 0; a < output.dim; ++a) put<T>(output, token, a, 0);
}

// ∂x from the gradient of its centred rows: φ's slope, the adjoint of the centring, and out.
template <class T>
void uncenter_short(const ShortRows<T>& input, const T* rows, double factor, double* sums, T* gradient,
                    const Target<T>& output) {
  const Index stride = padded_columns<T>(input.source.dim), tokens = input.source.tokens;
  const Index padded = padded_columns<double>(input.source.dim);
  if (input.elu) multiply_elu_slope<T>(tokens * stride, rows, gradient);
  UncenterBlock<T> block;
  block.rows = gradient;
  block.tokens = tokens;
  block.dim = input.source.dim;
  block.factor = factor;
  block.output = output.data;
  block.token_stride = output.token_stride;
  block.dim_stride = output.dim_stride;
  block.storage = output.storage;
  if (input.centering != ShortRows<T>::Centering::none) {
    for (Index a = 0; a < padded; ++a) sums[a] = 0;
    if (input.centering == ShortRows<T>::Centering::sequence) {
      add_rows<T>({gradient, stride, 1, tokens, input.source.dim}, sums);
      for (Index a = 0; a < padded && tokens > 0; ++a) sums[a] /= static_cast<double>(tokens);
      block.mean = sums;
    } else {
      block.suffix_sum = sums;
      block.count = input.history_count;
      block.exclusive = input.centering == ShortRows<T>::Centering::prefix_exclusive;
    }
  }
  uncenter_some<T>(block);
  clear_tokens<T>(tokens, output);
}

// G and o of the queries → r and r·o; rows without a normaliser have none.
template <class T>
void scale_short_gradient(const ShortHeadBackward<T>& head, Index value_stride, Index value_dim) {
  copy_rows(head.output_gradient, value_stride, head.gradient_rows);
  for (Index query = 0; query < head.output_gradient.tokens; ++query) {
    T* row = head.gradient_rows + query * value_stride;
    head.dot[query] = 0;
    if (head.factor[query] == 0) {
      clear_rows<T>(value_dim, row);
      continue;
    }
    if (head.factor[query] != 1) scale_row<T>(head.factor[query], value_dim, row);
    Source<T> output = head.output;
    skip_rows(output, query);
    output.tokens = 1;
    copy_rows(output, value_stride, head.output_row);
    // As r·v is summed, so that it cancels where v is o.
    head.dot[query] = dot_of_rows<T>(value_dim, row, head.output_row);
  }
}

template <class T>
void short_head_backward(const ShortHeadBackward<T>& head) {
  constexpr Index stride = block_tokens<T>;
  const Index key_stride = padded_columns<T>(head.query.source.dim), dim = whole_vectors<T>(head.query.source.dim);
  const Index value_stride = padded_columns<T>(head.value.dim), value_dim = whole_vectors<T>(head.value.dim);
  const Index queries = head.query.source.tokens, keys = head.key.source.tokens;
  if (head.is_first) {
    center_short<T>(head.key, head.sums, head.keys);
    copy_rows(head.value, value_stride, head.values);
    clear_rows<T>(keys * key_stride, head.key_gradient);
    clear_rows<T>(keys * value_stride, head.value_gradient);
  }
  center_short<T>(head.query, head.sums, head.queries);
  scale_short_gradient(head, value_stride, value_dim);
  clear_rows<T>(queries * key_stride, head.query_gradient);

  const VisiblePairs pairs{queries, keys, far_before, head.diagonal};
  DirectBackwardBlock<T> block;
  block.dot = head.dot;
  block.log_normalizer = head.log_normalizer;
  block.queries = queries;
  block.diagonal = head.diagonal;
  block.weight = head.weight;
  block.weights = head.weights;
  block.slopes = head.slopes;
  block.slope_sum = head.slope_sum;
  for (Index key = 0; key < keys; ++key) {
    clear_rows<T>(queries, head.weights + key * stride);
    clear_rows<T>(queries, head.slopes + key * stride);
    for (Index query = pairs.first_query_of(key); query < queries; ++query) {
      head.weights[key * stride + query] =
          dot_of_rows<T>(dim, head.queries + query * key_stride, head.keys + key * key_stride);
      head.slopes[key * stride + query] =
          dot_of_rows<T>(value_dim, head.gradient_rows + query * value_stride, head.values + key * value_stride);
    }
  }
  for (Index lane = 0; lane < queries; lane += lanes<T>)
    backward_weights_of_lanes<T>(block, lane, KeysOfColumn<T>(pairs, lane));
  for (Index key = 0; key < keys; ++key)
    for (Index query = pairs.first_query_of(key); query < queries; ++query) {
      const T weight = head.weights[key * stride + query], slope = head.slopes[key * stride + query];
      add_multiple_of_row<T>(value_dim, weight, head.gradient_rows + query * value_stride,
                             head.value_gradient + key * value_stride);
      add_multiple_of_row<T>(dim, slope, head.queries + query * key_stride, head.key_gradient + key * key_stride);
      add_multiple_of_row<T>(dim, slope, head.keys + key * key_stride, head.query_gradient + query * key_stride);
    }
  uncenter_short<T>(head.query, head.queries, head.query_factor, head.sums, head.query_gradient, head.query_target);
  if (!head.is_last) return;
  uncenter_short<T>(head.key, head.keys, head.key_factor, head.sums, head.key_gradient, head.key_target);
  const Target<T>& target = head.value_target;
  for (Index token = 0; token < keys; ++token)
    for (Index a = 0; a < head.value.dim; ++a) put(target, token, a, head.value_gradient[token * value_stride + a]);
  clear_tokens<T>(keys, target);
}

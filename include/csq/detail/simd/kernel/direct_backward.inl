// The gradients of one block of queries against one block of keys: scores and weights are computed again.

// r·o must cancel Σ_j w_ij r·v_j, and the shift's gradient is what is left of that: so it is summed in double. Without
// fused products that is not enough, since the tiles round r·v twice a step; summed in their order, r·o is as wrong as
// r·v and cancels it where v is o.
template <class T>
void scale_gradient(const ScaleGradient<T>& block) {
  constexpr Index step = lanes<double>;
  const Source<T>& output = block.output;
  for (Index token = 0; token < block.gradient.tokens; ++token) {
    T* row = block.rows + token * block.value_stride;
    Source<T> gradient = block.gradient;
    gradient.data += token * gradient.token_stride;
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
    if (factor == 0) continue;
    const T* o = output.data + token * output.token_stride;
    if constexpr (!fused_products) {
      T dot = 0;
      for (Index column = 0; column < output.dim; ++column) dot += row[column] * o[column * output.dim_stride];
      block.dot[token] = dot;
      continue;
    }
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
}

// Each: score → weight and w'(s).
template <class T>
struct ExponentialSlope {
  Vector<T> log_normalizer;

  CSQ_INLINE ExponentialSlope(const DirectBackwardBlock<T>& block, Index lane) {
    load<T>(block.log_normalizer + lane, log_normalizer);
  }
  CSQ_INLINE void operator()(Vector<T>& score, Vector<T>& slope) const {
    score -= log_normalizer;
    exp2_in_place(score);
    slope = score;
  }
};
template <class T>
struct QuadraticSlope {
  Vector<T> offset, c0, c1, c2;

  CSQ_INLINE QuadraticSlope(const DirectBackwardBlock<T>& block, Index) {
    broadcast<T>(static_cast<T>(block.weight.offset), offset);
    broadcast<T>(static_cast<T>(block.weight.c0), c0);
    broadcast<T>(static_cast<T>(block.weight.c1), c1);
    broadcast<T>(static_cast<T>(block.weight.c2), c2);
  }
  CSQ_INLINE void operator()(Vector<T>& score, Vector<T>& slope) const {
    const Vector<T> t = score + offset;
    const Vector<T> linear = t * c2 + c1;
    score = linear * t + c0;
    slope = t * c2 + linear;
  }
};
template <class T>
struct PowerSeriesSlope {
  const double* coefficients;
  Index count;

  CSQ_INLINE PowerSeriesSlope(const DirectBackwardBlock<T>& block, Index)
      : coefficients(block.weight.coefficients), count(block.weight.coefficient_count) {}
  CSQ_INLINE void operator()(Vector<T>& score, Vector<T>& slope) const {
    Vector<T> value = {}, derivative = {};
    for (Index t = count - 1; t >= 0; --t) {
      derivative = derivative * score + value;
      value = value * score + static_cast<T>(coefficients[t]);
    }
    score = value;
    slope = derivative;
  }
};
// Clenshaw's recurrence and, beside it, the recurrence of its derivative.
template <class T>
struct ChebyshevSquareSlope {
  const double* coefficients;
  Index count;
  T reciprocal_radius, floor;

  CSQ_INLINE ChebyshevSquareSlope(const DirectBackwardBlock<T>& block, Index)
      : coefficients(block.weight.coefficients),
        count(block.weight.coefficient_count),
        reciprocal_radius(static_cast<T>(1 / block.weight.radius)),
        floor(static_cast<T>(block.weight.floor)) {}
  CSQ_INLINE void operator()(Vector<T>& score, Vector<T>& slope) const {
    const Vector<T> x = score * reciprocal_radius;
    const Vector<T> twice = x + x;
    Vector<T> next = {}, after = {}, next_slope = {}, after_slope = {};
    for (Index t = count - 1; t > 0; --t) {
      const Vector<T> current = twice * next - after + static_cast<T>(coefficients[t]);
      const Vector<T> current_slope = next + next + twice * next_slope - after_slope;
      after = next;
      next = current;
      after_slope = next_slope;
      next_slope = current_slope;
    }
    const Vector<T> root = x * next - after + static_cast<T>(coefficients[0]);
    const Vector<T> root_slope = next + x * next_slope - after_slope;
    score = root * root + floor;
    slope = (root + root) * root_slope * reciprocal_radius;
  }
};

// max(0, |s| − radius)².
template <class T>
struct BoundSlope {
  Vector<T> radius;

  CSQ_INLINE BoundSlope(const DirectBackwardBlock<T>& block, Index) {
    broadcast<T>(static_cast<T>(block.weight.radius), radius);
  }
  CSQ_INLINE void operator()(Vector<T>& score, Vector<T>& slope) const {
    const Vector<T> zero = {};
    const Vector<T> above = score - radius, below = score + radius;
    const Vector<T> excess = above > zero ? above : below < zero ? below : zero;
    score = excess * excess;
    slope = excess + excess;
  }
};

// Scores and r·v of one column of lanes → weights and slopes, over the first `keys`: the others no lane sees, and they
// stay unwritten. Zero where invisible.
template <class T, bool Masked, class Evaluate>
void backward_weights(const DirectBackwardBlock<T>& block, Index lane, Index keys) {
  constexpr Index stride = block_tokens<T>;
  const Evaluate evaluate(block, lane);
  const Mask<T> mask(lane, block.diagonal);
  T* weights = block.weights + lane;
  T* slopes = block.slopes + lane;
  Vector<T> dot, sum = {};
  load<T>(block.dot + lane, dot);
  for (Index key = 0; key < keys; ++key) {
    Vector<T> weight, slope, gradient;
    load<T>(weights + key * stride, weight);
    load<T>(slopes + key * stride, gradient);
    evaluate(weight, slope);
    slope *= gradient - dot;
    if constexpr (Masked) {
      Integers<T> sees;
      mask.sees(key, sees);
      weight = sees ? weight : Vector<T>{};
      slope = sees ? slope : Vector<T>{};
    }
    store<T>(weights + key * stride, weight);
    store<T>(slopes + key * stride, slope);
    sum += slope;
  }
  if (block.slope_sum != nullptr)
    for (Index i = 0; i < lanes<T> && lane + i < block.queries; ++i) *block.slope_sum += static_cast<double>(sum[i]);
}

template <class T, bool Masked>
CSQ_INLINE void backward_weights_of_lanes(const DirectBackwardBlock<T>& block, Index lane, Index keys) {
  using Kind = KernelWeight::Kind;
  switch (block.weight.kind) {
    case Kind::exponential:
      return backward_weights<T, Masked, ExponentialSlope<T>>(block, lane, keys);
    case Kind::quadratic:
      return backward_weights<T, Masked, QuadraticSlope<T>>(block, lane, keys);
    case Kind::power_series:
      return backward_weights<T, true, PowerSeriesSlope<T>>(block, lane, keys);
    case Kind::chebyshev_square:
      return backward_weights<T, true, ChebyshevSquareSlope<T>>(block, lane, keys);
    case Kind::bound:
      return backward_weights<T, Masked, BoundSlope<T>>(block, lane, keys);
  }
}

template <class T>
void direct_backward(const DirectBackwardBlock<T>& block) {
  constexpr Index stride = block_tokens<T>;
  const Index vectors = (block.queries + lanes<T> - 1) / lanes<T>;
  const Index key_stride = padded_columns<T>(block.key_dim);
  const Index value_stride = padded_columns<T>(block.value_dim);
  const VisiblePairs pairs{block.queries, block.keys, block.diagonal};
  Upcoming upcoming = block.upcoming;
  for (Index done = 0; done < vectors;) {
    const Index width = next_width(vectors - done);
    const Index lane = done * lanes<T>;
    const Index keys = pairs.keys_of_lanes(lane, width * lanes<T>);
    product<T, true>(keys, width, block.key_dim, block.key, block.query + lane, stride, block.weights + lane, stride,
                     false, upcoming);
    product<T, true>(keys, width, block.value_dim, block.value, block.gradient + lane, stride, block.slopes + lane,
                     stride, false, upcoming);
    for (Index v = 0; v < width && done + v < vectors; ++v) {
      if (pairs.all())
        backward_weights_of_lanes<T, false>(block, lane + v * lanes<T>, keys);
      else
        backward_weights_of_lanes<T, true>(block, lane + v * lanes<T>, keys);
    }
    done += width;
  }
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
    const Index unseen = key + 1 - block.diagonal;
    for (Index query = unseen > 0 ? unseen : 0; query < block.queries; ++query) {
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

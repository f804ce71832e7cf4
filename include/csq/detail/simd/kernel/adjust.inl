// What options make of scores before they are weighed (softmax: cap, gates, bias), and of weights after (the others:
// gates). Passes of their own over scores in the first-level cache, so that calls without them run the code that they
// always ran.
//
//   exponential   s → c·tanh(s/c) + (L_p − L_j) + bias      in units of ln 2
//   the others    w → w·2^(L_p − L_j)
//
// Differences of sums, never ratios of products: no gate overflows. A sum is high + low, so that the difference of two
// close ones is exact although the sums themselves may be large.

// While it lives, results that would be subnormal are 0. Gates make numbers of every size, and a Xeon takes a hundred
// cycles for each product that underflows or reads a subnormal number: CSQ was half as fast there, softmax's gradient a
// quarter slower. (A limit of 2^-100 for decays instead lost rows whose weights are as small.) Subnormal inputs stay what
// they are. Elsewhere than on x86 nothing is done: the like of 64-bit Arm, FPCR.FZ, makes inputs 0 too, and its processors
// take no longer for subnormal numbers, or a few cycles.
class FlushesSubnormal {
 public:
  CSQ_INLINE explicit FlushesSubnormal(bool wanted) : wanted_(wanted) {
#if defined(__x86_64__)
    if (!wanted_) return;
    before_ = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before_ | 0x8000u);
#endif
  }
  FlushesSubnormal(const FlushesSubnormal&) = delete;
  FlushesSubnormal& operator=(const FlushesSubnormal&) = delete;
  CSQ_INLINE ~FlushesSubnormal() {
#if defined(__x86_64__)
    // What it has raised since stays raised.
    if (wanted_) __builtin_ia32_ldmxcsr(before_ | (__builtin_ia32_stmxcsr() & 0x3fu));
#endif
  }

 private:
  [[maybe_unused]] bool wanted_;
  [[maybe_unused]] unsigned before_ = 0;
};

// c·tanh(s/c), and its slope. tanh is (1 − e^−2x)/(1 + e^−2x); where that would cancel, the series at x/8 and three
// doublings, tanh 2y = 2t/(1 + t²): right to a few roundings of itself, so that a large cap is none.
template <class T>
CSQ_INLINE void cap_score(double soft_cap, Vector<T>& score, Vector<T>& slope) {
  const T limit = static_cast<T>(soft_cap * 1.442695040888963407359924681001892137);
  const T rate = static_cast<T>(0.693147180559945309417232121458176568 / soft_cap);
  constexpr T small = static_cast<T>(0.5), to_exponent = static_cast<T>(-2 * 1.442695040888963407359924681001892137);
  Vector<T> one, x = (score < Vector<T>{} ? -score : score) * rate;
  broadcast<T>(1, one);
  const Vector<T> y = x * static_cast<T>(0.125), square = y * y;
  Vector<T> series = square * static_cast<T>(21844.0 / 6081075) - static_cast<T>(1382.0 / 155925);
  series = series * square + static_cast<T>(62.0 / 2835);
  series = series * square - static_cast<T>(17.0 / 315);
  series = series * square + static_cast<T>(2.0 / 15);
  series = series * square - static_cast<T>(1.0 / 3);
  Vector<T> near = y + y * square * series;
  CSQ_UNROLL
  for (int doubling = 0; doubling < 3; ++doubling) near = (near + near) / (one + near * near);
  Vector<T> e = x * to_exponent;
  exp2_in_place(e);
  const Vector<T> size = x < small ? near : (one - e) / (one + e);
  slope = one - size * size;
  const Vector<T> capped = size * limit;
  score = score < Vector<T>{} ? -capped : capped;
}

// A pair of bias −∞ is hidden, whatever its score; a finite one, as the lowest number is in many a mask, stays finite
// in units of ln 2.
template <class T>
CSQ_INLINE void add_bias(const T* bias, Vector<T>& score) {
  Vector<T> added, hidden, lowest;
  load<T>(bias, added);
  broadcast<T>(-static_cast<T>(__builtin_inf()), hidden);
  broadcast<T>(lowest_score<T>, lowest);
  const Integers<T> hides = added == hidden;
  added *= static_cast<T>(1.442695040888963407359924681001892137);
  added = added < lowest ? lowest : added > -lowest ? -lowest : added;
  added += score;
  added = added < lowest ? lowest : added > -lowest ? -lowest : added;
  score = hides ? hidden : added;
}

// Products with what lies near the end of T's range would be subnormal, and some processors take a hundred cycles for
// each. NaN stays.
template <class T>
CSQ_INLINE void forget_faint(Vector<T>& decay) {
  decay = decay < smallest_decay<T> ? Vector<T>{} : decay;
}
// 2^difference, to the last bit where nothing is forgotten. NaN stays.
template <class T>
CSQ_INLINE void exact_power(Vector<T>& difference) {
  const Integers<T> none = difference == Vector<T>{};
  exp2_in_place(difference);
  Vector<T> one;
  broadcast<T>(1, one);
  difference = none ? one : difference;
}
// 2^(L_p − L_j), 1 where a pair is not visible and the difference may be anything.
template <class T>
CSQ_INLINE void decay_of(Vector<T>& difference) {
  difference = difference > Vector<T>{} ? Vector<T>{} : difference;
  exact_power<T>(difference);
  forget_faint<T>(difference);
}

// The decays of one column of lanes after another, of a block: L_p − L_j, or as powers 2^(L_p − L_j). R is the last key
// that the first of these queries sees: L_p − L_R and L_R − L_j are both at most 0, so that their sum is right to a
// rounding of itself however large they are, and no power overflows. The latter are the same for all columns of a block
// that is wholly visible, and made once. Keys behind R, at the diagonal, go pair by pair.
template <class T>
class GateParts {
 public:
  Vector<T> from_queries;  // to R
  Index split = 0;         // keys [first, split) have a to_key

  CSQ_INLINE explicit GateParts(bool powers) : powers_(powers) {}
  CSQ_INLINE T to_key(Index key) const { return to_key_[key]; }

  // Of the keys [first, …).
  CSQ_INLINE void set_lanes(const Adjustment<T>& adjust, const VisiblePairs& pairs, Index lane, Index first) {
    key_high_ = adjust.key_gate;
    key_low_ = adjust.key_gate_low;
    load<T>(adjust.query_gate + lane, high_);
    load<T>(adjust.query_gate_low + lane, low_);
    from_queries = Vector<T>{};
    const Index behind = pairs.keys_of(lane);
    split = behind > first ? behind : first;
    if (behind <= first) return;
    const Index last = behind - 1;
    from_queries = (high_ - key_high_[last]) + (low_ - key_low_[last]);
    if (powers_) exact_power<T>(from_queries);
    if (last == last_ && first >= first_) return;
    last_ = last;
    first_ = first;
    for (Index key = first / lanes<T> * lanes<T>; key < behind; key += lanes<T>) {  // whole vectors, as sums are there
      Vector<T> high, low;
      load<T>(key_high_ + key, high);
      load<T>(key_low_ + key, low);
      high = (key_high_[last] - high) + (key_low_[last] - low);
      if (powers_) exact_power<T>(high);
      store<T>(to_key_ + key, high);
    }
  }
  // L_p − L_j of a pair, right to a rounding of itself.
  CSQ_INLINE void difference(Index key, Vector<T>& result) const {
    result = (high_ - key_high_[key]) + (low_ - key_low_[key]);
  }

 private:
  Vector<T> high_, low_;          // of the queries in the lanes
  const T *key_high_, *key_low_;  // of the keys
  Index last_ = -1, first_ = 0;   // R and the first key of what to_key_ holds
  alignas(64) T to_key_[block_tokens<T>];
  bool powers_;
};

// Cap, or bias, of the scores of one column of lanes of queries; `slopes`, where it is not null, takes the cap's.
template <class T>
__attribute__((noinline)) void cap_or_bias(const Adjustment<T>& adjust, const VisiblePairs& pairs, Index lane,
                                           Index first, Index keys, T* scores, T* slopes, bool capped) {
  constexpr Index stride = block_tokens<T>;
  const Index count = pairs.queries - lane < lanes<T> ? pairs.queries - lane : lanes<T>;
  for (Index key = first; key < keys; ++key) {
    Vector<T> score, slope;
    load<T>(scores + key * stride + lane, score);
    if (capped) {
      cap_score<T>(adjust.soft_cap, score, slope);
      if (slopes != nullptr) store<T>(slopes + key * stride + lane, slope);
    } else {
      alignas(64) T bias[lanes<T>] = {};
      const T* from = adjust.bias + lane * adjust.bias_query_stride + key * adjust.bias_key_stride;
      for (Index i = 0; i < count; ++i) bias[i] = from[i * adjust.bias_query_stride];
      add_bias<T>(bias, score);
    }
    store<T>(scores + key * stride + lane, score);
  }
}
// The scores of one column of lanes of queries.
template <class T>
__attribute__((noinline)) void adjust_scores(const Adjustment<T>& adjust, const VisiblePairs& pairs, Index lane,
                                             const KeysOfColumn<T>& seen, GateParts<T>& gate, T* scores, T* slopes) {
  constexpr Index stride = block_tokens<T>;
  const Index first = seen.first, keys = seen.last;
  if (adjust.soft_cap != 0) cap_or_bias<T>(adjust, pairs, lane, first, keys, scores, slopes, true);
  if (adjust.has_gates()) {
    gate.set_lanes(adjust, pairs, lane, first);
    const Vector<T> from_queries = gate.from_queries;
    const Index split = gate.split;
    T* column = scores + lane;
    Vector<T> score, difference;
    for (Index key = first; key < split; ++key) {
      load<T>(column + key * stride, score);
      score += from_queries + gate.to_key(key);
      store<T>(column + key * stride, score);
    }
    for (Index key = split; key < keys; ++key) {
      load<T>(column + key * stride, score);
      gate.difference(key, difference);
      score += difference;
      store<T>(column + key * stride, score);
    }
  }
  if (adjust.bias != nullptr) cap_or_bias<T>(adjust, pairs, lane, first, keys, scores, slopes, false);
}

template <class T>
CSQ_INLINE void scale_pairs(const Vector<T>& factor, T* row, Vector<T>& sum) {
  Vector<T> value;
  load<T>(row, value);
  value *= factor;
  store<T>(row, value);
  sum += value;
}
template <class T>
CSQ_INLINE void scale_seen_pairs(const Vector<T>& factor, const Integers<T>& sees, T* row, Vector<T>& sum) {
  Vector<T> value;
  load<T>(row, value);
  value = sees ? value * factor : Vector<T>{};
  store<T>(row, value);
  sum += value;
}

// Weights, and slopes where they are not null, of one column of lanes. Adds the sums of both to weight_sum and
// slope_sum.
template <class T>
__attribute__((noinline)) void decay_weights(const Adjustment<T>& adjust, const VisiblePairs& pairs, Index lane,
                                             const KeysOfColumn<T>& seen, GateParts<T>& gate, T* weights, T* slopes,
                                             Vector<T>& weight_sum, Vector<T>& slope_sum) {
  constexpr Index stride = block_tokens<T>;
  gate.set_lanes(adjust, pairs, lane, seen.first);
  // In registers: what is reached through a reference is stored for every key, and the sums wait for their own stores.
  const Vector<T> from_queries = gate.from_queries;
  const Index split = gate.split;
  Vector<T> decay, weight_total = weight_sum, slope_total = slope_sum;
  const Index begin = seen.first, end = seen.last, from = seen.from < split ? seen.from : split;
  for (Index key = from; key < split; ++key) {
    decay = from_queries * gate.to_key(key);
    forget_faint<T>(decay);
    scale_pairs<T>(decay, weights + key * stride + lane, weight_total);
    if (slopes != nullptr) scale_pairs<T>(decay, slopes + key * stride + lane, slope_total);
  }
  const Mask<T> mask(lane, pairs.start, pairs.diagonal);
  for (Index key = from > begin ? begin : split; key < end; key = key + 1 == from ? split : key + 1) {
    Integers<T> sees;
    mask.sees(key, sees);
    gate.difference(key, decay);
    decay_of<T>(decay);
    scale_seen_pairs<T>(decay, sees, weights + key * stride + lane, weight_total);
    if (slopes != nullptr) scale_seen_pairs<T>(decay, sees, slopes + key * stride + lane, slope_total);
  }
  weight_sum = weight_total;
  slope_sum = slope_total;
}

// The same for one query, keys in lanes, up to whole vectors.
template <class T>
__attribute__((noinline)) void adjust_row(const Adjustment<T>& adjust, Index keys, T* scores) {
  for (Index key = 0; key < keys; key += lanes<T>) {
    Vector<T> score, slope;
    load<T>(scores + key, score);
    if (adjust.soft_cap != 0) cap_score<T>(adjust.soft_cap, score, slope);
    if (adjust.has_gates()) {
      Vector<T> high, low;
      load<T>(adjust.key_gate + key, high);
      load<T>(adjust.key_gate_low + key, low);
      score += (*adjust.query_gate - high) + (*adjust.query_gate_low - low);
    }
    if (adjust.bias != nullptr) {
      alignas(64) T bias[lanes<T>] = {};
      const Index count = keys - key < lanes<T> ? keys - key : lanes<T>;
      for (Index i = 0; i < count; ++i) bias[i] = adjust.bias[(key + i) * adjust.bias_key_stride];
      add_bias<T>(bias, score);
    }
    store<T>(scores + key, score);
  }
}
template <class T>
__attribute__((noinline)) T decay_row(const Adjustment<T>& adjust, Index keys, T* weights) {
  Vector<T> high, low, sum = {};
  broadcast<T>(*adjust.query_gate, high);
  broadcast<T>(*adjust.query_gate_low, low);
  const Mask<T> position(0, far_before, 0);
  for (Index key = 0; key < keys; key += lanes<T>) {
    Vector<T> key_high, key_low, decay, weight;
    load<T>(adjust.key_gate + key, key_high);
    load<T>(adjust.key_gate_low + key, key_low);
    decay = (high - key_high) + (low - key_low);
    decay_of<T>(decay);
    load<T>(weights + key, weight);
    const Integers<T> real = position.visible < static_cast<typename Mask<T>::Number>(keys - key);
    weight = real ? weight * decay : Vector<T>{};
    store<T>(weights + key, weight);
    sum += weight;
  }
  return sum_of_lanes<T>(sum);
}

// sums[j] −= Σ_i w_ij·dot_i over visible pairs: the gradient of the normalisers with respect to a key's decay.
template <class T>
__attribute__((noinline)) void add_key_sums(const VisiblePairs& pairs, const T* weights, const T* dot, T* sums) {
  for (Index key = 0; key < pairs.keys; ++key) {
    const T* row = weights + key * block_tokens<T>;
    const Index end = pairs.queries_of(key);
    Index query = pairs.first_query_of(key);
    T sum = 0;
    for (; query < end && query % lanes<T> != 0; ++query) sum += row[query] * dot[query];
    Vector<T> total = {};
    for (; query + lanes<T> <= end; query += lanes<T>) {
      Vector<T> x, y;
      load<T>(row + query, x);
      load<T>(dot + query, y);
      total += x * y;
    }
    for (; query < end; ++query) sum += row[query] * dot[query];
    sums[key] -= sum + sum_of_lanes<T>(total);
  }
}

// to[i] = 2^−|L_i − L|, up to whole vectors.
template <class T>
void decays(Index count, T at_high, T at_low, const T* high, const T* low, T* to) {
  for (Index i = 0; i < count; i += lanes<T>) {
    Vector<T> difference, rest;
    load<T>(high + i, difference);
    load<T>(low + i, rest);
    difference = (difference - at_high) + (rest - at_low);
    difference = difference > Vector<T>{} ? -difference : difference;
    exact_power<T>(difference);
    forget_faint<T>(difference);
    store<T>(to + i, difference);
  }
}

// to[r] = from[r]·factor[r]: rows of whole vectors.
template <class T>
void scale_rows(Index rows, Index stride, const T* factor, const T* from, T* to) {
  const FlushesSubnormal flushes(true);
  for (Index row = 0; row < rows; ++row)
    for (Index column = 0; column < stride; column += lanes<T>) {
      Vector<T> value;
      load<T>(from + row * stride + column, value);
      value *= factor[row];
      store<T>(to + row * stride + column, value);
    }
}
// to[r][t] ·= factor[t]: packed rows, up to whole vectors of tokens.
template <class T>
void scale_tokens(Index rows, Index tokens, const T* factor, T* packed) {
  const FlushesSubnormal flushes(true);
  for (Index token = 0; token < tokens; token += lanes<T>) {
    Vector<T> scale;
    load<T>(factor + token, scale);
    for (Index row = 0; row < rows; ++row) {
      Vector<T> value;
      load<T>(packed + row * block_tokens<T> + token, value);
      value *= scale;
      store<T>(packed + row * block_tokens<T> + token, value);
    }
  }
}

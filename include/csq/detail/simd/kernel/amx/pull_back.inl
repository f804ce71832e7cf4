// dX̃[a][t] += Σ_f c_f P_tf ∂φ_f(x_t)/∂x_a with P on the matrix unit: P [f][t], A = S as rows, B = y as pairs of
// dimensions.
//
// A strip of two tiles of tokens passes through all panels of a stretch of features, so that its rows of x and dX̃ stay
// in the first-level cache; what comes from the second is the rounded summary. The panel of 64 features after this one
// is multiplied before vectors take this one through the product rule, which so need not wait for its sums. For 64
// features and 32 tokens of d = 64: 256 cycles of the unit and 128 of storing sums, which it does not do beside it; 384
// multiply-adds, 512 loads and 128 stores of vectors, 256 cycles. Rounding S takes 18 cycles a feature, as long as 40
// tokens do: hence several blocks a call. Seen on a Sapphire Rapids core that others did not disturb (one whose unit is
// shared has half): 460, 530, 590 and 620 GF/s for 1, 2, 4 and 8 blocks of d = 64, 590 for 4 of d = 128, the float
// kernel 140 and 150.

// x rounded to bfloat16, as floats: the upper halves.
CSQ_INLINE void round_vector(const Vector<float>& x, Vector<float>& rounded) {
  Bits bits;
  round_pairs(Vector<float>{}, x, bits);
  __builtin_memcpy(&rounded, &bits, sizeof rounded);
}

// Features that are multiplied alike, of a summary that is rounded once for all tokens.
template <class T>
struct PullBackStretch {
  static constexpr Index panel = matrix_pull_back_panel;
  static constexpr Index width = 2;                         // tiles of tokens in a strip
  static constexpr Index panel_stride = width * tile_side;  // [panel][panel_stride]

  const MatrixPullBack<T>& block;
  Index first, count;
  bool is_pairs;
  BFloat16Bits *high, *low;  // tiles [feature tile][value step], and those of what is left where it is kept

  T normalizer[std::size_t{matrix_pull_back_stretch}];  // with coefficients
  PairPosition starts[std::size_t{matrix_pull_back_stretch / panel}];

  CSQ_INLINE Index value_steps() const { return depth_steps(block.value_dim); }
  CSQ_INLINE Index panels_count() const { return (count + panel - 1) / panel; }
  CSQ_INLINE Index features_in(Index index) const {
    return count - index * panel < panel ? count - index * panel : panel;
  }

  void round() {
    const Index stride = padded_columns<T>(block.value_dim), steps = value_steps();
    const T coefficient = is_pairs ? block.coefficients.pair : T{1};
    for (Index index = 0; is_pairs && index < panels_count(); ++index)
      starts[index] = find_pair(block.map, first + index * panel);
    for (Index f = 0; f < count; ++f) {
      const Index row = first - block.first + f;
      normalizer[f] = coefficient * block.normalizer[row];
      const T* const from = block.summary + row * stride;
      const Index at = f / tile_side * steps * tile_numbers + f % tile_side * tile_depth;
      for (Index step = 0; step < steps; ++step) {
        Vector<T> x0, x1 = {};
        load<T>(from + step * tile_depth, x0);
        if (step * tile_depth + tile_side < stride) load<T>(from + step * tile_depth + tile_side, x1);
        x0 *= coefficient;
        x1 *= coefficient;
        Bits bits;
        round_to_bits(x0, x1, bits);
        store_bits(high + at + step * tile_numbers, bits);
        if (is_pairs) continue;
        Vector<T> rounded0, rounded1;
        round_vector(x0, rounded0);
        round_vector(x1, rounded1);
        x0 = x0 == rounded0 ? Vector<T>{} : x0 - rounded0;  // also of infinity
        x1 = x1 == rounded1 ? Vector<T>{} : x1 - rounded1;
        round_to_bits(x0, x1, bits);
        store_bits(low + at + step * tile_numbers, bits);
      }
    }
  }

  CSQ_INLINE Index tokens_in(Index b) const { return b + 1 < block.blocks ? block.tokens : block.last_tokens; }
  CSQ_INLINE Index columns(Index b, Index strip) const {
    const Index left = tiles_of(tokens_in(b)) - strip * width;
    return left < width ? left : width;
  }

  CSQ_INLINE TileProduct product(const BFloat16Bits* summary, Index b, Index strip, Index index, T* sums) const {
    const Index steps = value_steps(), tile_row = steps * tile_numbers;
    TileProduct product;
    product.a = summary + index * (panel / tile_side) * tile_row;
    product.b = block.target + b * block.target_step + strip * width * tile_row;
    product.a_row_step = product.b_column_step = tile_row;
    product.a_depth_step = product.b_depth_step = tile_numbers;
    product.c = sums;
    product.c_row_step = tile_side * panel_stride;
    product.c_column_step = tile_side;
    product.c_stride = panel_stride;
    product.rows = tiles_of(features_in(index));
    product.columns = columns(b, strip);
    product.depth = steps;
    product.accumulate = summary == low;
    return product;
  }
};

// Where the tokens of a strip are, with the y of their normalisers.
template <class T, int Width>
struct PullBackStrip {
  const T* packed;
  T* gradient;
  Vector<T> target[std::size_t{Width}];

  // P of one feature.
  CSQ_INLINE void load_row(const T* row, T normalizer, Vector<T>* p) const {
    CSQ_UNROLL
    for (int w = 0; w < Width; ++w) {
      load<T>(row + w * lanes<T>, p[w]);
      p[w] += target[w] * normalizer;
    }
  }
  // x_a·x_b for `Count` b, a < b: left sums what x_a gets.
  template <int Count>
  CSQ_INLINE void pull_back_pairs(const T* rows, const T* normalizer, Index right, const Vector<T>* x,
                                  Vector<T>* left) const {
    constexpr Index stride = block_tokens<T>, row_step = PullBackStretch<T>::panel_stride;
    CSQ_UNROLL
    for (int k = 0; k < Count; ++k) {
      Vector<T> p[std::size_t{Width}];
      load_row(rows + k * row_step, normalizer[k], p);
      CSQ_UNROLL
      for (int w = 0; w < Width; ++w) {
        const Index at = (right + k) * stride + w * lanes<T>;
        Vector<T> y, dy;
        load<T>(packed + at, y);
        load<T>(gradient + at, dy);
        left[w] += p[w] * y;
        dy += p[w] * x[w];
        store<T>(gradient + at, dy);
      }
    }
  }
};

// Degree 2: rows of P to dX̃.
template <class T, int Width>
__attribute__((noinline)) void pull_back_pairs(const PullBackStretch<T>& stretch, Index index, const T* rows,
                                               const PullBackStrip<T, Width>& memory) {
  constexpr Index stride = block_tokens<T>, row_step = PullBackStretch<T>::panel_stride;
  const PullBackStrip<T, Width> strip = memory;  // in registers
  const T* normalizer = stretch.normalizer + index * stretch.panel;
  const T* const end = normalizer + stretch.features_in(index);
  const Index dim = stretch.block.map.dim;
  const PairPosition start = stretch.starts[index];
  Index a = start.a, b = a + stretch.first + index * stretch.panel - start.run_start;
  for (; normalizer < end; ++a, b = a) {
    const Index left_in_run = dim - b, left_in_panel = end - normalizer;
    Index left = left_in_run < left_in_panel ? left_in_run : left_in_panel;
    Vector<T> x[std::size_t{Width}], sum[std::size_t{Width}] = {};
    CSQ_UNROLL
    for (int w = 0; w < Width; ++w) load<T>(strip.packed + a * stride + w * lanes<T>, x[w]);
    if (a == b) {  // c2·x_a²: its derivative is 2·c2·x_a
      Vector<T> p[std::size_t{Width}];
      strip.load_row(rows, *normalizer, p);
      CSQ_UNROLL
      for (int w = 0; w < Width; ++w) sum[w] += p[w] * x[w];
      rows += row_step;
      ++normalizer;
      ++b;
      --left;
    }
    for (; left >= 4; left -= 4, b += 4, normalizer += 4, rows += 4 * row_step)
      strip.template pull_back_pairs<4>(rows, normalizer, b, x, sum);
    for (; left > 0; --left, ++b, ++normalizer, rows += row_step)
      strip.template pull_back_pairs<1>(rows, normalizer, b, x, sum);
    CSQ_UNROLL
    for (int w = 0; w < Width; ++w) {
      Vector<T> dx;
      T* const to = strip.gradient + a * stride + w * lanes<T>;
      load<T>(to, dx);
      dx += sum[w];
      store<T>(to, dx);
    }
  }
}

// Degrees 1 and 0.
template <class T, int Width>
__attribute__((noinline)) void pull_back_singles(const PullBackStretch<T>& stretch, Index index, const T* rows,
                                                 const PullBackStrip<T, Width>& strip, T* shift) {
  constexpr Index stride = block_tokens<T>, row_step = PullBackStretch<T>::panel_stride;
  const MatrixPullBack<T>& block = stretch.block;
  const Index pairs = block.map.pair_count(), dim = block.map.linear ? block.map.dim : 0;
  Vector<T> sum[std::size_t{Width}];
  CSQ_UNROLL
  for (int w = 0; w < Width; ++w) load<T>(shift + w * lanes<T>, sum[w]);
  for (Index f = index * stretch.panel; f < index * stretch.panel + stretch.features_in(index); ++f, rows += row_step) {
    const Index a = stretch.first + f - pairs;
    Vector<T> p[std::size_t{Width}];
    strip.load_row(rows, stretch.normalizer[f], p);
    CSQ_UNROLL
    for (int w = 0; w < Width; ++w) {
      if (a >= dim) {
        sum[w] += p[w] * block.shift_constant;
        continue;
      }
      const Index at = a * stride + w * lanes<T>;
      Vector<T> x, dx;
      load<T>(strip.packed + at, x);
      load<T>(strip.gradient + at, dx);
      dx += p[w] * block.coefficients.linear;
      store<T>(strip.gradient + at, dx);
      sum[w] += p[w] * block.coefficients.pair * x;
    }
  }
  CSQ_UNROLL
  for (int w = 0; w < Width; ++w) store<T>(shift + w * lanes<T>, sum[w]);
}

// What is made together: a panel of features of a strip of a block.
template <class T>
struct PullBackItem {
  const PullBackStretch<T>& stretch;
  Index b = 0, strip = 0, panel = 0;

  CSQ_INLINE bool is_there() const { return b < stretch.block.blocks; }
  CSQ_INLINE void advance() {
    if (++panel < stretch.panels_count()) return;
    panel = 0;
    if (++strip * stretch.width < tiles_of(stretch.tokens_in(b))) return;
    strip = 0;
    ++b;
  }
  CSQ_INLINE void multiply(T* sums) const {
    multiply_tiles(stretch.product(stretch.high, b, strip, panel, sums));
    if (!stretch.is_pairs) multiply_tiles(stretch.product(stretch.low, b, strip, panel, sums));
  }

  template <int Width>
  CSQ_INLINE void finish_of(const T* sums) const {
    const MatrixPullBack<T>& block = stretch.block;
    const Index token = strip * stretch.width * tile_side;
    PullBackStrip<T, Width> rows{
        block.packed + b * block.packed_step + token, block.gradient + b * block.gradient_step + token, {}};
    for (int w = 0; w < Width; ++w)
      load<T>(block.target_normalizer + b * block.target_normalizer_step + token + w * lanes<T>, rows.target[w]);
    if (stretch.is_pairs)
      pull_back_pairs<T, Width>(stretch, panel, sums, rows);
    else
      pull_back_singles<T, Width>(stretch, panel, sums, rows, block.shift + b * block.shift_step + token);
  }
  CSQ_INLINE void finish(const T* sums) const {
    stretch.columns(b, strip) == 2 ? finish_of<2>(sums) : finish_of<1>(sums);
  }
};

template <class T>
void matrix_pull_back(const MatrixPullBack<T>& block) {
  const Tiles tiles;
  constexpr Index panel_size = PullBackStretch<T>::panel * PullBackStretch<T>::panel_stride;
  const Index rounded = tiles_of(matrix_pull_back_stretch) * depth_steps(block.value_dim) * tile_numbers;
  const Index pairs = block.map.pair_count(), stride = padded_columns<T>(block.value_dim);
  BFloat16Bits* const high = static_cast<BFloat16Bits*>(block.scratch);
  T* const panels = reinterpret_cast<T*>(high + 2 * rounded);
  PullBackStretch<T> stretch{block, 0, 0, false, high, high + rounded, {}, {}};
  for (Index first = block.first; first < block.last; first += stretch.count) {
    const Index end = first < pairs && pairs < block.last ? pairs : block.last, left = end - first;
    stretch.first = first;
    stretch.count = left < matrix_pull_back_stretch ? left : matrix_pull_back_stretch;
    stretch.is_pairs = first < pairs;
    stretch.round();

    // The next stretch's summary, on its way meanwhile.
    const T* upcoming = block.summary + (first - block.first + stretch.count) * stride;
    const Index rows_left = block.last - first - stretch.count;
    const Index rows_coming = rows_left < matrix_pull_back_stretch ? rows_left : matrix_pull_back_stretch;
    const T* const upcoming_end = upcoming + rows_coming * stride;
    const Index strips = (tiles_of(stretch.tokens_in(0)) + 1) / 2;
    const Index at_once = (rows_coming * stride / (strips * stretch.panels_count()) / lanes<T> + 1) * lanes<T>;

    PullBackItem<T> item{stretch}, next{stretch};
    item.multiply(panels);
    for (Index index = 0; item.is_there(); ++index) {
      next.advance();
      T* const sums = panels + index % 2 * panel_size;
      T* const next_sums = panels + (index + 1) % 2 * panel_size;
      if (next.is_there()) next.multiply(next_sums);
      for (Index cell = 0; cell < at_once && upcoming < upcoming_end; cell += lanes<T>, upcoming += lanes<T>)
        ask_for(upcoming, 0);
      item.finish(sums);
      item.b = next.b;
      item.strip = next.strip;
      item.panel = next.panel;
    }
  }
}

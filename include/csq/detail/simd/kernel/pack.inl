// From the caller's rows to packed blocks, and sums over rows: strides, centring, scale and φ are dealt with here.

template <class T, Index... Lane>
CSQ_INLINE void interleave(const Vector<T>& first, const Vector<T>& second, Vector<T>& low, Vector<T>& high,
                           std::integer_sequence<Index, Lane...>) {
  low = __builtin_shufflevector(first, second, (Lane / 2 + Lane % 2 * lanes<T>)...);
  high = __builtin_shufflevector(first, second, ((lanes<T> + Lane) / 2 + Lane % 2 * lanes<T>)...);
}

// target[column][row] = source[row][column] for a square of lanes×lanes: log2(lanes) perfect shuffles of the rows.
template <class T>
__attribute__((noinline)) void transpose_square(const T* source, Index source_stride, T* target, Index target_stride) {
  constexpr int size = static_cast<int>(lanes<T>);
  using All = std::make_integer_sequence<Index, lanes<T>>;
  Vector<T> rows[std::size_t{size}], next[std::size_t{size}];
  CSQ_UNROLL
  for (int row = 0; row < size; ++row) load<T>(source + row * source_stride, rows[row]);
  CSQ_UNROLL
  for (int step = 1; step < size; step *= 2) {
    CSQ_UNROLL
    for (int row = 0; row < size / 2; ++row)
      interleave<T>(rows[row], rows[row + size / 2], next[2 * row], next[2 * row + 1], All{});
    CSQ_UNROLL
    for (int row = 0; row < size; ++row) rows[row] = next[row];
  }
  CSQ_UNROLL
  for (int row = 0; row < size; ++row) store<T>(target + row * target_stride, rows[row]);
}

// Brings in what lies so many elements further on, which may be past the end of everything.
template <class T>
CSQ_INLINE void ask_for(const T* memory, Index elements) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(memory) +
                                                   static_cast<std::uintptr_t>(elements) * sizeof(T)));
}

// 16 bytes, the least that a row is padded to.
template <class T>
constexpr Index piece = static_cast<Index>(16 / sizeof(T));
template <class T>
CSQ_INLINE void copy_piece(const T* from, T* to) {
  __builtin_memcpy(to, from, 16);
}

// The same rows where they lie in another type.
template <class T>
__attribute__((noinline)) void convert_rows(const Source<T>& source, Index row_stride, T* rows) {
  constexpr Index ahead = 8;
  const Index line = 64 / source.storage->bytes;
  for (Index token = 0; token < source.tokens; ++token) {
    T* to = rows + token * row_stride;
    for (Index column = 0; source.dim_stride == 1 && column < source.dim; column += line)
      __builtin_prefetch(element_at(row_at(source, token + ahead), column, source.storage));
    source.storage->load(row_at(source, token), source.dim_stride, source.dim, to);
    for (Index column = source.dim; column < row_stride; ++column) to[column] = 0;
  }
}

// rows[t] ← source row t, columns past the dimension zero. The row a group further on is asked for meanwhile.
template <class T>
void copy_rows(const Source<T>& source, Index row_stride, T* rows) {
  if (source.storage != nullptr) return convert_rows(source, row_stride, rows);
  constexpr Index step = piece<T>;
  constexpr T nothing[std::size_t{step}] = {};
  for (Index token = 0; token < source.tokens; ++token) {
    const T* from = source.data + token * source.token_stride;
    T* to = rows + token * row_stride;
    Index column = 0;
    if (source.dim_stride == 1) {
      for (; column + lanes<T> <= source.dim; column += lanes<T>) {
        Vector<T> value;
        ask_for(from + column, token_group * source.token_stride);
        load<T>(from + column, value);
        store<T>(to + column, value);
      }
    }
    if (column == row_stride) continue;
    // Rows shorter than a vector: element by element they would be most of what a short head costs.
    if (source.dim_stride == 1)
      for (; column + step <= source.dim; column += step) copy_piece(from + column, to + column);
    for (; column < source.dim; ++column) to[column] = from[column * source.dim_stride];
    for (; column < row_stride && column % step != 0; ++column) to[column] = 0;
    for (; column < row_stride; column += step) copy_piece(nothing, to + column);
  }
}

template <class T>
CSQ_INLINE void load_as_double(const T* memory, Doubles& vector) {
  const typename Lanes<T>::Narrow narrow = *reinterpret_cast<const typename Lanes<T>::NarrowUnaligned*>(memory);
  if constexpr (sizeof(T) == sizeof(double))
    vector = narrow;
  else
    vector = __builtin_convertvector(narrow, Doubles);
}
template <class T>
CSQ_INLINE void store_from_double(T* memory, const Doubles& vector) {
  if constexpr (sizeof(T) == sizeof(double))
    *reinterpret_cast<typename Lanes<T>::NarrowUnaligned*>(memory) = vector;
  else
    *reinterpret_cast<typename Lanes<T>::NarrowUnaligned*>(memory) =
        __builtin_convertvector(vector, typename Lanes<T>::Narrow);
}

// rows ← factor·(rows − mean), means and differences in double and rounded once: a float running mean loses 1e-4 at
// 4096 tokens when the offset is 100 times the spread.
template <class T>
void center_rows(const PackBlock<T>& block, Index row_stride) {
  constexpr Index step = lanes<double>;
  double reciprocal[token_group];
  for (Index token = 0; token < block.source.tokens && block.running_sum != nullptr; ++token) {
    const double count = block.running_count + static_cast<double>(token) + (block.exclusive ? 0 : 1);
    reciprocal[token] = count > 0 ? 1 / count : 0;
  }
  for (Index column = 0; column < block.source.dim; column += step) {
    Doubles sum = {}, mean = {};
    if (block.running_sum != nullptr) load<double>(block.running_sum + column, sum);
    if (block.mean != nullptr) load<double>(block.mean + column, mean);
    T* cell = block.rows + column;
    for (Index token = 0; token < block.source.tokens; ++token, cell += row_stride) {
      Doubles x;
      load_as_double<T>(cell, x);
      if (block.running_sum != nullptr) {
        const Doubles through = sum + x;
        mean = (block.exclusive ? sum : through) * reciprocal[token];
        sum = through;
      }
      x = (x - mean) * block.factor;
      store_from_double<T>(cell, x);
    }
    if (block.running_sum != nullptr) store<double>(block.running_sum + column, sum);
  }
}

// Rows [0, tokens) of a block, a few: copied, centred, mapped, and transposed while they are in the first-level cache.
template <class T>
void pack_some(const PackBlock<T>& block, T* packed) {
  constexpr Index stride = block_tokens<T>;
  const Index tokens = block.source.tokens;
  const Index dim = block.source.dim;
  const Index row_stride = padded_columns<T>(dim);
  if (block.source.data != block.rows) copy_rows(block.source, row_stride, block.rows);
  if (block.mean != nullptr || block.running_sum != nullptr || block.factor != 1) center_rows(block, row_stride);
  if (block.elu) {
    for (Index index = 0; index < tokens * row_stride; index += lanes<T>) {
      Vector<T> x;
      load<T>(block.rows + index, x);
      elu_plus_one<T>(x);
      store<T>(block.rows + index, x);
    }
    // φ(0) = 1, and columns past the dimension are zero.
    for (Index token = 0; token < tokens; ++token)
      for (Index column = dim; column < row_stride; ++column) block.rows[token * row_stride + column] = 0;
  }
  if (packed == nullptr) return;
  // Past the last token the packed rows must be zero; zero rows of the source make them so, up to a whole square.
  const Index squares = (tokens + lanes<T> - 1) / lanes<T> * lanes<T>;
  for (Index index = tokens * row_stride; index < squares * row_stride; ++index) block.rows[index] = 0;
  for (Index column = 0; column < dim; column += lanes<T>) {
    const bool whole = column + lanes<T> <= dim;
    for (Index token = 0; token < squares; token += lanes<T>) {
      const T* square = block.rows + token * row_stride + column;
      if (whole) {
        transpose_square<T>(square, row_stride, packed + column * stride + token, stride);
      } else {
        alignas(64) T corner[lanes<T> * lanes<T>];
        transpose_square<T>(square, row_stride, corner, lanes<T>);
        for (Index row = column; row < dim; ++row) {
          Vector<T> value;
          load<T>(corner + (row - column) * lanes<T>, value);
          store<T>(packed + row * stride + token, value);
        }
      }
    }
  }
}

template <class T>
void pack(const PackBlock<T>& block) {
  constexpr Index stride = block_tokens<T>;
  const Index tokens = block.source.tokens;
  const Index dim = block.source.dim;
  for (Index first = 0; first < tokens; first += token_group) {
    PackBlock<T> some = block;
    skip_rows(some.source, first);
    some.source.tokens = first + token_group < tokens ? token_group : tokens - first;
    some.running_count += static_cast<double>(first);
    if (block.keeps_rows) some.rows += first * padded_columns<T>(dim);
    pack_some(some, block.packed == nullptr ? nullptr : block.packed + first);
  }
  if (block.packed == nullptr) return;
  const Index squares = (tokens + lanes<T> - 1) / lanes<T> * lanes<T>;
  const Index end = padded_tokens<T>(tokens);
  T* ones = block.packed + dim * stride;
  for (Index token = 0; token < end; ++token) ones[token] = token < tokens ? 1 : 0;
  for (Index row = 0; row < dim; ++row)
    for (Index token = squares; token < end; ++token) block.packed[row * stride + token] = 0;
}

template <class T>
void pack_values(const Source<T>& source, Index value_stride, T* values) {
  copy_rows(source, value_stride, values);
}

template <class T>
void add_rows(const Source<T>& source, double* sum);

// Where they lie in another type: a piece at a time.
template <class T>
__attribute__((noinline)) void add_converted_rows(const Source<T>& source, double* sum) {
  constexpr Index columns = 64;
  T rows[std::size_t{token_group * columns}];
  for (Index column = 0; column < source.dim; column += columns)
    for (Index first = 0; first < source.tokens; first += token_group) {
      Source<T> some = source;
      skip_rows(some, first);
      skip_columns(some, column);
      some.tokens = first + token_group < source.tokens ? token_group : source.tokens - first;
      some.dim = column + columns < source.dim ? columns : source.dim - column;
      copy_rows(some, columns, rows);
      add_rows<T>({rows, columns, 1, some.tokens, some.dim}, sum + column);
    }
}

template <class T>
void add_rows(const Source<T>& source, double* sum) {
  if (source.tokens == 0) return;  // of no rows the memory may be null, and may not even be counted from
  if (source.storage != nullptr) return add_converted_rows(source, sum);
  Index column = 0;
  if (source.dim_stride == 1) {
    for (; column + lanes<double> <= source.dim; column += lanes<double>) {
      Doubles total = {};
      const T* cell = source.data + column;
      for (Index token = 0; token < source.tokens; ++token, cell += source.token_stride) {
        Doubles x;
        load_as_double<T>(cell, x);
        total += x;
      }
      Doubles old;
      load<double>(sum + column, old);
      old += total;
      store<double>(sum + column, old);
    }
  }
  for (; column < source.dim; ++column) {
    double total = 0;
    for (Index token = 0; token < source.tokens; ++token)
      total += static_cast<double>(source.data[token * source.token_stride + column * source.dim_stride]);
    sum[column] += total;
  }
}

template <class T>
void square_norms(const T* packed, Index tokens, Index dim, T* norms) {
  for (Index token = 0; token < tokens; token += lanes<T>) {
    Vector<T> sum = {};
    for (Index row = 0; row < dim; ++row) {
      Vector<T> x;
      load<T>(packed + row * block_tokens<T> + token, x);
      sum += x * x;
    }
    store<T>(norms + token, sum);
  }
}

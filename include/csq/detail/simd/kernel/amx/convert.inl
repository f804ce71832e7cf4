// Floats to tiles of bfloat16. Every operand is one of three: rows of floats as they are (rows_of), two rows side by
// side (a row of pairs), or tiles of such pairs transposed, where the depth goes down the floats' rows.

CSQ_INLINE void store_bits(BFloat16Bits* memory, const Bits& bits) {
  *reinterpret_cast<UnalignedBits*>(memory) = bits;
}

template <int... Lane>
CSQ_INLINE void interleave_halves(Bits& bits, std::integer_sequence<int, Lane...>) {
  bits = __builtin_shufflevector(bits, bits, (Lane / 2 + Lane % 2 * 16)...);
}
// first[n], second[n] for n = 0 … 15: a row of pairs.
CSQ_INLINE void round_pairs(const Vector<float>& first, const Vector<float>& second, Bits& result) {
  round_to_bits(first, second, result);
  interleave_halves(result, std::make_integer_sequence<int, 32>{});
}

// The same where vectors are short of time, for features and weights: 4 instructions instead of a conversion and a
// shuffle that take as long as 6. Halves are rounded away from zero, one number in 256 of those that are products of two
// bfloat16. A NaN stays one unless all bits of its fraction down to the last 15 are set, which no operation makes of
// bfloat16.
CSQ_INLINE void round_pairs_fast(const Vector<float>& first, const Vector<float>& second, Bits& result) {
  typedef std::uint32_t Words __attribute__((vector_size(vector_bytes)));
  const Words low = (reinterpret_cast<Words>(first) + 0x8000u) >> 16;
  const Words high = (reinterpret_cast<Words>(second) + 0x8000u) & 0xffff0000u;
  result = reinterpret_cast<Bits>(low | high);
}

// 16 rows of pairs of up to 32 rows of 16 floats; rows that are not there are 0.
CSQ_INLINE void store_pair_tile(const float* from, Index stride, Index rows, BFloat16Bits* tile) {
  for (Index pair = 0; pair < tile_side; ++pair) {
    Vector<float> first = {}, second = {};
    if (2 * pair < rows) load<float>(from + 2 * pair * stride, first);
    if (2 * pair + 1 < rows) load<float>(from + (2 * pair + 1) * stride, second);
    Bits bits;
    round_pairs(first, second, bits);
    store_bits(tile + pair * tile_depth, bits);
  }
}

// The same transposed: 16 rows of those 32 numbers. Pairs move as floats would, bits untouched.
CSQ_INLINE void transpose_pair_tile(BFloat16Bits* tile) {
  float* const words = reinterpret_cast<float*>(tile);
  transpose_square<float>(words, tile_side, words, tile_side);
}

// Tiles [token tile][dimension step] of packed tokens.
template <class T, bool Transposed>
CSQ_INLINE void token_tiles(const T* packed, Index tokens, Index dim, BFloat16Bits* tiles) {
  for (Index tile = 0; tile < tiles_of(tokens); ++tile)
    for (Index step = 0; step < depth_steps(dim); ++step) {
      store_pair_tile(packed + step * tile_depth * block_tokens<T> + tile * tile_side, block_tokens<T>,
                      dim - step * tile_depth, tiles);
      if constexpr (Transposed) transpose_pair_tile(tiles);
      tiles += tile_numbers;
    }
}
template <class T>
void query_tiles(const T* packed, Index tokens, Index dim, BFloat16Bits* tiles) {
  token_tiles<T, false>(packed, tokens, dim, tiles);
}
template <class T>
void key_tiles(const T* packed, Index tokens, Index dim, BFloat16Bits* tiles) {
  token_tiles<T, true>(packed, tokens, dim, tiles);
}

// [token step][value tile].
template <class T>
void value_pair_tiles(const T* values, Index tokens, Index value_stride, BFloat16Bits* tiles) {
  for (Index step = 0; step < depth_steps(tokens); ++step)
    for (Index tile = 0; tile < tiles_of(value_stride); ++tile) {
      store_pair_tile(values + step * tile_depth * value_stride + tile * tile_side, value_stride,
                      tokens - step * tile_depth, tiles);
      tiles += tile_numbers;
    }
}

// [value tile][token step]. What 0 times a number leaves of it is 0, of infinity and NaN it is NaN.
template <class T>
bool value_lane_tiles(const T* values, Index tokens, Index value_stride, BFloat16Bits* tiles) {
  Vector<T> zeros = {};
  for (Index row = 0; row < tokens; ++row)
    for (Index column = 0; column < value_stride; column += lanes<T>) {
      Vector<T> value;
      load<T>(values + row * value_stride + column, value);
      zeros += value * T{0};
    }
  for (Index tile = 0; tile < tiles_of(value_stride); ++tile)
    for (Index step = 0; step < depth_steps(tokens); ++step) {
      store_pair_tile(values + step * tile_depth * value_stride + tile * tile_side, value_stride,
                      tokens - step * tile_depth, tiles);
      transpose_pair_tile(tiles);
      tiles += tile_numbers;
    }
  return sum_of_lanes<T>(zeros) == 0;
}

// numerator[t][e] += sums[e][t], and sums are 0.
template <class T>
void move_sums(Index tokens, Index value_stride, T* sums, T* numerator) {
  alignas(64) T rows[std::size_t{sum_tile_size}];
  for (Index token = 0; token < tokens; token += tile_side)
    for (Index column = 0; column < value_stride; column += tile_side) {
      transpose_square<T>(sums, tile_side, rows, tile_side);
      for (Index row = 0; row < tile_side; ++row) store<T>(sums + row * tile_side, Vector<T>{});
      const Index count = tokens - token < tile_side ? tokens - token : tile_side;
      for (Index row = 0; row < count; ++row) {
        T* const target = numerator + (token + row) * value_stride + column;
        Vector<T> value, added;
        load<T>(target, value);
        load<T>(rows + row * tile_side, added);
        value += added;
        store<T>(target, value);
      }
      sums += sum_tile_size;
    }
}

// Which pairs of a block of queries and a block of keys are visible, for lanes and for products.
//
// 0·NaN is NaN, so giving invisible pairs the weight 0 is not enough: a product must not even touch what they point to.
// So weights that no lane of a group sees are never written: rows of queries and keys that are there read none of them,
// and what the padding rows of a tile read goes to padding rows of C.

// The keys that a column of lanes sees: key j is visible to lane i when i + start ≤ j < i + diagonal.
template <class T>
struct Mask {
  using Number = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  Integers<T> first, visible;  // of each lane: the first key that it sees, and the first behind

  CSQ_INLINE Mask(Index first_lane, Index start, Index diagonal) {
    count_up(first_lane + start, first);
    count_up(first_lane + diagonal, visible);
  }
  CSQ_INLINE void sees(Index key, Integers<T>& result) const {
    result = (visible > static_cast<Number>(key)) & (first <= static_cast<Number>(key));
  }

 private:
  CSQ_INLINE static void count_up(Index from, Integers<T>& result) {
    alignas(64) Number numbers[lanes<T>];
    constexpr Index most = 2 * block_tokens<T>;  // more keys than a block has, and no overflow of 32 bits
    const Index start = from < -most ? -most : from < most ? from : most;
    for (Index lane = 0; lane < lanes<T>; ++lane) numbers[lane] = static_cast<Number>(start + lane);
    __builtin_memcpy(&result, numbers, sizeof result);
  }
};

// Query i sees the keys [start + i, diagonal + i), within [0, keys).
struct VisiblePairs {
  Index queries, keys, start, diagonal;

  CSQ_INLINE bool all() const { return diagonal >= keys && start + queries <= 1; }
  CSQ_INLINE Index first_key_of(Index query) const { return within(query + start, keys); }
  CSQ_INLINE Index keys_of(Index query) const { return within(query + diagonal, keys); }
  // Keys that at least one query of these lanes sees: before the second, and not before the first rounded down to where
  // tiles of that many rows start.
  CSQ_INLINE Index keys_of_lanes(Index first, Index count) const { return keys_of(last_of_lanes(first, count)); }
  CSQ_INLINE Index first_key_of_lanes(Index first, Index rows) const { return first_key_of(first) / rows * rows; }
  CSQ_INLINE Index last_of_lanes(Index first, Index count) const {
    return (first + count < queries ? first + count : queries) - 1;
  }
  // The queries [first, end) that see a key.
  CSQ_INLINE Index first_query_of(Index key) const { return within(key + 1 - diagonal, queries); }
  CSQ_INLINE Index queries_of(Index key) const { return within(key + 1 - start, queries); }

  // The same of rows that are queries, or keys.
  template <bool OfQueries>
  CSQ_INLINE Index begin_of(Index row) const {
    return OfQueries ? first_key_of(row) : first_query_of(row);
  }
  template <bool OfQueries>
  CSQ_INLINE Index end_of(Index row) const {
    return OfQueries ? keys_of(row) : queries_of(row);
  }

 private:
  CSQ_INLINE static Index within(Index position, Index size) {
    return position < 0 ? 0 : position < size ? position : size;
  }
};

// The keys that one column of lanes sees: those of [from, to) every lane does, those of [first, from) and [to, last)
// some. Their order is that of the keys, so that sums do not depend on where masks begin.
template <class T>
struct KeysOfColumn {
  Index first, from, to, last;

  CSQ_INLINE KeysOfColumn(const VisiblePairs& pairs, Index lane) {
    const Index last_lane = pairs.last_of_lanes(lane, lanes<T>);
    last = pairs.keys_of(last_lane);
    first = lesser(pairs.first_key_of(lane), last);
    from = lesser(pairs.first_key_of(last_lane), last);
    to = pairs.keys_of(lane);
    to = to > from ? to : from;
  }
 private:
  CSQ_INLINE static Index lesser(Index a, Index b) { return a < b ? a : b; }
};

// One strip of C += Aᵀ·B where the band cuts through tiles: full tiles over the depth that all their rows share, then
// each row by itself over the rest. DepthMajor: rows of C are queries and the depth is keys; else the other way round.
template <class T, int Columns, bool DepthMajor>
void visible_strip(const VisiblePairs& pairs, const T* a, const T* b, Index b_stride, T* c, Index c_stride,
                   Upcoming& upcoming) {
  constexpr int height = tile_rows<Columns>;
  constexpr Index row_step = DepthMajor ? 1 : block_tokens<T>;
  constexpr Index depth_step = DepthMajor ? block_tokens<T> : 1;
  const Index rows = DepthMajor ? pairs.queries : pairs.keys;
  for (Index first = 0; first < rows; first += height) {
    const Index last = first + height < rows ? first + height : rows;
    // Both ends of a row's depth rise from row to row.
    Index from = pairs.begin_of<DepthMajor>(last - 1), to = pairs.end_of<DepthMajor>(first);
    if (from >= to) from = to = pairs.end_of<DepthMajor>(last - 1);  // none is shared
    strip<T, Columns, DepthMajor>(height, to - from, a + first * row_step + from * depth_step, b + from * b_stride,
                                  b_stride, c + first * c_stride, c_stride, true, upcoming);
    for (Index row = first; row < last; ++row) {
      const Index end = pairs.end_of<DepthMajor>(row);
      Index begin = pairs.begin_of<DepthMajor>(row), stop = from < end ? from : end;
      for (int side = 0; side < 2; ++side) {
        if (begin < stop)
          tile<T, 1, Columns, DepthMajor>(stop - begin, a + row * row_step + begin * depth_step, b + begin * b_stride,
                                          b_stride, c + row * c_stride, c_stride, true, upcoming);
        begin = to;
        stop = end;
      }
    }
  }
}

// C += Aᵀ·B over visible pairs only, for any number of column vectors.
template <class T, bool DepthMajor>
__attribute__((noinline)) void visible_product(const VisiblePairs& pairs, Index vectors, const T* a, const T* b,
                                               Index b_stride, T* c, Index c_stride, Upcoming& upcoming) {
  if (pairs.all()) {
    product<T, DepthMajor>(DepthMajor ? pairs.queries : pairs.keys, vectors, DepthMajor ? pairs.keys : pairs.queries, a,
                           b, b_stride, c, c_stride, true, upcoming);
    return;
  }
  for (Index done = 0; done < vectors;) {
    const Index width = next_width(vectors - done);
    const T* b_strip = b + done * lanes<T>;
    T* c_strip = c + done * lanes<T>;
    if constexpr (widest_tile >= 4) {
      if (width == 4) visible_strip<T, 4, DepthMajor>(pairs, a, b_strip, b_stride, c_strip, c_stride, upcoming);
      if (width == 3) visible_strip<T, 3, DepthMajor>(pairs, a, b_strip, b_stride, c_strip, c_stride, upcoming);
      if (width == 1) visible_strip<T, 1, DepthMajor>(pairs, a, b_strip, b_stride, c_strip, c_stride, upcoming);
    }
    if (width == 2) visible_strip<T, 2, DepthMajor>(pairs, a, b_strip, b_stride, c_strip, c_stride, upcoming);
    done += width;
  }
}

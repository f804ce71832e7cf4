// Features as products of two rows of a packed block, listed once for the panels of all blocks of a call.
//
// Features of every degree go through the matrix unit: x_a is ones·x_a and the constant ones·ones, so that one loop
// makes them all. (Degrees 0 and 1 by the float kernels instead would add a third to the time of d = 64: they are 3% of
// the features at a tenth of the rate. The normaliser, which says how weights add up, is summed in float from unrounded
// features.)

template <class T>
struct Factors {
  Index count = 0;
  Index left[std::size_t{matrix_read_panel}], right[std::size_t{matrix_read_panel}];  // where the rows start
  T coefficient[std::size_t{matrix_read_panel}];
  T weight[std::size_t{matrix_read_panel}];  // read: of the normaliser

  // Of the features [first, last), at most a panel.
  CSQ_INLINE void list(const FeatureMap& map, const FeatureCoefficients<T>& coefficients, Index first, Index last) {
    constexpr Index stride = block_tokens<T>;
    const Index ones = map.dim * stride, pairs = map.pair_count();
    Index feature = first;
    count = 0;
    if (feature < pairs) {
      const PairPosition position = find_pair(map, feature);
      Index a = position.a, b = position.a + feature - position.run_start;
      for (; feature < last && feature < pairs; ++feature) {
        put(a * stride, b * stride, a == b ? coefficients.diagonal : coefficients.pair);
        if (++b < map.dim) continue;
        ++a;
        b = a;
      }
    }
    const Index linear_end = pairs + (map.linear ? map.dim : 0);
    for (; feature < last; ++feature) {
      const bool constant = feature >= linear_end;
      put(ones, constant ? ones : (feature - pairs) * stride, constant ? coefficients.constant : coefficients.linear);
    }
  }

 private:
  CSQ_INLINE void put(Index l, Index r, T c) {
    left[count] = l;
    right[count] = r;
    coefficient[count] = c;
    ++count;
  }
};

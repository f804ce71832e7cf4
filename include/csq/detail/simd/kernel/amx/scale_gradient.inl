// r = G/δ, rounded to bfloat16 before anything is made of it, and r·o.

template <class T>
void matrix_scale_gradient(const ScaleGradient<T>& block) {
  scale_gradient<T>(block);
  const Index tokens = block.gradient.tokens;
  for (Index cell = 0; cell < tokens * block.value_stride; cell += lanes<T>) {
    Vector<T> value;
    load<T>(block.rows + cell, value);
    Bits bits;
    round_pairs(Vector<T>{}, value, bits);  // a bfloat16 is the upper half of a float
    store_bits(reinterpret_cast<BFloat16Bits*>(block.rows + cell), bits);
  }
  // Once more for the rows as they are now: r·o as the float kernel sums it, and no rows where the factor is 0.
  alignas(64) T factor[std::size_t{block_tokens<T>}];
  for (Index token = 0; token < tokens; ++token) factor[token] = block.factor[token] == 0 ? 0 : 1;
  ScaleGradient<T> rounded = block;
  rounded.gradient = {block.rows, block.value_stride, 1, tokens, block.gradient.dim};
  rounded.factor = factor;
  scale_gradient<T>(rounded);
}

template <class T>
bool matrix_are_finite(Index count, const T* numbers) {
  Vector<T> zeros = {};  // what 0 times a number leaves of it, which of infinity and NaN is NaN
  for (Index cell = 0; cell < count; cell += lanes<T>) {
    Vector<T> value;
    load<T>(numbers + cell, value);
    zeros += value * T{0};
  }
  return sum_of_lanes<T>(zeros) == 0;
}

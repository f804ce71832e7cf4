// A whole product at once, 2×2 tiles of sums after each other, each through all of its depth in code that holds
// everything in registers.
//
// Beside each product vector code has other work to do, on what was multiplied before, but the two are not interleaved:
// between a step's loads and the stores of its sums are some 200 cycles, and 500 instructions are all that the core
// looks ahead, so that steps of 4 products among vectors took as long as both one after the other, or longer.

template <int Rows, int Columns>
__attribute__((noinline)) void multiply_group(const TileProduct& product, Index row, Index column) {
  const Index stride = product.c_stride * static_cast<Index>(sizeof(float));
  const Index a_row_step = product.a_row_step, b_column_step = product.b_column_step;
  const Index a_depth_step = product.a_depth_step, b_depth_step = product.b_depth_step;
  float* const c0 = product.c + row * product.c_row_step + column * product.c_column_step;
  float* const c1 = c0 + product.c_column_step;
  float* const c2 = c0 + product.c_row_step;
  float* const c3 = c1 + product.c_row_step;
  if (product.accumulate) {
    Tiles::load<0>(c0, stride);
    if constexpr (Columns == 2) Tiles::load<1>(c1, stride);
    if constexpr (Rows == 2) Tiles::load<2>(c2, stride);
    if constexpr (Rows == 2 && Columns == 2) Tiles::load<3>(c3, stride);
  } else {
    Tiles::clear<0>();
    if constexpr (Columns == 2) Tiles::clear<1>();
    if constexpr (Rows == 2) Tiles::clear<2>();
    if constexpr (Rows == 2 && Columns == 2) Tiles::clear<3>();
  }
  const BFloat16Bits* left = product.a + row * a_row_step;
  const BFloat16Bits* right = product.b + column * b_column_step;
  for (Index k = product.depth; k > 0; --k, left += a_depth_step, right += b_depth_step) {
    Tiles::load<6>(right, 64);
    Tiles::load<4>(left, 64);
    Tiles::multiply<0, 4, 6>();
    if constexpr (Columns == 2) {
      Tiles::load<7>(right + b_column_step, 64);
      Tiles::multiply<1, 4, 7>();
    }
    if constexpr (Rows == 2) {
      Tiles::load<5>(left + a_row_step, 64);
      Tiles::multiply<2, 5, 6>();
    }
    if constexpr (Rows == 2 && Columns == 2) Tiles::multiply<3, 5, 7>();
  }
  Tiles::store<0>(c0, stride);
  if constexpr (Columns == 2) Tiles::store<1>(c1, stride);
  if constexpr (Rows == 2) Tiles::store<2>(c2, stride);
  if constexpr (Rows == 2 && Columns == 2) Tiles::store<3>(c3, stride);
}

inline void multiply_tiles(const TileProduct& product) {
  if (product.is_done()) return;
  for (Index row = 0; row < product.rows; row += 2)
    for (Index column = 0; column < product.columns; column += 2) {
      const bool two_rows = row + 1 < product.rows, two_columns = column + 1 < product.columns;
      if (two_rows && two_columns)
        multiply_group<2, 2>(product, row, column);
      else if (two_rows)
        multiply_group<2, 1>(product, row, column);
      else if (two_columns)
        multiply_group<1, 2>(product, row, column);
      else
        multiply_group<1, 1>(product, row, column);
    }
}

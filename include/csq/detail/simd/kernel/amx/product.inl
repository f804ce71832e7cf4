// C (+)= A·B over tiles in memory, in steps: vector code asks for one now and then, so that the tile unit is busy while
// vectors make the next operands.
//
// A step is one tile of depth of 2×2 tiles of C, 4 products for 4 loads: 64 cycles of the tile unit beside 32 of the
// loads, and 60 to 100 instructions of vectors, which is what the window of such a core holds.

// Tiles of registers: C is 0 to 3, A 4 and 5, B 6 and 7. Steps between tiles in elements.
struct TileProduct {
  const BFloat16Bits* a = nullptr;
  Index a_row_step = 0, a_depth_step = 0;
  const BFloat16Bits* b = nullptr;
  Index b_column_step = 0, b_depth_step = 0;
  float* c = nullptr;
  Index c_row_step = 0, c_column_step = 0;
  Index c_stride = 0;  // between rows of a tile
  Index rows = 0, columns = 0, depth = 0;  // in tiles
  bool accumulate = true;

  // Steps of the whole.
  CSQ_INLINE Index steps() const { return depth == 0 ? 0 : (rows + 1) / 2 * ((columns + 1) / 2) * depth; }
  CSQ_INLINE bool is_done() const { return row_ >= rows || columns == 0 || depth == 0; }

  __attribute__((noinline)) void step() {
    if (row_ + 1 < rows) {
      column_ + 1 < columns ? step_of<2, 2>() : step_of<2, 1>();
    } else {
      column_ + 1 < columns ? step_of<1, 2>() : step_of<1, 1>();
    }
  }
  CSQ_INLINE void finish() {
    while (!is_done()) step();
  }

 private:
  template <int Rows, int Columns>
  CSQ_INLINE void step_of() {
    float* const at = c + row_ * c_row_step + column_ * c_column_step;
    const Index stride = c_stride * static_cast<Index>(sizeof(float));
    if (k_ == 0) begin<Rows, Columns>(at, stride);
    const BFloat16Bits* const left = a + row_ * a_row_step + k_ * a_depth_step;
    const BFloat16Bits* const right = b + column_ * b_column_step + k_ * b_depth_step;
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
    if (++k_ < depth) return;
    k_ = 0;
    Tiles::store<0>(at, stride);
    if constexpr (Columns == 2) Tiles::store<1>(at + c_column_step, stride);
    if constexpr (Rows == 2) Tiles::store<2>(at + c_row_step, stride);
    if constexpr (Rows == 2 && Columns == 2) Tiles::store<3>(at + c_row_step + c_column_step, stride);
    column_ += 2;
    if (column_ < columns) return;
    column_ = 0;
    row_ += 2;
  }
  template <int Rows, int Columns>
  CSQ_INLINE void begin(const float* at, Index stride) const {
    if (accumulate) {
      Tiles::load<0>(at, stride);
      if constexpr (Columns == 2) Tiles::load<1>(at + c_column_step, stride);
      if constexpr (Rows == 2) Tiles::load<2>(at + c_row_step, stride);
      if constexpr (Rows == 2 && Columns == 2) Tiles::load<3>(at + c_row_step + c_column_step, stride);
    } else {
      Tiles::clear<0>();
      if constexpr (Columns == 2) Tiles::clear<1>();
      if constexpr (Rows == 2) Tiles::clear<2>();
      if constexpr (Rows == 2 && Columns == 2) Tiles::clear<3>();
    }
  }

  Index row_ = 0, column_ = 0, k_ = 0;
};

// Up to two products, one after the other, spread evenly over so many ticks of vector code.
class Background {
 public:
  CSQ_INLINE void start(Index ticks, const TileProduct& first, const TileProduct& second = {}) {
    first_ = first;
    second_ = second;
    ticks_ = ticks > 0 ? ticks : 1;
    steps_ = first.steps() + second.steps();
    owed_ = 0;
  }
  CSQ_INLINE void tick(Index count = 1) {
    owed_ += steps_ * count;
    while (owed_ >= ticks_) {
      owed_ -= ticks_;
      if (!first_.is_done())
        first_.step();
      else if (!second_.is_done())
        second_.step();
      else
        return;
    }
  }
  CSQ_INLINE void finish() {
    first_.finish();
    second_.finish();
  }

 private:
  TileProduct first_, second_;
  Index ticks_ = 1, steps_ = 0, owed_ = 0;
};

// Products in a row, a step now and then, spread evenly over so many ticks of vector code; what a step loads is asked for
// at the one before.

class ProductQueue {
 public:
  static constexpr Index most = 4;

  CSQ_INLINE void start(Index ticks) {
    count_ = steps_ = owed_ = done_ = 0;
    ticks_ = ticks > 0 ? ticks : 1;
  }
  CSQ_INLINE void add(const TileProduct& product) {
    if (product.is_done()) return;
    if (count_ == 0) product.ask_for_operands();
    products_[count_++] = product;
    steps_ += product.steps();
  }
  CSQ_INLINE void tick(Index count = 1) {
    owed_ += steps_ * count;
    while (owed_ >= ticks_) {
      owed_ -= ticks_;
      step();
    }
  }
  CSQ_INLINE void finish() {
    while (done_ < count_) step();
  }

 private:
  __attribute__((noinline)) void step() {
    if (done_ == count_) return;
    products_[done_].step();
    if (products_[done_].is_done()) ++done_;
    if (done_ < count_) products_[done_].ask_for_operands();
  }

  TileProduct products_[std::size_t{most}];
  Index count_ = 0, done_ = 0, ticks_ = 1, steps_ = 0, owed_ = 0;
};

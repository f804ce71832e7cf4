// Arrays of blocks of equal size in scratch: where each block lies is said once, where it is laid out.
#pragma once

#include "csq/detail/base/arena.hpp"

namespace CSQ_CODE::detail {

// [extent]…[extent] blocks of `size` elements, one after another. No memory while the arena only counts.
template <class T, std::size_t Axes>
class Blocks {
 public:
  Blocks() = default;
  Blocks(Arena& arena, const Index (&extents)[Axes], Index size) : size_(size) {
    Index count = size;
    for (std::size_t axis = 0; axis < Axes; ++axis) {
      extents_[axis] = extents[axis];
      count = checked_product(count, extents[axis], "workspace");
    }
    data_ = arena.take<T>(count);
  }

  // One index for each extent.
  template <class... Indices>
  T* operator()(Indices... indices) const {
    static_assert(sizeof...(indices) == Axes, "a block has one index for each extent");
    const Index at[] = {static_cast<Index>(indices)...};
    Index block = 0;
    for (std::size_t axis = 0; axis < Axes; ++axis) block = block * extents_[axis] + at[axis];
    return data_ + block * size_;
  }

  Index size() const { return size_; }  // of a block

 private:
  T* data_ = nullptr;
  Index extents_[Axes] = {};
  Index size_ = 0;
};

// `count` objects, each from lay_out(): scratch of each thread or team. Null while the arena only counts.
template <class Scratch, class LayOut>
Scratch* take_each(Arena& arena, Index count, const LayOut& lay_out) {
  Scratch* each = arena.take<Scratch>(count);
  for (Index i = 0; i < count; ++i) {
    const Scratch scratch = lay_out();
    if (each != nullptr) each[i] = scratch;
  }
  return each;
}

}  // namespace CSQ_CODE::detail

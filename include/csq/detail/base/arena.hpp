// Scratch: one buffer, handed out in aligned pieces.
#pragma once

#include <cstddef>

#include "csq/detail/base/arithmetic.hpp"

namespace CSQ_CODE::detail {

inline constexpr std::size_t cache_line = 64;

// Hands out aligned pieces of one buffer. With a null base it only counts, so the code that lays scratch out is also
// the code that says how much is needed.
class Arena {
 public:
  explicit Arena(std::byte* base = nullptr) : base_(base) {}

  template <class T>
  T* take(Index count) {
    return static_cast<T*>(take_bytes(count, static_cast<Index>(sizeof(T))));
  }

  std::size_t bytes() const { return used_; }

 private:
  __attribute__((noinline)) void* take_bytes(Index count, Index size) {
    const Index bytes = checked_product(count, size, "workspace");
    const std::size_t offset = used_;
    used_ += (static_cast<std::size_t>(bytes) + cache_line - 1) / cache_line * cache_line;
    return base_ == nullptr ? nullptr : base_ + offset;
  }

  std::byte* base_ = nullptr;
  std::size_t used_ = 0;
};

}  // namespace CSQ_CODE::detail

// Scratch: one buffer, handed out in aligned pieces.
#pragma once

#include <cstddef>

#include "csq/detail/base/arithmetic.hpp"

// AddressSanitizer knows one block where the arena has many pieces; it is told of a gap behind each.
#if defined(__SANITIZE_ADDRESS__)
#define CSQ_ADDRESS_SANITIZER
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CSQ_ADDRESS_SANITIZER
#endif
#endif
#ifdef CSQ_ADDRESS_SANITIZER
extern "C" void __asan_poison_memory_region(const volatile void* memory, std::size_t bytes);
extern "C" void __asan_unpoison_memory_region(const volatile void* memory, std::size_t bytes);
#endif

namespace CSQ_CODE::detail {

inline constexpr std::size_t cache_line = 64;

#ifdef CSQ_ADDRESS_SANITIZER
inline constexpr std::size_t piece_gap = cache_line;
CSQ_ALWAYS_INLINE void allow_access(std::byte* memory, std::size_t bytes) {
  __asan_unpoison_memory_region(memory, bytes);
}
CSQ_ALWAYS_INLINE void forbid_access(std::byte* memory, std::size_t bytes) {
  __asan_poison_memory_region(memory, bytes);
}
#else
inline constexpr std::size_t piece_gap = 0;
CSQ_ALWAYS_INLINE void allow_access(std::byte*, std::size_t) {}
CSQ_ALWAYS_INLINE void forbid_access(std::byte*, std::size_t) {}
#endif

// Hands out aligned pieces of one buffer. With a null base it only counts, so the code that lays scratch out is also
// the code that says how much is needed. Pieces that cannot be counted, alone or together, are an error.
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
    constexpr Index line = static_cast<Index>(cache_line);
    const Index bytes = checked_product(count, size, "workspace");
    const Index lines = checked_sum(bytes, line - 1 + static_cast<Index>(piece_gap), "workspace") / line * line;
    const std::size_t offset = used_;
    used_ = static_cast<std::size_t>(checked_sum(static_cast<Index>(used_), lines, "workspace"));
    if (base_ == nullptr) return nullptr;
    allow_access(base_ + offset, static_cast<std::size_t>(bytes));
    forbid_access(base_ + offset + bytes, used_ - offset - static_cast<std::size_t>(bytes));
    return base_ + offset;
  }

  std::byte* base_ = nullptr;
  std::size_t used_ = 0;
};

}  // namespace CSQ_CODE::detail

// Reusable scratch: a caller that passes one pays no allocation from the second call of the same size on.
#pragma once

#include <cstddef>
#include <new>
#include <utility>

#include "csq/detail/base/arena.hpp"

namespace CSQ_TYPES {

/// Not thread-safe: one workspace serves one call at a time. Grows as needed, never shrinks, contents are undefined.
class Workspace {
 public:
  CSQ_ALWAYS_INLINE Workspace() = default;
  CSQ_ALWAYS_INLINE Workspace(Workspace&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  CSQ_ALWAYS_INLINE Workspace& operator=(Workspace&& other) noexcept {
    if (this == &other) return *this;
    release();
    memory_ = std::exchange(other.memory_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    return *this;
  }
  CSQ_ALWAYS_INLINE ~Workspace() { release(); }

  /// At least `bytes` of memory aligned to a cache line, valid until the next reserve.
  CSQ_ALWAYS_INLINE std::byte* reserve(std::size_t bytes) {
    if (bytes > bytes_) {
      release();
      memory_ = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{detail::cache_line}));
      bytes_ = bytes;
    }
    detail::allow_access(memory_, bytes_);  // where an earlier call had gaps
    return memory_;
  }

  CSQ_ALWAYS_INLINE std::size_t bytes() const { return bytes_; }

 private:
  CSQ_ALWAYS_INLINE void release() {
    ::operator delete (memory_, std::align_val_t{detail::cache_line});
    memory_ = nullptr;
    bytes_ = 0;
  }

  std::byte* memory_ = nullptr;  // not a unique_ptr: <memory> would add to what a program that includes csq compiles
  std::size_t bytes_ = 0;
};

}  // namespace CSQ_TYPES

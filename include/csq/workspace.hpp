// Reusable scratch: a caller that passes one pays no allocation from the second call of the same size on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include "csq/check.hpp"

namespace csq {

inline constexpr std::size_t cache_line = 64;

// Not thread-safe: one workspace serves one call at a time. Grows as needed, never shrinks, contents are undefined.
class Workspace {
 public:
  Workspace() = default;
  Workspace(Workspace&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Workspace& operator=(Workspace&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Workspace() { release(); }

  // At least `bytes` of memory aligned to a cache line, valid until the next reserve.
  std::byte* reserve(std::size_t bytes) {
    if (bytes > bytes_) {
      release();
      memory_ = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{cache_line}));
      bytes_ = bytes;
    }
    return memory_;
  }

  std::size_t bytes() const { return bytes_; }

 private:
  void release() {
    ::operator delete (memory_, std::align_val_t{cache_line});
    memory_ = nullptr;
    bytes_ = 0;
  }

  std::byte* memory_ = nullptr;  // not a unique_ptr: <memory> would add to what a program that includes csq compiles
  std::size_t bytes_ = 0;
};

// Hands out aligned pieces of one buffer. With a null base it only counts, so the code that lays scratch out is also
// the code that says how much is needed.
class ScratchLayout {
 public:
  explicit ScratchLayout(std::byte* base = nullptr) : base_(base) {}

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

}  // namespace csq

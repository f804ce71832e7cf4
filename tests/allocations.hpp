// Counts what a program allocates, and lets one allocation fail. It replaces every form of operator new, so one unit of
// a program includes it; malloc, from which Eigen's matrices come, goes the same way: the program is linked with
// -Wl,--wrap=malloc,--wrap=free.
#pragma once

#include <atomic>
#include <cstdlib>
#include <new>

namespace allocations {

inline std::atomic<long> made{0};            // so far
inline std::atomic<long> live{0};            // and not freed
inline std::atomic<long> until_failure{-1};  // that many more succeed, the next fails, then all succeed; −1: none fails

// Counts one, and says whether it is the one that fails.
inline bool is_to_fail() {
  ++made;
  return until_failure >= 0 && until_failure-- == 0;
}

inline void* counted(void* memory) {
  if (memory != nullptr) ++live;
  return memory;
}

inline void* aligned(std::size_t bytes, std::size_t alignment) noexcept {
  if (is_to_fail()) return nullptr;
  const std::size_t units = bytes == 0 ? 1 : (bytes + alignment - 1) / alignment;
  return counted(std::aligned_alloc(alignment, units * alignment));
}
inline void* aligned_or_throw(std::size_t bytes, std::size_t alignment) {
  void* const memory = aligned(bytes, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

inline constexpr std::size_t usual = __STDCPP_DEFAULT_NEW_ALIGNMENT__;
inline std::size_t number(std::align_val_t alignment) { return static_cast<std::size_t>(alignment); }

}  // namespace allocations

extern "C" {
void* __real_malloc(std::size_t bytes);
void __real_free(void* memory);
void* __wrap_malloc(std::size_t bytes);
void __wrap_free(void* memory);
}
void* __wrap_malloc(std::size_t bytes) {
  return allocations::is_to_fail() ? nullptr : allocations::counted(__real_malloc(bytes));
}
void __wrap_free(void* memory) {
  if (memory != nullptr) --allocations::live;
  __real_free(memory);
}

void* operator new(std::size_t bytes) { return allocations::aligned_or_throw(bytes, allocations::usual); }
void* operator new[](std::size_t bytes) { return allocations::aligned_or_throw(bytes, allocations::usual); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocations::aligned_or_throw(bytes, allocations::number(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return allocations::aligned_or_throw(bytes, allocations::number(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return allocations::aligned(bytes, allocations::usual);
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return allocations::aligned(bytes, allocations::usual);
}
void* operator new(std::size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return allocations::aligned(bytes, allocations::number(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return allocations::aligned(bytes, allocations::number(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t, const std::nothrow_t&) noexcept { std::free(memory); }

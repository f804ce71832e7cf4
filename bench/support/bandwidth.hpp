// Read bandwidth, measured: bytes a second of summing memory, from whichever cache holds it, one thread or several.
// Wider loads read faster from the first cache alone, several streams nowhere.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "csq/csq.hpp"
#include "threads.hpp"

namespace bench {

#if defined(__x86_64__)
__attribute__((target("avx2")))
#endif
inline std::int64_t
sum_of_words(const std::int64_t* words, std::size_t count) {
  using Vector __attribute__((vector_size(32))) = std::int64_t;
  using Unaligned __attribute__((vector_size(32), aligned(8), may_alias)) = std::int64_t;
  Vector a{}, b{}, c{}, d{};
  for (std::size_t i = 0; i + 16 <= count; i += 16) {
    a += *reinterpret_cast<const Unaligned*>(words + i);
    b += *reinterpret_cast<const Unaligned*>(words + i + 4);
    c += *reinterpret_cast<const Unaligned*>(words + i + 8);
    d += *reinterpret_cast<const Unaligned*>(words + i + 12);
  }
  a += b + c + d;
  return a[0] + a[1] + a[2] + a[3];
}

// One pass over memory that somebody else owns, a part a thread: what reading it costs at least.
class ReadRun {
 public:
  ReadRun(const void* memory, std::size_t bytes, int threads = 1)
      : words_(static_cast<const std::int64_t*>(memory)), count_(bytes / sizeof(std::int64_t)), threads_(threads) {}

  std::size_t bytes() const { return count_ * sizeof(std::int64_t); }

  void operator()() const {
    const auto parts = static_cast<std::size_t>(threads_);
    on_each_thread(threads_, [&](int thread) {
      const auto part = static_cast<std::size_t>(thread);
      const std::size_t first = count_ * part / parts, end = count_ * (part + 1) / parts;
      [[maybe_unused]] volatile std::int64_t sink = sum_of_words(words_ + first, end - first);
    });
  }

 private:
  const std::int64_t* words_;
  std::size_t count_;
  int threads_;
};

// Of one thread: the best of several runs of at least 10 ms.
inline double read_bandwidth(std::size_t bytes) {
  csq::Workspace memory;  // begins with a cache line
  const ReadRun run(std::memset(memory.reserve(bytes), 1, bytes), bytes);
  const auto passes = std::max<std::size_t>(1, (std::size_t{256} << 20) / bytes);
  double best = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t pass = 0; pass < passes; ++pass) run();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, static_cast<double>(bytes * passes) / seconds);
  }
  return best;
}

}  // namespace bench

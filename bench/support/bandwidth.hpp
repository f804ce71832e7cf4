// Read bandwidth of one thread, measured: bytes a second of summing a buffer, from whichever cache holds it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

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

// The best of several runs of at least 10 ms.
inline double read_bandwidth(std::size_t bytes) {
  const std::vector<std::int64_t> words(bytes / sizeof(std::int64_t), 1);
  const auto passes = std::max<std::size_t>(1, (std::size_t{256} << 20) / bytes);
  double best = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t pass = 0; pass < passes; ++pass) {
      [[maybe_unused]] volatile std::int64_t sink = sum_of_words(words.data(), words.size());
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, static_cast<double>(bytes * passes) / seconds);
  }
  return best;
}

}  // namespace bench

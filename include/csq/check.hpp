// Argument errors: std::invalid_argument that names the argument and its sizes. Checked once per call, at the boundary.
#pragma once

#if __cplusplus < 202002L
#error "csq needs C++20: compile with -std=c++20"
#endif
#ifdef __FAST_MATH__
#error "csq cannot be compiled with -ffast-math: NaN and infinity mean something here, and sums must keep their order"
#endif

#include <concepts>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

namespace csq {

// Every size and stride of the library, in elements.
using Index = std::int64_t;

inline void append_to_message(std::string& message, std::string_view text) { message += text; }
template <std::integral Number>
void append_to_message(std::string& message, Number number) {
  message += std::to_string(number);
}
inline void append_to_message(std::string& message, double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", number);
  message += text;
}

// Throws std::invalid_argument("csq: " + parts).
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::string message = "csq: ";
  (append_to_message(message, parts), ...);
  throw std::invalid_argument(message);
}

template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) fail(parts...);
}

// a·b, or an error that names what overflowed.
inline Index checked_product(Index a, Index b, std::string_view name) {
  Index product = 0;
  if (__builtin_mul_overflow(a, b, &product)) fail(name, ": ", a, " times ", b, " overflows a 64-bit size");
  return product;
}

inline Index checked_sum(Index a, Index b, std::string_view name) {
  Index sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) fail(name, ": ", a, " plus ", b, " overflows a 64-bit size");
  return sum;
}

}  // namespace csq

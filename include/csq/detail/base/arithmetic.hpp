// Sizes: sums and products that may not overflow unseen.
#pragma once

#include <string_view>

#include "csq/detail/base/check.hpp"

namespace CSQ_CODE::detail {

// a·b, or an error that names what overflowed.
inline Index checked_product(Index a, Index b, std::string_view name) {
  Index product = 0;
  if (__builtin_mul_overflow(a, b, &product)) refuse(name, ": ", a, " times ", b, " overflows a 64-bit size");
  return product;
}

inline Index checked_sum(Index a, Index b, std::string_view name) {
  Index sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) refuse(name, ": ", a, " plus ", b, " overflows a 64-bit size");
  return sum;
}

// std::min and std::max, which a program may have made macros of.
template <class T>
constexpr const T& smaller(const T& a, const T& b) {
  return b < a ? b : a;
}
template <class T>
constexpr const T& larger(const T& a, const T& b) {
  return a < b ? b : a;
}

inline Index block_count(Index rows, Index block) { return (rows + block - 1) / block; }

}  // namespace CSQ_CODE::detail

// Sizes: sums and products that may not overflow unseen.
#pragma once

#include <bit>
#include <cstdint>
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

// Told by their bits, and by reference: under flags that deny NaN or infinity the comparison x != x, x == ∞,
// std::isfinite and a NaN that is handed over by value mean nothing.
inline bool is_finite(const double& x) { return (std::bit_cast<std::uint64_t>(x) >> 52 & 0x7ff) != 0x7ff; }
inline bool is_nan(const double& x) { return std::bit_cast<std::uint64_t>(x) << 1 > std::uint64_t{0x7ff} << 53; }
inline bool is_minus_infinity(const float& x) { return std::bit_cast<std::uint32_t>(x) == 0xff800000; }
inline bool is_minus_infinity(const double& x) { return std::bit_cast<std::uint64_t>(x) == std::uint64_t{0xfff} << 52; }

// Before every token of a block, counted from its first.
inline constexpr Index far_before = -(Index{1} << 30);

inline Index block_count(Index rows, Index block) { return (rows + block - 1) / block; }

}  // namespace CSQ_CODE::detail

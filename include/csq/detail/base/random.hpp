// Random numbers that do not depend on who draws them.
#pragma once

#include <cstdint>

#include "csq/detail/base/abi.hpp"

namespace CSQ_CODE::detail {

// 64 random bits from a counter (SplitMix64's finaliser, Steele et al. 2014): the same for any number of threads.
inline std::uint64_t random_bits(std::uint64_t seed, std::uint64_t counter) {
  std::uint64_t x = seed + 0x9e3779b97f4a7c15u * (counter + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace CSQ_CODE::detail

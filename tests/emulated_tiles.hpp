// The kernels of the matrix unit on any processor: what its instructions do, in plain C++, in the place of
// csq/detail/simd/kernel/amx/tile.inl.
#pragma once

#include <cmath>
#include <csq/csq.hpp>
#include <cstring>

#include "csq/detail/simd/matrix_backward_kernel_set.hpp"
#include "csq/detail/simd/matrix_kernel_set.hpp"

// Vectors wider than what the unit is compiled for, between functions of this unit alone. To the unit's end: that is
// where compilers say it.
#pragma GCC diagnostic ignored "-Wpsabi"

#include "csq/detail/base/precise_begin.inl"

namespace CSQ_CODE::detail::simd::emulated_amx {

inline constexpr bool has_widening = false;
inline constexpr int vector_bytes = 64;
inline constexpr int accumulator_vectors = 24;
inline constexpr int widest_tile = 4;
inline constexpr Index absorb_panel = 48;
inline constexpr Index read_panel = 96;

// clang-format off
#include "csq/detail/simd/kernel/kernels.inl"
#include "csq/detail/simd/kernel/inlining.inl"
// clang-format on

typedef std::uint16_t Bits __attribute__((vector_size(64)));
typedef std::uint16_t UnalignedBits __attribute__((vector_size(64), aligned(2), may_alias));

inline float flushed(float x) { return std::abs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x; }
inline std::uint16_t bfloat16_of(float value) {
  const float x = flushed(value);
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float float_of(std::uint16_t half) {
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float x = 0;
  std::memcpy(&x, &bits, sizeof x);
  return flushed(x);
}

class Tiles {
 public:
  // What tiles hold before they are loaded must not matter.
  Tiles() { std::memset(tiles_, 0xff, sizeof tiles_); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
  ~Tiles() { std::memset(tiles_, 0xff, sizeof tiles_); }

  template <int Tile>
  static void clear() {
    std::memset(tiles_[Tile], 0, sizeof tiles_[Tile]);
  }
  template <int Tile>
  static void load(const void* memory, Index stride) {
    for (Index row = 0; row < 16; ++row)
      std::memcpy(tiles_[Tile][row], static_cast<const char*>(memory) + row * stride, 64);
  }
  template <int Tile>
  static void store(void* memory, Index stride) {
    for (Index row = 0; row < 16; ++row) std::memcpy(static_cast<char*>(memory) + row * stride, tiles_[Tile][row], 64);
  }
  template <int C, int A, int B>
  static void multiply() {
    for (std::size_t row = 0; row < 16; ++row) {
      float sum[16];
      std::memcpy(sum, tiles_[C][row], 64);
      std::uint16_t left[32];
      std::memcpy(left, tiles_[A][row], 64);
      for (std::size_t pair = 0; pair < 16; ++pair) {
        std::uint16_t right[32];
        std::memcpy(right, tiles_[B][pair], 64);
        const float first = float_of(left[2 * pair]), second = float_of(left[2 * pair + 1]);
        for (std::size_t n = 0; n < 16; ++n)
          sum[n] = sum[n] + first * float_of(right[2 * n]) + second * float_of(right[2 * n + 1]);
      }
      for (float& x : sum) x = flushed(x);
      std::memcpy(tiles_[C][row], sum, 64);
    }
  }

 private:
  alignas(64) static thread_local inline unsigned char tiles_[8][16][64];
};

inline void round_to_bits(const Vector<float>& low, const Vector<float>& high, Bits& result) {
  for (int lane = 0; lane < 16; ++lane) {
    result[lane] = bfloat16_of(low[lane]);
    result[16 + lane] = bfloat16_of(high[lane]);
  }
}
CSQ_INLINE void coarse_exp2_in_place(Vector<float>& x) { exp2_in_place(x); }

// clang-format off
#include "csq/detail/simd/kernel/amx/kernels.inl"
#include "csq/detail/simd/kernel/amx/backward_kernels.inl"
// clang-format on

}  // namespace CSQ_CODE::detail::simd::emulated_amx

#include "csq/detail/base/precise_end.inl"

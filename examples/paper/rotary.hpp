// Rotary positions (Su et al. 2021): the numbers a and a + d/2 of query and key i are turned by the angle i·θ_a,
//
//   x_a' = x_a·cos − x_b·sin,   x_b' = x_a·sin + x_b·cos,   b = a + d/2,   θ_a = 10000^(−2a/d)
//
// so that q_i·k_j depends on i − j alone. What a mechanism then makes of the rows does not: CSQ centres the turned
// rows, and Linear maps them. The gradient is turned back: the transpose of a rotation is its inverse.
#pragma once

#include "layers.hpp"

namespace paper {

template <class T>
class Rotary {
 public:
  // q and k of all heads in qkv [B·n, 3·H·d], in place.
  void turn(T* qkv, const AttentionShape& shape) { rotate(qkv, shape, T(1)); }
  void turn_back(T* dqkv, const AttentionShape& shape) { rotate(dqkv, shape, T(-1)); }
  // One token [3·H·d] that stands at `position`: any, since nothing is kept of it.
  void turn_at(Index position, T* qkv, const AttentionShape& shape) {
    const Index half = shape.head_dim / 2;
    half_ = 0;
    cosine_.clear();
    sine_.clear();
    append_angles(position, half);
    rotate_row(qkv, shape, cosine_.data(), sine_.data(), T(1));
  }

 private:
  void rotate(T* qkv, const AttentionShape& shape, T direction) {
    const Index half = shape.head_dim / 2;
    prepare(shape.length, half);
    for (Index row = 0; row < shape.rows(); ++row) {
      const Index angles = row % shape.length * half;
      rotate_row(qkv + row * 3 * shape.width(), shape, cosine_.data() + angles, sine_.data() + angles, direction);
    }
  }

  static void rotate_row(T* qkv, const AttentionShape& shape, const T* cosine, const T* sine, T direction) {
    const Index half = shape.head_dim / 2;
    for (Index head = 0; head < 2 * shape.heads; ++head) {  // queries, then keys
      T* const low = qkv + head * shape.head_dim;
      T* const high = low + half;
      for (Index a = 0; a < half; ++a) {
        const T x = low[a], y = high[a], s = direction * sine[a];
        low[a] = x * cosine[a] - y * s;
        high[a] = x * s + y * cosine[a];
      }
    }
  }

  void prepare(Index length, Index half) {
    if (half == half_ && length * half <= static_cast<Index>(cosine_.size())) return;
    half_ = half;
    cosine_.clear();
    sine_.clear();
    for (Index i = 0; i < length; ++i) append_angles(i, half);
  }
  void append_angles(Index position, Index half) {
    for (Index a = 0; a < half; ++a) {
      const double angle =
          static_cast<double>(position) * std::pow(10000.0, -static_cast<double>(a) / static_cast<double>(half));
      cosine_.push_back(static_cast<T>(std::cos(angle)));
      sine_.push_back(static_cast<T>(std::sin(angle)));
    }
  }

  Index half_ = 0;
  std::vector<T> cosine_, sine_;  // [length, d/2]
};

}  // namespace paper

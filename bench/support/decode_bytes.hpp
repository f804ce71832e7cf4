// What decoding one token must read, in bytes of a key head, and from where on CSQ must read less:
//
//   CSQ        4·D·(dᵥ+1) + (W/2)·(4·d + s·dᵥ)     the summary, and in the mean half of the W tokens that are absorbed
//                                                  at a time: keys are centred, and so kept in float
//   softmax    s·n·(d+dᵥ)                          the cache of n tokens, or of the window's; s bytes a number
//   crossover  n* = (4·D·(dᵥ+1) + (W/2)·(4·d + s·dᵥ)) / (s·(d+dᵥ))     D = (d+1)(d+2)/2; for dᵥ = d about d²/4 in
//                                                  float, d²/2 in 16 bits, whatever the heads
//
// Not counted: what absorbing reads and writes, once in W tokens (it is timed), gates and means.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "csq/csq.hpp"
#include "dtype.hpp"

namespace bench {

using csq::Index;

// What is decoded: one sequence.
struct DecodeShape {
  Index key_dim = 0, value_dim = 0;
  Index heads = 0, kv_heads = 0;
  Dtype dtype = Dtype::float32;  // of tokens and caches

  csq::StreamShape stream() const {
    return {.batch = 1, .heads = heads, .kv_heads = kv_heads, .key_dim = key_dim, .value_dim = value_dim};
  }
  std::string heads_name() const { return std::to_string(heads) + "/" + std::to_string(kv_heads); }
  std::string name() const { return "d = " + std::to_string(key_dim) + ", heads " + heads_name(); }
};

// W, which the library chooses and does not tell (72 or 96 tokens when this was written). A state that cannot go back
// grows by a row a token until W of them are absorbed: W is the first length at which it is shorter than that.
inline Index absorbed_tokens(Index key_dim) {
  const csq::StreamShape shape{.key_dim = key_dim, .value_dim = 1};
  constexpr Index most = 4096;
  const std::vector<float> numbers(static_cast<std::size_t>(most * key_dim), 0.5f);
  std::vector<float> out(static_cast<std::size_t>(most));
  const auto bytes_after = [&](Index tokens) {
    csq::Stream<float> stream(csq::Csq{}, shape, {.rollback = 0, .threads = 1});
    const csq::Heads<const float> rows(numbers.data(), {1, 1, tokens, key_dim});
    stream.prefill(rows, rows, csq::Heads<const float>(numbers.data(), {1, 1, tokens, 1}),
                   csq::Heads<float>(out.data(), {1, 1, tokens, 1}));
    return static_cast<Index>(stream.save().size());
  };
  const Index one = bytes_after(1), row = bytes_after(2) - one;
  Index low = 1, high = most;
  while (high - low > 1) {
    const Index middle = low + (high - low) / 2;
    (bytes_after(middle) < one + (middle - 1) * row ? high : low) = middle;
  }
  return high;
}

inline double summary_floats(const DecodeShape& shape) {
  return static_cast<double>(csq::feature_count(shape.key_dim)) * static_cast<double>(shape.value_dim + 1);
}
inline double row_floats(const DecodeShape& shape) { return static_cast<double>(shape.key_dim + shape.value_dim); }

// Of all key heads.
inline double csq_read_bytes(const DecodeShape& shape, Index absorbed) {
  const double row =
      sizeof(float) * static_cast<double>(shape.key_dim) + bytes_of(shape.dtype) * static_cast<double>(shape.value_dim);
  const double bytes = sizeof(float) * summary_floats(shape) + static_cast<double>(absorbed) / 2 * row;
  return bytes * static_cast<double>(shape.kv_heads);
}
inline double cache_read_bytes(const DecodeShape& shape, Index tokens) {
  return static_cast<double>(tokens) * row_floats(shape) * static_cast<double>(shape.kv_heads) * bytes_of(shape.dtype);
}

// n*: tokens from which the cache is more to read.
inline double predicted_decode_crossover(const DecodeShape& shape, Index absorbed) {
  return csq_read_bytes(shape, absorbed) / cache_read_bytes(shape, 1);
}

// Multiply-adds of one token, read and absorbed, times 2.
inline double csq_step_flops(const DecodeShape& shape, Index absorbed) {
  const double reads = summary_floats(shape) + static_cast<double>(absorbed) / 2 * row_floats(shape);
  return 2 * (static_cast<double>(shape.heads) * reads + static_cast<double>(shape.kv_heads) * summary_floats(shape));
}

}  // namespace bench

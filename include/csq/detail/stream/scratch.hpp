// What the calls of a stream work with: what it does, resolved once; the arrays of one call; scratch of a thread.
#pragma once

#include <span>

#include "csq/detail/call/problem.hpp"
#include "csq/detail/stream/state.hpp"

namespace CSQ_CODE::detail {

// What a stream does with its tokens, resolved once.
struct StreamPlan {
  Weight weight;  // divided by its power of two, which no row depends on
  Centering centering = Centering::none;
  double scale = 1;
  double soft_cap = 0;
  std::span<const double> sink;
  int exponent = 0;  // that power
};

// Scratch of one thread.
template <class T>
struct StreamScratch {
  T *query = nullptr, *output = nullptr, *normalizer = nullptr;  // [heads][piece][dim]: of an entry
  T* few_rows = nullptr;                                         // [token_group][padded key_dim]
  double* row_sum = nullptr;                                     // [padded key_dim]
  T *packed = nullptr, *rows = nullptr, *panel = nullptr;        // of one block
  T *numerator = nullptr, *sums = nullptr, *values = nullptr, *scaled = nullptr, *scales = nullptr;

  static StreamScratch lay_out(Arena& arena, const StreamSizes& s, Index piece) {
    constexpr Index block = simd::block_tokens<T>;
    const Index value_stride = simd::padded_columns<T>(s.value_dim);
    StreamScratch scratch;
    scratch.query = arena.take<T>(checked_product(checked_product(s.heads, piece, "heads"), s.key_dim, "heads"));
    scratch.output = arena.take<T>(checked_product(checked_product(s.heads, piece, "heads"), s.value_dim, "heads"));
    scratch.normalizer = arena.take<T>(s.heads * piece);
    scratch.few_rows = arena.take<T>(simd::token_group * simd::padded_columns<T>(s.key_dim));
    scratch.row_sum = arena.take<double>(simd::padded_columns<double>(s.key_dim));
    if (!s.has_summary()) return scratch;
    scratch.packed = arena.take<T>((s.key_dim + 1) * block);
    scratch.rows = arena.take<T>((block + 1) * simd::padded_columns<T>(s.key_dim));  // also what is read past rows
    scratch.panel = arena.take<T>(simd::panel_features * block);
    scratch.numerator = arena.take<T>(block * value_stride);
    scratch.sums = arena.take<T>(block);
    scratch.values = arena.take<T>(block * value_stride);
    scratch.scaled = arena.take<T>(block * value_stride);
    scratch.scales = arena.take<T>(block);
    return scratch;
  }
};

// The arrays of one call, checked.
template <class T>
struct StreamTokens {
  StoredHeads<const T> query, key, value;
  StoredHeads<T> output;
  Heads<const T> gate;
};

}  // namespace CSQ_CODE::detail

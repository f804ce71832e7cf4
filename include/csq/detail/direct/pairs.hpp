// A block of queries against a block of keys, both packed: the scratch it takes and the call to the kernel.
#pragma once

#include <limits>

#include "csq/detail/base/blocks.hpp"
#include "csq/detail/block/adjustment.hpp"
#include "csq/detail/block/kernel_weight.hpp"
#include "csq/detail/block/pack.hpp"
#include "csq/detail/simd/matrix_kernel_set.hpp"

namespace CSQ_CODE::detail {

// What one thread needs to serve a block of queries.
template <class T>
struct DirectThreadScratch {
  T* rows = nullptr;  // of one group of tokens
  double* sums = nullptr;
  T* query = nullptr;
  T* weights = nullptr;
  T* scale = nullptr;
  T* numerator = nullptr;
  T* normalizer = nullptr;
  T* maximum = nullptr;
  T *gate = nullptr, *gate_low = nullptr;  // where there are gates: their sums at the queries
  // Where there is a matrix unit: what it multiplies of the queries, the sums that it adds to, its own scratch.
  const simd::MatrixKernelSet<T>* matrix = nullptr;
  simd::BFloat16Bits* query_tiles = nullptr;
  T* tile_sums = nullptr;
  std::byte* matrix_scratch = nullptr;

  static DirectThreadScratch lay_out(Arena& arena, const Problem<T>& problem) {
    const Index key_dim = problem.key_dim(), value_dim = problem.value_dim();
    constexpr Index size = simd::block_tokens<T>;
    DirectThreadScratch scratch;
    scratch.rows = arena.template take<T>(RowPacker<T>::scratch_group(key_dim));
    scratch.sums = arena.template take<double>(RowPacker<T>::scratch_sums(key_dim));
    scratch.query = arena.template take<T>(RowPacker<T>::packed_size(key_dim));
    scratch.weights = arena.template take<T>(size * size);
    scratch.scale = arena.template take<T>(size);
    scratch.numerator = arena.template take<T>(size * simd::padded_columns<T>(value_dim));
    scratch.normalizer = arena.template take<T>(size);
    scratch.maximum = arena.template take<T>(size);
    if (problem.has_gates()) {
      scratch.gate = arena.template take<T>(size);
      scratch.gate_low = arena.template take<T>(size);
    }
    scratch.matrix = problem.matrix();
    if (scratch.matrix == nullptr) return scratch;
    const Index value_stride = simd::padded_columns<T>(value_dim);
    scratch.query_tiles = arena.template take<simd::BFloat16Bits>(simd::token_tiles_size<T>(key_dim));
    scratch.tile_sums = arena.template take<T>(simd::sum_tiles_size<T>(value_stride));
    scratch.matrix_scratch = arena.template take<std::byte>(simd::matrix_scratch_bytes<T>(value_stride));
    return scratch;
  }

  // Before pairs of these queries are added, and behind: what a matrix unit sums joins the numerators then.
  void begin_pairs(const T* packed, Index tokens, Index key_dim, Index value_dim) const {
    if (matrix == nullptr) return;
    const Index tiles = simd::tiles_of(tokens) * simd::tiles_of(simd::padded_columns<T>(value_dim));
    matrix->query_tiles(packed, tokens, key_dim, query_tiles);
    std::fill_n(tile_sums, tiles * simd::sum_tile_size, T(0));
  }
  void end_pairs(Index tokens, Index value_dim) const {
    if (matrix != nullptr) matrix->move_sums(tokens, simd::padded_columns<T>(value_dim), tile_sums, numerator);
  }

  // For that many queries; tiles add to whole units of rows.
  void clear_sums(Index value_dim, Index queries) const {
    constexpr Index size = simd::block_tokens<T>;
    std::fill_n(numerator, simd::padded_tokens<T>(queries) * simd::padded_columns<T>(value_dim), T(0));
    std::fill_n(normalizer, size, T(0));
    std::fill_n(maximum, size, simd::lowest_score<T>);
  }
};

// One packed block of keys and its values, and where it starts; its tiles, if a matrix unit shall multiply them.
template <class T>
struct PackedKeyBlock {
  const T* key = nullptr;
  const T* values = nullptr;
  Index first = 0;
  Index count = 0;
  const simd::BFloat16Bits *key_tiles = nullptr, *value_tiles = nullptr;
  bool values_are_finite = true;

  PackedKeyBlock without_tiles() const { return {key, values, first, count}; }
};

// Adds the visible part of a block of keys to a block of queries that starts at first_query, its gates copied. `next`
// is likely to be served after it.
template <class T>
void add_pairs(const Problem<T>& problem, const simd::KernelWeight& weight, const DirectThreadScratch<T>& scratch,
               const RowPacker<T>& packer, const T* query, Index queries, Index first_query,
               const PackedKeyBlock<T>& keys, const PackedKeyBlock<T>& next = {}) {
  simd::DirectBlock<T> block;
  block.query = query;
  block.key = keys.key;
  block.values = keys.values;
  block.queries = queries;
  block.keys = keys.count;
  block.dim = problem.key_dim();
  block.value_stride = simd::padded_columns<T>(problem.value_dim());
  block.diagonal = problem.visibility().diagonal(first_query, keys.first, keys.count);
  block.band_start = problem.visibility().band_start(first_query, keys.first);
  block.weight = weight;
  block.adjust = adjustment_of(problem, packer, first_query, keys.first, {scratch.gate, scratch.gate_low});
  block.weights = scratch.weights;
  block.scale = scratch.scale;
  block.numerator = scratch.numerator;
  block.normalizer = scratch.normalizer;
  block.maximum = scratch.maximum;
  if (next.key != nullptr && next.key != keys.key) {
    block.upcoming.add(next.key, RowPacker<T>::packed_size(block.dim));
    block.upcoming.add(next.values, next.count * block.value_stride);
  }
  if (!problem.visibility().any(first_query, queries, keys.first, keys.count)) return;
  if (keys.key_tiles == nullptr) {
    simd::kernels<T>().direct(block);
    return;
  }
  simd::MatrixDirect<T> matrix;
  matrix.block = block;
  matrix.query = scratch.query_tiles;
  matrix.key = keys.key_tiles;
  matrix.values = keys.value_tiles;
  matrix.values_are_finite = keys.values_are_finite;
  matrix.sums = scratch.tile_sums;
  matrix.scratch = scratch.matrix_scratch;
  scratch.matrix->direct(matrix);
}

// Packs `count` keys and values of one key head.
template <class T>
void pack_keys(const Problem<T>& problem, const RowPacker<T>& packer, Index batch, Index key_head, Index first,
               Index count, const DirectThreadScratch<T>& scratch, T* key, T* values) {
  packer.pack_only(first, count, scratch.rows, scratch.sums, key);
  const StoredHead<const T> value = problem.value.head(batch, key_head);
  simd::kernels<T>().pack_values(rows_of(value, first, count), simd::padded_columns<T>(value.dim), values);
}

}  // namespace CSQ_CODE::detail

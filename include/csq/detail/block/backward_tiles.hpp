// What a matrix unit multiplies of the blocks of a backward call, beside the packed blocks and rows that it is made of
// (simd/matrix_backward_kernel_set.hpp).
#pragma once

#include "csq/detail/block/backward.hpp"
#include "csq/detail/simd/matrix_backward_kernel_set.hpp"

namespace CSQ_CODE::detail {

// The kernels of a unit, both passes'.
template <class T>
struct MatrixUnit {
  const simd::MatrixKernelSet<T>* forward = nullptr;
  const simd::MatrixBackwardKernelSet<T>* backward = nullptr;

  explicit operator bool() const { return backward != nullptr; }
  static MatrixUnit of(const BackwardProblem<T>& problem) {
    return {problem.forward.matrix(), problem.forward.matrix() == nullptr ? nullptr : problem.matrix};
  }
};

template <class T>
struct BackwardQueryTiles {
  simd::BFloat16Bits* query = nullptr;
  simd::BFloat16Bits* query_pairs = nullptr;
  simd::BFloat16Bits* gradient = nullptr;
  simd::BFloat16Bits* gradient_pairs = nullptr;

  static Index size(Index key_dim, Index value_dim) {
    return simd::token_tiles_size<T>(key_dim) + simd::value_tiles_size<T>(simd::padded_columns<T>(key_dim)) +
           simd::token_tiles_size<T>(value_dim) + simd::value_tiles_size<T>(simd::padded_columns<T>(value_dim));
  }
  static BackwardQueryTiles at(simd::BFloat16Bits* memory, Index key_dim, Index value_dim) {
    BackwardQueryTiles tiles;
    tiles.query = memory;
    tiles.query_pairs = tiles.query + simd::token_tiles_size<T>(key_dim);
    tiles.gradient = tiles.query_pairs + simd::value_tiles_size<T>(simd::padded_columns<T>(key_dim));
    tiles.gradient_pairs = tiles.gradient + simd::token_tiles_size<T>(value_dim);
    return tiles;
  }
  // Of a block that is packed; true where rows of queries and of gradients are finite.
  bool make(const MatrixUnit<T>& unit, const BackwardQueryBlock<T>& block, Index tokens, Index key_dim,
            Index value_dim) const {
    const Index key_stride = simd::padded_columns<T>(key_dim), value_stride = simd::padded_columns<T>(value_dim);
    unit.forward->query_tiles(block.packed, tokens, key_dim, query);
    unit.forward->value_pair_tiles(block.rows, tokens, key_stride, query_pairs);
    unit.forward->query_tiles(block.gradient_packed, tokens, value_dim, gradient);
    unit.forward->value_pair_tiles(block.gradient_rows, tokens, value_stride, gradient_pairs);
    return unit.backward->are_finite(tokens * key_stride, block.rows) &&
           unit.backward->are_finite(tokens * value_stride, block.gradient_rows);
  }
};

template <class T>
struct BackwardKeyTiles {
  simd::BFloat16Bits* key = nullptr;
  simd::BFloat16Bits* key_lanes = nullptr;
  simd::BFloat16Bits* value = nullptr;

  static Index size(Index key_dim, Index value_dim) {
    return simd::token_tiles_size<T>(key_dim) + simd::value_tiles_size<T>(simd::padded_columns<T>(key_dim)) +
           simd::token_tiles_size<T>(value_dim);
  }
  static BackwardKeyTiles at(simd::BFloat16Bits* memory, Index key_dim) {
    BackwardKeyTiles tiles;
    tiles.key = memory;
    tiles.key_lanes = tiles.key + simd::token_tiles_size<T>(key_dim);
    tiles.value = tiles.key_lanes + simd::value_tiles_size<T>(simd::padded_columns<T>(key_dim));
    return tiles;
  }
  // True where keys are finite.
  bool make(const MatrixUnit<T>& unit, const BackwardKeyBlock<T>& block, Index tokens, Index key_dim,
            Index value_dim) const {
    unit.forward->key_tiles(block.packed, tokens, key_dim, key);
    unit.forward->key_tiles(block.value_packed, tokens, value_dim, value);
    return unit.forward->value_lane_tiles(block.rows, tokens, simd::padded_columns<T>(key_dim), key_lanes);
  }
};

// The pairs of two blocks, on the unit. `query_sums`: the term of ∂q, in tiles.
template <class T>
void run_on_unit(const MatrixUnit<T>& unit, const simd::DirectBackwardBlock<T>& pairs,
                 const BackwardQueryTiles<T>& query, const BackwardKeyTiles<T>& key, T* query_sums,
                 std::byte* scratch) {
  simd::MatrixDirectBackward<T> block;
  block.block = pairs;
  block.query = query.query;
  block.query_pairs = query.query_pairs;
  block.key = key.key;
  block.key_lanes = key.key_lanes;
  block.value = key.value;
  block.gradient = query.gradient;
  block.gradient_pairs = query.gradient_pairs;
  block.query_sums = query_sums;
  block.scratch = scratch;
  unit.backward->direct(block);
}

}  // namespace CSQ_CODE::detail

// What a matrix unit multiplies of packed keys and values, beside the packed blocks of float that it is made of: those
// serve what the unit cannot (simd/matrix_kernel_set.hpp).
#pragma once

#include "csq/detail/direct/pairs.hpp"

namespace CSQ_CODE::detail {

// Of the blocks of keys of some heads; nothing without a matrix unit.
template <class T>
struct KeyTiles {
  const simd::MatrixKernelSet<T>* matrix = nullptr;
  Blocks<simd::BFloat16Bits, 2> keys, values;  // [heads][blocks]
  Blocks<bool, 2> finite;                      // [heads][blocks], of the values

  static KeyTiles lay_out(Arena& arena, const Problem<T>& problem, Index heads, Index blocks) {
    KeyTiles tiles;
    tiles.matrix = problem.matrix();
    if (tiles.matrix == nullptr) return tiles;
    const Index value_stride = simd::padded_columns<T>(problem.value_dim());
    tiles.keys = {arena, {heads, blocks}, simd::token_tiles_size<T>(problem.key_dim())};
    tiles.values = {arena, {heads, blocks}, simd::value_tiles_size<T>(value_stride)};
    tiles.finite = {arena, {heads, blocks}, 1};
    return tiles;
  }

  // Of a block that is packed.
  void make(const Problem<T>& problem, Index h, Index index, const T* key, const T* rows, Index count) const {
    if (matrix == nullptr) return;
    matrix->key_tiles(key, count, problem.key_dim(), keys(h, index));
    *finite(h, index) =
        matrix->value_lane_tiles(rows, count, simd::padded_columns<T>(problem.value_dim()), values(h, index));
  }
  PackedKeyBlock<T> with(PackedKeyBlock<T> block, Index h, Index index) const {
    if (matrix == nullptr) return block;
    block.key_tiles = keys(h, index);
    block.value_tiles = values(h, index);
    block.values_are_finite = *finite(h, index);
    return block;
  }
};

}  // namespace CSQ_CODE::detail

// The kernels of a matrix unit that multiplies bfloat16 (Intel AMX): absorb, read and direct of kernel_set.hpp, with
// both factors of each product rounded to bfloat16 once and sums in float.
//
// Operands are tiles of 1024 bytes, one after another: 16 rows of 64 bytes, 32 of depth in each, as
//   rows    16 rows × 32 numbers of depth: the left operand
//   pairs   16 rows of two of depth × 16 columns, the two side by side: the right operand
// and sums are tiles of 16×16 float. Blocks stay as kernel_set.hpp has them, in float; what multiplies is made of them
// once, when they are packed:
//   queries       pairs   [token tile][dimension step]   16 tokens × 32 dimensions
//   keys          rows    [token tile][dimension step]
//   value pairs   pairs   [token step][value tile]       32 tokens × 16 values, for absorb
//   value lanes   rows    [value tile][token step]       for direct
// Features and weights are made in float, rounded, and multiplied while they are in the first-level cache.
//
// Rows are summed over as [token tile][value tile][16 values][16 tokens], which is how products leave them, and moved
// to numerators, [B][value_stride], at the end.
#pragma once

#include "csq/detail/simd/kernel_set.hpp"

namespace CSQ_CODE::detail::simd {

using BFloat16Bits = std::uint16_t;

inline constexpr Index tile_side = 16;       // rows of a tile, columns of sums
inline constexpr Index tile_depth = 32;      // of the numbers multiplied
inline constexpr Index tile_numbers = 512;   // bfloat16
inline constexpr Index sum_tile_size = 256;  // float
inline constexpr Index matrix_chunk = 128;   // tokens of a scan's chunk: whole tiles of depth

constexpr Index tiles_of(Index rows) { return (rows + tile_side - 1) / tile_side; }
constexpr Index depth_steps(Index depth) { return (depth + tile_depth - 1) / tile_depth; }

// Numbers of bfloat16 in the tiles of a whole block; value_stride is a multiple of 16.
template <class T>
constexpr Index token_tiles_size(Index dim) {  // queries, keys
  return tiles_of(block_tokens<T>) * depth_steps(dim) * tile_numbers;
}
template <class T>
constexpr Index value_tiles_size(Index value_stride) {  // either form
  return depth_steps(block_tokens<T>) * tiles_of(value_stride) * tile_numbers;
}
// Floats in the sums of a whole block.
template <class T>
constexpr Index sum_tiles_size(Index value_stride) {
  return tiles_of(block_tokens<T>) * tiles_of(value_stride) * sum_tile_size;
}

inline constexpr Index matrix_absorb_panel = 32;  // features whose sums are in registers together
inline constexpr Index matrix_read_panel = 128;   // features between loading sums and storing them

// Bytes of scratch that absorb, read and direct need, at a multiple of 64.
template <class T>
constexpr Index matrix_scratch_bytes(Index value_stride) {
  constexpr Index tile_bytes = 1024;
  const Index absorb =
      2 * 2 * depth_steps(block_tokens<T>) * tile_bytes + matrix_absorb_panel * value_stride * Index{sizeof(float)};
  const Index read = 2 * (2 + tiles_of(value_stride)) * (matrix_read_panel / tile_depth) * tile_bytes;
  const Index direct = 2 * 2 * depth_steps(block_tokens<T>) * tile_bytes;
  const Index larger = absorb > read ? absorb : read;
  return larger > direct ? larger : direct;
}

// Blocks of packed tokens, equal steps apart, all but the last with the same number of tokens.
struct BlockRun {
  Index blocks = 1;
  Index tokens = 0, last_tokens = 0;  // of each block but the last, and of the last

  // Of `count` tokens.
  static BlockRun of(Index count, Index block) {
    const Index blocks = (count + block - 1) / block;
    return {blocks, block, blocks == 0 ? 0 : count - (blocks - 1) * block};
  }
};

// What absorb, read and pull_back have in common: the features [first, last), both as in AbsorbBlock, of some blocks.
template <class T>
struct MatrixFeatures : BlockRun {
  const T* packed = nullptr;  // [blocks], packed_step apart
  Index packed_step = 0;
  FeatureMap map;
  Index first = 0, last = 0;
  void* scratch = nullptr;
};

// summary[f] ← keep·summary[f] + Σ_t φ_f(x_t) y_t and normalizer[f] ← keep·normalizer[f] + Σ_t φ_f(x_t) r_t over the
// tokens of one block or several: a summary that the second-level cache does not hold is brought in once for all.
template <class T>
struct MatrixAbsorb : MatrixFeatures<T> {
  const BFloat16Bits* values = nullptr;  // value pairs
  const T* row_weights = nullptr;        // r, [B] of each block; zero past the tokens
  Index value_step = 0, row_weight_step = 0;
  Index value_stride = 0;
  T keep = 1;
  T* summary = nullptr;
  T* normalizer = nullptr;
};

// sums[t] += Σ_f φ_f(x_t) summary[f] and normalizer_rows[t] += Σ_f φ_f(x_t) normalizer[f] for the rows of one block or
// several, of the query heads of a group or, without a mask, of a sequence: the summary is rounded once for all of
// them.
template <class T>
struct MatrixRead : MatrixFeatures<T> {
  T* sums = nullptr;             // tiles
  T* normalizer_rows = nullptr;  // [B]
  Index sum_step = 0, normalizer_step = 0;
  Index value_stride = 0;
  FeatureCoefficients<T> coefficients;
  const T* summary = nullptr;
  const T* normalizer = nullptr;
};

// As DirectBlock, whose sums of rows are here in tiles.
//
// A value that is not finite, times a weight of 0, would reach queries that do not see it: such a block, unless all of
// it is visible to all, goes through the float kernel. So `block` is whole, float keys and values too.
template <class T>
struct MatrixDirect {
  DirectBlock<T> block;
  const BFloat16Bits* query = nullptr;
  const BFloat16Bits* key = nullptr;
  const BFloat16Bits* values = nullptr;  // value lanes
  bool values_are_finite = true;         // as value_lane_tiles says
  T* sums = nullptr;                     // tiles, relative to block.maximum as block.numerator is
  void* scratch = nullptr;
};

template <class T>
struct MatrixKernelSet {
  // Of packed tokens.
  void (*query_tiles)(const T* packed, Index tokens, Index dim, BFloat16Bits* tiles);
  void (*key_tiles)(const T* packed, Index tokens, Index dim, BFloat16Bits* tiles);
  // Of rows of values; the second says whether all of them are finite.
  void (*value_pair_tiles)(const T* values, Index tokens, Index value_stride, BFloat16Bits* tiles);
  bool (*value_lane_tiles)(const T* values, Index tokens, Index value_stride, BFloat16Bits* tiles);
  void (*absorb)(const MatrixAbsorb<T>& block);
  void (*read)(const MatrixRead<T>& block);
  void (*direct)(const MatrixDirect<T>& block);
  // numerator += sums, which are 0 then: they must be before the first read or direct.
  void (*move_sums)(Index tokens, Index value_stride, T* sums, T* numerator);
};

}  // namespace CSQ_CODE::detail::simd

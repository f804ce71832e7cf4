// The backward kernels of a matrix unit that multiplies bfloat16: scale_gradient, direct and pull_back of
// backward_kernel_set.hpp, with both factors of each product rounded to bfloat16 once and sums in float. A struct of
// its own, so that a program that only runs forward does not compile it. Operands are tiles as matrix_kernel_set.hpp
// has them, and its kernels make them, once, when blocks are packed:
//   queries         query_tiles(packed q)            pairs of dimensions    [token tile][dimension step]
//   query pairs     value_pair_tiles(rows of q)      pairs of tokens        [token step][dimension tile]
//   keys            key_tiles(packed k)              rows                   [token tile][dimension step]
//   key lanes       value_lane_tiles(rows of k)      rows, transposed       [dimension tile][token step]
//   values          key_tiles(packed v)              rows
//   targets         query_tiles(packed r, or v)      pairs of dimensions
//   gradient pairs  value_pair_tiles(rows of r)      pairs of tokens
// Rows, padded to whole cache lines, pass padded_columns(dim) for value_stride.
//
// What r = G/δ loses when it is rounded must not come between r·v and the r·o that cancels it, so r is rounded first,
// where it is scaled, and everything else, r·o too, is of the rounded r: gradients are then those of an upstream
// gradient that is 2^-9 off, however much cancels. That takes an r that no gate has scaled since; values are exact as
// they come, in bfloat16.
#pragma once

#include "csq/detail/simd/backward_kernel_set.hpp"
#include "csq/detail/simd/matrix_kernel_set.hpp"

namespace CSQ_CODE::detail::simd {

// Features whose summary is rounded at once, and those multiplied at once.
inline constexpr Index matrix_pull_back_stretch = 512;
inline constexpr Index matrix_pull_back_panel = 64;

// Bytes of scratch that direct needs, at a multiple of 64: scores and r·v of two units of 32 keys × 32 queries, weights
// and slopes of 32 keys as they multiply r and q, for two such groups of keys, slopes of a block as they multiply k,
// and two strips of a term of ∂q.
template <class T>
constexpr Index matrix_direct_backward_bytes(Index key_stride) {
  constexpr Index tile_bytes = 1024, steps = depth_steps(block_tokens<T>), tiles = tiles_of(block_tokens<T>);
  return tile_bytes * (Index{16} + Index{8} * steps + tiles * steps + Index{4} * tiles_of(key_stride));
}
// And those of pull_back: the rounded summary, twice where it is kept as two numbers, and two panels of P.
template <class T>
constexpr Index matrix_pull_back_bytes(Index value_dim) {
  constexpr Index tile_bytes = 1024;
  return 2 * tile_bytes * tiles_of(matrix_pull_back_stretch) * depth_steps(value_dim) +
         2 * matrix_pull_back_panel * 2 * tile_side * Index{sizeof(float)};
}

// As DirectBackwardBlock, but for ∂q, which is summed over keys in tiles.
//
// A key, a row of q or of r that is not finite, times a slope or weight of 0, would reach what does not see it: such a
// pair of blocks, unless all of it is visible, goes through the float kernel. So `block` is whole, and rows_are_finite
// says what are_finite says of all three. (v and k enter r·v and scores pair by pair, where masks select.)
//
// ∂k and ∂v are those of `block`, whole rows of [B], of which those past the keys are added 0 to. weights and slopes
// are scratch for adjusted scores and the float kernel alone, query_gradient [B][padded key_dim] for the latter.
template <class T>
struct MatrixDirectBackward {
  DirectBackwardBlock<T> block;
  const BFloat16Bits* query = nullptr;           // queries
  const BFloat16Bits* query_pairs = nullptr;     // query pairs
  const BFloat16Bits* key = nullptr;             // keys
  const BFloat16Bits* key_lanes = nullptr;       // key lanes
  const BFloat16Bits* value = nullptr;           // values
  const BFloat16Bits* gradient = nullptr;        // targets, of r
  const BFloat16Bits* gradient_pairs = nullptr;  // gradient pairs
  bool rows_are_finite = true;
  T* query_sums = nullptr;  // [token tile][dimension tile][16 dimensions][16 tokens] += one term; move_sums moves them
  void* scratch = nullptr;
};

// As PullBackBlock, of one block or several: the summary is rounded once for all of them. P of degree 2 is of S rounded
// with its coefficient in it; degrees 0 and 1, whose sums over all tokens are the shift's gradient, see S as a sum of
// two bfloat16, right to 2^-17. The normaliser's part of P and everything after P is float.
template <class T>
struct MatrixPullBack : MatrixFeatures<T> {
  const BFloat16Bits* target = nullptr;  // targets: y less its last number
  const T* target_normalizer = nullptr;  // that number, y_t,dv, of each token: [B], zero past the tokens
  Index target_step = 0, target_normalizer_step = 0;
  Index value_dim = 0;
  FeatureCoefficients<T> coefficients;
  T shift_constant = 0;
  const T* summary = nullptr;  // [features][padded value_dim]
  const T* normalizer = nullptr;
  T* gradient = nullptr;  // [dim][B] of each block
  T* shift = nullptr;     // [B] of each block
  Index gradient_step = 0, shift_step = 0;
};

template <class T>
struct MatrixBackwardKernelSet {
  // rows = factor·G rounded to bfloat16, as floats; dot = rows·o.
  void (*scale_gradient)(const ScaleGradient<T>& block);
  bool (*are_finite)(Index count, const T* numbers);  // whole cache lines
  void (*direct)(const MatrixDirectBackward<T>& matrix);
  void (*pull_back)(const MatrixPullBack<T>& block);
};

}  // namespace CSQ_CODE::detail::simd

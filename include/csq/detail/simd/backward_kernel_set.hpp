// What a set of kernels offers to the backward pass. A struct of its own, so that a program that only runs forward does
// not compile it. Packed layout as in kernel_set.hpp.
#pragma once

#include "csq/detail/simd/kernel_set.hpp"

namespace CSQ_CODE::detail::simd {

// rows[t] = factor[t]·G_t (zero where the factor is), dot[t] = rows[t]·o_t: the loss's gradient per unit of weight is
// rows[t]·v_j − dot[t].
template <class T>
struct ScaleGradient {
  Source<T> gradient;  // G
  Source<T> output;    // o
  const T* factor = nullptr;
  Index value_stride = 0;
  T* rows = nullptr;  // [tokens][value_stride]
  T* dot = nullptr;   // [tokens]
};

// One block of queries against one block of keys, recomputed: with r_i = scaled gradient rows,
//   slope_ij = w'(s_ij)·(r_i·v_j − dot_i)
//   value_gradient[j] += Σ_i w(s_ij) r_i    key_gradient[j] += Σ_i slope_ij q_i    query_gradient[i] += Σ_j slope_ij
//   k_j
// over visible pairs. For the exponential w = 2^(s − log_normalizer) and w' = w.
template <class T>
struct DirectBackwardBlock {
  const T* query = nullptr;  // packed
  const T* query_rows = nullptr;
  const T* key = nullptr;  // packed
  const T* key_rows = nullptr;
  const T* value = nullptr;     // packed
  const T* gradient = nullptr;  // packed, scaled
  const T* gradient_rows = nullptr;
  const T* dot = nullptr;             // [B]
  const T* log_normalizer = nullptr;  // [B], in units of ln 2; exponential only
  Index queries = 0, keys = 0;
  Index key_dim = 0, value_dim = 0;
  Index diagonal = 0;             // query i sees [band_start + i, diagonal + i)
  Index band_start = far_before;  // no window
  KernelWeight weight;
  T* weights = nullptr;         // scratch [B][B]
  T* slopes = nullptr;          // scratch [B][B]
  T* query_gradient = nullptr;  // [B][padded key_dim]
  T* key_gradient = nullptr;    // [B][padded key_dim]
  T* value_gradient = nullptr;  // [B][padded value_dim]
  double* slope_sum = nullptr;  // += Σ slope_ij, the gradient of the shift
  Adjustment<T> adjust;
  T* cap_slopes = nullptr;  // scratch [B][B], where there is a cap
  T* key_sums = nullptr;    // [keys] −= Σ_i w_ij·dot_i, or null
  Upcoming upcoming;

  bool sees_all() const { return diagonal >= keys && band_start + queries <= 1; }
};

// The gradient of a read with respect to the rows x that read: with P_tf = Σ_c summary[f][c]·y_tc +
// normalizer[f]·y_t,dv, gradient[a][t] += Σ_f coefficient_f·P_tf·∂φ_f(x_t)/∂x_a, and shift[t], the sum of the gradients
// of its scores, += 2·c2·Σ_a x_ta·P_ta + shift_constant·P_t1.
template <class T>
struct PullBackBlock {
  const T* packed = nullptr;
  const T* target = nullptr;  // y, packed: [value_dim + 1][B]
  Index tokens = 0;
  Index value_dim = 0;
  FeatureMap map;
  FeatureCoefficients<T> coefficients;
  T shift_constant = 0;
  Index first = 0, last = 0;
  const T* summary = nullptr;
  const T* normalizer = nullptr;
  T* panel = nullptr;          // scratch [panel_features][B]
  T* summary_panel = nullptr;  // scratch [panel_features][B]
  T* gradient = nullptr;       // [dim][B], in lanes like packed
  T* shift = nullptr;          // [B]
};

// rows[t][a] += lanes[a][t].
template <class T>
struct AddTransposed {
  const T* lanes = nullptr;  // [dim up to a multiple of 16][B]
  Index tokens = 0, dim = 0;
  T* rows = nullptr;  // [tokens][padded dim]
};

// The adjoint of centring for rows [0, tokens) of a block, walked backwards, and the way out:
//   output = factor·(g_t − c_t)    c_t: `mean`, or the suffix sums Σ_{j ≥ t} g_j/(count+j+1), exclusive Σ_{j > t}
//   g_j/(count+j)
template <class T>
struct UncenterBlock {
  const T* rows = nullptr;  // g, [tokens][row_stride]
  Index row_stride = 0;     // 0: padded dim
  Index tokens = 0, dim = 0;
  const double* mean = nullptr;  // [padded dim] or null
  double* suffix_sum = nullptr;  // [padded dim] or null; carried from the block behind to the one before
  double count = 0;              // rows of the sequence, history included, before this block
  bool exclusive = false;
  double factor = 1;
  T* output = nullptr;
  Index token_stride = 0, dim_stride = 1;
  const Storage<T>* storage = nullptr;
};

// Rows of a gradient in the caller's memory.
template <class T>
struct Target {
  T* data = nullptr;
  Index token_stride = 0, dim_stride = 1;
  Index tokens = 0, dim = 0;
  const Storage<T>* storage = nullptr;
};

// The gradients of one query head and its key head of a few tokens, all at once, through the centring and out. Those of
// the key head are summed over the query heads of its group and leave with the last.
template <class T>
struct ShortHeadBackward {
  ShortRows<T> query, key;
  Source<T> value;
  Source<T> output, output_gradient;     // rows of the queries
  const T* factor = nullptr;             // what G is multiplied by, [queries]
  const T* log_normalizer = nullptr;     // [queries up to a whole cache line], in units of ln 2; exponential only
  bool is_first = true, is_last = true;  // of the group
  Index diagonal = 0;
  KernelWeight weight;
  double query_factor = 1, key_factor = 1;  // of the gradients on their way out
  Target<T> query_target, key_target, value_target;
  double* slope_sum = nullptr;
  // Scratch.
  double* sums = nullptr;                         // [padded dim]
  T *queries = nullptr, *keys = nullptr;          // [tokens][padded dim]
  T *values = nullptr, *gradient_rows = nullptr;  // [tokens][padded value dim]
  T* output_row = nullptr;
  T* dot = nullptr;                                      // [queries up to a whole cache line]
  T *weights = nullptr, *slopes = nullptr;               // [keys][B]
  T *query_gradient = nullptr, *key_gradient = nullptr;  // [tokens][padded dim]
  T* value_gradient = nullptr;
};

// Over the visible scores of a block: the largest |s|, how many lie beyond the radius, and Σ max(0, |s| − radius)².
template <class T>
struct ScoreStatistics {
  const T* query = nullptr;  // packed
  const T* key = nullptr;    // packed
  Index queries = 0, keys = 0, dim = 0;
  Index diagonal = 0, band_start = far_before;
  double radius = 0;
  T* scores = nullptr;  // scratch [B][B]
  double* excess = nullptr;
  double* beyond = nullptr;
  double* largest = nullptr;
};

template <class T>
struct BackwardKernelSet {
  void (*scale_gradient)(const ScaleGradient<T>& block);
  // packed[r][t] *= factor[t] for rows of [B] tokens; factors up to a whole cache line.
  void (*scale_tokens)(Index rows, Index tokens, const T* factor, T* packed);
  void (*direct)(const DirectBackwardBlock<T>& block);
  void (*short_head)(const ShortHeadBackward<T>& head);
  void (*pull_back)(const PullBackBlock<T>& block);
  void (*add_transposed)(const AddTransposed<T>& block);
  void (*multiply_elu_slope)(Index count, const T* features, T* gradient);  // φ'(x) = min(φ(x), 1)
  void (*uncenter)(const UncenterBlock<T>& block);
  void (*score_statistics)(const ScoreStatistics<T>& block);
};

}  // namespace CSQ_CODE::detail::simd

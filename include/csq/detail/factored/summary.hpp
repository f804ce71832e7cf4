// Degree-2 weights as inner products of features, and the K⊗V summary that they make possible.
//
//   (c0 + c1·s + c2·s²), s = α q·k   =   φ_q(αq)·φ_k(k)
//   φ_k(k) = [ k_a·k_b (a ≤ b) | k_a | 1 ]          φ_q(q) = [ c2·(2−[a=b])·q_a·q_b | c1·q_a | c0 ]
//   S = Σ_j φ_k(k_j) ⊗ [v_j, 1]   (D × (dᵥ+1))       [N_i, δ_i] = φ_q(αq_i)ᵀ S
//
// D = (d+1)(d+2)/2 with all degrees; a degree whose coefficient is zero is not computed. α is inside q already.
// The normaliser's column of S is a vector of its own: a 65th column padded to 80 would cost 25%.
#pragma once

#include "csq/detail/call/problem.hpp"
#include "csq/detail/simd/targets.hpp"
#include "csq/kept_summary.hpp"

namespace CSQ_CODE::detail {

// Linear's φ is applied when rows are packed; what is left is degree 1 with coefficient 1.
inline Quadratic feature_coefficients(const Weight& weight) {
  return weight.kind == Weight::Kind::feature_product ? Quadratic{0, 1, 0} : weight.quadratic;
}

// The gradient of the shift needs the features of degree 1 even where their coefficient is zero, as at the weight's own
// minimum.
inline simd::FeatureMap feature_map(const Weight& weight, Index dim, bool shift_gradient = false) {
  const Quadratic c = feature_coefficients(weight);
  // A constant weight does not depend on the keys, but NaN in one of them must still reach the rows: as 0·k.
  return {dim, c.c2 != 0, c.c1 != 0 || c.c2 == 0 || shift_gradient, c.c0 != 0};
}

// Features [first, last) of a summary, in the memory of whoever made it.
template <class T>
struct SummarySlice {
  simd::FeatureMap map;
  Index value_stride = 0;
  Index first = 0, last = 0;
  T* summary = nullptr;     // [last − first, up to a multiple of slice_features][value_stride]
  T* normalizer = nullptr;  // [last − first]

  static Index padded_rows(Index rows) {
    return (rows + simd::slice_features - 1) / simd::slice_features * simd::slice_features;
  }

  static simd::FeatureCoefficients<T> query_coefficients(const Quadratic& c) {
    return {static_cast<T>(2 * c.c2), static_cast<T>(c.c2), static_cast<T>(c.c1), static_cast<T>(c.c0)};
  }

  Index summary_size() const { return padded_rows(last - first) * value_stride; }
  Index numbers() const { return summary_size() + last - first; }

  // The features of it that lie in [from, to).
  SummarySlice part(Index from, Index to) const {
    const Index begin = std::clamp(from, first, last), end = std::clamp(to, begin, last);
    return {map, value_stride, begin, end, summary + (begin - first) * value_stride, normalizer + (begin - first)};
  }

  // The same features of another, which holds as many or more; in memory of `numbers`, summary first.
  void copy_from(const SummarySlice& other) const {
    std::copy_n(other.summary + (first - other.first) * value_stride, summary_size(), summary);
    std::copy_n(other.normalizer + (first - other.first), last - first, normalizer);
  }
  void copy_to(T* numbers) const {
    std::copy_n(summary, summary_size(), numbers);
    std::copy_n(normalizer, last - first, numbers + summary_size());
  }
  SummarySlice at(T* numbers) const { return {map, value_stride, first, last, numbers, numbers + summary_size()}; }
  void scale(T factor) const {
    for (Index i = 0; i < summary_size(); ++i) summary[i] *= factor;
    for (Index i = 0; i < last - first; ++i) normalizer[i] *= factor;
  }

  void clear() const {
    std::fill_n(summary, summary_size(), T(0));
    std::fill_n(normalizer, last - first, T(0));
  }

  // Σ_j |k_j|² of the keys absorbed, the part of these features: the sums of k_a·k_a are features of the normaliser.
  double square_sum() const {
    double sum = 0;
    for (Index a = 0, feature = 0; map.pairs && a < map.dim; feature += map.dim - a, ++a)
      if (feature >= first && feature < last) sum += static_cast<double>(normalizer[feature - first]);
    return sum;
  }

  // Σ_j 1 of the keys absorbed, or of what gates have left of each; 0 where the constant is not a feature of this
  // slice.
  double count_sum() const {
    const bool has_constant = map.constant && last == map.size() && first < last;
    return has_constant ? static_cast<double>(normalizer[last - first - 1]) : 0;
  }

  // S ← keep·S + Φ(X)ᵀ [Y, r] for a packed block: [V, 1] of keys, with the packed row of ones as r.
  void absorb(const T* packed, const T* values, const T* row_weights, Index tokens, T* panel, T keep = 1) const {
    simd::AbsorbBlock<T> block;
    block.packed = packed;
    block.values = values;
    block.row_weights = row_weights;
    block.tokens = tokens;
    block.value_stride = value_stride;
    block.map = map;
    block.first = first;
    block.last = last;
    block.keep = keep;
    block.panel = panel;
    block.summary = summary;
    block.normalizer = normalizer;
    simd::kernels<T>().absorb(block);
  }

  // dX̃ += J_Φ(X)ᵀ (Y Sᵀ) for a packed block X that has read, Y = target the gradient of what it read.
  void pull_back(const Quadratic& c, const T* packed, const T* target, Index tokens, Index value_dim, T* panel,
                 T* summary_panel, T* gradient, T* shift) const {
    simd::PullBackBlock<T> block;
    block.packed = packed;
    block.target = target;
    block.tokens = tokens;
    block.value_dim = value_dim;
    block.map = map;
    block.coefficients = query_coefficients(c);
    block.shift_constant = static_cast<T>(c.c1);
    block.first = first;
    block.last = last;
    block.summary = summary;
    block.normalizer = normalizer;
    block.panel = panel;
    block.summary_panel = summary_panel;
    block.gradient = gradient;
    block.shift = shift;
    simd::backward_kernels<T>().pull_back(block);
  }

  // [N, δ] += Φ(Q) S for a packed block of queries.
  void read(const Quadratic& c, const T* query, Index tokens, T* panel, T* numerator, T* normalizer_rows) const {
    simd::ReadBlock<T> block;
    block.packed = query;
    block.tokens = tokens;
    block.value_stride = value_stride;
    block.map = map;
    block.coefficients = query_coefficients(c);
    block.first = first;
    block.last = last;
    block.panel = panel;
    block.summary = summary;
    block.normalizer = normalizer;
    block.numerator = numerator;
    block.normalizer_rows = normalizer_rows;
    simd::kernels<T>().read(block);
  }

  // [N, δ] = Φ(Q) S for a few queries in rows of whole cache lines, and one behind; `features` is a panel.
  void read_rows(const Quadratic& c, const T* query, Index queries, T* features, T* numerator, T* sums) const {
    static_assert(simd::ReadRows<T>::rows_together * simd::ReadRows<T>::feature_stride <=
                  simd::panel_features * simd::block_tokens<T>);
    simd::ReadRows<T> block;
    block.query = query;
    block.query_stride = simd::padded_columns<T>(map.dim);
    block.queries = queries;
    block.value_stride = value_stride;
    block.map = map;
    block.coefficients = query_coefficients(c);
    block.summary = summary;
    block.normalizer = normalizer;
    block.features = features;
    block.numerator = numerator;
    block.sums = sums;
    simd::summary_kernels<T>().read_rows(block);
  }
};

// What the summaries of a call are made from.
template <class T>
KeptSummary::Origin summary_origin(const Problem<T>& problem, Index features) {
  const Quadratic& c = problem.weight.quadratic;
  KeptSummary::Origin origin;
  origin.key = problem.key.data;
  origin.value = problem.value.data;
  std::copy_n(problem.key.shape.data(), 4, origin.key_shape);
  std::copy_n(problem.key.stride.data(), 4, origin.key_stride);
  std::copy_n(problem.value.shape.data(), 4, origin.value_shape);
  std::copy_n(problem.value.stride.data(), 4, origin.value_stride);
  origin.scalar_bytes = sizeof(T);
  origin.storage = problem.key.storage;
  origin.weight = static_cast<Index>(problem.weight.kind);
  origin.coefficients[0] = c.c0;
  origin.coefficients[1] = c.c1;
  origin.coefficients[2] = c.c2;
  origin.scale = problem.scale;
  origin.centering = static_cast<Index>(problem.centering);
  origin.features = features;
  return origin;
}
template <class T>
KeptSummary::KeyRows summary_key_rows(const Problem<T>& problem) {
  if (problem.key_history == nullptr) return {problem.key_length, {}, {}};
  return {problem.key_length, problem.key_history->count, problem.key_history->mean};
}

}  // namespace CSQ_CODE::detail

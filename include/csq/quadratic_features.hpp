// Degree-2 weights as inner products of features, and the K⊗V summary that they make possible.
//
//   (c0 + c1·s + c2·s²), s = α q·k   =   φ_q(αq)·φ_k(k)
//   φ_k(k) = [ k_a·k_b (a ≤ b) | k_a | 1 ]          φ_q(q) = [ c2·(2−[a=b])·q_a·q_b | c1·q_a | c0 ]
//   S = Σ_j φ_k(k_j) ⊗ [v_j, 1]   (D × (dᵥ+1))       [N_i, δ_i] = φ_q(αq_i)ᵀ S
//
// D = (d+1)(d+2)/2 with all degrees; a degree whose coefficient is zero is not computed. α is inside q already.
// The normaliser's column of S is a vector of its own: a 65th column padded to 80 would cost 25%.
#pragma once

#include "csq/problem.hpp"
#include "csq/simd/dispatch.hpp"

namespace csq {

// Linear's φ is applied when rows are packed; what is left is degree 1 with coefficient 1.
inline Quadratic feature_coefficients(const Weight& weight) {
  return weight.kind == Weight::Kind::feature_product ? Quadratic{0, 1, 0} : weight.quadratic;
}

inline simd::FeatureMap feature_map(const Weight& weight, Index dim) {
  const Quadratic c = feature_coefficients(weight);
  return {dim, c.c2 != 0, c.c1 != 0, c.c0 != 0};
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

  void clear() const {
    std::fill_n(summary, padded_rows(last - first) * value_stride, T(0));
    std::fill_n(normalizer, last - first, T(0));
  }

  // S += Φ(K)ᵀ [V, 1] for a packed block of keys.
  void absorb(const T* key, const T* values, Index tokens, T* panel) const {
    simd::AbsorbBlock<T> block;
    block.packed = key;
    block.values = values;
    block.tokens = tokens;
    block.value_stride = value_stride;
    block.map = map;
    block.first = first;
    block.last = last;
    block.panel = panel;
    block.summary = summary;
    block.normalizer = normalizer;
    simd::kernels<T>().absorb(block);
  }

  // [N, δ] += Φ(Q) S for a packed block of queries.
  void read(const Quadratic& c, const T* query, Index tokens, T* panel, T* numerator, T* normalizer_rows) const {
    simd::ReadBlock<T> block;
    block.packed = query;
    block.tokens = tokens;
    block.value_stride = value_stride;
    block.map = map;
    block.coefficients = {static_cast<T>(2 * c.c2), static_cast<T>(c.c2), static_cast<T>(c.c1), static_cast<T>(c.c0)};
    block.first = first;
    block.last = last;
    block.panel = panel;
    block.summary = summary;
    block.normalizer = normalizer;
    block.numerator = numerator;
    block.normalizer_rows = normalizer_rows;
    simd::kernels<T>().read(block);
  }
};

}  // namespace csq

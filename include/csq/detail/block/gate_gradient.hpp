// The gradient of gates, from what backward has at hand.
//
//   T_ij = w̃_ij·∂L/∂w̃_ij,   c_j = Σ_i T_ij = v_j·∂L/∂v_j + e_j,   e_j = Σ_i w̃_ij·∂L/∂δ_i
//   ∂L/∂ℓ_t = Σ_{j < t ≤ p} T_pj = Σ_{p ≥ t} R_p − Σ_{j ≥ t} c_j
//
// R_p = Σ_j T_pj is 0, rows being normalised; with a sink it is G_p·o_p·e^(sink − lse_p). Sums in double; O(m·dᵥ).
#pragma once

#include "csq/detail/block/gates.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

// terms[j] += v_j·∂L/∂v_j for the keys [first, first + count); ∂L/∂v in rows of `stride`.
template <class T>
void add_value_terms(const StoredHead<const T>& value, Index first, Index count, const T* value_gradient, Index stride,
                     double* terms) {
  for (Index key = 0; key < count; ++key) {
    double sum = 0;
    for (Index a = 0; a < value.dim; ++a)
      sum += static_cast<double>(value(first + key, a)) * static_cast<double>(value_gradient[key * stride + a]);
    terms[first + key] += sum;
  }
}

// ∂L/∂ℓ of one gate head: terms of its `length` keys, and `row_terms`(p), the R of the queries at position p, for
// p < positions. Gates that have no say (the first, those from the length on, those that count as −10⁴) have none.
template <class T, class RowTerms>
void write_gate_gradient(const Head<const T>& gate, const double* terms, Index length, Index positions,
                         const RowTerms& row_terms, const Head<T>& gradient) {
  double sum = 0;
  for (Index t = positions - 1; t >= 0; --t) {
    sum += row_terms(t);
    if (t < length) sum -= terms[t];
    const bool has_say = t > 0 && t < length && !(static_cast<double>(gate(t, 0)) < lowest_log_gate);
    gradient(t, 0) = has_say ? static_cast<T>(sum) : T(0);
  }
}

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail

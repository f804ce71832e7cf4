// A weight as the kernels take it.
#pragma once

#include <algorithm>

#include "csq/detail/call/problem.hpp"
#include "csq/detail/simd/kernel_set.hpp"

namespace CSQ_CODE::detail {

// What q is multiplied by when it is packed. Softmax works in powers of two.
template <class T>
double query_factor(const Problem<T>& problem) {
  constexpr double log2_e = 1.442695040888963407359924681001892137;
  if (problem.weight.kind == Weight::Kind::feature_product) return 1;
  return problem.weight.kind == Weight::Kind::exponential ? problem.scale * log2_e : problem.scale;
}

// Quadratics as completed squares, c2·(s+h)² + rest: c0 + c1·s + c2·s² itself would cancel near its minimum.
inline simd::KernelWeight kernel_weight(const Weight& weight) {
  simd::KernelWeight result;
  result.kind = weight.kind;
  if (weight.kind == WeightKind::quadratic) {
    if (weight.quadratic.c2 > 0) {
      result.c2 = weight.quadratic.c2;
      result.offset = weight.quadratic.c1 / (2 * result.c2);
      result.c0 = larger(0.0, weight.quadratic.c0 - result.c2 * result.offset * result.offset);
    } else {
      result.c0 = weight.quadratic.c0;
    }
  }
  if (weight.kind == WeightKind::feature_product) result.c1 = 1;
  result.coefficients = weight.coefficients.data();
  result.coefficient_count = static_cast<Index>(weight.coefficients.size());
  result.radius = weight.radius;
  result.floor = weight.floor;
  return result;
}

}  // namespace CSQ_CODE::detail

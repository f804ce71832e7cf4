// What a call costs, in multiply-adds, before anybody pays: pure arithmetic on shapes.
//
//   direct     g·n·m·(d+dᵥ) per key head with g query heads; about half under a causal mask
//   factored   (g·n + m)·D·(dᵥ+1); causal adds the pairs inside chunks, g·n·C·(d+dᵥ)/2, less two exact savings
//
// D features: (d+1)(d+2)/2 for degree 2. The savings (t = D(dᵥ+1)/(d+dᵥ), about D/2): reading a summary of t keys costs
// as much as serving those keys directly, so rows that see at most t keys read nothing; and the last t/g keys,
// absorbed, would be read too rarely to pay, so they are not.
#pragma once

#include <algorithm>
#include <cmath>

#include "csq/detail/call/cost.hpp"

namespace CSQ_CODE {

// D = (d+1)(d+2)/2: features of degree 2 and less.
inline Index feature_count(Index key_dim) { return detail::feature_count(key_dim); }

// Features that a mechanism needs: a degree whose coefficient is zero is not computed.
template <class Mechanism>
Index feature_count(const Mechanism& mechanism, Index key_dim) {
  return detail::feature_count(detail::weight_of(mechanism), key_dim);
}

// Pairs (i, j) with j visible to i, for one head.
inline double visible_pairs(const Shape& shape) { return detail::count_pairs(shape); }

inline double direct_multiply_adds(const Shape& shape) { return detail::count_direct(shape); }
inline double factored_multiply_adds(const Shape& shape, Index chunk = 0) {
  return detail::count_factored(shape, feature_count(shape.key_dim), chunk);
}
template <class Mechanism>
double factored_multiply_adds(const Mechanism& mechanism, const Shape& shape, Index chunk = 0) {
  return detail::count_factored(shape, feature_count(mechanism, shape.key_dim), chunk);
}
inline double direct_backward_multiply_adds(const Shape& shape) { return detail::count_direct_backward(shape); }
inline double factored_backward_multiply_adds(const Shape& shape) {
  return detail::count_factored_backward(shape, feature_count(shape.key_dim));
}

}  // namespace CSQ_CODE

namespace CSQ_TYPES {

struct CrossoverModel {
  bool causal = false;
  Index group = 1;               // query heads per key head
  double direct_efficiency = 1;  // f_s and f_f: fractions of the FMA peak that the two sides reach
  double factored_efficiency = 1;
};

}  // namespace CSQ_TYPES

namespace CSQ_CODE {

// Tokens from which factored is expected to be faster, n = m. With dᵥ = d and g = 1: (1 + 1/d)·D·f_s/f_f.
inline double predicted_crossover(Index key_dim, Index value_dim, const CrossoverModel& model = {}) {
  Shape shape{.key_dim = key_dim, .value_dim = value_dim, .heads = model.group, .causal = model.causal};
  const double ratio = model.direct_efficiency / model.factored_efficiency;
  const double t = detail::break_even_keys(shape, feature_count(key_dim));
  const double group = static_cast<double>(model.group);
  if (!model.causal) return (1 + 1 / group) * t * ratio;
  // The last size at which the factored count, weighed with the efficiencies, is not below the direct one.
  const auto factored_wins = [&](double n) {
    shape.queries = shape.keys = static_cast<Index>(n);
    return !detail::served_directly(shape) && factored_multiply_adds(shape) * ratio < direct_multiply_adds(shape);
  };
  double high = 4 * t * (1 + 1 / group) * detail::larger(1.0, ratio) + 1024;
  while (!factored_wins(high)) high *= 2;
  double low = 1;
  while (high - low > 1) {
    const double middle = std::floor((low + high) / 2);
    (factored_wins(middle) ? high : low) = middle;
  }
  return high;
}

inline Method choose_method(const Shape& shape) { return detail::cheaper_method(shape, feature_count(shape.key_dim)); }

template <class Mechanism>
Method choose_method(const Mechanism& mechanism, const Shape& shape) {
  const detail::Weight weight = detail::weight_of(mechanism);
  if (!weight.has_factored_form()) return Method::direct;
  return detail::cheaper_method(shape, detail::feature_count(weight, shape.key_dim));
}

}  // namespace CSQ_CODE

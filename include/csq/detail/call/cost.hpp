// Multiply-adds of both methods for any number of features, and the choice between them. All in double: no size
// overflows it.
#pragma once

#include <algorithm>

#include "csq/detail/call/scan_plan.hpp"
#include "csq/detail/call/weight.hpp"

namespace CSQ_CODE::detail {

// Tokens of a whole block in float, for which costs are counted whatever the type: so that one call has one answer.
inline constexpr Index counted_block = 144;

inline double group_of(const Shape& shape) {
  return static_cast<double>(shape.heads) / static_cast<double>(shape.kv_heads);
}
inline double count_pairs(const Workload& work) {
  return work.sum([&](const Extent& e) { return work.visibility().pairs(e.queries, e.keys); });
}

inline double count_direct(const Workload& work) {
  const Shape& shape = work.shape;
  return count_pairs(work) * static_cast<double>(shape.heads) *
         (static_cast<double>(shape.key_dim) + static_cast<double>(shape.value_dim));
}

// One key head with its group, under a causal mask.
inline double count_causal_scan(const Workload& work, const Extent& extent, const ScanPlan& plan, Index features) {
  const Shape& shape = work.shape;
  const double keys = static_cast<double>(extent.keys), size = static_cast<double>(plan.chunk);
  // Positions of the first row that sees anything, and behind the last.
  const double offset = static_cast<double>(work.visibility().offset());
  const double start = larger(0.0, offset), end = larger(start, offset + static_cast<double>(extent.queries));
  const double absorbed = smaller(keys, static_cast<double>(plan.first_kept) * size);
  const double first_read = std::clamp(static_cast<double>(plan.first_read) * size, start, end);
  const double first_kept = std::clamp(static_cast<double>(plan.first_kept) * size, first_read, end);
  // Rows at positions [from, to) that serve the keys from `base` on directly.
  const auto triangle = [&](double from, double to, double base) {
    const double rising = std::clamp(keys, from, to);
    return (rising - from) * ((from + rising + 1) / 2 - base) + (to - rising) * larger(0.0, keys - base);
  };
  double pairs = triangle(start, first_read, 0);
  pairs += larger(0.0, smaller(first_kept, keys) - first_read) * (size + 1) / 2;
  pairs += triangle(first_kept, end, absorbed);
  const double group = group_of(shape), reads = end - first_read;
  const double pair = static_cast<double>(shape.key_dim) + static_cast<double>(shape.value_dim);
  const double token = static_cast<double>(features) * (static_cast<double>(shape.value_dim) + 1);
  if (reads <= 0) return group * pairs * pair;
  return group * (pairs * pair + reads * token) + absorbed * token;
}

inline double count_factored(const Workload& work, Index features, Index chunk) {
  const Shape& shape = work.shape;
  const double key_heads = static_cast<double>(shape.kv_heads), group = group_of(shape);
  const double token = static_cast<double>(features) * (static_cast<double>(shape.value_dim) + 1);
  if (!shape.causal)
    return key_heads * work.sum([&](const Extent& e) {
      return (group * static_cast<double>(e.queries) + static_cast<double>(e.keys)) * token;
    });
  const ScanPlan plan = plan_scan(work, features, chunk, counted_block, tuned_chunk(shape.key_dim, counted_block));
  return key_heads * work.sum([&](const Extent& e) { return count_causal_scan(work, e, plan, features); });
}

// Backward: recomputing weights makes 5 products of 2 (10·n·m·d flops for dᵥ = d); pulling back makes (2g·n + 3m) of
// (g·n + m), and under a causal mask every chunk's own pairs besides, without the savings of the forward.
inline double backward_pair(const Shape& shape) {
  return 3 * static_cast<double>(shape.key_dim) + 2 * static_cast<double>(shape.value_dim);
}
inline double count_direct_backward(const Workload& work) {
  return count_pairs(work) * static_cast<double>(work.shape.heads) * backward_pair(work.shape);
}
inline double count_factored_backward(const Workload& work, Index features) {
  const Shape& shape = work.shape;
  const double group = group_of(shape);
  const double token = static_cast<double>(features) * (static_cast<double>(shape.value_dim) + 1);
  const double chunk = shape.causal ? static_cast<double>(counted_block) : 0;
  return static_cast<double>(shape.kv_heads) * work.sum([&](const Extent& e) {
    const double n = static_cast<double>(e.queries), m = static_cast<double>(e.keys);
    return (2 * group * n + 3 * m) * token + group * smaller(n, m) * chunk / 2 * backward_pair(shape);
  });
}

// Fractions of the FMA peak that the two methods reach near their crossover; only their ratio matters to the choice.
struct Efficiency {
  double direct = 1;
  double factored = 1;
};
// As measured on AVX-512 (processors agree on the ratio better than on the fractions): at small head sizes the
// crossover comes early, where a factored call has much to set up.
inline Efficiency measured_efficiency(Index key_dim) {
  if (key_dim <= 24) return {0.42, 0.23};
  if (key_dim <= 48) return {0.62, 0.52};
  return {0.88, 0.855};
}

inline Method cheaper_method(const Workload& work, Index features, const Efficiency& efficiency) {
  if (served_directly(work, features)) return Method::direct;
  const double direct = count_direct(work) / efficiency.direct;
  const double factored = count_factored(work, features, 0) / efficiency.factored;
  return factored < direct ? Method::factored : Method::direct;
}
inline Method cheaper_method(const Workload& work, Index features) {
  return cheaper_method(work, features, measured_efficiency(work.shape.key_dim));
}
inline Method cheaper_backward_method(const Workload& work, Index features) {
  const Efficiency efficiency = measured_efficiency(work.shape.key_dim);
  const double direct = count_direct_backward(work) / efficiency.direct;
  const double factored = count_factored_backward(work, features) / efficiency.factored;
  return factored < direct ? Method::factored : Method::direct;
}

// Features that a weight needs: a degree whose coefficient is zero is not computed, but that a constant weight has the
// keys for their NaN.
inline Index feature_count(const Weight& weight, Index key_dim) {
  const Index largest = feature_count(key_dim);
  if (weight.kind == Weight::Kind::feature_product) return key_dim;
  const Quadratic& c = weight.quadratic;
  return (c.c2 != 0 ? largest - key_dim - 1 : 0) + (c.c1 != 0 || c.c2 == 0 ? key_dim : 0) + (c.c0 != 0 ? 1 : 0);
}

}  // namespace CSQ_CODE::detail

// Multiply-adds of both methods for any number of features, and the choice between them.
#pragma once

#include <algorithm>

#include "csq/detail/call/scan_plan.hpp"
#include "csq/detail/call/visibility.hpp"
#include "csq/detail/call/weight.hpp"

namespace CSQ_CODE::detail {

inline double count_pairs(const Shape& shape) { return Visibility{shape.queries, shape.keys, shape.causal}.pairs(); }

inline double count_direct(const Shape& shape) {
  return static_cast<double>(shape.batch * shape.heads) * count_pairs(shape) *
         static_cast<double>(shape.key_dim + shape.value_dim);
}

inline double count_factored(const Shape& shape, Index features, Index chunk) {
  const double n = static_cast<double>(shape.queries), m = static_cast<double>(shape.keys);
  const double group = static_cast<double>(shape.heads) / static_cast<double>(shape.kv_heads);
  const double token = static_cast<double>(features) * static_cast<double>(shape.value_dim + 1);
  const double pair = static_cast<double>(shape.key_dim + shape.value_dim);
  const double key_heads = static_cast<double>(shape.batch * shape.kv_heads);
  if (!shape.causal) return key_heads * (group * n + m) * token;

  const ScanPlan plan = plan_scan(shape, features, chunk, 144);
  const double size = static_cast<double>(plan.chunk);
  const double start = m - n;  // position of the first row
  const double absorbed = smaller(m, static_cast<double>(plan.first_kept) * size);
  const double first_read = std::clamp(static_cast<double>(plan.first_read) * size, larger(0.0, start), m);
  const double first_kept = std::clamp(absorbed, first_read, m);
  // Rows at positions [from, to) that serve the keys from `base` on directly.
  const auto triangle = [](double from, double to, double base) { return (to - from) * ((from + to + 1) / 2 - base); };
  double pairs = triangle(larger(0.0, start), first_read, 0);
  pairs += (first_kept - first_read) * (size + 1) / 2;
  pairs += triangle(first_kept, m, absorbed);
  const double reads = m - first_read;
  if (reads <= 0) return key_heads * group * pairs * pair;
  return key_heads * (group * (pairs * pair + reads * token) + absorbed * token);
}
// Backward: recomputing weights makes 5 products of 2 (10·n·m·d flops for dᵥ = d); pulling back makes (2g·n + 3m) of
// (g·n + m), and under a causal mask every chunk's own pairs besides, without the savings of the forward.
inline double count_direct_backward(const Shape& shape) {
  return static_cast<double>(shape.batch * shape.heads) * count_pairs(shape) *
         static_cast<double>(3 * shape.key_dim + 2 * shape.value_dim);
}
inline double count_factored_backward(const Shape& shape, Index features) {
  const double group = static_cast<double>(shape.heads) / static_cast<double>(shape.kv_heads);
  const double n = static_cast<double>(shape.queries), m = static_cast<double>(shape.keys);
  const double token = static_cast<double>(features) * static_cast<double>(shape.value_dim + 1);
  constexpr double block = 144;  // tokens of a whole block in float
  const double chunk = shape.causal ? block : 0;
  const double pairs = group * smaller(n, m) * chunk / 2;
  return static_cast<double>(shape.batch * shape.kv_heads) *
         ((2 * group * n + 3 * m) * token + pairs * static_cast<double>(3 * shape.key_dim + 2 * shape.value_dim));
}
// Fractions of the FMA peak that the two methods reach near their crossover, as measured on AVX-512 (only their ratio
// matters to the choice, and processors agree on it better than on the fractions): at small head sizes the crossover
// comes early, where a factored call has much to set up.
inline double direct_efficiency(Index key_dim) { return key_dim <= 24 ? 0.42 : key_dim <= 48 ? 0.62 : 0.88; }
inline double factored_efficiency(Index key_dim) { return key_dim <= 24 ? 0.23 : key_dim <= 48 ? 0.52 : 0.855; }

inline Method cheaper_method(const Shape& shape, Index features) {
  if (served_directly(shape, features)) return Method::direct;
  const double direct = count_direct(shape) / direct_efficiency(shape.key_dim);
  const double factored = count_factored(shape, features, 0) / factored_efficiency(shape.key_dim);
  return factored < direct ? Method::factored : Method::direct;
}
// Features that a weight needs: a degree whose coefficient is zero is not computed.
inline Index feature_count(const Weight& weight, Index key_dim) {
  if (weight.kind == Weight::Kind::feature_product) return key_dim;
  const Quadratic& c = weight.quadratic;
  feature_count(key_dim);  // that the largest count fits
  return (c.c2 != 0 ? key_dim * (key_dim + 1) / 2 : 0) + (c.c1 != 0 ? key_dim : 0) + (c.c0 != 0 ? 1 : 0);
}

}  // namespace CSQ_CODE::detail

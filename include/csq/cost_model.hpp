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

#include "csq/mechanism.hpp"
#include "csq/options.hpp"

namespace csq {

struct Shape {
  Index queries = 0;
  Index keys = 0;
  Index key_dim = 1;
  Index value_dim = 1;
  Index batch = 1;
  Index heads = 1;     // query heads
  Index kv_heads = 1;  // key heads
  bool causal = false;
};

// D: features of all degrees up to `degree`; degree 1 counts φ(q)·φ(k) of Linear, without a constant.
inline Index feature_count(Index key_dim, int degree = 2) {
  if (degree == 2)
    return checked_product(checked_sum(key_dim, 1, "key_dim"), checked_sum(key_dim, 2, "key_dim"), "key_dim") / 2;
  return degree == 1 ? key_dim : 1;
}

// How a causal factored call divides its work, in chunks of keys and of the queries at the same positions.
struct ScanPlan {
  Index chunk = 1;       // tokens
  Index first_read = 0;  // chunks before this one are served directly
  Index first_kept = 0;  // chunks from here on are not absorbed
};

// t: the number of keys whose direct service costs as much as one read.
inline double break_even_keys(const Shape& shape, Index features) {
  return static_cast<double>(features) * static_cast<double>(shape.value_dim + 1) /
         static_cast<double>(shape.key_dim + shape.value_dim);
}

// Tokens per chunk of the forward scan. Small chunks rewrite the summary more often, large ones compute more pairs
// directly. The optimum is flat: on an Intel Xeon chunks of 48, 72, 96, 144 gave 67, 67, 65, 59 (d = 16), 106, 110,
// 110, 100 (d = 32), 148, 151, 152, 152 (d = 64) and 144, 175, 176, 168 (d = 128) GF/s of the full scan's count; on an
// AMD EPYC (Zen 5) 96 and 144 took 0.96 and 0.94 of the time of 72 at d = 32, and delay the crossover of a group.
inline Index tuned_chunk(Index key_dim, Index largest) { return std::min<Index>(key_dim <= 48 ? 72 : 96, largest); }

// Keys that the summary of a causal call holds at its end; the rest are not absorbed. 0: nothing is worth reading.
// Rows at or after position s are min(n, m − s), so absorbing the keys from s on pays while there are more than t/g of
// them; and a summary of at most t keys is never worth reading.
inline Index summarised_keys(const Shape& shape, Index features) {
  const double t = break_even_keys(shape, features);
  const double rows_that_pay = t * static_cast<double>(shape.kv_heads) / static_cast<double>(shape.heads);
  if (static_cast<double>(shape.queries) <= rows_that_pay) return 0;
  const double absorbed = static_cast<double>(shape.keys) - std::floor(rows_that_pay);
  return absorbed > t ? static_cast<Index>(absorbed) : 0;
}

inline ScanPlan plan_scan(const Shape& shape, Index features, Index explicit_chunk, Index largest_chunk) {
  ScanPlan plan;
  const bool savings = explicit_chunk == 0;
  plan.chunk = savings ? tuned_chunk(shape.key_dim, largest_chunk) : std::min(explicit_chunk, largest_chunk);
  const Index chunks = (shape.keys + plan.chunk - 1) / plan.chunk;
  if (!savings) {
    plan.first_read = 1;
    plan.first_kept = std::max<Index>(0, chunks - 1);  // nobody reads after the last chunk
    return plan;
  }
  const Index absorbed = summarised_keys(shape, features);
  plan.first_kept = absorbed / plan.chunk;
  plan.first_read = absorbed == 0 ? chunks : static_cast<Index>(break_even_keys(shape, features)) / plan.chunk + 1;
  return plan;
}

// True when a causal factored call with these sizes never reads a summary: it is the direct path.
inline bool served_directly(const Shape& shape, Index features) {
  return shape.causal && summarised_keys(shape, features) == 0;
}
inline bool served_directly(const Shape& shape) { return served_directly(shape, feature_count(shape.key_dim)); }

// Pairs (i, j) with j visible to i, for one head.
inline double visible_pairs(const Shape& shape) {
  const double n = static_cast<double>(shape.queries), m = static_cast<double>(shape.keys);
  if (!shape.causal) return n * m;
  const double rows = std::min(n, m);  // rows that see anything; the last sees m
  return rows * (m - rows) + rows * (rows + 1) / 2;
}

inline double direct_multiply_adds(const Shape& shape) {
  return static_cast<double>(shape.batch * shape.heads) * visible_pairs(shape) *
         static_cast<double>(shape.key_dim + shape.value_dim);
}

inline double factored_multiply_adds(const Shape& shape, Index features, Index chunk) {
  const double n = static_cast<double>(shape.queries), m = static_cast<double>(shape.keys);
  const double group = static_cast<double>(shape.heads) / static_cast<double>(shape.kv_heads);
  const double token = static_cast<double>(features) * static_cast<double>(shape.value_dim + 1);
  const double pair = static_cast<double>(shape.key_dim + shape.value_dim);
  const double key_heads = static_cast<double>(shape.batch * shape.kv_heads);
  if (!shape.causal) return key_heads * (group * n + m) * token;

  const ScanPlan plan = plan_scan(shape, features, chunk, 144);
  const double size = static_cast<double>(plan.chunk);
  const double start = m - n;  // position of the first row
  const double absorbed = std::min(m, static_cast<double>(plan.first_kept) * size);
  const double first_read = std::clamp(static_cast<double>(plan.first_read) * size, std::max(0.0, start), m);
  const double first_kept = std::clamp(absorbed, first_read, m);
  // Rows at positions [from, to) that serve the keys from `base` on directly.
  const auto triangle = [](double from, double to, double base) { return (to - from) * ((from + to + 1) / 2 - base); };
  double pairs = triangle(std::max(0.0, start), first_read, 0);
  pairs += (first_kept - first_read) * (size + 1) / 2;
  pairs += triangle(first_kept, m, absorbed);
  const double reads = m - first_read;
  if (reads <= 0) return key_heads * group * pairs * pair;
  return key_heads * (group * (pairs * pair + reads * token) + absorbed * token);
}
inline double factored_multiply_adds(const Shape& shape, Index chunk = 0) {
  return factored_multiply_adds(shape, feature_count(shape.key_dim), chunk);
}

// Backward: recomputing weights makes 5 products of 2 (10·n·m·d flops for dᵥ = d); pulling back makes (2g·n + 3m) of
// (g·n + m), and under a causal mask every chunk's own pairs besides, without the savings of the forward.
inline double direct_backward_multiply_adds(const Shape& shape) {
  return static_cast<double>(shape.batch * shape.heads) * visible_pairs(shape) *
         static_cast<double>(3 * shape.key_dim + 2 * shape.value_dim);
}
inline double factored_backward_multiply_adds(const Shape& shape, Index features) {
  const double group = static_cast<double>(shape.heads) / static_cast<double>(shape.kv_heads);
  const double n = static_cast<double>(shape.queries), m = static_cast<double>(shape.keys);
  const double token = static_cast<double>(features) * static_cast<double>(shape.value_dim + 1);
  constexpr double block = 144;  // tokens of a whole block in float
  const double chunk = shape.causal ? block : 0;
  const double pairs = group * std::min(n, m) * chunk / 2;
  return static_cast<double>(shape.batch * shape.kv_heads) *
         ((2 * group * n + 3 * m) * token + pairs * static_cast<double>(3 * shape.key_dim + 2 * shape.value_dim));
}
inline double factored_backward_multiply_adds(const Shape& shape) {
  return factored_backward_multiply_adds(shape, feature_count(shape.key_dim));
}

struct CrossoverModel {
  bool causal = false;
  Index group = 1;               // query heads per key head
  double direct_efficiency = 1;  // f_s and f_f: fractions of the FMA peak that the two sides reach
  double factored_efficiency = 1;
};

// Tokens from which factored is expected to be faster, n = m. With dᵥ = d and g = 1: (1 + 1/d)·D·f_s/f_f.
inline double predicted_crossover(Index key_dim, Index value_dim, const CrossoverModel& model = {}) {
  Shape shape{.key_dim = key_dim, .value_dim = value_dim, .heads = model.group, .causal = model.causal};
  const double ratio = model.direct_efficiency / model.factored_efficiency;
  const double t = break_even_keys(shape, feature_count(key_dim));
  const double group = static_cast<double>(model.group);
  if (!model.causal) return (1 + 1 / group) * t * ratio;
  // The last size at which the factored count, weighed with the efficiencies, is not below the direct one.
  const auto factored_wins = [&](double n) {
    shape.queries = shape.keys = static_cast<Index>(n);
    return !served_directly(shape) && factored_multiply_adds(shape) * ratio < direct_multiply_adds(shape);
  };
  double high = 4 * t * (1 + 1 / group) * std::max(1.0, ratio) + 1024;
  while (!factored_wins(high)) high *= 2;
  double low = 1;
  while (high - low > 1) {
    const double middle = std::floor((low + high) / 2);
    (factored_wins(middle) ? high : low) = middle;
  }
  return high;
}

// Fractions of the FMA peak that the two methods reach near their crossover, as measured on AVX-512 (only their ratio
// matters to the choice, and processors agree on it better than on the fractions): at small head sizes the crossover
// comes early, where a factored call has much to set up.
inline double direct_efficiency(Index key_dim) { return key_dim <= 24 ? 0.42 : key_dim <= 48 ? 0.62 : 0.88; }
inline double factored_efficiency(Index key_dim) { return key_dim <= 24 ? 0.23 : key_dim <= 48 ? 0.52 : 0.855; }

inline Method choose_method(const Shape& shape, Index features) {
  if (served_directly(shape, features)) return Method::direct;
  const double direct = direct_multiply_adds(shape) / direct_efficiency(shape.key_dim);
  const double factored = factored_multiply_adds(shape, features, 0) / factored_efficiency(shape.key_dim);
  return factored < direct ? Method::factored : Method::direct;
}
inline Method choose_method(const Shape& shape) { return choose_method(shape, feature_count(shape.key_dim)); }

// Features that a weight needs: a degree whose coefficient is zero is not computed.
inline Index feature_count(const Weight& weight, Index key_dim) {
  if (weight.kind == Weight::Kind::feature_product) return key_dim;
  const Quadratic& c = weight.quadratic;
  feature_count(key_dim);  // that the largest count fits
  return (c.c2 != 0 ? key_dim * (key_dim + 1) / 2 : 0) + (c.c1 != 0 ? key_dim : 0) + (c.c0 != 0 ? 1 : 0);
}

template <class M>
Method choose_method(const M& mechanism, const Shape& shape) {
  const Weight weight = weight_of(mechanism);
  if (!weight.has_factored_form()) return Method::direct;
  return choose_method(shape, feature_count(weight, shape.key_dim));
}

}  // namespace csq

// How a causal factored call divides its work, from shapes alone.
#pragma once

#include <algorithm>
#include <cmath>

#include "csq/detail/base/arithmetic.hpp"
#include "csq/shape.hpp"

namespace CSQ_CODE::detail {

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
inline Index tuned_chunk(Index key_dim, Index largest) { return smaller<Index>(key_dim <= 48 ? 72 : 96, largest); }

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
  plan.chunk = savings ? tuned_chunk(shape.key_dim, largest_chunk) : smaller(explicit_chunk, largest_chunk);
  const Index chunks = (shape.keys + plan.chunk - 1) / plan.chunk;
  if (!savings) {
    plan.first_read = 1;
    plan.first_kept = larger<Index>(0, chunks - 1);  // nobody reads after the last chunk
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

}  // namespace CSQ_CODE::detail

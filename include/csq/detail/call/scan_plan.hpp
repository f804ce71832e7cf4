// How a causal factored call divides its work, from shapes alone.
#pragma once

#include <algorithm>
#include <cmath>

#include "csq/detail/call/workload.hpp"

namespace CSQ_CODE::detail {

// D = (d+1)(d+2)/2: features of degree 2 and less.
inline Index feature_count(Index key_dim) {
  require(key_dim >= 1, "key_dim: is ", key_dim, " but must be at least 1");
  return checked_product(checked_sum(key_dim, 1, "key_dim"), checked_sum(key_dim, 2, "key_dim"), "key_dim") / 2;
}

// How a causal factored call divides its work, in chunks of keys and of the queries at the same positions.
struct ScanPlan {
  Index chunk = 1;       // tokens
  Index first_read = 0;  // chunks before this one are served directly
  Index first_kept = 0;  // chunks from here on are not absorbed
};

// t: the number of keys whose direct service costs as much as one read.
inline double break_even_keys(const Shape& shape, Index features) {
  return static_cast<double>(features) * (static_cast<double>(shape.value_dim) + 1) /
         (static_cast<double>(shape.key_dim) + static_cast<double>(shape.value_dim));
}

// Tokens per chunk of the forward scan. Small chunks rewrite the summary more often, large ones compute more pairs
// directly. The optimum is flat: on an Intel Xeon chunks of 48, 72, 96, 144 gave 67, 67, 65, 59 (d = 16), 106, 110,
// 110, 100 (d = 32), 148, 151, 152, 152 (d = 64) and 144, 175, 176, 168 (d = 128) GF/s of the full scan's count; on an
// AMD EPYC (Zen 5) 96 and 144 took 0.96 and 0.94 of the time of 72 at d = 32, and delay the crossover of a group.
inline Index tuned_chunk(Index key_dim, Index largest) { return smaller<Index>(key_dim <= 48 ? 72 : 96, largest); }

// Keys that the summary of a causal call holds at its end.
struct SummarisedKeys {
  Index count = 0;   // 0: nothing is worth reading
  bool all = false;  // rows stand so far behind the last key that none is left out
};

// Rows at or after position s are min(n, end − s), end the position after the last row, so absorbing the keys from s on
// pays while there are more than t/g of them; and a summary of at most t keys is never worth reading.
inline SummarisedKeys summarised_keys(const Workload& work, Index features) {
  const Shape& shape = work.shape;
  const Extent longest = work.longest();
  const double t = break_even_keys(shape, features);
  const double rows_that_pay = t * static_cast<double>(shape.kv_heads) / static_cast<double>(shape.heads);
  if (static_cast<double>(longest.queries) <= rows_that_pay) return {};
  const double keys = static_cast<double>(longest.keys);
  const double worth = static_cast<double>(longest.queries + work.visibility().offset()) - std::floor(rows_that_pay);
  const double absorbed = smaller(keys, worth);
  if (absorbed <= t) return {};
  return {static_cast<Index>(absorbed), keys < worth};
}

// `tuned`: the chunk that serves best where none is asked for.
inline ScanPlan plan_scan(const Workload& work, Index features, Index explicit_chunk, Index largest_chunk,
                          Index tuned) {
  ScanPlan plan;
  const bool savings = explicit_chunk == 0;
  plan.chunk = savings ? tuned : smaller(explicit_chunk, largest_chunk);
  const Index chunks = block_count(work.shape.keys, plan.chunk);
  if (!savings) {
    plan.first_read = 1;
    plan.first_kept = larger<Index>(0, chunks - 1);  // nobody reads after the last chunk
    return plan;
  }
  const SummarisedKeys absorbed = summarised_keys(work, features);
  plan.first_kept = absorbed.all ? block_count(absorbed.count, plan.chunk) : absorbed.count / plan.chunk;
  plan.first_read =
      absorbed.count == 0 ? chunks : static_cast<Index>(break_even_keys(work.shape, features)) / plan.chunk + 1;
  return plan;
}

// True when a causal factored call never reads a summary: it is the direct path.
inline bool served_directly(const Workload& work, Index features) {
  return work.shape.causal && summarised_keys(work, features).count == 0;
}
inline bool served_directly(const Shape& shape) {
  const Workload work{checked_shape(shape), {}, {}};
  return served_directly(work, feature_count(shape.key_dim));
}

}  // namespace CSQ_CODE::detail

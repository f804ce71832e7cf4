// Who sees whom. Engines, cost model, penalties and, block by block, the kernels ask here and nowhere else.
//
//   without a mask   query i sees every key within the length
//   causal           the keys j ≤ i + (m − n) within the length: aligned bottom right
#pragma once

#include <algorithm>

#include "csq/detail/base/arithmetic.hpp"

namespace CSQ_CODE::detail {

struct Visibility {
  Index queries = 0;  // n
  Index keys = 0;     // m
  bool causal = false;

  // Position of query 0 on the axis of keys.
  Index offset() const { return keys - queries; }

  // Query `query` sees the keys [0, keys_of(query, length)) when `length` keys exist.
  Index keys_of(Index query, Index length) const {
    return causal ? std::clamp<Index>(query + offset() + 1, 0, length) : length;
  }

  // Of a block of `count` keys from first_key on, query first_query sees [0, diagonal), and each next query one more;
  // `count` and beyond: all.
  Index diagonal(Index first_query, Index first_key, Index count) const {
    return causal ? first_query + offset() + 1 - first_key : count;
  }
  // Whether any of a block of queries sees any of a block of keys.
  bool any(Index first_query, Index query_count, Index first_key, Index key_count) const {
    return query_count > 0 && key_count > 0 && diagonal(first_query, first_key, key_count) + query_count > 1;
  }

  // The first query, of `existing`, whose position is not before `position` on the axis of keys.
  Index first_query_at(Index position, Index existing) const {
    return std::clamp<Index>(position - offset(), 0, existing);
  }
  // Queries that stand before the first key, and see nothing.
  Index blind_queries() const { return causal ? first_query_at(0, queries) : 0; }

  // Pairs (i, j) with j visible to i, among the first `rows` queries and with `length` keys within the length.
  double pairs(Index rows, Index length) const {
    const double n = static_cast<double>(rows), m = static_cast<double>(length);
    if (!causal) return n * m;
    // Keys seen by the first row that sees any and by the last; from m on all rows see m.
    const double first = larger(1.0, static_cast<double>(offset()) + 1), last = static_cast<double>(offset()) + n;
    const double rising = larger(0.0, smaller(last, m) - first + 1);
    const double flat = larger(0.0, last - larger(m, first - 1));
    return rising * (first + smaller(last, m)) / 2 + flat * m;
  }
};

}  // namespace CSQ_CODE::detail

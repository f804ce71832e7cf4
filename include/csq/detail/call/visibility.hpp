// Who sees whom. Engines, cost model, penalties and, block by block, the kernels ask here and nowhere else.
//
// With p = i + (m − n) the position of query i on the axis of keys (aligned bottom right), it sees the keys within the
// length that lie in
//
//   without a mask         everywhere           with a window W     p − W < j < p + W
//   causal                 j ≤ p                with a window W     p − W < j ≤ p
//
// A piece of a sequence may hold the keys that come before its queries, or behind them: the last query then stands
// `ahead` positions behind the last key.
//
// So each query sees a run of keys, and the next query one that starts and ends one key later (or as late): a band.
#pragma once

#include <algorithm>

#include "csq/detail/base/arithmetic.hpp"

namespace CSQ_CODE::detail {

struct Visibility {
  Index queries = 0;  // n
  Index keys = 0;     // m
  bool causal = false;
  Index window = 0;  // W; 0: none
  Index ahead = 0;   // of the keys' end, in pieces

  // Position of query 0 on the axis of keys.
  Index offset() const { return keys - queries + ahead; }

  // Query `query` sees the keys [first_key(query), keys_of(query, length)) when `length` keys exist; none where that is
  // no range.
  Index first_key(Index query) const { return window == 0 ? 0 : larger<Index>(0, start() + query); }
  Index keys_of(Index query, Index length) const {
    return has_end() ? std::clamp<Index>(query + end(), 0, length) : length;
  }
  bool sees_any(Index query, Index length) const { return first_key(query) < keys_of(query, length); }

  // Of a block of `count` keys from first_key on, query first_query sees [band_start, diagonal), and each next query
  // one later; at or below 0 and at or beyond `count`: to the block's end.
  Index diagonal(Index first_query, Index first_key, Index count) const {
    return has_end() ? first_query + end() - first_key : count;
  }
  Index band_start(Index first_query, Index first_key) const {
    return window == 0 ? far_before : first_query + start() - first_key;
  }
  // Whether any of a block of queries sees any of a block of keys.
  bool any(Index first_query, Index query_count, Index first_key, Index key_count) const {
    return query_count > 0 && key_count > 0 && diagonal(first_query, first_key, key_count) + query_count > 1 &&
           band_start(first_query, first_key) < key_count;
  }

  // The first query, of `existing`, whose position is not before `position` on the axis of keys.
  Index first_query_at(Index position, Index existing) const {
    return std::clamp<Index>(position - offset(), 0, existing);
  }
  // Queries that stand before the first key under a causal mask, and see nothing.
  Index blind_queries() const { return causal ? first_query_at(0, queries) : 0; }

  // Pairs (i, j) with j visible to i, among the first `rows` queries and with `length` keys within the length.
  double pairs(Index rows, Index length) const {
    const double n = static_cast<double>(rows), m = static_cast<double>(length);
    const double ends = has_end() ? clamped_sum(static_cast<double>(end()), n, m) : n * m;
    return window == 0 ? ends : ends - clamped_sum(static_cast<double>(start()), n, m);
  }

 private:
  // Query i sees up to i + end(), and from i + start() on.
  bool has_end() const { return causal || window != 0; }
  Index end() const { return offset() + (causal ? 1 : window); }
  Index start() const { return offset() + 1 - window; }

  // Σ over i < n of i + first, held within [0, m].
  static double clamped_sum(double first, double n, double m) {
    const double below = std::clamp(-first, 0.0, n), within = std::clamp(m - first, below, n);
    return (within - below) * (2 * first + below + within - 1) / 2 + (n - within) * m;
  }
};

}  // namespace CSQ_CODE::detail

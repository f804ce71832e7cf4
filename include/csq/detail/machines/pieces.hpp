// Which tokens each rank holds, and which keys of one rank the queries of another see.
#pragma once

#include <vector>

#include "csq/detail/call/visibility.hpp"

namespace CSQ_CODE::detail {

struct KeyRange {
  Index first = 0, last = 0;
  Index count() const { return last - first; }
};

struct Pieces {
  std::vector<Index> query_start{0}, key_start{0};  // [ranks + 1]
  bool causal = false;
  Index window = 0;

  int ranks() const { return static_cast<int>(query_start.size()) - 1; }
  void add(Index queries_of_next, Index keys_of_next) {
    query_start.push_back(query_start.back() + queries_of_next);
    key_start.push_back(key_start.back() + keys_of_next);
  }
  Index queries() const { return query_start.back(); }
  Index keys() const { return key_start.back(); }
  Index queries_of(int rank) const { return query_start[index(rank + 1)] - query_start[index(rank)]; }
  Index keys_of(int rank) const { return key_start[index(rank + 1)] - key_start[index(rank)]; }
  Index first_key(int rank) const { return key_start[index(rank)]; }
  Index first_query(int rank) const { return query_start[index(rank)]; }

  Visibility whole() const { return {queries(), keys(), causal, window, 0}; }
  // Where the first query of a rank stands, counted from a key of the whole.
  Index position(int rank, Index key) const { return whole().offset() + first_query(rank) - key; }
  // Of the queries of one rank and the keys [first, first + count) of the whole.
  Visibility between(int query_rank, Index first, Index count) const {
    const Index n = queries_of(query_rank);
    return {n, count, causal, window, position(query_rank, first) - (count - n)};
  }
  // The keys of a rank that queries of another see, counted from the rank's first.
  KeyRange seen(int query_rank, int key_rank) const {
    const Index n = queries_of(query_rank), m = keys_of(key_rank);
    if (n == 0 || m == 0) return {};
    const Visibility visibility = between(query_rank, first_key(key_rank), m);
    const KeyRange range{visibility.first_key(0), visibility.keys_of(n - 1, m)};
    return range.first < range.last ? range : KeyRange{};
  }
  // Every rank's queries stand at keys of its own, so that they see all keys of the ranks before.
  bool stand_at_their_keys() const {
    for (int rank = 0; rank < ranks(); ++rank) {
      const Index n = queries_of(rank), first = position(rank, first_key(rank));
      if (n > 0 && (first < 0 || first + n > keys_of(rank))) return false;
    }
    return true;
  }

 private:
  static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }
};

}  // namespace CSQ_CODE::detail

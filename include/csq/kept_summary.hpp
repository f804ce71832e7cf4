// The K⊗V summaries that a forward call hands over to backward, which then need not absorb the keys again.
//
// Give the same object to both through Options::summary. A factored forward call without a causal mask fills it, any
// other empties it; a factored backward call of the same sizes reads it, any other ignores it. That q, k, v and the
// options are those of the forward call is the caller's word, as it is for the output and the normaliser. It saves
// m·D·(dᵥ+1) of backward's (2g·n + 3m)·D·(dᵥ+1) multiply-adds, and holds D·(dᵥ+1) numbers for every key head.
#pragma once

#include <algorithm>

#include "csq/heads.hpp"
#include "csq/workspace.hpp"

namespace CSQ_TYPES {

class KeptSummary {
 public:
  // What was summarised: equal sizes mean the same layout of numbers.
  struct Sizes {
    Index key_heads = 0;
    Index rows = 0;  // numbers of [S | normaliser] for each key head
    Index features = 0;
    Index scalar_bytes = 0;

    bool operator==(const Sizes&) const = default;
  };

  bool empty() const { return sizes_ == Sizes{} || memory_.bytes() == 0; }  // as after a move
  bool holds(const Sizes& sizes) const { return !empty() && sizes_ == sizes; }
  void clear() { sizes_ = {}; }
  std::size_t bytes() const { return memory_.bytes(); }

  // The numbers of one key head, in memory that is valid until the next reserve.
  template <class T>
  T* head(Index key_head) {
    return reinterpret_cast<T*>(memory_.reserve(0)) + key_head * sizes_.rows;
  }
  void reserve(const Sizes& sizes) {
    const Index numbers = detail::checked_product(sizes.key_heads, sizes.rows, "summary");
    memory_.reserve(static_cast<std::size_t>(detail::checked_product(numbers, sizes.scalar_bytes, "summary")));
    sizes_ = sizes;
  }

 private:
  Workspace memory_;
  Sizes sizes_;
};

}  // namespace CSQ_TYPES

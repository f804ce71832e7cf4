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

    CSQ_ALWAYS_INLINE bool operator==(const Sizes& other) const {
      return key_heads == other.key_heads && rows == other.rows && features == other.features &&
             scalar_bytes == other.scalar_bytes;
    }
  };

  CSQ_ALWAYS_INLINE KeptSummary() = default;
  CSQ_ALWAYS_INLINE KeptSummary(KeptSummary&&) noexcept = default;
  CSQ_ALWAYS_INLINE KeptSummary& operator=(KeptSummary&&) noexcept = default;
  CSQ_ALWAYS_INLINE ~KeptSummary() = default;

  CSQ_ALWAYS_INLINE bool empty() const { return sizes_ == Sizes{} || memory_.bytes() == 0; }  // as after a move
  CSQ_ALWAYS_INLINE bool holds(const Sizes& sizes) const { return !empty() && sizes_ == sizes; }
  CSQ_ALWAYS_INLINE void clear() { sizes_ = {}; }
  CSQ_ALWAYS_INLINE std::size_t bytes() const { return memory_.bytes(); }

  // The numbers of one key head, in memory that is valid until the next reserve.
  template <class T>
  CSQ_ALWAYS_INLINE T* head(Index key_head) {
    return reinterpret_cast<T*>(memory_.reserve(0)) + key_head * sizes_.rows;
  }
  CSQ_ALWAYS_INLINE void reserve(const Sizes& sizes) {
    const Index numbers = detail::checked_product(sizes.key_heads, sizes.rows, "summary");
    memory_.reserve(static_cast<std::size_t>(detail::checked_product(numbers, sizes.scalar_bytes, "summary")));
    sizes_ = sizes;
  }

 private:
  Workspace memory_;
  Sizes sizes_;
};

}  // namespace CSQ_TYPES

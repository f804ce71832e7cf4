// The K⊗V summaries that a forward call hands over to backward, which then need not absorb the keys again.
//
// Give the same object to both through Options::summary. A factored forward call without a causal mask fills it, any
// other empties it. A factored backward call reads it if it was made from what that call has: the same k and v (memory,
// sizes and strides), mechanism, scale, centring, key lengths and key history; any other ignores it. That k and v have
// not been written to in between is the caller's word, as it is for the output and the normaliser. It saves
// m·D·(dᵥ+1) of backward's (2g·n + 3m)·D·(dᵥ+1) multiply-adds, and holds D·(dᵥ+1) numbers for every key head.
#pragma once

#include <cstring>
#include <span>
#include <utility>

#include "csq/heads.hpp"
#include "csq/workspace.hpp"

namespace CSQ_TYPES {

/// Holds D·(dᵥ+1) numbers of every key head once a call has filled it: `{.summary = &kept}` forward and backward.
class KeptSummary {
 public:
  /// What the numbers were made from, all of it and nothing derived from it; compared byte by byte, so every member has
  /// 8 bytes.
  struct Origin {
    CSQ_ALWAYS_INLINE Origin() = default;

    const void* key = nullptr;
    const void* value = nullptr;
    Index key_shape[4] = {}, key_stride[4] = {}, value_shape[4] = {}, value_stride[4] = {};
    Index scalar_bytes = 0;         // of the summaries'
    const void* storage = nullptr;  // what type the rows lie in
    Index weight = 0;               // its kind
    double coefficients[3] = {};
    double scale = 0;
    Index centering = 0;
    Index features = 0;  // the gradient of a shift may need more than forward had
  };
  /// The parts of it whose number depends on the call.
  struct KeyRows {
    std::span<const Index> length;
    std::span<const Index> history_count;
    std::span<const double> history_mean;
  };

  CSQ_ALWAYS_INLINE KeptSummary() = default;
  CSQ_ALWAYS_INLINE KeptSummary(KeptSummary&& other) noexcept { *this = std::move(other); }
  CSQ_ALWAYS_INLINE KeptSummary& operator=(KeptSummary&& other) noexcept {
    if (this == &other) return *this;
    memory_ = std::move(other.memory_);
    origin_ = other.origin_;
    for (int i = 0; i < 3; ++i) row_bytes_[i] = other.row_bytes_[i];
    numbers_ = other.numbers_;
    number_bytes_ = other.number_bytes_;
    is_filled_ = std::exchange(other.is_filled_, false);
    return *this;
  }
  CSQ_ALWAYS_INLINE ~KeptSummary() = default;

  CSQ_ALWAYS_INLINE bool empty() const { return !is_filled_; }
  CSQ_ALWAYS_INLINE bool holds(const Origin& origin, const KeyRows& rows) {
    if (!is_filled_ || std::memcmp(&origin_, &origin, sizeof origin) != 0) return false;
    const std::byte* at = memory_.reserve(0) + number_bytes_;
    const void* const data[3] = {rows.length.data(), rows.history_count.data(), rows.history_mean.data()};
    const std::size_t bytes[3] = {rows.length.size_bytes(), rows.history_count.size_bytes(),
                                  rows.history_mean.size_bytes()};
    for (int i = 0; i < 3; ++i) {
      if (bytes[i] != row_bytes_[i] || (bytes[i] > 0 && std::memcmp(at, data[i], bytes[i]) != 0)) return false;
      at += bytes[i];
    }
    return true;
  }
  CSQ_ALWAYS_INLINE void clear() { is_filled_ = false; }
  CSQ_ALWAYS_INLINE std::size_t bytes() const { return memory_.bytes(); }

  /// Memory for `numbers` of each key head, and what they will be made from; empty until `filled` says that they are.
  CSQ_ALWAYS_INLINE void reserve(const Origin& origin, const KeyRows& rows, Index numbers) {
    clear();
    const Index heads = detail::checked_product(origin.key_shape[0], origin.key_shape[1], "summary");
    const Index cells = detail::checked_product(heads, numbers, "summary");
    Index bytes = detail::checked_product(cells, origin.scalar_bytes, "summary");
    bytes = detail::checked_sum(bytes, 8 - bytes % 8, "summary");
    const std::size_t row_bytes[3] = {rows.length.size_bytes(), rows.history_count.size_bytes(),
                                      rows.history_mean.size_bytes()};
    const auto all = static_cast<Index>(row_bytes[0] + row_bytes[1] + row_bytes[2]);
    std::byte* at = memory_.reserve(static_cast<std::size_t>(detail::checked_sum(bytes, all, "summary"))) + bytes;
    const void* const data[3] = {rows.length.data(), rows.history_count.data(), rows.history_mean.data()};
    for (int i = 0; i < 3; ++i) {
      if (row_bytes[i] > 0) std::memcpy(at, data[i], row_bytes[i]);
      at += row_bytes[i];
      row_bytes_[i] = row_bytes[i];
    }
    origin_ = origin;
    numbers_ = numbers;
    number_bytes_ = bytes;
  }
  CSQ_ALWAYS_INLINE void filled() { is_filled_ = true; }

  /// The numbers of one key head, valid until the next reserve.
  template <class T>
  CSQ_ALWAYS_INLINE T* head(Index key_head) {
    return reinterpret_cast<T*>(memory_.reserve(0)) + key_head * numbers_;
  }

 private:
  Workspace memory_;  // numbers of all key heads, key lengths, counts and means of the key history
  Origin origin_;
  std::size_t row_bytes_[3] = {};
  Index numbers_ = 0, number_bytes_ = 0;
  bool is_filled_ = false;
};

}  // namespace CSQ_TYPES

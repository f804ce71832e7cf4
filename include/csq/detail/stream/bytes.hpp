// Numbers as bytes, little-endian on every machine, with a checksum at their end (FNV-1a, 64 bits).
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "csq/detail/base/check.hpp"

namespace CSQ_CODE::detail {

inline std::uint64_t checksum_of(std::span<const std::byte> bytes) {
  std::uint64_t hash = 14695981039346656037u;
  for (const std::byte byte : bytes) hash = (hash ^ std::to_integer<std::uint64_t>(byte)) * 1099511628211u;
  return hash;
}

template <class Number>
using BitsOf = std::conditional_t<sizeof(Number) == 8, std::uint64_t,
                                  std::conditional_t<sizeof(Number) == 4, std::uint32_t, std::uint16_t>>;

class ByteWriter {
 public:
  template <class Number>
  void add(const Number* numbers, Index count) {
    using Bits = BitsOf<Number>;
    const std::size_t first = bytes_.size();
    bytes_.resize(first + static_cast<std::size_t>(count) * sizeof(Number));
    std::byte* to = bytes_.data() + first;
    for (Index i = 0; i < count; ++i, to += sizeof(Number)) {
      const auto bits = std::bit_cast<Bits>(numbers[i]);
      for (std::size_t byte = 0; byte < sizeof(Number); ++byte)
        to[byte] = static_cast<std::byte>((bits >> (8 * byte)) & 0xff);
    }
  }
  template <class Number>
  void add(Number number) {
    add(&number, 1);
  }
  void add_bytes(std::span<const std::byte> bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  std::span<const std::byte> bytes() const { return bytes_; }
  std::vector<std::byte> finish() {
    add(checksum_of(bytes_));
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
};

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <class Number>
  void take(Number* numbers, Index count) {
    using Bits = BitsOf<Number>;
    require(static_cast<std::size_t>(count) <= (bytes_.size() - at_) / sizeof(Number), "load: ends within its numbers");
    const std::byte* from = bytes_.data() + at_;
    at_ += static_cast<std::size_t>(count) * sizeof(Number);
    for (Index i = 0; i < count; ++i, from += sizeof(Number)) {
      Bits bits = 0;
      for (std::size_t byte = 0; byte < sizeof(Number); ++byte)
        bits = static_cast<Bits>(bits | (std::to_integer<Bits>(from[byte]) << (8 * byte)));
      numbers[i] = std::bit_cast<Number>(bits);
    }
  }
  template <class Number>
  Number take() {
    Number number{};
    take(&number, 1);
    return number;
  }
  std::span<const std::byte> take_bytes(std::size_t count) {
    require(count <= left(), "load: ends within its header");
    at_ += count;
    return bytes_.subspan(at_ - count, count);
  }
  std::size_t left() const { return bytes_.size() - at_; }

 private:
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

// What stands before the checksum, if that is right.
inline std::span<const std::byte> checked_body(std::span<const std::byte> bytes) {
  require(bytes.size() > sizeof(std::uint64_t), "load: has ", bytes.size(), " bytes, too few for a state");
  const std::span<const std::byte> body = bytes.first(bytes.size() - sizeof(std::uint64_t));
  require(ByteReader(bytes.subspan(body.size())).take<std::uint64_t>() == checksum_of(body),
          "load: is damaged, or no state of csq");
  return body;
}

}  // namespace CSQ_CODE::detail

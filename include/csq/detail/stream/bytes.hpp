// The state of a stream as bytes, and back: little-endian, the same on every machine.
//
//   "csqstrm1", what the stream is (sizes, type, mechanism, options), then for every entry its positions and numbers,
//   and at the end a checksum of all that stands before (FNV-1a, 64 bits)
//
// A damaged, foreign or truncated file is an error, and the stream stays what it was.
#pragma once

#include <algorithm>
#include <bit>
#include <span>
#include <vector>

#include "csq/detail/stream/advance.hpp"

namespace CSQ_CODE::detail {

inline std::uint64_t stream_checksum(std::span<const std::byte> bytes) {
  std::uint64_t hash = 14695981039346656037u;
  for (const std::byte byte : bytes) hash = (hash ^ std::to_integer<std::uint64_t>(byte)) * 1099511628211u;
  return hash;
}

template <class Number>
using BitsOf = std::conditional_t<sizeof(Number) == 8, std::uint64_t, std::uint32_t>;

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
    add(stream_checksum(bytes_));
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

// What a stream is: the same for two of them exactly if one can go on from the other's state.
template <class T>
std::vector<std::byte> stream_identity(const StreamPlan& plan, const StreamSizes& s) {
  ByteWriter writer;
  writer.add_bytes(std::as_bytes(std::span("csqstrm1", 8)));
  for (const Index number :
       {static_cast<Index>(sizeof(T)), s.batch, s.heads, s.kv_heads, s.key_dim, s.value_dim, s.rollback, s.absorbed,
        s.window, static_cast<Index>(s.gated), static_cast<Index>(plan.centering), static_cast<Index>(plan.weight.kind),
        static_cast<Index>(plan.exponent), s.map.size(), static_cast<Index>(plan.weight.coefficients.size()),
        static_cast<Index>(plan.sink.size())})
    writer.add(number);
  const Quadratic& c = plan.weight.quadratic;
  for (const double number : {plan.scale, plan.soft_cap, plan.weight.radius, plan.weight.floor, c.c0, c.c1, c.c2})
    writer.add(number);
  writer.add(plan.weight.coefficients.data(), static_cast<Index>(plan.weight.coefficients.size()));
  writer.add(plan.sink.data(), static_cast<Index>(plan.sink.size()));
  return {writer.bytes().begin(), writer.bytes().end()};
}

template <class T>
std::vector<std::byte> save_stream(const StreamPlan& plan, const StreamState<T>& state) {
  ByteWriter writer;
  writer.add_bytes(stream_identity<T>(plan, state.sizes()));
  for (Index e = 0; e < state.sizes().batch; ++e) {
    writer.add(state.at(e).tokens);
    writer.add(state.at(e).floor);
    state.for_each_part(e, [&](const auto* numbers, Index count) { writer.add(numbers, count); });
  }
  return writer.finish();
}

// The state that the bytes hold, for a stream of these sizes. What they claim is not believed before there are as many
// bytes as it takes: the checksum finds damage, not intent.
template <class T>
StreamState<T> load_stream(std::span<const std::byte> bytes, const StreamPlan& plan, const StreamSizes& sizes) {
  require(bytes.size() > sizeof(std::uint64_t), "load: has ", bytes.size(), " bytes, too few for a state");
  const std::span<const std::byte> body = bytes.first(bytes.size() - sizeof(std::uint64_t));
  require(ByteReader(bytes.subspan(body.size())).take<std::uint64_t>() == stream_checksum(body),
          "load: is damaged, or no state of a stream");
  ByteReader reader(body);
  const std::vector<std::byte> identity = stream_identity<T>(plan, sizes);
  const std::span<const std::byte> other = reader.take_bytes(identity.size());
  require(std::equal(identity.begin(), identity.end(), other.begin()),
          "load: is the state of a stream of other sizes, type, mechanism or options");
  StreamState<T> loaded(sizes);
  for (Index e = 0; e < sizes.batch; ++e) {
    StreamPosition position;
    position.tokens = reader.take<Index>();
    position.floor = reader.take<Index>();
    require(position.floor >= 0 && position.tokens >= position.floor && position.tokens <= largest_size &&
                position.tokens - position.floor <= sizes.rollback,
            "load: entry ", e, " has seen ", position.tokens, " tokens and can go back to ", position.floor);
    const Index taken =
        checked_sum(checked_product(loaded.numbers_at(position), static_cast<Index>(sizeof(T)), "load"),
                    checked_product(loaded.sums_at(position), static_cast<Index>(sizeof(double)), "load"), "load");
    require(taken <= static_cast<Index>(reader.left()), "load: entry ", e, " of ", position.tokens, " tokens takes ",
            taken, " bytes but ", reader.left(), " are left");
    position.base = sizes.first_needed(position.floor);
    loaded.grow_to(position.tokens - position.base);
    loaded.at(e) = position;
    loaded.for_each_part(e, [&](auto* numbers, Index count) { reader.take(numbers, count); });
  }
  require(reader.left() == 0, "load: goes on behind its state");
  return loaded;
}

}  // namespace CSQ_CODE::detail

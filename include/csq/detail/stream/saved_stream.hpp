// The state of a stream as bytes, and back: little-endian, the same on every machine.
//
//   "csqstrm1", what the stream is (sizes, type, mechanism, options), then for every entry its positions and numbers,
//   and at the end a checksum of all that stands before
//
// A damaged, foreign or truncated file is an error, and the stream stays what it was.
#pragma once

#include <algorithm>

#include "csq/detail/stream/advance.hpp"
#include "csq/detail/stream/bytes.hpp"

namespace CSQ_CODE::detail {

// What a stream is: the same for two of them exactly if one can go on from the other's state.
template <class T>
std::vector<std::byte> stream_identity(const StreamPlan& plan, const StreamSizes& s, const Storage<T>* storage) {
  ByteWriter writer;
  writer.add_bytes(std::as_bytes(std::span("csqstrm1", 8)));
  for (const Index number : {type_code(storage), s.batch, s.heads, s.kv_heads, s.key_dim, s.value_dim, s.rollback,
                             s.absorbed, s.window, static_cast<Index>(s.gated), static_cast<Index>(plan.centering),
                             static_cast<Index>(plan.weight.kind), static_cast<Index>(plan.exponent), s.map.size(),
                             static_cast<Index>(plan.weight.coefficients.size()), static_cast<Index>(plan.sink.size())})
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
  writer.add_bytes(stream_identity<T>(plan, state.sizes(), state.storage()));
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
StreamState<T> load_stream(std::span<const std::byte> bytes, const StreamPlan& plan, const StreamSizes& sizes,
                           const Storage<T>* storage) {
  const std::span<const std::byte> body = checked_body(bytes);
  ByteReader reader(body);
  const std::vector<std::byte> identity = stream_identity<T>(plan, sizes, storage);
  const std::span<const std::byte> other = reader.take_bytes(identity.size());
  require(std::equal(identity.begin(), identity.end(), other.begin()),
          "load: is the state of a stream of other sizes, type, mechanism or options");
  StreamState<T> loaded(sizes, storage);
  for (Index e = 0; e < sizes.batch; ++e) {
    StreamPosition position;
    position.tokens = reader.take<Index>();
    position.floor = reader.take<Index>();
    require(position.floor >= 0 && position.tokens >= position.floor && position.tokens <= largest_size &&
                position.tokens - position.floor <= sizes.rollback,
            "load: entry ", e, " has seen ", position.tokens, " tokens and can go back to ", position.floor);
    const Index taken =
        checked_sum(loaded.number_bytes_at(position),
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

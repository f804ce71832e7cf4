// What one call asks for, as the cost model and the plan see it: its sizes, and how much of them each entry of the
// batch fills.
#pragma once

#include <span>
#include <string_view>

#include "csq/detail/base/parallel.hpp"
#include "csq/detail/call/visibility.hpp"
#include "csq/options.hpp"
#include "csq/shape.hpp"

namespace CSQ_CODE::detail {

// Queries and keys that exist.
struct Extent {
  Index queries = 0;
  Index keys = 0;
};

struct Workload {
  Shape shape;                                      // kv_heads resolved
  std::span<const Index> key_length, query_length;  // [batch], or empty: all
  Index window = 0;
  bool is_plain = true;               // without window, sink, cap, bias and gates
  const char* direct_only = nullptr;  // an option that only direct has, by name
  Index ahead = 0;                    // of a piece: visibility.hpp

  Extent whole() const { return {shape.queries, shape.keys}; }
  Extent entry(Index batch) const {
    const auto index = static_cast<std::size_t>(batch);
    return {query_length.empty() ? shape.queries : query_length[index],
            key_length.empty() ? shape.keys : key_length[index]};
  }
  bool has_lengths() const { return !key_length.empty() || !query_length.empty(); }
  // What no entry exceeds.
  Extent longest() const {
    if (!has_lengths()) return whole();
    Extent result;
    for (Index b = 0; b < shape.batch; ++b) {
      result.queries = larger(result.queries, entry(b).queries);
      result.keys = larger(result.keys, entry(b).keys);
    }
    return result;
  }
  // Σ over the batch of what an entry costs.
  template <class Cost>
  double sum(const Cost& cost_of) const {
    if (!has_lengths()) return static_cast<double>(shape.batch) * cost_of(whole());
    double total = 0;
    for (Index b = 0; b < shape.batch; ++b) total += cost_of(entry(b));
    return total;
  }
  Visibility visibility() const { return {shape.queries, shape.keys, shape.causal, window, ahead}; }
};

inline void check_lengths(std::string_view name, std::span<const Index> lengths, Index batch, Index tokens) {
  if (lengths.empty()) return;
  require(static_cast<Index>(lengths.size()) == batch, name, ": has ", lengths.size(), " entries but the batch is ",
          batch);
  for (std::size_t b = 0; b < lengths.size(); ++b)
    require(lengths[b] >= 0 && lengths[b] <= tokens, name, ": entry ", b, " is ", lengths[b],
            " but must be between 0 and ", tokens);
}

// One that hides nothing is none.
inline Index checked_window(Index window, Index queries, Index keys) {
  require(window >= 0, "window: is ", window, " but must not be negative");
  return window >= larger(queries, keys) ? 0 : window;
}

// The first of the options that only direct has.
inline const char* direct_only(const Options& options, Index heads, Index kv_heads) {
  if (options.window != 0) return "window";
  if (!options.sink.empty()) return "sink";
  if (options.soft_cap != 0) return "soft_cap";
  if (options.bias.given()) return "bias";
  if (options.log_gate.given() && options.log_gate.shape[1] == heads && heads != kv_heads)
    return "log_gate of query heads";
  return nullptr;
}

// Beyond this a count of tokens is not exact in double, in which costs are counted.
inline constexpr Index largest_size = Index{1} << 53;

// A shape that can be, its key heads resolved.
inline Shape checked_shape(Shape shape) {
  const auto check_size = [](const char* name, Index value, Index least) {
    require(value >= least, "shape: ", name, " is ", value, " but must be at least ", least);
    require(value <= largest_size, "shape: ", name, " is ", value, " but must be at most ", largest_size);
  };
  check_size("queries", shape.queries, 0);
  check_size("keys", shape.keys, 0);
  check_size("key_dim", shape.key_dim, 1);
  check_size("value_dim", shape.value_dim, 1);
  check_size("batch", shape.batch, 0);
  check_size("heads", shape.heads, 1);
  check_size("kv_heads", shape.kv_heads, 0);
  if (shape.kv_heads == 0) shape.kv_heads = shape.heads;
  require(shape.heads % shape.kv_heads == 0, "shape: heads is ", shape.heads, ", not a multiple of kv_heads, ",
          shape.kv_heads);
  return shape;
}

inline Threads threads_of(const Options& options) { return {options.threads, options.executor}; }

// The work of a call with these sizes; a mask may be asked for in either place.
inline Workload workload_of(const Shape& shape, const Options& options) {
  require(options.query_offsets.empty() && options.key_offsets.empty(),
          "query_offsets: what a shape costs is asked for each sequence by itself");
  Workload work{checked_shape(shape), options.key_length, options.query_length};
  work.window = checked_window(options.window, work.shape.queries, work.shape.keys);
  work.direct_only = direct_only(options, work.shape.heads, work.shape.kv_heads);
  work.is_plain = work.window == 0 && options.sink.empty() && options.soft_cap == 0 && !options.bias.given() &&
                  !options.log_gate.given();
  work.shape.causal = shape.causal || options.causal;
  check_lengths("key_length", work.key_length, work.shape.batch, work.shape.keys);
  check_lengths("query_length", work.query_length, work.shape.batch, work.shape.queries);
  require(options.chunk >= 0, "chunk: is ", options.chunk, " but must not be negative");
  check_threads(threads_of(options));
  return work;
}

}  // namespace CSQ_CODE::detail

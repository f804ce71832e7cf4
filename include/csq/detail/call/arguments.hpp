// Checks one call, and turns its arguments into a Problem. Nothing is written before every check has passed.
#pragma once

#include <string_view>

#include "csq/detail/call/axes.hpp"
#include "csq/detail/call/overlap.hpp"
#include "csq/detail/call/problem.hpp"

namespace CSQ_CODE::detail {

inline void check_history(std::string_view name, const History* history, Centering centering, Index batch, Index heads,
                          Index dim) {
  if (history == nullptr) return;
  require(centering == Centering::prefix || centering == Centering::prefix_exclusive, name,
          ": only the centrings prefix and prefix_exclusive continue a history");
  require(static_cast<Index>(history->count.size()) == batch, name, ": count has ", history->count.size(),
          " entries but the batch is ", batch);
  const Index numbers = checked_product(checked_product(batch, heads, name), dim, name);
  require(static_cast<Index>(history->mean.size()) == numbers, name, ": mean has ", history->mean.size(),
          " entries but batch ", batch, " times heads ", heads, " times dim ", dim, " is ", numbers);
  for (std::size_t b = 0; b < history->count.size(); ++b)
    require(history->count[b] >= 0, name, ": count ", b, " is ", history->count[b], " but must not be negative");
  for (std::size_t i = 0; i < history->mean.size(); ++i)
    require(is_finite(history->mean[i]), name, ": mean ", i, " of ", numbers, " is not finite");
}

// The histories of a causal call agree with where its queries stand.
inline void check_history_positions(const Visibility& visibility, const History* query, const History* key,
                                    Index batch) {
  if (!visibility.causal || (query == nullptr && key == nullptr)) return;
  for (std::size_t b = 0; b < static_cast<std::size_t>(batch); ++b) {
    const Index queries = query == nullptr ? 0 : query->count[b], keys = key == nullptr ? 0 : key->count[b];
    require(queries - keys == visibility.offset(), query == nullptr ? "key_history" : "query_history", ": entry ", b,
            " has ", queries, " queries and ", keys, " keys before this call of ", visibility.queries, " queries and ",
            visibility.keys, " keys; under a causal mask the difference must be ", visibility.offset());
  }
}

// A single query that `sequence` would make zero, without having been asked for.
template <class T>
void check_single_queries(const Problem<T>& p) {
  for (Index b = 0; b < p.query.batch(); ++b)
    require(p.real_queries(b) != 1 || p.visible_keys(b) <= 1, "centering: entry ", b, " has 1 query and ",
            p.visible_keys(b),
            " keys; the centring `sequence`, which automatic means here, would make the query zero and the output the "
            "mean of v. For a step of a causal sequence set causal and query_history, for a query that stands for "
            "itself Centering::none, or ask for Centering::sequence by name");
}

// The sizes of q, k and v agree with each other.
template <class T>
void check_inputs(const Problem<T>& p) {
  check_heads("q", p.query);
  check_heads("k", p.key);
  check_heads("v", p.value);
  require(p.query.heads() >= 1 && p.key.heads() >= 1, "heads: q has ", p.query.heads(), " and k has ", p.key.heads(),
          " but both need at least one");
  require(p.query.dim() >= 1, "q: dim is ", p.query.dim(), " but must be at least 1");
  require(p.value.dim() >= 1, "v: dim is ", p.value.dim(), " but must be at least 1");
  require(p.key.batch() == p.query.batch(), "k: batch is ", p.key.batch(), " but q has ", p.query.batch());
  require(p.value.batch() == p.query.batch(), "v: batch is ", p.value.batch(), " but q has ", p.query.batch());
  require(p.key.dim() == p.query.dim(), "k: dim is ", p.key.dim(), " but q has ", p.query.dim());
  require(p.value.heads() == p.key.heads(), "v: heads is ", p.value.heads(), " but k has ", p.key.heads());
  require(p.value.tokens() == p.key.tokens(), "v: tokens is ", p.value.tokens(), " but k has ", p.key.tokens());
  require(p.query.heads() % p.key.heads() == 0, "q: heads is ", p.query.heads(), ", not a multiple of the ",
          p.key.heads(), " heads of k");
}

template <class T>
void check_output(const Problem<T>& p) {
  check_heads("out", p.output);
  const auto& q = p.query.shape;
  const auto& o = p.output.shape;
  require(o[0] == q[0] && o[1] == q[1] && o[2] == q[2] && o[3] == p.value.dim(), "out: shape is [", o[0], ", ", o[1],
          ", ", o[2], ", ", o[3], "] but must be [", q[0], ", ", q[1], ", ", q[2], ", ", p.value.dim(), "]");
  check_no_self_overlap("out", p.output);
}

template <class T>
void check_normalizer(const Problem<T>& p) {
  check_heads("normalizer", p.normalizer);
  const auto& q = p.query.shape;
  const auto& z = p.normalizer.shape;
  require(z[0] == q[0] && z[1] == q[1] && z[2] == q[2] && z[3] == 1, "normalizer: shape is [", z[0], ", ", z[1], ", ",
          z[2], ", ", z[3], "] but must be [", q[0], ", ", q[1], ", ", q[2], ", 1]");
  check_no_self_overlap("normalizer", p.normalizer);
}

// The arrays that options hold, once they are resolved: an engine reads them while it writes.
template <class T>
void check_apart_from_views(std::span<const Footprint> outputs, const Problem<T>& problem) {
  const Footprint views[] = {footprint("log_gate", problem.log_gate), footprint("bias", problem.bias)};
  for (const Footprint& output : outputs)
    for (const Footprint& view : views) check_apart(output, view);
}

// And their numbers.
template <class T>
void check_apart_from_options(std::span<const Footprint> outputs, const Options& options) {
  const auto check_numbers = [&](std::string_view name, const auto* data, std::size_t count) {
    if (count == 0) return;
    const Footprint numbers = footprint_of<T>(name, data, count);
    for (const Footprint& output : outputs) check_apart(output, numbers);
  };
  check_numbers("key_length", options.key_length.data(), options.key_length.size());
  check_numbers("query_length", options.query_length.data(), options.query_length.size());
  for (const History* history : {options.query_history, options.key_history}) {
    if (history == nullptr) continue;
    const char* name = history == options.query_history ? "query_history" : "key_history";
    check_numbers(name, history->count.data(), history->count.size());
    check_numbers(name, history->mean.data(), history->mean.size());
  }
  check_numbers("sink", options.sink.data(), options.sink.size());
}

// An array that an option holds, of the call's type and of that shape.
template <class T>
Heads<const T> resolve_view(std::string_view name, const Options::View& view, const AxisSizes& shape) {
  require(view.scalar_bytes == sizeof(T), name, ": has elements of ", view.scalar_bytes, " bytes but the call's have ",
          sizeof(T));
  const auto& s = view.shape;
  require(s == shape, name, ": shape is [", s[0], ", ", s[1], ", ", s[2], ", ", s[3], "] but must be [", shape[0], ", ",
          shape[1], ", ", shape[2], ", ", shape[3], "]");
  const Heads<const T> heads(static_cast<const T*>(view.data), view.shape, view.stride);
  check_heads(name, heads);
  return normalized(heads);
}

// Window, sink, cap, bias and gates.
template <class T>
void resolve_adjustments(Problem<T>& problem, const Options& options) {
  const Index batch = problem.query.batch(), heads = problem.query.heads(), kv_heads = problem.key.heads();
  const Index n = problem.queries(), m = problem.keys();
  problem.window = checked_window(options.window, n, m);
  problem.direct_only = direct_only(options, heads, kv_heads);
  const bool softmax = problem.weight.kind == Weight::Kind::exponential;
  if (!options.sink.empty()) {
    require(softmax, "sink: only Softmax has one");
    require(static_cast<Index>(options.sink.size()) == heads, "sink: has ", options.sink.size(), " numbers but q has ",
            heads, " heads");
    for (std::size_t h = 0; h < options.sink.size(); ++h)
      require(is_finite(options.sink[h]) || is_minus_infinity(options.sink[h]), "sink: number ", h,
              " is neither finite nor -infinity");
    problem.sink = options.sink;
  }
  if (options.soft_cap != 0) {
    require(softmax, "soft_cap: only Softmax has one");
    require(is_finite(options.soft_cap) && options.soft_cap > 0, "soft_cap: is ", options.soft_cap,
            " but must be positive and finite, or 0 for none");
    // A cap that no score of T comes near is none, and in units of ln 2 it would be no number.
    const bool is_any = options.soft_cap < static_cast<double>((std::numeric_limits<T>::max)()) / 4;
    problem.soft_cap = is_any ? options.soft_cap : 0;
  }
  if (options.bias.given()) {
    require(softmax, "bias: only Softmax has one");
    problem.bias = resolve_view<T>("bias", options.bias, {batch, heads, n, m});
  }
  if (options.log_gate.given()) {
    require(problem.causal, "log_gate: gates need a causal mask");
    const Index gates = options.log_gate.shape[1];
    require(gates == kv_heads || gates == heads, "log_gate: has ", gates, " heads but k has ", kv_heads, " and q ",
            heads);
    problem.log_gate = resolve_view<T>("log_gate", options.log_gate, {batch, gates, m, 1});
  }
}

// Resolves centring, scale and lengths into `problem`, whose arrays and weight are set. `automatic` is the mechanism's
// own centring.
template <class T>
void resolve_options(Problem<T>& problem, const Options& options, Centering automatic) {
  const Index n = problem.queries(), m = problem.keys();
  require(options.query_offsets.empty() && options.key_offsets.empty(),
          "query_offsets: only attention and its gradient take packed sequences");
  problem.causal = options.causal;
  problem.centering = options.centering == Centering::automatic ? automatic : options.centering;
  if (options.scale.has_value()) {
    require(problem.weight.kind != Weight::Kind::feature_product, "scale: Linear takes none but got ", *options.scale);
    require(is_finite(*options.scale), "scale: is ", *options.scale, " but must be finite");
  }
  problem.scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(problem.key_dim())));
  check_lengths("key_length", options.key_length, problem.query.batch(), m);
  check_lengths("query_length", options.query_length, problem.query.batch(), n);
  resolve_adjustments(problem, options);
  problem.key_length = options.key_length;
  problem.query_length = options.query_length;
  check_history("query_history", options.query_history, problem.centering, problem.query.batch(), problem.query.heads(),
                problem.key_dim());
  check_history("key_history", options.key_history, problem.centering, problem.key.batch(), problem.key.heads(),
                problem.key_dim());
  check_history_positions(problem.visibility(), options.query_history, options.key_history, problem.query.batch());
  if (options.centering == Centering::automatic && automatic == Centering::sequence) check_single_queries(problem);
  const bool is_prefix = problem.centering == Centering::prefix || problem.centering == Centering::prefix_exclusive;
  require(!is_prefix || !options.causal || n >= m || options.query_history != nullptr,
          "query_history: causal prefix centring with ", n, " queries and ", m,
          " keys needs the mean of the earlier queries; without it the mean would restart at the first query of this "
          "call (or choose another centering)");
  problem.query_history = options.query_history;
  problem.key_history = options.key_history;
  require(options.chunk >= 0, "chunk: is ", options.chunk, " but must not be negative");
  check_threads(threads_of(options));
  problem.summary = options.summary;
  check_scratch_fits(workload_of(problem), problem.weight);
}

// The problem that a call with these sizes would be, without memory: what lays scratch out reads no more of it.
template <class T, class Mechanism>
Problem<T> problem_of_sizes(const Mechanism& mechanism, const Shape& sizes, const Options& options) {
  const Workload work = workload_of(sizes, options);
  const Shape& shape = work.shape;
  Problem<T> problem;
  problem.weight = weight_of(mechanism);
  problem.query.shape = {shape.batch, shape.heads, shape.queries, shape.key_dim};
  problem.key.shape = {shape.batch, shape.kv_heads, shape.keys, shape.key_dim};
  problem.value.shape = {shape.batch, shape.kv_heads, shape.keys, shape.value_dim};
  problem.causal = shape.causal;
  problem.window = work.window;
  problem.direct_only = work.direct_only;
  problem.sink = options.sink;
  problem.soft_cap = options.soft_cap;
  // Of their sizes alone scratch is laid out.
  if (options.bias.given()) problem.bias.shape = {shape.batch, shape.heads, shape.queries, shape.keys};
  if (options.log_gate.given()) problem.log_gate.shape = {shape.batch, options.log_gate.shape[1], shape.keys, 1};
  problem.centering =
      options.centering == Centering::automatic ? default_centering<Mechanism>(shape.causal) : options.centering;
  problem.key_length = work.key_length;
  problem.query_length = work.query_length;
  check_scratch_fits(work, problem.weight);
  return problem;
}

}  // namespace CSQ_CODE::detail

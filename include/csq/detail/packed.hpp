// Packed sequences: the rows of all of them one after another in each array of batch 1, sequence s at
// [offsets[s], offsets[s + 1]), as flash_attn_varlen_func takes them.
//
// Each is a call of its own on views of its rows, so its results are those that it has apart, to the bit; centring,
// gates and the causal alignment start anew with it. Long ones are served by all threads together, the others side by
// side, a thread each, the longest first: by visible pairs, not by their number. Which is which shows in no result.
// Cost: the sum over the sequences; scratch of the longest for every thread.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>
#include <utility>

#include "csq/detail/engine.hpp"

namespace CSQ_CODE::detail {

inline bool is_packed(const Options& options) { return !options.query_offsets.empty() || !options.key_offsets.empty(); }

inline void check_offsets(std::string_view name, std::span<const Index> offsets, Index tokens) {
  require(!offsets.empty(), name, ": is missing; packed sequences need query_offsets and key_offsets");
  require(offsets.front() == 0, name, ": begins with ", offsets.front(), " but must begin with 0");
  for (std::size_t s = 1; s < offsets.size(); ++s)
    require(offsets[s] >= offsets[s - 1], name, ": entry ", s, " is ", offsets[s], ", less than ", offsets[s - 1],
            " before it");
  require(offsets.back() == tokens, name, ": ends with ", offsets.back(), " but there are ", tokens, " tokens");
}

// The arrays' own shapes are checked already.
template <class T>
void check_packed(const Problem<T>& whole, const Options& options) {
  require(whole.query.batch() == 1, "query_offsets: packed sequences have a batch of 1, not ", whole.query.batch());
  check_offsets("query_offsets", options.query_offsets, whole.queries());
  check_offsets("key_offsets", options.key_offsets, whole.keys());
  require(options.query_offsets.size() == options.key_offsets.size(), "key_offsets: has ", options.key_offsets.size(),
          " entries but query_offsets ", options.query_offsets.size());
  require(options.query_length.empty() && options.key_length.empty(),
          "query_offsets: packed sequences take no query_length and key_length");
  require(options.query_history == nullptr && options.key_history == nullptr,
          "query_offsets: packed sequences take no query_history and key_history");
  require(!options.bias.given(), "query_offsets: packed sequences take no bias");
}

// The gates of all sequences, and what outputs may not overlap.
template <class T>
void check_packed_views(std::span<const Footprint> outputs, Problem<T>& whole, const Options& options) {
  if (options.log_gate.given())
    whole.log_gate = resolve_view<T>("log_gate", options.log_gate, {1, options.log_gate.shape[1], whole.keys(), 1});
  for (const auto& [name, offsets] :
       {std::pair{"query_offsets", options.query_offsets}, std::pair{"key_offsets", options.key_offsets}})
    for (const Footprint& output : outputs) check_apart(output, footprint_of<T>(name, offsets.data(), offsets.size()));
  check_apart_from_views<T>(outputs, whole);
}
template <class T>
void check_packed_gradients(const BackwardProblem<T>& whole, const Options& options) {
  const Heads<T>& gate = whole.gradients.log_gate;
  if (gate.data == nullptr && gate.heads() == 0) return;
  require(options.log_gate.given(), "dlog_gate: the options have no log_gate");
  check_shape_like("dlog_gate", gate, "log_gate", whole.forward.log_gate);
}

// Rows of one sequence.
struct PackedRows {
  Index first = 0, count = 0;

  PackedRows() = default;
  PackedRows(std::span<const Index> offsets, Index sequence)
      : first(offsets[static_cast<std::size_t>(sequence)]),
        count(offsets[static_cast<std::size_t>(sequence) + 1] - first) {}

  template <class T>
  StoredHeads<T> of(StoredHeads<T> all) const {
    if (all.data != nullptr && count > 0) all.data = moved(all.data, first * all.stride[2], all.storage);
    all.shape[2] = count;
    return normalized(all);
  }
  template <class T>
  Heads<T> of(const Heads<T>& all) const {
    const StoredHeads<T> own = of(StoredHeads<T>(all));
    return {own.data, own.shape, own.stride};
  }
};

// The options of one sequence, served by so many threads.
template <class T>
Options packed_options(const Options& options, const PackedRows& keys, int threads) {
  Options own = options;
  own.query_offsets = own.key_offsets = {};
  own.threads = threads;
  own.workspace = nullptr;
  own.summary = nullptr;
  if (!own.log_gate.given()) return own;
  if (own.log_gate.data != nullptr && keys.count > 0)
    own.log_gate.data = static_cast<const T*>(own.log_gate.data) + keys.first * own.log_gate.stride[2];
  own.log_gate.shape[2] = keys.count;
  return own;
}

// The sequences of a forward call: sequence(s, threads) is the checked call of one.
template <class T>
struct PackedForward {
  using Call = Problem<T>;

  const Problem<T>& whole;
  const Options& options;
  Centering automatic;

  Index count() const { return static_cast<Index>(options.query_offsets.size()) - 1; }
  PackedRows queries(Index s) const { return {options.query_offsets, s}; }
  PackedRows keys(Index s) const { return {options.key_offsets, s}; }
  // Multiply-adds of the direct method: how sequences are dealt out.
  double work(Index s) const {
    const Index n = queries(s).count, m = keys(s).count;
    const Visibility sees{n, m, options.causal, checked_window(options.window, n, m)};
    return sees.pairs(n, m) * static_cast<double>(whole.query.heads()) *
           static_cast<double>(whole.key_dim() + whole.value_dim());
  }
  Problem<T> sequence(Index s, int threads) const {
    const PackedRows q = queries(s), k = keys(s);
    Problem<T> one;
    one.weight = whole.weight;
    one.query = q.of(whole.query);
    one.key = k.of(whole.key);
    one.value = k.of(whole.value);
    one.output = q.of(whole.output);
    one.normalizer = q.of(whole.normalizer);
    const Options own = packed_options<T>(options, k, threads);
    resolve_options(one, own, automatic);
    make_plan(one, own);
    return one;
  }
  void begin() const {
    if (options.summary != nullptr) options.summary->clear();
  }
  // Where there is no sequence whose call would.
  void check_options() const {
    Problem<T> one = whole;
    resolve_options(one, packed_options<T>(options, PackedRows(), 1), automatic);
  }
  bool is_empty(const Problem<T>& one) const { return one.output.empty(); }
  Index term_count() const { return 0; }
  void place_terms(Index, double*, Problem<T>&) const {}
  void sum_terms(const double*) const {}
};

// The same backward. The gradients of the shift and of the sinks are summed over the sequences, in their order.
template <class T>
struct PackedBackward {
  using Call = BackwardProblem<T>;

  const BackwardProblem<T>& whole;
  const Options& options;
  Centering automatic;

  PackedForward<T> forward() const { return {whole.forward, options, automatic}; }
  Index count() const { return forward().count(); }
  double work(Index s) const { return forward().work(s); }
  BackwardProblem<T> sequence(Index s, int threads) const {
    const PackedRows q = forward().queries(s), k = forward().keys(s);
    BackwardProblem<T> one;
    one.forward.weight = whole.forward.weight;
    one.forward.query = q.of(whole.forward.query);
    one.forward.key = k.of(whole.forward.key);
    one.forward.value = k.of(whole.forward.value);
    one.output = q.of(whole.output);
    one.normalizer = q.of(whole.normalizer);
    one.output_gradient = q.of(whole.output_gradient);
    one.matrix = whole.matrix;
    one.gradients.query = q.of(whole.gradients.query);
    one.gradients.key = k.of(whole.gradients.key);
    one.gradients.value = k.of(whole.gradients.value);
    if (whole.gradients.log_gate.heads() > 0) one.gradients.log_gate = k.of(whole.gradients.log_gate);
    one.gradients.shift = whole.gradients.shift;  // a place of its own when it is run
    one.gradients.sink = whole.gradients.sink;
    one.shift_rate = whole.shift_rate;
    const Options own = packed_options<T>(options, k, threads);
    resolve_options(one.forward, own, automatic);
    check_gradients_of_options(one);
    make_plan(one, own);
    return one;
  }
  void begin() const {}
  void check_options() const { forward().check_options(); }
  bool is_empty(const BackwardProblem<T>&) const { return false; }

  Index sinks() const { return static_cast<Index>(whole.gradients.sink.size()); }
  Index term_count() const { return 1 + sinks(); }
  void place_terms(Index s, double* terms, BackwardProblem<T>& one) const {
    double* const mine = terms + s * term_count();
    if (one.gradients.shift != nullptr) one.gradients.shift = mine;
    if (sinks() > 0) one.gradients.sink = {mine + 1, static_cast<std::size_t>(sinks())};
  }
  void sum_terms(const double* terms) const {
    const auto sum = [&](Index term) {
      double total = 0;
      for (Index s = 0; s < count(); ++s) total += terms[s * term_count() + term];
      return total;
    };
    if (whole.gradients.shift != nullptr) *whole.gradients.shift = sum(0);
    for (Index h = 0; h < sinks(); ++h) whole.gradients.sink[static_cast<std::size_t>(h)] = sum(1 + h);
  }
};

// How the sequences are dealt out, and the scratch that they take.
struct PackedPlan {
  Threads threads;
  double long_from = 0;  // work of a sequence that all threads serve together
  std::size_t long_bytes = 0, short_bytes = 0;
  Index short_count = 0;

  bool is_long(double work) const { return threads == 1 || work >= long_from; }
  std::size_t scratch_bytes() const {
    return larger(long_bytes, short_bytes * static_cast<std::size_t>(short_count > 0 ? threads : 0));
  }
};

// Checks every sequence on the way: nothing has been written yet.
template <class Sequences>
PackedPlan plan_packed(const Sequences& sequences, const Options& options) {
  constexpr double shares = 8;  // a thread's share is in as many parts at least, so that the last ones cost little
  PackedPlan plan;
  double total = 0;
  for (Index s = 0; s < sequences.count(); ++s) total += sequences.work(s);
  plan.threads = threads_for_work(total, threads_of(options));
  plan.long_from = total / (shares * plan.threads);
  for (Index s = 0; s < sequences.count(); ++s) {
    const bool is_long = plan.is_long(sequences.work(s));
    const std::size_t bytes = scratch_bytes(sequences.sequence(s, is_long ? options.threads : 1));
    std::size_t& most = is_long ? plan.long_bytes : plan.short_bytes;
    most = larger(most, bytes);
    plan.short_count += is_long ? 0 : 1;
  }
  return plan;
}

// Where the sequences that are served side by side stand in line, the terms that are summed over all, and their
// scratch.
struct PackedScratch {
  Index* line = nullptr;
  double* terms = nullptr;
  std::byte* scratch = nullptr;

  static PackedScratch lay_out(Arena& arena, const PackedPlan& plan, Index sequences, Index term_count) {
    PackedScratch result;
    result.line = arena.take<Index>(plan.short_count);
    result.terms = arena.take<double>(checked_product(sequences, term_count, "workspace"));
    result.scratch = arena.take<std::byte>(static_cast<Index>(plan.scratch_bytes()));
    return result;
  }
};

template <class Sequences>
std::size_t packed_bytes(const Sequences& sequences, const PackedPlan& plan) {
  Arena counter;
  PackedScratch::lay_out(counter, plan, sequences.count(), sequences.term_count());
  return counter.bytes();
}

template <class Sequences>
void run_packed(const Sequences& sequences, const Options& options) {
  const PackedPlan plan = plan_packed(sequences, options);
  if (sequences.count() == 0) sequences.check_options();
  simd::chosen_target();  // a CSQ_SIMD that cannot be is an error here, not in a parallel region
  Workspace local;
  Workspace& workspace = options.workspace != nullptr ? *options.workspace : local;
  Arena arena(workspace.reserve(packed_bytes(sequences, plan)));
  const PackedScratch scratch = PackedScratch::lay_out(arena, plan, sequences.count(), sequences.term_count());

  sequences.begin();
  const auto serve = [&](Index s, int threads, std::byte* memory) {
    auto one = sequences.sequence(s, threads);
    sequences.place_terms(s, scratch.terms, one);
    Arena mine(memory);
    if (!sequences.is_empty(one)) run_in(mine, one);
  };
  // By the power of two of their work: as good as sorted, since no share is larger than an eighth of a thread's.
  constexpr std::size_t powers = 64;
  const auto power_of = [&](Index s) {
    return static_cast<std::size_t>(std::clamp(std::ilogb(sequences.work(s) + 1), 0, static_cast<int>(powers) - 1));
  };
  Index behind[powers + 1] = {};  // sequences of larger powers
  for (Index s = 0; s < sequences.count(); ++s)
    if (!plan.is_long(sequences.work(s)))
      for (std::size_t power = 0; power < power_of(s); ++power) ++behind[power];
  for (Index s = 0; s < sequences.count(); ++s)
    if (plan.is_long(sequences.work(s)))
      serve(s, options.threads, scratch.scratch);
    else
      scratch.line[behind[power_of(s)]++] = s;
  const Index waiting = plan.short_count;
  parallel_for(waiting, plan.threads, [&](Index task, int thread) {
    serve(scratch.line[task], 1, scratch.scratch + static_cast<std::size_t>(thread) * plan.short_bytes);
  });
  sequences.sum_terms(scratch.terms);
}

}  // namespace CSQ_CODE::detail

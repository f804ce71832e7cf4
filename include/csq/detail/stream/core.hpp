// The stream behind csq::Stream: a mechanism's state, and the scratch of the calls that go on from it.
#pragma once

#include <optional>

#include "csq/detail/stream/saved_stream.hpp"

namespace CSQ_CODE::detail {

// What a stream is asked to be; kv_heads 0: as many as heads.
struct StreamRequest {
  Index batch, heads, kv_heads, key_dim, value_dim;
  std::optional<double> scale;
  Index window;
  std::span<const double> sink;
  double soft_cap;
  bool gated;
  Centering centering;  // resolved
  Index rollback;
  Threads threads;
};

// All that calls need beside the state. A copy of a stream makes its own.
template <class T>
struct StreamWork {
  std::vector<StreamScratch<T>> scratch;  // of each thread
  std::vector<Workspace> workspaces;      // of each thread that serves entries: attention's
  Workspace memory;

  StreamWork() = default;
  StreamWork(StreamWork&&) noexcept = default;
  StreamWork& operator=(StreamWork&&) noexcept = default;
  StreamWork(const StreamWork&) : StreamWork() {}
  StreamWork& operator=(const StreamWork&) { return *this = StreamWork(); }
};

template <class T>
class StreamCore {
 public:
  // `storage`: of the tokens; null: of T.
  StreamCore(const Weight& weight, const StreamRequest& request, const Storage<T>* storage)
      : weight_(weight),
        coefficients_(weight.coefficients.begin(), weight.coefficients.end()),
        sink_(request.sink.begin(), request.sink.end()),
        scale_(request.scale.value_or(1 / std::sqrt(static_cast<double>(larger<Index>(request.key_dim, 1))))),
        soft_cap_(request.soft_cap),
        centering_(request.centering),
        threads_(request.threads),
        state_(sizes_of(weight, request), storage) {
    check_held<T>(weight_);
    require(!request.scale.has_value() || weight_.kind != Weight::Kind::feature_product, "scale: Linear takes none");
    require(is_finite(scale_), "scale: is ", scale_, " but must be finite");
    try_options();
    work_ = make_work(state_);
  }

  const StreamState<T>& state() const { return state_; }
  const StreamPosition& position(Index entry) const {
    require(entry >= 0 && entry < state_.sizes().batch, "entry: is ", entry, " but the batch is ",
            state_.sizes().batch);
    return state_.at(entry);
  }
  void truncate(Index entry, Index tokens) { state_.go_back(entry, tokens); }
  void check_truncation(Index entry, Index tokens) const {
    const StreamPosition& at = position(entry);
    require(tokens >= at.floor && tokens <= at.tokens, "truncate: to ", tokens, " tokens, but entry ", entry,
            " has seen ", at.tokens, " and can take back ", at.tokens - at.floor);
  }
  void reset(Index entry) { state_.reset(entry); }

  std::vector<std::byte> save() const { return save_stream<T>(plan(), state_); }
  // Nothing changes before nothing can fail any more.
  void load(std::span<const std::byte> bytes) {
    StreamState<T> loaded = load_stream<T>(bytes, plan(), state_.sizes(), state_.storage());
    StreamWork<T> work = make_work(loaded);
    state_ = std::move(loaded);
    work_ = std::move(work);
  }

  void append(const StreamTokens<T>& tokens, std::span<const Index> lengths) {
    check_tokens(tokens, lengths);
    simd::chosen_target();
    const StreamSizes& s = state_.sizes();
    const Index n = tokens.query.tokens();
    const auto count_of = [&](Index e) { return lengths.empty() ? n : lengths[static_cast<std::size_t>(e)]; };
    if (work_.scratch.empty()) work_ = make_work(state_);
    state_.grow(n);
    reserve_tails(count_of);
    const StreamPlan plan = this->plan();
    const Threads workers = usable_workers(n);
    const StreamRun<T> run(plan, state_, tokens, work_.scratch.data(), work_.workspaces.data(),
                           s.batch > 1 ? Threads{} : workers);
    parallel_for(s.batch, s.batch > 1 ? workers : Threads{}, [&](Index e, int worker) {
      const Index count = count_of(e);
      for (Index first = 0; first < count;) {
        const Index piece = smaller(smaller(largest_piece(), state_.room(e)), count - first);
        run.piece(e, first, piece, worker);
        first += piece;
      }
      for (Index h = 0; h < s.heads; ++h)
        for (Index row = count; row < n; ++row)
          for (Index a = 0; a < s.value_dim; ++a) tokens.output.head(e, h).write(row, a, T(0));
    });
  }

 private:
  static constexpr Index cache_piece = 256;  // tokens of a stream without a summary that are served at a time

  static StreamSizes sizes_of(const Weight& weight, const StreamRequest& request) {
    const Shape checked = checked_shape({.queries = 1,
                                         .keys = 1,
                                         .key_dim = request.key_dim,
                                         .value_dim = request.value_dim,
                                         .batch = request.batch,
                                         .heads = request.heads,
                                         .kv_heads = request.kv_heads});
    check_scratch_fits({checked, {}, {}}, weight);
    constexpr Index furthest = 72;
    StreamSizes sizes;
    sizes.batch = checked.batch;
    sizes.heads = checked.heads;
    sizes.kv_heads = checked.kv_heads;
    sizes.key_dim = checked.key_dim;
    sizes.value_dim = checked.value_dim;
    require(request.centering != Centering::sequence, "centering: a stream cannot know the mean of the whole sequence");
    sizes.centred = request.centering != Centering::none;
    require(request.window >= 0 && request.window <= largest_size, "window: is ", request.window,
            " but must be between 0 and ", largest_size);
    sizes.window = request.window;
    sizes.gated = request.gated;
    if (weight.has_factored_form() && request.window == 0) {
      sizes.absorbed = tuned_chunk(checked.key_dim, simd::block_tokens<T>);
      sizes.map = feature_map(weight, checked.key_dim);
    }
    require(request.rollback >= 0 && request.rollback <= furthest, "rollback: is ", request.rollback,
            " but must be between 0 and ", furthest);
    sizes.rollback = request.rollback;
    check_threads(request.threads);
    return sizes;
  }
  StreamPlan plan() const {
    StreamPlan plan{weight_, centering_, scale_, soft_cap_, sink_, weight_.exponent};
    plan.weight.coefficients = coefficients_;
    plan.weight.exponent = 0;
    return plan;
  }

  // What the options mean together, asked of attention's own checks.
  void try_options() const {
    const StreamSizes& s = state_.sizes();
    Problem<T> problem;
    problem.weight = plan().weight;
    problem.query.shape = {1, s.heads, 0, s.key_dim};
    problem.key.shape = {1, s.kv_heads, 0, s.key_dim};
    problem.value.shape = {1, s.kv_heads, 0, s.value_dim};
    Options options;
    options.causal = true;
    options.window = s.window;
    options.sink = sink_;
    options.soft_cap = soft_cap_;
    options.centering = Centering::none;
    resolve_options(problem, options, Centering::none);
  }

  void check_tokens(const StreamTokens<T>& tokens, std::span<const Index> lengths) const {
    const StreamSizes& s = state_.sizes();
    const Index n = tokens.query.tokens();
    const auto check_shape = [&](const char* name, const auto& view, Index heads, Index dim) {
      check_heads(name, view);
      const auto& v = view.shape;
      require(v[0] == s.batch && v[1] == heads && v[2] == n && v[3] == dim, name, ": shape is [", v[0], ", ", v[1],
              ", ", v[2], ", ", v[3], "] but must be [", s.batch, ", ", heads, ", ", n, ", ", dim, "]");
    };
    check_shape("q", tokens.query, s.heads, s.key_dim);
    check_shape("k", tokens.key, s.kv_heads, s.key_dim);
    check_shape("v", tokens.value, s.kv_heads, s.value_dim);
    check_shape("out", tokens.output, s.heads, s.value_dim);
    require(s.gated || tokens.gate.heads() == 0, "log_gate: the stream is not gated");
    if (s.gated) check_shape("log_gate", tokens.gate, s.kv_heads, 1);
    check_lengths("lengths", lengths, s.batch, n);
    for (Index e = 0; e < s.batch; ++e)
      require(n <= largest_size - state_.at(e).tokens, "tokens: entry ", e, " has seen ", state_.at(e).tokens,
              " and cannot see ", n, " more");
    check_no_self_overlap("out", tokens.output);
    const Footprint outputs[] = {footprint("out", tokens.output)};
    const Footprint inputs[] = {footprint("q", tokens.query), footprint("k", tokens.key), footprint("v", tokens.value),
                                footprint("log_gate", tokens.gate),
                                footprint_of<T>("lengths", lengths.data(), lengths.size())};
    check_apart(outputs, inputs);
  }

  Index largest_piece() const { return state_.sizes().has_summary() ? state_.sizes().absorbed : cache_piece; }
  // Threads share the entries of a batch, or else the heads of the one.
  static Index shares(const StreamSizes& s) { return s.batch > 1 ? s.batch : s.kv_heads; }
  // As many as a call of n tokens is worth, and there is scratch for.
  Threads usable_workers(Index n) const {
    const StreamSizes& s = state_.sizes();
    const double features = static_cast<double>(s.has_summary() ? s.map.size() : largest_piece());
    const double work = features * static_cast<double>(s.value_dim + 1) * static_cast<double>(n) *
                        static_cast<double>(s.heads) * static_cast<double>(s.batch);
    const auto most = static_cast<int>(smaller<Index>(shares(s), static_cast<Index>(work_.scratch.size())));
    Threads threads = threads_for_work(work, threads_);
    threads.count = larger(1, smaller(threads.count, most));
    return threads;
  }

  StreamWork<T> make_work(const StreamState<T>& state) const {
    const StreamSizes& s = state.sizes();
    StreamWork<T> work;
    const auto threads =
        static_cast<std::size_t>(larger<Index>(1, smaller<Index>(usable_threads(threads_).count, shares(s))));
    std::vector<StreamScratch<T>> scratch(threads);
    work.workspaces.resize(s.batch > 1 ? threads : 1);
    const auto lay_out = [&](Arena& arena) {
      for (StreamScratch<T>& each : scratch) each = StreamScratch<T>::lay_out(arena, s, largest_piece());
    };
    Arena counter;
    lay_out(counter);
    Arena arena(work.memory.reserve(counter.bytes()));
    lay_out(arena);
    std::size_t bytes = 0;
    for (Index keys = 1; s.has_summary() && keys <= s.absorbed; ++keys)
      for (Index queries = 1; queries <= keys; queries = queries < 9 ? queries + 1 : larger(keys, queries + 1))
        bytes = larger(bytes, tail_bytes(queries, keys));
    for (Workspace& workspace : work.workspaces) workspace.reserve(bytes);
    work.scratch = std::move(scratch);
    return work;
  }
  // Room for what attention takes of a cache or a ring, before anything changes; of a tail there is always.
  template <class CountOf>
  void reserve_tails(const CountOf& count_of) {
    const StreamSizes& s = state_.sizes();
    if (s.has_summary()) return;
    std::size_t bytes = 0;
    for (Index e = 0; e < s.batch; ++e) {
      StreamPosition at = state_.at(e);
      for (Index left = count_of(e); left > 0;) {
        const Index piece = smaller(smaller(largest_piece(), state_.room_at(at)), left);
        bytes = larger(bytes, tail_bytes(piece, at.tokens + piece - s.first_seen(at.tokens)));
        at.tokens += piece;
        at.floor = larger(at.floor, at.tokens - s.rollback);
        left -= piece;
      }
    }
    for (Workspace& workspace : work_.workspaces) workspace.reserve(bytes);
  }
  // What attention takes for so many queries against so many keys of a tail.
  std::size_t tail_bytes(Index queries, Index keys) const {
    const StreamSizes& s = state_.sizes();
    Problem<T> problem;
    problem.weight = plan().weight;
    problem.query.shape = {1, s.heads, queries, s.key_dim};
    problem.key.shape = {1, s.kv_heads, keys, s.key_dim};
    problem.value.shape = {1, s.kv_heads, keys, s.value_dim};
    problem.causal = true;
    problem.window = checked_window(s.window, queries, keys);
    problem.sink = sink_;
    problem.soft_cap = soft_cap_;
    if (s.gated) problem.log_gate.shape = {1, s.kv_heads, keys, 1};
    make_plan(problem, {.causal = true,
                        .method = Method::direct,
                        .threads = s.batch > 1 ? 1 : threads_.count,
                        .executor = threads_.executor});
    return scratch_bytes(problem);
  }

  Weight weight_;
  std::vector<double> coefficients_, sink_;
  double scale_ = 1, soft_cap_ = 0;
  Centering centering_;
  Threads threads_;
  StreamState<T> state_;
  StreamWork<T> work_;
};

}  // namespace CSQ_CODE::detail

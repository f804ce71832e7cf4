// Tokens into a stream, and the rows of their queries out of it.
//
// A piece of tokens that crosses no multiple of W: their keys are centred and join the tail; their queries read the
// summary at b(t), and see the tail from there on directly, as a call of attention of its own; both are added. Where
// the piece ends at a multiple of W, the last W tokens of the tail are absorbed. Cost a token and query head: D·(dᵥ+1)
// multiply-adds for the read and at most W·(d+dᵥ) for the tail; a key head is absorbed once.
#pragma once

#include <cmath>
#include <limits>

#include "csq/detail/checked_calls.hpp"
#include "csq/detail/factored/cancellation.hpp"
#include "csq/detail/stream/scratch.hpp"

namespace CSQ_CODE::detail {

template <class T>
class StreamRun {
 public:
  StreamRun(const StreamPlan& plan, StreamState<T>& state, const StreamTokens<T>& tokens,
            const StreamScratch<T>* scratch, Workspace* workspaces, const Threads& threads)
      : plan_(plan),
        state_(state),
        tokens_(tokens),
        scratch_(scratch),
        workspaces_(workspaces),
        threads_(threads),
        sizes_(state.sizes()) {}

  // Rows [first, first + count) of entry e, by thread `worker`; inside it `threads_` more may help.
  void piece(Index e, Index first, Index count, int worker) const {
    state_.make_room(e, count);
    const Index t = state_.at(e).tokens, from = sizes_.first_seen(t);
    const StreamScratch<T>& mine = scratch_[worker];
    add_keys(e, first, count, mine);
    center_queries(e, first, count, mine);
    serve_tail(e, first, count, from, mine, workspaces_[worker]);
    if (sizes_.has_summary() && from > 0)
      parallel_for(sizes_.kv_heads, threads_,
                   [&](Index h, int thread) { read(e, h, count, from, mine, scratch_[worker + thread]); });
    write(e, first, count, mine);
    StreamPosition& at = state_.at(e);
    at.tokens = t + count;
    at.floor = larger(at.floor, at.tokens - sizes_.rollback);
    if (sizes_.has_summary() && at.tokens % sizes_.absorbed == 0)
      parallel_for(sizes_.kv_heads, threads_, [&](Index h, int thread) { absorb(e, h, scratch_[worker + thread]); });
    if (sizes_.has_summary()) state_.make_room(e, 0);
  }

 private:
  static constexpr Index few_rows = 8;  // that read the summary as rows; more are worth a block

  void add_keys(Index e, Index first, Index count, const StreamScratch<T>& mine) const {
    const Index t = state_.at(e).tokens;
    for (Index h = 0; h < sizes_.kv_heads; ++h) {
      const StoredHead<const T> keys = tokens_.key.head(e, h);
      if (sizes_.centred)
        center(
            keys, first, count, t, [&](Index p) { return state_.key_sum(e, h, p); }, mine, state_.key(e, h, t));
      else
        keep_rows(keys, first, count, state_.key(e, h, t));
      keep_rows(tokens_.value.head(e, h), first, count, state_.value(e, h, t));
      for (Index r = 0; sizes_.gated && r < count; ++r)
        *state_.gate(e, h, t + r) = tokens_.gate.head(e, h)(first + r, 0);
    }
  }
  void center_queries(Index e, Index first, Index count, const StreamScratch<T>& mine) const {
    const Index t = state_.at(e).tokens;
    for (Index h = 0; h < sizes_.heads; ++h) {
      const StoredHead<const T> queries = tokens_.query.head(e, h);
      T* const to = mine.query + h * count * sizes_.key_dim;
      if (sizes_.centred)
        center(
            queries, first, count, t, [&](Index p) { return state_.query_sum(e, h, p); }, mine, to);
      else
        copy_rows(queries, first, count, to);
    }
  }
  // Rows [first, first + count) of the call, at positions from t on, less their means, to [count][key_dim]. The sums
  // that the stream may go back to are kept: a few rows at a time before them, then one by one.
  template <class SumAt>
  void center(const StoredHead<const T>& rows, Index first, Index count, Index t, const SumAt& sum_at,
              const StreamScratch<T>& mine, T* to) const {
    const Index dim = sizes_.key_dim, stride = simd::padded_columns<T>(dim);
    std::fill_n(mine.row_sum, simd::padded_columns<double>(dim), 0.0);
    std::copy_n(sum_at(t), dim, mine.row_sum);
    for (Index done = 0; done < count;) {
      const Index passed = count - sizes_.rollback - done;  // positions that nobody returns to
      const Index some = larger<Index>(1, smaller(passed, simd::token_group));
      simd::PackBlock<T> block;
      block.source = rows_of(rows, first + done, some);
      block.running_sum = mine.row_sum;
      block.running_count = static_cast<double>(t + done);
      block.exclusive = plan_.centering == Centering::prefix_exclusive;
      block.rows = mine.few_rows;
      simd::kernels<T>().pack(block);
      for (Index r = 0; r < some; ++r) to = std::copy_n(mine.few_rows + r * stride, dim, to);
      done += some;
      if (done >= count - sizes_.rollback) std::copy_n(mine.row_sum, dim, sum_at(t + done));
    }
  }
  static void copy_rows(const StoredHead<const T>& rows, Index first, Index count, T* to) {
    for (Index r = first; r < first + count; ++r) {
      const T* from = rows.at(r);
      if (rows.storage != nullptr) {
        rows.storage->load(from, rows.dim_stride, rows.dim, to);
        to += rows.dim;
      } else if (rows.dim_stride == 1) {
        to = std::copy_n(from, rows.dim, to);
      } else {
        for (Index a = 0; a < rows.dim; ++a) *to++ = from[a * rows.dim_stride];
      }
    }
  }
  // The same in the type in which they came.
  static void keep_rows(const StoredHead<const T>& rows, Index first, Index count, T* to) {
    if (rows.storage == nullptr) return copy_rows(rows, first, count, to);
    const auto bytes = static_cast<std::size_t>(rows.storage->bytes);
    const std::size_t run = rows.dim_stride == 1 ? bytes * static_cast<std::size_t>(rows.dim) : bytes;
    const Index runs = rows.dim_stride == 1 ? 1 : rows.dim;
    auto* at = reinterpret_cast<std::byte*>(to);
    for (Index r = first; r < first + count; ++r)
      for (Index a = 0; a < runs; ++a, at += run) std::memcpy(at, rows.at(r, a), run);
  }

  // The tail from `from` on, centred already, directly.
  void serve_tail(Index e, Index, Index count, Index from, const StreamScratch<T>& mine, Workspace& workspace) const {
    const Index keys = state_.at(e).tokens + count - from;
    Options options;
    if (plan_.weight.kind != Weight::Kind::feature_product) options.scale = plan_.scale;
    options.causal = true;
    options.window = sizes_.window;
    options.sink = plan_.sink;
    options.soft_cap = plan_.soft_cap;
    options.method = Method::direct;
    options.threads = threads_.count;
    options.executor = threads_.executor;
    options.workspace = &workspace;
    if (sizes_.gated)
      options.log_gate =
          Heads<const T>(state_.gate(e, 0, from), {1, sizes_.kv_heads, keys, 1}, {0, state_.gate_stride(), 1, 1});
    const StoredHeads<const T> key(state_.key(e, 0, from), {1, sizes_.kv_heads, keys, sizes_.key_dim},
                                   {0, state_.key_stride(), sizes_.key_dim, 1}, state_.key_storage());
    const StoredHeads<const T> value(state_.value(e, 0, from), {1, sizes_.kv_heads, keys, sizes_.value_dim},
                                     {0, state_.value_stride(), sizes_.value_dim, 1}, state_.value_storage());
    const Heads<const T> query(mine.query, {1, sizes_.heads, count, sizes_.key_dim});
    const Heads<T> output(mine.output, {1, sizes_.heads, count, sizes_.value_dim});
    const Heads<T> normalizer(mine.normalizer, {1, sizes_.heads, count, 1});
    attention_checked<T>({plan_.weight, Centering::none}, query, key, value, output, &normalizer, options);
  }

  // Adds what the group's rows read from a key head's summary to what they have of the tail.
  void read(Index e, Index h, Index count, Index from, const StreamScratch<T>& rows,
            const StreamScratch<T>& mine) const {
    constexpr Index most = simd::block_tokens<T>;
    const SummarySlice<T> slice = state_.summary(e, h);
    const CancellationBound<T> bound(feature_coefficients(plan_.weight), slice.square_sum(), slice.count_sum());
    const Index total = sizes_.group() * count, begin = h * total;
    for (Index first = 0; first < total; first += most) {
      const Index tokens = smaller(most, total - first);
      const T* const query = rows.query + (begin + first) * sizes_.key_dim;
      if (tokens <= few_rows)
        read_few(slice, query, tokens, mine);
      else
        read_block(slice, query, tokens, mine);
      for (Index i = 0; i < tokens; ++i)
        add_read(e, h, {begin + first + i, i, from, state_.at(e).tokens + (first + i) % count}, bound, rows, mine);
    }
  }
  // Into mine.numerator and mine.sums.
  void read_block(const SummarySlice<T>& slice, const T* query, Index tokens, const StreamScratch<T>& mine) const {
    pack(query, tokens, query_factor(), mine, mine.packed);
    // Also the rows that tiles read past the tokens.
    std::fill_n(mine.numerator, simd::padded_tokens<T>(tokens) * slice.value_stride, T(0));
    std::fill_n(mine.sums, simd::block_tokens<T>, T(0));
    slice.read(feature_coefficients(plan_.weight), mine.packed, tokens, mine.panel, mine.numerator, mine.sums);
  }
  void read_few(const SummarySlice<T>& slice, const T* query, Index tokens, const StreamScratch<T>& mine) const {
    pack(query, tokens, query_factor(), mine, nullptr);
    slice.read_rows(feature_coefficients(plan_.weight), mine.rows, tokens, mine.panel, mine.numerator, mine.sums);
  }

  // One row: where it stands among all, among those just read, and in time.
  struct ReadRow {
    Index row, read, from, position;
  };
  void add_read(Index e, Index h, const ReadRow& at, const CancellationBound<T>& bound, const StreamScratch<T>& rows,
                const StreamScratch<T>& mine) const {
    const bool may_cancel = feature_coefficients(plan_.weight).c2 != 0;
    const double decay = decay_until(e, h, at.from, at.position);
    const double square = may_cancel ? square_of(mine.rows + at.read * simd::padded_columns<T>(sizes_.key_dim)) : 0;
    const double seen = static_cast<double>(rows.normalizer[at.row]);
    // It reads nothing; or nothing is left of tiny scores, which the tail has as well.
    if (may_cancel && (decay == 0 || (bound.of(square) == 0 && !is_nan(seen)))) return;
    const double sum = static_cast<double>(mine.sums[at.read]) * decay + seen;
    const bool good = !may_cancel || bound.allows(square, static_cast<T>(sum), least_normalizer<T>(at.from), decay);
    add_row(mine.numerator + at.read * simd::padded_columns<T>(sizes_.value_dim), decay, seen,
            good ? sum : std::numeric_limits<double>::quiet_NaN(), rows.output + at.row * sizes_.value_dim);
  }
  double square_of(const T* row) const {
    double sum = 0;
    for (Index a = 0; a < sizes_.key_dim; ++a) sum += static_cast<double>(row[a]) * static_cast<double>(row[a]);
    return sum;
  }
  void add_row(const T* numerator, double decay, double seen, double sum, T* output) const {
    for (Index a = 0; a < sizes_.value_dim; ++a) {
      const double value =
          static_cast<double>(numerator[a]) * decay + (seen == 0 ? 0 : static_cast<double>(output[a]) * seen);
      output[a] = static_cast<T>(sum > 0 ? value / sum : sum == 0 ? 0 : std::numeric_limits<double>::quiet_NaN());
    }
  }
  double query_factor() const { return plan_.weight.kind == Weight::Kind::feature_product ? 1 : plan_.scale; }

  // What gates leave at a position of what was absorbed before `from`.
  double decay_until(Index e, Index h, Index from, Index position) const {
    if (!sizes_.gated) return 1;
    double sum = 0;
    for (Index p = from; p <= position; ++p) sum += readable_gate(static_cast<double>(*state_.gate(e, h, p)));
    return decay_of_gates<T>(sum);
  }
  // factor·φ(x) of rows into mine.rows, and packed.
  void pack(const T* rows, Index tokens, double factor, const StreamScratch<T>& mine, T* packed,
            const Storage<T>* storage = nullptr) const {
    simd::PackBlock<T> block;
    block.source = {rows, sizes_.key_dim, 1, tokens, sizes_.key_dim, storage};
    block.factor = factor;
    block.elu = plan_.weight.kind == Weight::Kind::feature_product;
    block.rows = mine.rows;
    block.packed = packed;
    simd::kernels<T>().pack(block);
  }

  // The last W tokens of the tail into the summary; the one before is kept as long as the stream may go back to it.
  void absorb(Index e, Index h, const StreamScratch<T>& mine) const {
    const Index tokens = sizes_.absorbed, first = state_.at(e).tokens - tokens;
    const SummarySlice<T> slice = state_.summary(e, h);
    if (sizes_.rollback > 0) std::copy_n(slice.summary, state_.summary_numbers(), state_.summary(e, h, 1).summary);
    pack(state_.key(e, h, first), tokens, 1, mine, mine.packed, state_.key_storage());
    simd::kernels<T>().pack_values(
        {state_.value(e, h, first), sizes_.value_dim, 1, tokens, sizes_.value_dim, state_.value_storage()},
        slice.value_stride, mine.values);
    const T* const ones = mine.packed + sizes_.key_dim * simd::block_tokens<T>;
    if (!sizes_.gated) {
      slice.absorb(mine.packed, mine.values, ones, tokens, mine.panel);
      return;
    }
    std::fill_n(mine.scales, simd::block_tokens<T>, T(0));
    double sum = 0;
    for (Index i = tokens - 1; i >= 0; --i) {
      mine.scales[i] = static_cast<T>(decay_of_gates<T>(sum));
      sum += readable_gate(static_cast<double>(*state_.gate(e, h, first + i)));
    }
    simd::kernels<T>().scale_rows(tokens, slice.value_stride, mine.scales, mine.values, mine.scaled);
    // The first gate of all decays nothing.
    const double kept = first == 0 ? 1 : decay_of_gates<T>(sum);
    slice.absorb(mine.packed, mine.scaled, mine.scales, tokens, mine.panel, static_cast<T>(kept));
  }

  void write(Index e, Index first, Index count, const StreamScratch<T>& mine) const {
    for (Index h = 0; h < sizes_.heads; ++h) {
      const StoredHead<T> output = tokens_.output.head(e, h);
      for (Index r = 0; r < count; ++r) {
        const T* row = mine.output + (h * count + r) * sizes_.value_dim;
        if (output.storage != nullptr)
          output.storage->store(row, sizes_.value_dim, output.at(first + r), output.dim_stride);
        else
          for (Index a = 0; a < sizes_.value_dim; ++a) output.write(first + r, a, row[a]);
      }
    }
  }

  const StreamPlan& plan_;
  StreamState<T>& state_;
  const StreamTokens<T>& tokens_;
  const StreamScratch<T>* scratch_;
  Workspace* workspaces_;
  Threads threads_;
  StreamSizes sizes_;
};

}  // namespace CSQ_CODE::detail

// What the rows of a piece of a sequence have of keys that are elsewhere and of which a summary alone is here; and what
// the piece's keys have of rows elsewhere, through the gradient of theirs.
//
//   S = Σ_j λ_j φ(k_j) ⊗ [v_j, 1]        of the piece's keys, λ: what gates leave of each at the piece's end
//   [N_i, δ_i] += λ'_i·S' read by q_i    S' of the keys before, λ': what gates leave of it at the row
//   dS = Σ_i λ'_i φ(q_i) ⊗ y_i           y_i = [G_i/δ_i, −(G_i·o_i)/δ_i], δ_i and o_i of all keys
//   ∂q_i += λ'_i·pull-back of S'·y_i     ∂[v_j, 1] += λ_j·dS' read by k_j     ∂k_j += λ_j·pull-back of dS'·[v_j, 1]
//
// S' and dS' stand at the piece's first token and at its last. The pairs within the piece are another call's, which is
// given the same δ and o. A row whose features cancel (cancellation.hpp) is NaN, its other keys being gone. Forward
// (g·n + m)·D·(dᵥ+1) multiply-adds a head, backward (2g·n + 3m)·D·(dᵥ+1). Work is split over key heads and slices where
// summaries grow, over blocks of rows where they are read; no result depends on threads.
#pragma once

#include "csq/detail/block/backward_thread_scratch.hpp"
#include "csq/detail/factored/backward_scratch.hpp"
#include "csq/detail/factored/cancellation.hpp"

namespace CSQ_CODE::detail {

template <class T>
class OtherKeys {
 public:
  // `problem`: the piece, uncentred, its arrays and gates; its gradients' views need not be set.
  static OtherKeys lay_out(Arena& arena, const BackwardProblem<T>& problem, bool is_backward, bool wants_shift) {
    OtherKeys other;
    const Problem<T>& p = problem.forward;
    other.problem_ = problem;
    other.map_ = feature_map(p.weight, p.key_dim(), wants_shift);
    other.slices_ = slices_of(workload_of(p), other.map_.size());
    other.packers_ = Packers<T>::lay_out(arena, p, p.key_heads());
    other.threads_ =
        take_each<ThreadScratch>(arena, p.threads, [&] { return ThreadScratch::lay_out(arena, problem, is_backward); });
    return other;
  }
  void bind() { packers_.bind(p(), 0, p().key_heads()); }

  // Numbers of the summary of a key head.
  Index numbers() const { return whole(nullptr, 0).numbers(); }

  // S of the piece's keys.
  void absorb_keys(T* summaries) const {
    for_each_slice(summaries, [&](Index h, const SummarySlice<T>& slice, const ThreadScratch& mine) {
      for_each_block(p().keys(), [&](Index first, Index count) {
        const StoredHead<const T> value = p().value.head(batch(h), key_head(h));
        packers_.key[h].pack_only(first, count, mine.rows, mine.sums, mine.packed);
        simd::kernels<T>().pack_values(rows_of(value, first, count), value_stride(), mine.values);
        const T* weights = mine.packed + p().key_dim() * size;
        if (p().has_gates()) {
          gate(h).decays(p().keys() - 1, first, count, mine.scales);
          simd::kernels<T>().scale_rows(count, value_stride(), mine.scales, mine.values, mine.values);
          weights = mine.scales;
        }
        slice.absorb(mine.packed, mine.values, weights, count, mine.panel);
      });
    });
  }
  // ln of what all gates of the piece leave of what comes before it: [key heads].
  void sum_gates(double* sums) const {
    for (Index h = 0; h < p().key_heads(); ++h) {
      sums[h] = 0;
      for (Index t = 0; p().has_gates() && t < p().keys(); ++t) sums[h] += gate_at(h, t);
    }
  }
  // From before the piece's first token to it, and the other way round.
  void pass_first_gate(T* summaries) const {
    if (!p().has_gates() || p().keys() == 0) return;
    parallel_for(p().key_heads(), p().threads, [&](Index h, int) {
      const auto decay = static_cast<T>(decay_of_gates<T>(gate_at(h, 0)));
      if (decay == 0)
        whole(summaries, h).clear();
      else
        whole(summaries, h).scale(decay);
    });
  }

  // Adds what the rows read to what they have of the piece: outputs, and normalisers in the kernels' units. `keys`: of
  // the whole sequence.
  void read(T* summaries, Index keys, const Heads<T>& output, const Heads<T>& normalizer) const {
    const Quadratic c = coefficients();
    for_each_query_block([&](Index head, Index first, Index count, const ThreadScratch& mine) {
      const Index h = head / p().group();
      const SummarySlice<T> slice = whole(summaries, h);
      packers_.query[head].pack_only(first, count, mine.rows, mine.sums, mine.packed);
      std::fill_n(mine.values, simd::padded_tokens<T>(count) * value_stride(), T(0));
      std::fill_n(mine.normalizer, size, T(0));
      slice.read(c, mine.packed, count, mine.panel, mine.values, mine.normalizer);
      simd::kernels<T>().square_norms(mine.packed, count, p().key_dim(), mine.squares);
      find_row_decays(h, first, count, mine.scales);
      const CancellationBound<T> bound(c, slice.square_sum(), slice.count_sum());
      const Head<T> out = output.head(batch(h), head % p().query.heads());
      const Head<T> sum = normalizer.head(batch(h), head % p().query.heads());
      for (Index row = 0; row < count; ++row)
        add_row({&out(first + row, 0), sum(first + row, 0), mine.values + row * value_stride()}, bound,
                static_cast<double>(mine.normalizer[row]), static_cast<double>(mine.scales[row]),
                static_cast<double>(mine.squares[row]), least_normalizer<T>(keys));
    });
  }

  // dS of the piece's rows.
  void absorb_queries(T* summaries) const {
    for_each_slice(summaries, [&](Index h, const SummarySlice<T>& slice, const ThreadScratch& mine) {
      for (Index g = 0; g < p().group(); ++g)
        for_each_block(p().queries(), [&](Index first, Index count) {
          const BackwardQueryBlock<T> query = query_block(mine);
          pack_queries(h * p().group() + g, first, count, mine, query);
          find_row_decays(h, first, count, mine.scales);
          simd::kernels<T>().scale_rows(count, value_stride(), mine.scales, query.gradient_rows, mine.values);
          std::fill_n(mine.normalizer, size, T(0));
          for (Index row = 0; row < count; ++row) mine.normalizer[row] = -query.dot[row] * mine.scales[row];
          slice.absorb(query.packed, mine.values, mine.normalizer, count, mine.panel);
        });
    });
  }
  // ∂q of rows that have read S': added to `gradient`; the shift's share of each query head to shift[query heads].
  void pull_back_queries(T* summaries, const Heads<T>& gradient, double* shift) const {
    parallel_for(p().key_heads() * p().group(), p().threads, [&](Index head, int thread) {
      const ThreadScratch& mine = threads_[thread];
      const Index h = head / p().group();
      const Head<T> to = gradient.head(batch(h), head % p().query.heads());
      for_each_block(p().queries(), [&](Index first, Index count) {
        const BackwardQueryBlock<T> query = query_block(mine);
        const PulledBack<T> result = pulled_back(mine);
        pack_queries(head, first, count, mine, query);
        find_row_decays(h, first, count, mine.scales);
        whole(summaries, h)
            .pull_back(coefficients(), query.packed, query.gradient_packed, count, p().value_dim(), mine.panel,
                       mine.panel + simd::panel_features * size, result.lanes, result.shift);
        add_lanes(result.lanes, query.packed, mine.scales, query_gradient_factor(p()), first, count, to);
        for (Index row = 0; row < count; ++row)
          shift[head] += static_cast<double>(result.shift[row]) * static_cast<double>(mine.scales[row]);
      });
    });
  }
  // ∂k and ∂v of keys that rows elsewhere have read, added; v_j·∂v_j + e_j of each to terms [key heads][keys], or null.
  void pull_back_keys(T* summaries, const Heads<T>& key_gradient, const Heads<T>& value_gradient, double* terms) const {
    for_each_key_block([&](Index h, Index first, Index count, const ThreadScratch& mine) {
      const BackwardKeyBlock<T> key = BackwardKeyBlock<T>::at(mine.keys, p().key_dim(), p().value_dim(), false);
      const PulledBack<T> result = pulled_back(mine);
      const SummarySlice<T> slice = whole(summaries, h);
      pack_key_block(problem_, packers_.key[h], batch(h), key_head(h), first, count, mine.sums, mine.copy, key);
      if (p().has_gates())
        gate(h).decays(p().keys() - 1, first, count, mine.scales);
      else
        std::fill_n(mine.scales, size, T(1));
      slice.pull_back(coefficients(), key.packed, key.value_packed, count, p().value_dim(), mine.panel,
                      mine.panel + simd::panel_features * size, result.lanes, result.shift);
      slice.read(coefficients(), key.packed, count, mine.panel, result.value_rows, result.normalizer);
      add_lanes(result.lanes, key.packed, mine.scales, 1, first, count, key_gradient.head(batch(h), key_head(h)));
      const Head<T> dv = value_gradient.head(batch(h), key_head(h));
      const StoredHead<const T> value = p().value.head(batch(h), key_head(h));
      for (Index row = 0; row < count; ++row) {
        const T* from = result.value_rows + row * value_stride();
        double term = static_cast<double>(result.normalizer[row]);
        for (Index a = 0; a < p().value_dim(); ++a) {
          dv(first + row, a) += mine.scales[row] * from[a];
          term += static_cast<double>(value(first + row, a)) * static_cast<double>(from[a]);
        }
        if (terms != nullptr) terms[h * p().keys() + first + row] += static_cast<double>(mine.scales[row]) * term;
      }
    });
  }

 private:
  static constexpr Index size = simd::block_tokens<T>;

  struct ThreadScratch {
    double* sums = nullptr;
    T *rows = nullptr, *copy = nullptr, *packed = nullptr;
    T* values = nullptr;                                             // [B][value stride], of keys, or sums of rows
    T *normalizer = nullptr, *squares = nullptr, *scales = nullptr;  // [B]
    T* panel = nullptr;                                              // of features; backward: one of the summary behind
    T *queries = nullptr, *keys = nullptr, *pulled_back = nullptr;

    static ThreadScratch lay_out(Arena& arena, const BackwardProblem<T>& problem, bool is_backward) {
      const Index key_dim = problem.forward.key_dim(), value_dim = problem.forward.value_dim();
      const Index widest = larger(key_dim, value_dim);
      ThreadScratch scratch;
      scratch.sums = arena.template take<double>(RowPacker<T>::scratch_sums(widest));
      scratch.rows = arena.template take<T>(RowPacker<T>::scratch_rows(widest));
      scratch.packed = arena.template take<T>(RowPacker<T>::packed_size(key_dim));
      scratch.values = arena.template take<T>(RowPacker<T>::scratch_rows(value_dim));
      scratch.normalizer = arena.template take<T>(size);
      scratch.squares = arena.template take<T>(size);
      scratch.scales = arena.template take<T>(size);
      scratch.panel = arena.template take<T>((is_backward ? 2 : 1) * simd::panel_features * size);
      if (!is_backward) return scratch;
      scratch.copy = arena.template take<T>(RowPacker<T>::scratch_rows(widest));
      scratch.queries = arena.template take<T>(BackwardQueryBlock<T>::size(key_dim, value_dim));
      scratch.keys = arena.template take<T>(BackwardKeyBlock<T>::size(key_dim, value_dim, false));
      scratch.pulled_back = arena.template take<T>(pulled_back_size(problem.forward));
      return scratch;
    }
  };
  static Index lanes_size(const Problem<T>& p) { return simd::padded_columns<T>(p.key_dim()) * size; }
  static Index pulled_back_size(const Problem<T>& p) {
    return lanes_size(p) + size * (2 + simd::padded_columns<T>(p.value_dim()));
  }

  const Problem<T>& p() const { return problem_.forward; }
  Quadratic coefficients() const { return feature_coefficients(p().weight); }
  Index value_stride() const { return simd::padded_columns<T>(p().value_dim()); }
  Index batch(Index h) const { return h / p().key.heads(); }
  Index key_head(Index h) const { return h % p().key.heads(); }
  GateSums<T> gate(Index h) const { return packers_.gates.of(h, 0); }
  double gate_at(Index h, Index token) const {
    return readable_gate(static_cast<double>(p().log_gate.head(batch(h), key_head(h))(token, 0)));
  }
  // What gates leave, at rows, of what stands at the first token.
  void find_row_decays(Index h, Index first, Index count, T* scales) const {
    if (p().has_gates())
      gate(h).decays(0, first + p().visibility().offset(), count, scales);
    else
      std::fill_n(scales, size, T(1));
  }

  SummarySlice<T> whole(T* summaries, Index h) const {
    SummarySlice<T> slice;
    slice.map = map_;
    slice.value_stride = value_stride();
    slice.last = map_.size();
    return summaries == nullptr ? slice : slice.at(summaries + h * slice.numbers());
  }
  template <class Visit>
  static void for_each_block(Index rows, const Visit& visit) {
    for (Index first = 0; first < rows; first += size) visit(first, smaller(size, rows - first));
  }
  // visit(key head, its part of the features, scratch); clears first.
  template <class Visit>
  void for_each_slice(T* summaries, const Visit& visit) const {
    const Index units = SummarySlice<T>::padded_rows(map_.size()) / simd::slice_features;
    parallel_for(p().key_heads() * slices_, p().threads, [&](Index task, int thread) {
      const Index h = task / slices_, index = task % slices_;
      const auto start = [&](Index i) { return units * i / slices_ * simd::slice_features; };
      const SummarySlice<T> slice = whole(summaries, h).part(start(index), start(index + 1));
      slice.clear();
      visit(h, slice, threads_[thread]);
    });
  }
  template <class Visit>
  void for_each_query_block(const Visit& visit) const {
    const Index blocks = block_count(p().queries(), size);
    parallel_for(p().key_heads() * p().group() * blocks, p().threads, [&](Index task, int thread) {
      const Index first = task % blocks * size;
      visit(task / blocks, first, smaller(size, p().queries() - first), threads_[thread]);
    });
  }
  template <class Visit>
  void for_each_key_block(const Visit& visit) const {
    const Index blocks = block_count(p().keys(), size);
    parallel_for(p().key_heads() * blocks, p().threads, [&](Index task, int thread) {
      const Index first = task % blocks * size;
      visit(task / blocks, first, smaller(size, p().keys() - first), threads_[thread]);
    });
  }

  BackwardQueryBlock<T> query_block(const ThreadScratch& mine) const {
    return BackwardQueryBlock<T>::at(mine.queries, p().key_dim(), p().value_dim());
  }
  PulledBack<T> pulled_back(const ThreadScratch& mine) const {
    std::fill_n(mine.pulled_back, pulled_back_size(p()), T(0));
    return PulledBack<T>::at(mine.pulled_back, lanes_size(p()));
  }
  void pack_queries(Index head, Index first, Index count, const ThreadScratch& mine,
                    const BackwardQueryBlock<T>& block) const {
    const Index h = head / p().group();
    pack_query_block(problem_, packers_.query[head], batch(h), head % p().query.heads(), first, count, mine.sums,
                     block);
  }
  // to[row] += factor·scale·lanes, through φ where rows are packed as φ(x): its slope is 1, or φ(x) itself below 1.
  void add_lanes(const T* lanes, const T* packed, const T* scales, double factor, Index first, Index count,
                 const Head<T>& to) const {
    const bool elu = p().weight.kind == Weight::Kind::feature_product;
    for (Index row = 0; row < count; ++row)
      for (Index a = 0; a < p().key_dim(); ++a) {
        const T x = packed[a * size + row], slope = elu && x < 1 ? x : T(1);
        to(first + row, a) += static_cast<T>(factor) * scales[row] * slope * lanes[a * size + row];
      }
  }

  struct Row {
    T* output;
    T& normalizer;
    const T* read;
  };
  void add_row(const Row& row, const CancellationBound<T>& bound, double read, double decay, double square,
               T least) const {
    const double seen = static_cast<double>(row.normalizer), sum = read * decay + seen;
    bool good = true;
    if (coefficients().c2 != 0) {
      if (decay == 0 || (bound.of(square) == 0 && !is_nan(seen))) return;  // nothing is read
      good = bound.allows(square, static_cast<T>(sum), least, decay) || (sum == 0 && square == 0);
    }
    const double not_a_number = std::numeric_limits<double>::quiet_NaN();
    for (Index a = 0; a < p().value_dim(); ++a) {
      const double own = seen == 0 ? 0 : static_cast<double>(row.output[a]) * seen;
      const double value = static_cast<double>(row.read[a]) * decay + own;
      row.output[a] = static_cast<T>(good && sum > 0 ? value / sum : good && sum == 0 ? 0 : not_a_number);
    }
    row.normalizer = static_cast<T>(good ? sum : not_a_number);
  }

  BackwardProblem<T> problem_;
  simd::FeatureMap map_;
  Index slices_ = 1;
  Packers<T> packers_;
  ThreadScratch* threads_ = nullptr;
};

}  // namespace CSQ_CODE::detail

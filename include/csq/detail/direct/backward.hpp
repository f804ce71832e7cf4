// Gradients of direct attention, O(n·m·(d+dᵥ)): weights are recomputed tile by tile from q, k and the saved normaliser.
//
//   ∂L/∂s_ij = w'(s_ij)·(r_i·v_j − r_i·o_i), r_i = G_i/δ_i     (block/backward.hpp)
//   ∂L/∂v_j = Σ_i w_ij r_i     ∂L/∂k_j = α Σ_i ∂L/∂s_ij q_i     ∂L/∂q_i = α Σ_j ∂L/∂s_ij k_j     10·n·m·d flops
//
// A task is one block of keys of one key head against all the queries of its group: it owns their ∂k and ∂v. To ∂q
// every block adds one term a row, always in the order of the blocks: at once where a thread has the head for itself;
// where heads do not deal out evenly, several blocks at a time leave their terms in rows of their own, which are then
// added in order. So the sums are the same however the work is dealt. (Fixed sets of key blocks with a ∂q each, summed
// at the end, cost one thread 5% at n = 1024: rows cleared, written and read again for nothing.)
// Gradients that no centring and no feature map has to pass through leave as soon as a block of them is complete.
// Memory: O(n·g·(d+dᵥ)) for each key head in flight, m·d more where ∂k waits for its centring or feature map, and n·g·d
// for each block side by side: at most 64 MB, but for two blocks, so that very long single heads feed few threads.
#pragma once

#include "csq/detail/direct/backward_scratch.hpp"

namespace CSQ_CODE::detail {

template <class T>
class DirectBackwardRun {
 public:
  DirectBackwardRun(const BackwardProblem<T>& problem, const DirectBackwardScratch<T>& scratch, double* parameter_terms,
                    Index first_head, Index heads)
      : problem_(problem),
        p_(problem.forward),
        scratch_(scratch),
        parameter_terms_(parameter_terms),
        weight_(kernel_weight(problem.forward.weight)),
        first_head_(first_head),
        heads_(heads),
        group_(problem.forward.group()),
        gate_heads_(problem.gate_gradient_heads()),
        leaves_at_once_(DirectBackwardScratch<T>::leaves_at_once(problem.forward)) {}

  void run() const {
    for (Index h = 0; h < heads_; ++h)
      for (Index gate = 0; gate < gate_heads_; ++gate) std::fill_n(scratch_.key_terms(h, gate), p_.keys(), 0.0);
    pack_queries();
    if (scratch_.beside == 0) {
      parallel_for(heads_, p_.threads, [&](Index h, int thread) {
        for (Index block = 0; block < scratch_.key_blocks; ++block) run_block(h, block, none, thread);
      });
    } else {
      for (Index first = 0; first < scratch_.key_blocks; first += scratch_.beside) {
        const Index count = smaller(scratch_.beside, scratch_.key_blocks - first);
        parallel_for(heads_ * count, p_.threads, [&](Index task, int thread) {
          const Index h = task / count, slot = task % count;
          run_block(h, first + slot, slot, thread);
        });
        add_terms(first, count);
      }
    }
    if (!leaves_at_once_ || scratch_.key_blocks == 0) write_all();
    if (!problem_.gradients.sink.empty()) sum_sink_terms();
    if (gate_heads_ > 0) write_gate_gradients();
  }

 private:
  static constexpr Index size = simd::block_tokens<T>;

  Index batch(Index h) const { return (first_head_ + h) / p_.key.heads(); }
  Index key_head(Index h) const { return (first_head_ + h) % p_.key.heads(); }
  Index queries_in(Index h, Index block) const {
    return std::clamp<Index>(scratch_.packers.query[h * group_].length - block * size, 0, size);
  }
  Index keys_in(Index h, Index block) const {
    return std::clamp<Index>(scratch_.packers.key[h].length - block * size, 0, size);
  }
  BackwardQueryBlock<T> query_block(Index h, Index g, Index block) const {
    return BackwardQueryBlock<T>::at(scratch_.queries(h, g, block), p_.key_dim(), p_.value_dim());
  }
  BackwardKeyBlock<T> key_block(int thread) const {
    return BackwardKeyBlock<T>::at(scratch_.keys(thread), p_.key_dim(), p_.value_dim(), false);
  }
  BackwardQueryTiles<T> query_tiles(Index h, Index g, Index block) const {
    return BackwardQueryTiles<T>::at(scratch_.query_tiles(h, g, block), p_.key_dim(), p_.value_dim());
  }
  BackwardKeyTiles<T> key_tiles(int thread) const {
    return BackwardKeyTiles<T>::at(scratch_.key_tiles(thread), p_.key_dim());
  }
  Index rows_size() const { return RowPacker<T>::scratch_rows(p_.key_dim()); }

  void pack_queries() const {
    parallel_for(heads_ * group_ * scratch_.query_blocks, p_.threads, [&](Index task, int thread) {
      const Index block = task % scratch_.query_blocks;
      const Index h = task / scratch_.query_blocks / group_, g = task / scratch_.query_blocks % group_;
      const BackwardThreadScratch<T>& mine = scratch_.threads[thread];
      if (queries_in(h, block) > 0)
        pack_query_block(problem_, scratch_.packers.query[h * group_ + g], batch(h), key_head(h) * group_ + g,
                         block * size, queries_in(h, block), mine.sums, query_block(h, g, block));
      if (scratch_.unit && queries_in(h, block) > 0)
        *scratch_.finite(h, g, block) =
            query_tiles(h, g, block)
                .make(scratch_.unit, query_block(h, g, block), queries_in(h, block), p_.key_dim(), p_.value_dim());
      if (!p_.sink.empty()) find_sink_terms(h, g, block);
    });
  }

  // What a row's sink takes of it: G_i·o_i·e^(sink − lse_i).
  void find_sink_terms(Index h, Index g, Index block) const {
    const Index head = key_head(h) * group_ + g, first = block * size, count = smaller(size, p_.queries() - first);
    const Head<const T> normalizer = problem_.normalizer.head(batch(h), head);
    const T* dot = query_block(h, g, block).dot;
    double* terms = scratch_.sink_terms(h, g) + first;
    for (Index row = 0; row < count; ++row) {
      const double level = p_.sink[static_cast<std::size_t>(head)];
      const bool real = row < queries_in(h, block) && !is_minus_infinity(level);
      terms[row] = real ? static_cast<double>(dot[row]) *
                              std::exp(smaller(0.0, level - static_cast<double>(normalizer(first + row, 0))))
                        : 0;
    }
  }
  void sum_sink_terms() const {
    for (Index h = 0; h < heads_; ++h)
      for (Index g = 0; g < group_; ++g) {
        double sum = 0;
        for (Index row = 0; row < p_.queries(); ++row) sum -= scratch_.sink_terms(h, g)[row];
        parameter_terms_[(first_head_ + h) * group_ + g] = sum;
      }
  }

  void write_gate_gradients() const {
    parallel_for(heads_ * gate_heads_, p_.threads, [&](Index task, int) {
      const Index h = task / gate_heads_, own = task % gate_heads_;
      const Index head = key_head(h) * gate_heads_ + own;
      if (problem_.wants_key_terms) {
        std::copy_n(scratch_.key_terms(h, own), p_.keys(), problem_.key_terms_of(batch(h), head));
        return;
      }
      const Index first = gate_heads_ == 1 ? 0 : own, last = gate_heads_ == 1 ? group_ : own + 1;
      const auto row_terms = [&](Index position) {
        double sum = 0;
        const Index row = position - p_.visibility().offset();
        if (!p_.sink.empty() && row >= 0)
          for (Index g = first; g < last; ++g) sum += scratch_.sink_terms(h, g)[row];
        return sum;
      };
      write_gate_gradient(p_.log_gate.head(batch(h), head), scratch_.key_terms(h, own), scratch_.packers.key[h].length,
                          p_.keys(), row_terms,
                          static_cast<const Heads<T>&>(problem_.gradients.log_gate).head(batch(h), head));
    });
  }

  // Whether a query of block `from` sees a key of block `block`.
  bool sees(Index h, Index from, Index block) const {
    return p_.visibility().any(from * size, queries_in(h, from), block * size, keys_in(h, block));
  }
  // What a thread with the head for itself will read after block `from` of query head g.
  void ask_for_next(Index h, Index g, Index from, Index block, simd::Upcoming& upcoming) const {
    do {
      if (++from == scratch_.query_blocks) {
        from = 0;
        if (++g == group_) return;  // the next block of keys starts with packing
      }
    } while (!sees(h, from, block));
    upcoming.add(scratch_.queries(h, g, from), scratch_.queries.size());
    if (scratch_.beside == 0) upcoming.add(scratch_.query_gradient(h, g, from), rows_size());
  }

  // Key block `block` against all queries. Its terms of ∂q go to a slot of theirs, or where it has none are added at
  // once.
  static constexpr Index none = -1;
  void run_block(Index h, Index block, Index slot, int thread) const {
    const BackwardThreadScratch<T>& mine = scratch_.threads[thread];
    const Index value_stride = simd::padded_columns<T>(p_.value_dim());
    double slope_sum = 0;
    const Index keys = keys_in(h, block);
    const BackwardKeyBlock<T> key = key_block(thread);
    if (keys > 0)
      pack_key_block(problem_, scratch_.packers.key[h], batch(h), key_head(h), block * size, keys, mine.sums, mine.copy,
                     key);
    const bool keys_are_finite =
        !scratch_.unit || keys == 0 || key_tiles(thread).make(scratch_.unit, key, keys, p_.key_dim(), p_.value_dim());
    T* dk = leaves_at_once_ ? mine.key_gradient : scratch_.key_gradient(h, block);
    std::fill_n(dk, rows_size(), T(0));
    std::fill_n(mine.value_gradient, size * value_stride, T(0));
    if (gate_heads_ == 1) std::fill_n(mine.key_sums, size, T(0));
    for (Index g = 0; g < group_; ++g) {
      // Where each query head has gates of its own, so has its ∂v to be known.
      T* dv = gate_heads_ > 1 ? mine.own_value_gradient : mine.value_gradient;
      if (gate_heads_ > 1) {
        std::fill_n(mine.key_sums, size, T(0));
        std::fill_n(dv, size * value_stride, T(0));
      }
      for (Index from = 0; from < scratch_.query_blocks; ++from) {
        if (slot == none && block == 0) clear_query_gradient(h, g, from);
        if (sees(h, from, block)) {
          auto pairs =
              backward_pairs(problem_, weight_, scratch_.packers.query[h * group_ + g], query_block(h, g, from),
                             from * size, queries_in(h, from), key, block * size, keys);
          pairs.weights = mine.weights;
          pairs.slopes = mine.slopes;
          pairs.key_gradient = dk;
          pairs.value_gradient = dv;
          pairs.cap_slopes = mine.cap_slopes;
          pairs.key_sums = mine.key_sums;
          pairs.slope_sum = problem_.gradients.shift != nullptr ? &slope_sum : nullptr;
          if (scratch_.unit && ((keys_are_finite && *scratch_.finite(h, g, from)) || pairs.sees_all())) {
            run_pairs_on_unit(h, g, from, slot, pairs, thread);
          } else {
            ask_for_next(h, g, from, block, pairs.upcoming);
            run_pairs(h, g, from, slot, pairs, mine);
          }
        }
        if (slot == none && block == scratch_.key_blocks - 1) finish_queries(h, g, from);
      }
      if (gate_heads_ > 1) {
        add_terms_of_gate(h, g, block, keys, dv, mine.key_sums);
        simd::kernels<T>().add(size * value_stride, dv, mine.value_gradient);
      }
    }
    if (gate_heads_ == 1) add_terms_of_gate(h, 0, block, keys, mine.value_gradient, mine.key_sums);
    if (problem_.gradients.shift != nullptr)
      parameter_terms_[(first_head_ + h) * scratch_.key_blocks + block] = slope_sum;
    write_rows_of(mine.value_gradient, value_stride, keys, block, p_.keys(), 1,
                  problem_.gradients.value.head(batch(h), key_head(h)));
    if (leaves_at_once_)
      write_rows_of(dk, simd::padded_columns<T>(p_.key_dim()), keys, block, p_.keys(), key_gradient_factor(p_),
                    problem_.gradients.key.head(batch(h), key_head(h)));
  }

  void clear_query_gradient(Index h, Index g, Index block) const {
    std::fill_n(scratch_.query_gradient(h, g, block), rows_size(), T(0));
    if (scratch_.unit) std::fill_n(scratch_.query_sums(h, g, block), scratch_.query_sums.size(), T(0));
  }
  // One term of ∂q, always added by itself, so that it rounds as one that lies beside others.
  void run_pairs_on_unit(Index h, Index g, Index from, Index slot, const simd::DirectBackwardBlock<T>& pairs,
                         int thread) const {
    const bool beside = slot != none;
    T* const sums = beside ? scratch_.sum_terms(h, slot, g, from) : scratch_.query_sums(h, g, from);
    if (beside) {
      std::fill_n(sums, scratch_.sum_terms.size(), T(0));
      *scratch_.in_rows(h, slot, g, from) = false;
    }
    run_on_unit(scratch_.unit, pairs, query_tiles(h, g, from), key_tiles(thread), sums, scratch_.unit_scratch(thread));
  }
  void run_pairs(Index h, Index g, Index from, Index slot, simd::DirectBackwardBlock<T>& pairs,
                 const BackwardThreadScratch<T>& mine) const {
    T* const dq = scratch_.query_gradient(h, g, from);
    // Under a mask a term takes several steps, so that adding each at once would round otherwise.
    const bool added_at_once = slot == none && pairs.sees_all();
    pairs.query_gradient = added_at_once  ? dq
                           : slot == none ? mine.query_gradient
                                          : scratch_.query_terms(h, slot, g, from);
    if (!added_at_once) std::fill_n(pairs.query_gradient, rows_size(), T(0));
    simd::backward_kernels<T>().direct(pairs);
    if (!added_at_once && slot == none) simd::kernels<T>().add(rows_size(), mine.query_gradient, dq);
    if (scratch_.unit && slot != none) *scratch_.in_rows(h, slot, g, from) = true;
  }

  void add_terms_of_gate(Index h, Index gate, Index block, Index keys, const T* dv, const T* key_sums) const {
    double* terms = scratch_.key_terms(h, gate);
    add_value_terms(p_.value.head(batch(h), key_head(h)), block * size, keys, dv,
                    simd::padded_columns<T>(p_.value_dim()), terms);
    for (Index key = 0; key < keys; ++key) terms[block * size + key] += static_cast<double>(key_sums[key]);
  }

  // The rows of a block of which `real` have a gradient: the others are still zero, but for what a tile has spilt.
  void write_rows_of(T* rows, Index stride, Index real, Index block, Index tokens, double factor,
                     const StoredHead<T>& gradient) const {
    const Index count = smaller(size, tokens - block * size);
    std::fill(rows + real * stride, rows + count * stride, T(0));
    write_rows_plain<T>(rows, block * size, count, factor, gradient);
  }
  void finish_queries(Index h, Index g, Index block) const {
    if (scratch_.unit)
      scratch_.unit.forward->move_sums(queries_in(h, block), simd::padded_columns<T>(p_.key_dim()),
                                       scratch_.query_sums(h, g, block), scratch_.query_gradient(h, g, block));
    if (leaves_at_once_)
      write_rows_of(scratch_.query_gradient(h, g, block), simd::padded_columns<T>(p_.key_dim()), queries_in(h, block),
                    block, p_.queries(), query_gradient_factor(p_),
                    problem_.gradients.query.head(batch(h), key_head(h) * group_ + g));
  }

  // Adds the terms of key blocks [first, first + count) to ∂q, in their order.
  void add_terms(Index first, Index count) const {
    parallel_for(heads_ * group_ * scratch_.query_blocks, p_.threads, [&](Index task, int) {
      const Index from = task % scratch_.query_blocks, head = task / scratch_.query_blocks;
      const Index h = head / group_, g = head % group_;
      T* dq = scratch_.query_gradient(h, g, from);
      if (first == 0) clear_query_gradient(h, g, from);
      for (Index slot = 0; slot < count; ++slot) {
        if (!sees(h, from, first + slot)) continue;
        if (!scratch_.unit || *scratch_.in_rows(h, slot, g, from))
          simd::kernels<T>().add(rows_size(), scratch_.query_terms(h, slot, g, from), dq);
        else
          simd::kernels<T>().add(scratch_.query_sums.size(), scratch_.sum_terms(h, slot, g, from),
                                 scratch_.query_sums(h, g, from));
      }
      if (first + count == scratch_.key_blocks) finish_queries(h, g, from);
    });
  }

  void write_all() const {
    parallel_for(heads_ * (group_ + 1), p_.threads, [&](Index task, int thread) {
      const Index h = task / (group_ + 1), g = task % (group_ + 1);
      const BackwardThreadScratch<T>& mine = scratch_.threads[thread];
      if (g == group_) {
        write_input_gradient(scratch_.packers.key[h], key_gradient_factor(p_), scratch_.key_gradient(h, 0), mine.sums,
                             mine.packed, mine.copy, problem_.gradients.key.head(batch(h), key_head(h)));
        return;
      }
      T* rows = scratch_.query_gradient(h, g, 0);
      if (scratch_.key_blocks == 0) std::fill_n(rows, scratch_.query_blocks * rows_size(), T(0));
      write_input_gradient(scratch_.packers.query[h * group_ + g], query_gradient_factor(p_), rows, mine.sums,
                           mine.packed, mine.copy, problem_.gradients.query.head(batch(h), key_head(h) * group_ + g));
    });
  }

  const BackwardProblem<T>& problem_;
  const Problem<T>& p_;
  const DirectBackwardScratch<T>& scratch_;
  double* parameter_terms_;  // ∂L/∂shift: [all key heads][key_blocks], or ∂L/∂sink: [all query heads]
  simd::KernelWeight weight_;
  Index first_head_, heads_, group_;
  Index gate_heads_;  // of a key head, whose gradient is wanted
  bool leaves_at_once_;
};

template <class T>
void direct_attention_backward(const BackwardProblem<T>& problem, DirectBackwardScratch<T>& scratch,
                               double* parameter_terms, Index first_head, Index heads) {
  scratch.packers.bind(problem.forward, first_head, heads);
  DirectBackwardRun<T>(problem, scratch, parameter_terms, first_head, heads).run();
}

}  // namespace CSQ_CODE::detail

// Gradients of factored attention, O((g·n+m)·D·(dᵥ+1)): never a score, except inside the chunks of a causal scan.
//
//   S  = Σ_j φ(k_j) ⊗ [v_j, 1]           o_i = N_i/δ_i, [N_i, δ_i] = S read by q_i            (forward)
//   dS = Σ_i φ(q_i) ⊗ y_i                y_i = [G_i/δ_i, −(G_i·o_i)/δ_i]
//   dV = dS read by k_j                  dQ = pull-back of S·y_i         dK = pull-back of dS·[v_j, 1]
//
// Causal: a forward sweep (S grows, dQ is pulled back from it) and a reverse sweep (dS grows, dK and dV are taken from
// it); the pairs inside a chunk directly. (2g·n + 3m)·D·(dᵥ+1) multiply-adds, 2.5 times the forward. The savings of the
// causal forward are not taken here: every chunk reads and absorbs.
// Work is divided as in forward.hpp: key heads, slices of the feature axis, superblocks; results do not depend on
// threads. Memory: two summaries for each key head in flight, gradients as rows O(g·n·d + m·(d+dᵥ)), and a superblock
// of blocks.
#pragma once

#include "csq/detail/factored/backward_cancelled.hpp"
#include "csq/detail/factored/backward_slices.hpp"

namespace CSQ_CODE::detail {

template <class T>
class FactoredBackwardRun : FactoredBackwardSlices<T> {
  using Base = FactoredBackwardSlices<T>;

 public:
  explicit FactoredBackwardRun(const FactoredBackwardHeads<T>& heads) : Base(heads), cancelled_(heads) {}

  void run() const {
    clear();
    if (p_.causal)
      sweep_causal();
    else
      sweep_full();
    cancelled_.serve();
    write_all();
  }

 private:
  using Base::absorb_keys;
  using Base::absorb_queries;
  using Base::add_key_gradient;
  using Base::add_pairs;
  using Base::add_query_gradient;
  using Base::batch;
  using Base::clear_gradients;
  using Base::clear_pulled_back;
  using Base::find_query_scales;
  using Base::for_each_slice;
  using Base::group_;
  using Base::heads_;
  using Base::key_block;
  using Base::key_gradient;
  using Base::key_head;
  using Base::keys_in;
  using Base::make_key_tiles;
  using Base::make_query_tiles;
  using Base::own;
  using Base::p_;
  using Base::partial;
  using Base::problem_;
  using Base::pull_back_keys;
  using Base::pull_back_queries;
  using Base::queries_in;
  using Base::query_block;
  using Base::query_gradient;
  using Base::scale_keys;
  using Base::scale_queries;
  using Base::scratch_;
  using Base::size;
  using Base::sum_of_slices;
  using Base::summary;
  using Base::summary_gradient;
  using Base::take_kept_summary;
  using Base::value_gradient;
  using typename Base::Rows;

  void clear() const {
    parallel_for(heads_ * scratch_.slices, p_.threads, [&](Index task, int) {
      summary(task / scratch_.slices, task % scratch_.slices).clear();
      summary_gradient(task / scratch_.slices, task % scratch_.slices).clear();
    });
    parallel_for(heads_, p_.threads, [&](Index h, int) {
      clear_gradients(h);
      cancelled_.clear(h);
    });
  }
  template <class Visit>  // visit(first chunk, last chunk) superblock by superblock
  void for_each_superblock(Index chunks, bool reverse, const Visit& visit) const {
    const Index count = block_count(chunks, scratch_.superblock);
    for (Index i = 0; i < count; ++i) {
      const Index first = (reverse ? count - 1 - i : i) * scratch_.superblock;
      visit(first, smaller(first + scratch_.superblock, chunks));
    }
  }

  void absorb_all_keys() const {
    for_each_superblock(scratch_.chunks, false, [&](Index first, Index last) {
      pack_keys_of(first, last);
      for_each_slice([&](Index h, Index slice, int thread) {
        for (Index chunk = first; chunk < last; ++chunk) absorb_keys(h, slice, chunk, chunk - first, thread);
      });
    });
  }

  void sweep_full() const {
    if (!take_kept_summary()) absorb_all_keys();
    for (Index h = 0; h < heads_; ++h) {
      std::fill_n(cancelled_.square_sums(h, 0), scratch_.slices * scratch_.query_chunks, 0.0);
      std::fill_n(cancelled_.square_sums(h, 0), scratch_.query_chunks, scratch_.whole(h).square_sum());
    }
    for_each_superblock(scratch_.query_chunks, false, [&](Index first, Index last) {
      pack_queries_of(first, last);
      cancelled_.take_out(first, last);
      make_query_tiles_of(first, last);
      for_each_slice([&](Index h, Index slice, int thread) {
        for (Index chunk = first; chunk < last; ++chunk) absorb_queries(h, slice, chunk, chunk - first, thread);
      });
      parallel_for(heads_ * group_ * (last - first), p_.threads, [&](Index task, int thread) {
        const Index slot = task % (last - first), head = task / (last - first);
        const Index h = head / group_, g = head % group_;
        if (queries_in(h, first + slot).count == 0) return;
        clear_pulled_back(own(thread));
        for (Index slice = 0; slice < scratch_.slices; ++slice)
          pull_back_queries(h, slice, g, first + slot, slot, thread, own(thread));
        add_query_gradient(h, g, first + slot, slot, own(thread));
      });
    });
    for_each_superblock(scratch_.chunks, false, [&](Index first, Index last) {
      pack_keys_of(first, last);
      parallel_for(heads_ * (last - first), p_.threads, [&](Index task, int thread) {
        const Index h = task / (last - first), slot = task % (last - first);
        if (keys_in(h, first + slot).count == 0) return;
        clear_pulled_back(own(thread));
        for (Index slice = 0; slice < scratch_.slices; ++slice)
          pull_back_keys(h, slice, first + slot, slot, thread, own(thread));
        add_key_gradient(h, first + slot, slot, own(thread));
      });
    });
  }

  void sweep_causal() const {
    for_each_superblock(scratch_.chunks, false, [&](Index first, Index last) {
      pack_keys_of(first, last);
      pack_queries_of(first, last);
      make_query_tiles_of(first, last);
      for_each_slice([&](Index h, Index slice, int thread) {
        for (Index chunk = first; chunk < last; ++chunk) {
          const Index slot = chunk - first;
          cancelled_.square_sums(h, slice)[chunk] = summary(h, slice).square_sum();
          if (p_.has_gates()) scratch_.count_sums(h, slice)[chunk] = summary(h, slice).count_sum();
          for (Index g = 0; g < group_ && chunk > 0; ++g) {
            clear_pulled_back(partial(h, slice, g, slot));
            if (queries_in(h, chunk).count > 0)
              pull_back_queries(h, slice, g, chunk, slot, thread, partial(h, slice, g, slot));
          }
          if (chunk + 1 < scratch_.chunks) absorb_keys(h, slice, chunk, slot, thread);
        }
      });
      parallel_for(heads_ * (last - first), p_.threads, [&](Index task, int thread) {
        const Index h = task / (last - first), slot = task % (last - first), chunk = first + slot;
        if (queries_in(h, chunk).count == 0) return;
        for (Index g = 0; g < group_; ++g) {
          if (chunk > 0) {
            const PulledBack<T> read = sum_of_slices(h, g, slot);
            cancelled_.take_out(h, g, chunk, query_block(h, g, slot), &read);
            add_query_gradient(h, g, chunk, slot, read);
          }
          add_pairs(h, g, chunk, query_block(h, g, slot), chunk, key_block(h, slot), thread);
        }
      });
    });
    for_each_superblock(scratch_.chunks, true, [&](Index first, Index last) {
      pack_keys_of(first, last);
      pack_queries_of(first, last);
      cancelled_.take_out(first, last);
      scale_queries_of(first, last);
      make_query_tiles_of(first, last);
      for_each_slice([&](Index h, Index slice, int thread) {
        for (Index chunk = last - 1; chunk >= first; --chunk) {
          const Index slot = chunk - first;
          if (chunk + 1 < scratch_.chunks && keys_in(h, chunk).count > 0) {
            clear_pulled_back(partial(h, slice, 0, slot));
            pull_back_keys(h, slice, chunk, slot, thread, partial(h, slice, 0, slot));
          }
          if (chunk > 0) absorb_queries(h, slice, chunk, slot, thread);
        }
      });
      parallel_for(heads_ * (last - first), p_.threads, [&](Index task, int) {
        const Index h = task / (last - first), slot = task % (last - first), chunk = first + slot;
        if (chunk + 1 < scratch_.chunks && keys_in(h, chunk).count > 0)
          add_key_gradient(h, chunk, slot, sum_of_slices(h, 0, slot));
      });
    });
  }

  void pack_keys_of(Index first, Index last) const {
    parallel_for(heads_ * (last - first), p_.threads, [&](Index task, int thread) {
      const Index h = task / (last - first), slot = task % (last - first);
      const Rows rows = keys_in(h, first + slot);
      if (rows.count > 0)
        pack_key_block(problem_, scratch_.packers.key[h], batch(h), key_head(h), rows.first, rows.count,
                       scratch_.threads[thread].sums, scratch_.threads[thread].copy, key_block(h, slot));
      if (p_.has_gates()) scale_keys(h, first + slot, slot);
      make_key_tiles(h, first + slot, slot);
    });
  }
  void make_query_tiles_of(Index first, Index last) const {
    if (!scratch_.unit) return;
    parallel_for(heads_ * group_ * (last - first), p_.threads, [&](Index task, int) {
      const Index slot = task % (last - first), head = task / (last - first);
      make_query_tiles(head / group_, head % group_, first + slot, slot);
    });
  }
  // For absorbing where there are gates, when rows that are not read have been silenced.
  void scale_queries_of(Index first, Index last) const {
    if (!p_.has_gates()) return;
    parallel_for(heads_ * group_ * (last - first), p_.threads, [&](Index task, int) {
      const Index slot = task % (last - first), head = task / (last - first);
      if (queries_in(head / group_, first + slot).count > 0)
        scale_queries(head / group_, head % group_, first + slot, slot);
    });
  }
  void pack_queries_of(Index first, Index last) const {
    parallel_for(heads_ * group_ * (last - first), p_.threads, [&](Index task, int thread) {
      const Index slot = task % (last - first), head = task / (last - first);
      const Index h = head / group_, g = head % group_;
      const Rows rows = queries_in(h, first + slot);
      if (p_.has_gates() && g == 0) find_query_scales(h, first + slot, slot);
      if (rows.count > 0)
        pack_query_block(problem_, scratch_.packers.query[h * group_ + g], batch(h), key_head(h) * group_ + g,
                         rows.first, rows.count, scratch_.threads[thread].sums, query_block(h, g, slot));
    });
  }

  void write_all() const {
    parallel_for(heads_ * (group_ + 1), p_.threads, [&](Index task, int thread) {
      const Index h = task / (group_ + 1), g = task % (group_ + 1);
      const BackwardThreadScratch<T>& mine = scratch_.threads[thread];
      if (g < group_) {
        write_input_gradient(scratch_.packers.query[h * group_ + g], query_gradient_factor(p_), query_gradient(h, g, 0),
                             mine.sums, mine.packed, mine.copy,
                             problem_.gradients.query.head(batch(h), key_head(h) * group_ + g));
        return;
      }
      write_input_gradient(scratch_.packers.key[h], key_gradient_factor(p_), key_gradient(h, 0), mine.sums, mine.packed,
                           mine.copy, problem_.gradients.key.head(batch(h), key_head(h)));
      for (Index row = 0; row < p_.keys(); row += size)
        write_rows_plain<T>(value_gradient(h, row), row, smaller(size, p_.keys() - row), 1,
                            problem_.gradients.value.head(batch(h), key_head(h)));
      if (problem_.gate_gradient_heads() > 0) write_gate_gradient_of(h);
    });
  }
  void write_gate_gradient_of(Index h) const {
    const Index length = scratch_.packers.key[h].length;
    double* terms = scratch_.key_terms(h);
    add_value_terms(p_.value.head(batch(h), key_head(h)), 0, length, value_gradient(h, 0), scratch_.value_stride,
                    terms);
    if (problem_.wants_key_terms) {
      std::copy_n(terms, p_.keys(), problem_.key_terms_of(batch(h), key_head(h)));
      return;
    }
    const Heads<T>& gradient = problem_.gradients.log_gate;
    write_gate_gradient(
        p_.log_gate.head(batch(h), key_head(h)), terms, length, p_.keys(), [](Index) { return 0.0; },
        gradient.head(batch(h), key_head(h)));
  }

  CancelledRows<T> cancelled_;
};

template <class T>
void factored_attention_backward(const BackwardProblem<T>& problem, FactoredBackwardScratch<T>& scratch,
                                 double* parameter_terms, Index first_head, Index heads) {
  scratch.packers.bind(problem.forward, first_head, heads);
  FactoredBackwardRun<T>({problem, scratch, parameter_terms, first_head, heads}).run();
}

}  // namespace CSQ_CODE::detail

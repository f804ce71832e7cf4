// Factored attention, O((n+m)·D·(dᵥ+1)) with D ≈ d²/2: keys are absorbed into the K⊗V summary, queries read it.
//
// Causal: a scan over chunks. Read the summary of everything before the chunk, add the chunk's own pairs directly under
// the mask, then absorb the chunk; less the two savings of scan_plan.hpp. Every row is therefore
//     [N, δ] = φ_q(q_i)ᵀ S(keys before b) + Σ_{b ≤ j ≤ i} w(s_ij) [v_j, 1]
// with a boundary b of its own: 0 for rows that see few keys, its chunk's start, or where absorbing ended. Rows
// whose features cancel (cancellation.hpp) are served directly instead.
//
// Work is split over key heads and, where these are few, over slices of the *feature* axis: a slice owns its rows of S
// for the whole sequence, so absorbing needs no communication, and reading leaves partial rows that are summed in the
// order of the slices. Slices are a function of the shape alone, so results do not depend on threads.
// (Splitting the *sequence* instead absorbs everything twice: 0.41 to 0.55 of the peak against 0.74 to 0.80.)
// Memory: the summary, D·(dᵥ+1), for each key head in flight, and a superblock of packed tokens and partial rows.
#pragma once

#include "csq/detail/factored/forward_reading.hpp"

namespace CSQ_CODE::detail {

// The heads in flight of one factored call: the phases of the scan as members, each a parallel loop.
template <class T>
class FactoredRun : FactoredReading<T> {
  using Base = FactoredReading<T>;

 public:
  using Base::Base;

  void run() const {
    parallel_for(heads_ * scratch_.slices, problem_.threads,
                 [&](Index task, int) { begin_slice(task / scratch_.slices, task % scratch_.slices); });
    if (problem_.causal) {
      blank_rows();
      serve_first_rows();
      if (scratch_.plan.first_read >= scratch_.chunks) return;
      for (Index chunk = 0; chunk < scratch_.chunks; chunk += scratch_.superblock) {
        const Index end = smaller(chunk + scratch_.superblock, scratch_.chunks);
        pack_superblock(chunk, end);
        scan_superblock(chunk, end);
        serve_superblock(chunk, end);
      }
    } else {
      for (Index chunk = 0; chunk < scratch_.chunks; chunk += scratch_.superblock) {
        const Index end = smaller(chunk + scratch_.superblock, scratch_.chunks);
        pack_superblock(chunk, end);
        scan_superblock(chunk, end);
      }
      read_all_rows();
    }
  }

  // Hands the finished summaries over.
  void keep(KeptSummary& kept) const {
    for (Index h = 0; h < heads_; ++h) scratch_.whole(h).copy_to(kept.template head<T>(first_head_ + h));
  }
  void leave() const {
    parallel_for(heads_, problem_.threads, [&](Index h, int) { scratch_.whole(h).copy_to(continued(h)); });
  }

 private:
  using Base::absorb_chunk;
  using Base::absorb_superblock;
  using Base::absorbed_until;
  using Base::batch;
  using Base::chunk_size;
  using Base::continued;
  using Base::first_head_;
  using Base::gate;
  using Base::group_;
  using Base::heads_;
  using Base::is_kept;
  using Base::is_read;
  using Base::key_head;
  using Base::keys_in;
  using Base::mark_cancelled;
  using Base::mark_out_of_range;
  using Base::mark_unread;
  using Base::problem_;
  using Base::read_all_rows;
  using Base::read_chunk;
  using Base::rows_in;
  using Base::scratch_;
  using Base::sum_slices;
  using Base::weight_;
  using Base::write;
  using Base::write_checked;
  using typename Base::Marks;
  using typename Base::Rows;

  // What the call goes on from, as gates have left it at the first token; or nothing.
  void begin_slice(Index h, Index index) const {
    const SummarySlice<T> slice = scratch_.slice(h, index);
    if (problem_.held == 0) {
      slice.clear();
      return;
    }
    if (!problem_.causal) return;  // read where it lies
    slice.copy_from(scratch_.whole(h).at(continued(h)));
    if (!problem_.has_gates() || problem_.keys() == 0) return;
    const double first = static_cast<double>(problem_.log_gate.head(batch(h), key_head(h))(0, 0));
    slice.scale(static_cast<T>(decay_of_gates<T>(readable_gate(first))));
  }

  void pack_key_chunk(Index h, Index chunk, int thread, T* key, T* values) const {
    pack_keys(problem_, scratch_.packers.key[h], batch(h), key_head(h), chunk * chunk_size(), keys_in(h, chunk),
              scratch_.threads[thread], key, values);
  }

  void store_chunk(Index h, Index chunk, Index slot, int thread) const {
    T* const key = scratch_.stored_keys(h, slot);
    T* const values = scratch_.stored_values(h, slot);
    pack_key_chunk(h, chunk, thread, key, values);
    scratch_.stored_tiles.make(problem_, h, slot, key, values, keys_in(h, chunk));
  }

  // More queries than keys: the first rows stand before the first key and see nothing.
  void blank_rows() const {
    const Index blank = problem_.visibility().blind_queries();
    const Index blocks = block_count(blank, simd::block_tokens<T>);
    parallel_for(heads_ * group_ * blocks, problem_.threads, [&](Index task, int thread) {
      const DirectThreadScratch<T>& mine = scratch_.threads[thread];
      const Index first = task % blocks * simd::block_tokens<T>;
      const Index count = smaller(simd::block_tokens<T>, blank - first);
      mine.clear_sums(problem_.value_dim(), count);
      write(task / blocks / group_, task / blocks % group_, {first, count, 0}, mine);
    });
  }

  // Rows of the chunks before first_read see few keys: directly, from the stored first chunks.
  void serve_first_rows() const {
    const Index chunks = smaller(scratch_.plan.first_read, scratch_.chunks);
    if (chunks == 0 || rows_in(0, chunks - 1).first + rows_in(0, chunks - 1).count == 0) return;
    parallel_for(heads_ * chunks, problem_.threads, [&](Index task, int thread) {
      const Index h = task / chunks, chunk = task % chunks;
      if (keys_in(h, chunk) > 0) store_chunk(h, chunk, chunk, thread);
    });
    parallel_for(heads_ * group_ * chunks, problem_.threads, [&](Index task, int thread) {
      const Index chunk = chunks - 1 - task / (heads_ * group_);
      const Index h = task % (heads_ * group_) / group_, g = task % group_;
      const Rows rows = rows_in(h, chunk);
      if (rows.count == 0) return;
      const DirectThreadScratch<T>& mine = scratch_.threads[thread];
      mine.clear_sums(problem_.value_dim(), rows.count);
      if (rows.real > 0) {
        scratch_.packers.query[h * group_ + g].pack_only(rows.first, rows.real, mine.rows, mine.sums, mine.query);
        mine.begin_pairs(mine.query, rows.real, problem_.key_dim(), problem_.value_dim());
        serve_stored(h, g, 0, 0, chunk, mine.query, rows, mine);
        mine.end_pairs(rows.real, problem_.value_dim());
      }
      write_checked(h, g, rows, mine, thread,
                    [&](Marks& again) { return mark_out_of_range(rows.real, mine.normalizer, again); });
    });
  }

  // The pairs of a block of rows at chunk `own` with the stored chunks from `first` on; slot 0 of the store holds chunk
  // `base`.
  void serve_stored(Index h, Index g, Index base, Index first, Index own, const T* query, const Rows& rows,
                    const DirectThreadScratch<T>& mine) const {
    const RowPacker<T>& packer = scratch_.packers.query[h * group_ + g];
    copy_gates(problem_, packer, rows.first, rows.real, mine.gate, mine.gate_low);
    const Index last = smaller(own, scratch_.key_chunks - 1);
    const auto stored = [&](Index chunk) {
      const Index slot = chunk - base;
      return scratch_.stored_tiles.with(
          {scratch_.stored_keys(h, slot), scratch_.stored_values(h, slot), chunk * chunk_size(), keys_in(h, chunk)}, h,
          slot);
    };
    for (Index chunk = first; chunk <= last; ++chunk)
      add_pairs(problem_, weight_, mine, packer, query, rows.real, rows.first, stored(chunk),
                stored(chunk < last ? chunk + 1 : first));
  }

  // Packs the tokens of chunks [first, last): kept ones into the store, where later rows find them too.
  void pack_superblock(Index first, Index last) const {
    const Index count = last - first;
    parallel_for(heads_ * count, problem_.threads, [&](Index task, int thread) {
      const Index h = task / count, slot = task % count, chunk = first + slot;
      if (keys_in(h, chunk) == 0) return;
      if (is_kept(chunk)) {
        store_chunk(h, chunk, chunk - scratch_.plan.first_kept, thread);
      } else {
        T* const key = scratch_.keys(h, slot);
        T* const values = scratch_.values(h, slot);
        pack_key_chunk(h, chunk, thread, key, values);
        scratch_.tiles.make(problem_, h, slot, key, values, keys_in(h, chunk));
        if (problem_.has_gates()) scale_values(h, chunk, slot);
        if (scratch_.matrix != nullptr)
          scratch_.matrix->value_pair_tiles(problem_.has_gates() ? scratch_.scaled_values(h, slot) : values,
                                            keys_in(h, chunk), scratch_.value_stride, scratch_.value_tiles(h, slot));
      }
    });
    if (!problem_.causal) return;
    parallel_for(heads_ * group_ * count, problem_.threads, [&](Index task, int thread) {
      const Index h = task / (group_ * count), g = task / count % group_, slot = task % count, chunk = first + slot;
      const Rows rows = rows_in(h, chunk);
      if (!is_read(chunk) || rows.real == 0) return;
      const DirectThreadScratch<T>& mine = scratch_.threads[thread];
      scratch_.packers.query[h * group_ + g].pack_only(rows.first, rows.real, mine.rows, mine.sums,
                                                       scratch_.queries(h, g, slot));
    });
  }

  // The chunk's values, and its row of ones, times what gates leave of each at the chunk's end.
  void scale_values(Index h, Index chunk, Index slot) const {
    const Index count = keys_in(h, chunk), first = chunk * chunk_size(), stride = scratch_.value_stride;
    T* scales = scratch_.scales(h, slot);
    gate(h).decays(first + count - 1, first, count, scales);
    simd::kernels<T>().scale_rows(count, stride, scales, scratch_.values(h, slot), scratch_.scaled_values(h, slot));
  }

  // What gates have left, at each row of a chunk, of the summary that it reads: onto the rows, and into `decay`.
  void decay_rows(Index h, Index chunk, const Rows& rows, const DirectThreadScratch<T>& mine, T* decay) const {
    const Index from = this->decays_from(h, chunk);
    if (from < 0)
      std::fill_n(decay, rows.real, T(1));
    else
      gate(h).decays(from, rows.first + problem_.visibility().offset(), rows.real, decay);
    for (Index row = 0; row < rows.real; ++row) mine.normalizer[row] *= decay[row];
    simd::kernels<T>().scale_rows(rows.real, scratch_.value_stride, decay, mine.numerator, mine.numerator);
  }

  // Each slice goes through the chunks in order: read what came before, then absorb.
  void scan_superblock(Index first, Index last) const {
    parallel_for(heads_ * scratch_.slices, problem_.threads, [&](Index task, int thread) {
      const Index h = task / scratch_.slices, index = task % scratch_.slices;
      const SummarySlice<T> slice = scratch_.slice(h, index);
      for (Index chunk = first; chunk < last; ++chunk) {
        const Index slot = chunk - first;
        if (problem_.causal && is_read(chunk) && rows_in(h, chunk).real > 0) {
          scratch_.square_sums(h, index)[slot] = slice.square_sum();
          if (problem_.has_gates()) scratch_.count_sums(h, index)[slot] = slice.count_sum();
          read_chunk(h, index, slot, rows_in(h, chunk).real, thread);
        }
        if (!is_kept(chunk) && keys_in(h, chunk) > 0) absorb_chunk(h, slice, chunk, slot, thread);
      }
      if (scratch_.matrix != nullptr && !problem_.causal) absorb_superblock(h, slice, first, last, thread);
    });
  }

  // Sums the slices' partial rows into the first, adds the pairs that no summary holds, and writes.
  void serve_superblock(Index first, Index last) const {
    const Index count = last - first;
    parallel_for(heads_ * group_ * count, problem_.threads, [&](Index task, int thread) {
      const Index h = task / (group_ * count), g = task / count % group_, slot = task % count, chunk = first + slot;
      const Rows rows = rows_in(h, chunk);
      if (!is_read(chunk) || rows.count == 0) return;
      DirectThreadScratch<T> mine = scratch_.threads[thread];
      T decay[std::size_t{simd::block_tokens<T>}];
      if (rows.real > 0) {
        sum_slices(h, g, slot, rows.real, mine);
        if (problem_.has_gates()) decay_rows(h, chunk, rows, mine, decay);
        mine.begin_pairs(scratch_.queries(h, g, slot), rows.real, problem_.key_dim(), problem_.value_dim());
        if (is_kept(chunk)) {
          serve_stored(h, g, scratch_.plan.first_kept, scratch_.plan.first_kept, chunk, scratch_.queries(h, g, slot),
                       rows, mine);
        } else {
          const RowPacker<T>& packer = scratch_.packers.query[h * group_ + g];
          copy_gates(problem_, packer, rows.first, rows.real, mine.gate, mine.gate_low);
          add_pairs(problem_, weight_, mine, packer, scratch_.queries(h, g, slot), rows.real, rows.first,
                    scratch_.tiles.with(
                        {scratch_.keys(h, slot), scratch_.values(h, slot), chunk * chunk_size(), keys_in(h, chunk)}, h,
                        slot));
        }
        mine.end_pairs(rows.real, problem_.value_dim());
      }
      write_checked(h, g, rows, mine, thread, [&](Marks& again) {
        const Index read = absorbed_until(h, chunk) + 1 + problem_.held;
        if (read == 0) return mark_unread(rows.real, mine.normalizer, again);
        const bool gated = problem_.has_gates();
        double key_squares = 0, keys = gated ? 0 : static_cast<double>(read);
        for (Index slice = 0; slice < scratch_.slices; ++slice) {
          key_squares += scratch_.square_sums(h, slice)[slot];
          if (gated) keys += scratch_.count_sums(h, slice)[slot];
        }
        return mark_cancelled(scratch_.queries(h, g, slot), rows.real, mine.normalizer, key_squares, keys,
                              gated ? decay : nullptr, again);
      });
    });
  }
};

template <class T>
void factored_attention(const Problem<T>& problem, FactoredScratch<T>& scratch, Index first_head, Index heads) {
  scratch.packers.bind(problem, first_head, heads);
  const FactoredRun<T> run(problem, scratch, first_head, heads);
  run.run();
  if (!problem.causal && problem.summary != nullptr) run.keep(*problem.summary);
  if (problem.causal && problem.continued != nullptr) run.leave();
}

}  // namespace CSQ_CODE::detail

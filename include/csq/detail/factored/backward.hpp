// Gradients of factored attention, O((g·n+m)·D·(dᵥ+1)): never a score, except inside the chunks of a causal scan.
//
//   S  = Σ_j φ(k_j) ⊗ [v_j, 1]           o_i = N_i/δ_i, [N_i, δ_i] = S read by q_i            (forward)
//   dS = Σ_i φ(q_i) ⊗ y_i                y_i = [G_i/δ_i, −(G_i·o_i)/δ_i]
//   dV = dS read by k_j                  dQ = pull-back of S·y_i         dK = pull-back of dS·[v_j, 1]
//
// Causal: a forward sweep (S grows, dQ is pulled back from it) and a reverse sweep (dS grows, dK and dV are taken from
// it); the pairs inside a chunk directly. (2g·n + 3m)·D·(dᵥ+1) multiply-adds, 2.5 times the forward. The savings of the
// causal forward are not taken here: every chunk reads and absorbs.
// Work is divided as in factored.hpp: key heads, slices of the feature axis, superblocks; results do not depend on
// threads. Memory: two summaries for each key head in flight, gradients as rows O(g·n·d + m·(d+dᵥ)), and a superblock
// of blocks.
#pragma once

#include "csq/detail/factored/backward_scratch.hpp"
#include "csq/detail/factored/cancellation.hpp"

namespace CSQ_CODE::detail {

template <class T>
class FactoredBackwardRun {
 public:
  FactoredBackwardRun(const BackwardProblem<T>& problem, const FactoredBackwardScratch<T>& scratch, double* shift_terms,
                      Index first_head, Index heads)
      : problem_(problem),
        p_(problem.forward),
        scratch_(scratch),
        shift_terms_(shift_terms),
        weight_(kernel_weight(problem.forward.weight)),
        coefficients_(feature_coefficients(problem.forward.weight)),
        first_head_(first_head),
        heads_(heads),
        group_(problem.forward.group()) {}

  void run() const {
    clear();
    if (p_.causal)
      sweep_causal();
    else
      sweep_full();
    serve_cancelled();
    write_all();
  }

 private:
  static constexpr Index size = simd::block_tokens<T>;

  struct Rows {
    Index first, count;
  };
  Index batch(Index h) const { return (first_head_ + h) / p_.key.heads(); }
  Index key_head(Index h) const { return (first_head_ + h) % p_.key.heads(); }
  Rows keys_in(Index h, Index chunk) const {
    const Index first = chunk * scratch_.chunk;
    return {first, std::clamp<Index>(scratch_.packers.key[h].length - first, 0, scratch_.chunk)};
  }
  // Real rows of a chunk of queries: under a mask those at the chunk's positions.
  Rows queries_in(Index h, Index chunk) const {
    const Index length = scratch_.packers.query[h * group_].length;
    const Index start = chunk * scratch_.chunk, end = start + scratch_.chunk;
    if (!p_.causal) return {smaller(start, length), smaller(end, length) - smaller(start, length)};
    const Index first = p_.visibility().first_query_at(start, length);
    return {first, p_.visibility().first_query_at(end, length) - first};
  }
  BackwardKeyBlock<T> key_block(Index h, Index slot) const {
    const Index block_size = BackwardKeyBlock<T>::size(p_.key_dim(), p_.value_dim(), true);
    return BackwardKeyBlock<T>::at(scratch_.keys + (h * scratch_.superblock + slot) * block_size, p_.key_dim(),
                                   p_.value_dim(), true);
  }
  BackwardQueryBlock<T> query_block(Index h, Index g, Index slot) const {
    const Index block_size = BackwardQueryBlock<T>::size(p_.key_dim(), p_.value_dim());
    return BackwardQueryBlock<T>::at(scratch_.queries + ((h * group_ + g) * scratch_.superblock + slot) * block_size,
                                     p_.key_dim(), p_.value_dim());
  }
  PulledBack<T> partial(Index h, Index slice, Index g, Index slot) const {
    const Index index = ((h * scratch_.slices + slice) * group_ + g) * scratch_.superblock + slot;
    return PulledBack<T>::at(scratch_.partial + index * scratch_.partial_size(), scratch_.lanes_size());
  }
  T* panel(int thread) const { return scratch_.panels[thread]; }
  T* summary_panel(int thread) const { return panel(thread) + simd::panel_features * size; }
  PulledBack<T> own(int thread) const {
    return PulledBack<T>::at(panel(thread) + 2 * simd::panel_features * size, scratch_.lanes_size());
  }
  T* query_gradient(Index h, Index g, Index row) const {
    return scratch_.query_gradient + ((h * group_ + g) * scratch_.query_rows + row) * scratch_.key_stride;
  }
  T* key_gradient(Index h, Index row) const {
    return scratch_.key_gradient + (h * scratch_.key_rows + row) * scratch_.key_stride;
  }
  T* value_gradient(Index h, Index row) const {
    return scratch_.value_gradient + (h * scratch_.key_rows + row) * scratch_.value_stride;
  }
  double& shift_term(Index h, Index g, Index chunk) const {
    return shift_terms_[((first_head_ + h) * group_ + g) * scratch_.query_chunks + chunk];
  }
  SummarySlice<T> summary(Index h, Index slice) const {
    return scratch_.slice(scratch_.summary, scratch_.normalizer, h, slice);
  }
  SummarySlice<T> summary_gradient(Index h, Index slice) const {
    return scratch_.slice(scratch_.summary_gradient, scratch_.normalizer_gradient, h, slice);
  }

  void clear() const {
    parallel_for(heads_ * scratch_.slices, p_.threads, [&](Index task, int) {
      summary(task / scratch_.slices, task % scratch_.slices).clear();
      summary_gradient(task / scratch_.slices, task % scratch_.slices).clear();
    });
    parallel_for(heads_, p_.threads, [&](Index h, int) {
      clear_gradients(h);
      std::fill_n(scratch_.gradient_bound + chunk_index(h, 0, 0), group_ * scratch_.query_chunks, 0.0);
      std::fill_n(scratch_.cancels + chunk_index(h, 0, 0), group_ * scratch_.query_chunks, false);
    });
  }
  void clear_gradients(Index h) const {
    std::fill_n(query_gradient(h, 0, 0), group_ * scratch_.query_rows * scratch_.key_stride, T(0));
    std::fill_n(key_gradient(h, 0), scratch_.key_rows * scratch_.key_stride, T(0));
    std::fill_n(value_gradient(h, 0), scratch_.key_rows * scratch_.value_stride, T(0));
    std::fill_n(&shift_term(h, 0, 0), group_ * scratch_.query_chunks, 0.0);
  }

  template <class Visit>  // visit(first chunk, last chunk) superblock by superblock
  void for_each_superblock(Index chunks, bool reverse, const Visit& visit) const {
    const Index count = block_count(chunks, scratch_.superblock);
    for (Index i = 0; i < count; ++i) {
      const Index first = (reverse ? count - 1 - i : i) * scratch_.superblock;
      visit(first, smaller(first + scratch_.superblock, chunks));
    }
  }

  // The summaries as forward left them, when it did.
  bool take_kept_summary() const {
    if (p_.summary == nullptr || !p_.summary->holds(summary_origin(p_, scratch_.features), summary_key_rows(p_)))
      return false;
    for (Index h = 0; h < heads_; ++h) {
      const SummarySlice<T> whole = scratch_.whole(h);
      const T* numbers = p_.summary->template head<T>(first_head_ + h);
      std::copy_n(numbers, whole.summary_size(), whole.summary);
      std::copy_n(numbers + whole.summary_size(), scratch_.features, whole.normalizer);
    }
    return true;
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
      std::fill_n(square_sums(h, 0), scratch_.slices * scratch_.query_chunks, 0.0);
      std::fill_n(square_sums(h, 0), scratch_.query_chunks, scratch_.whole(h).square_sum());
    }
    for_each_superblock(scratch_.query_chunks, false, [&](Index first, Index last) {
      pack_queries_of(first, last);
      take_cancelled_out(first, last);
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
        add_query_gradient(h, g, first + slot, own(thread));
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
        add_key_gradient(h, first + slot, own(thread));
      });
    });
  }

  void sweep_causal() const {
    for_each_superblock(scratch_.chunks, false, [&](Index first, Index last) {
      pack_keys_of(first, last);
      pack_queries_of(first, last);
      for_each_slice([&](Index h, Index slice, int thread) {
        for (Index chunk = first; chunk < last; ++chunk) {
          const Index slot = chunk - first;
          square_sums(h, slice)[chunk] = summary(h, slice).square_sum();
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
            take_cancelled_out(h, g, chunk, query_block(h, g, slot), &read);
            add_query_gradient(h, g, chunk, read);
          }
          add_pairs(h, g, chunk, query_block(h, g, slot), chunk, key_block(h, slot), thread);
        }
      });
    });
    for_each_superblock(scratch_.chunks, true, [&](Index first, Index last) {
      pack_keys_of(first, last);
      pack_queries_of(first, last);
      take_cancelled_out(first, last);
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
          add_key_gradient(h, chunk, sum_of_slices(h, 0, slot));
      });
    });
  }

  template <class Visit>
  void for_each_slice(const Visit& visit) const {
    parallel_for(heads_ * scratch_.slices, p_.threads,
                 [&](Index task, int thread) { visit(task / scratch_.slices, task % scratch_.slices, thread); });
  }

  void pack_keys_of(Index first, Index last) const {
    parallel_for(heads_ * (last - first), p_.threads, [&](Index task, int thread) {
      const Index h = task / (last - first), slot = task % (last - first);
      const Rows rows = keys_in(h, first + slot);
      if (rows.count > 0)
        pack_key_block(problem_, scratch_.packers.key[h], batch(h), key_head(h), rows.first, rows.count,
                       scratch_.threads[thread].sums, scratch_.threads[thread].copy, key_block(h, slot));
    });
  }
  void pack_queries_of(Index first, Index last) const {
    parallel_for(heads_ * group_ * (last - first), p_.threads, [&](Index task, int thread) {
      const Index slot = task % (last - first), head = task / (last - first);
      const Index h = head / group_, g = head % group_;
      const Rows rows = queries_in(h, first + slot);
      if (rows.count > 0)
        pack_query_block(problem_, scratch_.packers.query[h * group_ + g], batch(h), key_head(h) * group_ + g,
                         rows.first, rows.count, scratch_.threads[thread].sums, query_block(h, g, slot));
    });
  }

  void absorb_keys(Index h, Index slice, Index chunk, Index slot, int thread) const {
    const Rows rows = keys_in(h, chunk);
    const BackwardKeyBlock<T> key = key_block(h, slot);
    if (rows.count > 0)
      summary(h, slice).absorb(key.packed, key.value_rows, key.packed + p_.key_dim() * size, rows.count, panel(thread));
  }
  void absorb_queries(Index h, Index slice, Index chunk, Index slot, int thread) const {
    const Rows rows = queries_in(h, chunk);
    if (rows.count == 0) return;
    for (Index g = 0; g < group_; ++g) {
      const BackwardQueryBlock<T> query = query_block(h, g, slot);
      summary_gradient(h, slice).absorb(query.packed, query.gradient_rows,
                                        query.gradient_packed + p_.value_dim() * size, rows.count, panel(thread));
    }
  }

  void clear_pulled_back(const PulledBack<T>& result) const {
    std::fill_n(result.lanes, scratch_.partial_size(), T(0));
  }
  void pull_back_queries(Index h, Index slice, Index g, Index chunk, Index slot, int thread,
                         const PulledBack<T>& result) const {
    const BackwardQueryBlock<T> query = query_block(h, g, slot);
    summary(h, slice).pull_back(coefficients_, query.packed, query.gradient_packed, queries_in(h, chunk).count,
                                p_.value_dim(), panel(thread), summary_panel(thread), result.lanes, result.shift);
  }
  void pull_back_keys(Index h, Index slice, Index chunk, Index slot, int thread, const PulledBack<T>& result) const {
    const BackwardKeyBlock<T> key = key_block(h, slot);
    const Index count = keys_in(h, chunk).count;
    const SummarySlice<T> gradient = summary_gradient(h, slice);
    gradient.pull_back(coefficients_, key.packed, key.value_packed, count, p_.value_dim(), panel(thread),
                       summary_panel(thread), result.lanes, result.shift);
    // The sum that reading leaves for the normaliser has no use here; shift is not needed on this side.
    gradient.read(coefficients_, key.packed, count, panel(thread), result.value_rows, result.shift);
  }

  // The slices' shares, summed in order into the first.
  PulledBack<T> sum_of_slices(Index h, Index g, Index slot) const {
    const PulledBack<T> sum = partial(h, 0, g, slot);
    for (Index slice = 1; slice < scratch_.slices; ++slice)
      simd::kernels<T>().add(scratch_.partial_size(), partial(h, slice, g, slot).lanes, sum.lanes);
    return sum;
  }

  void add_query_gradient(Index h, Index g, Index chunk, const PulledBack<T>& result) const {
    const Rows rows = queries_in(h, chunk);
    simd::backward_kernels<T>().add_transposed(
        {result.lanes, rows.count, p_.key_dim(), query_gradient(h, g, rows.first)});
    double& shift = shift_term(h, g, chunk);
    for (Index row = 0; row < rows.count; ++row) shift += static_cast<double>(result.shift[row]);
  }
  void add_key_gradient(Index h, Index chunk, const PulledBack<T>& result) const {
    const Rows rows = keys_in(h, chunk);
    simd::backward_kernels<T>().add_transposed({result.lanes, rows.count, p_.key_dim(), key_gradient(h, rows.first)});
    simd::kernels<T>().add(rows.count * scratch_.value_stride, result.value_rows, value_gradient(h, rows.first));
  }

  // The pairs of a chunk of queries with a chunk of keys.
  void add_pairs(Index h, Index g, Index query_chunk, const BackwardQueryBlock<T>& query, Index key_chunk,
                 const BackwardKeyBlock<T>& key, int thread) const {
    const Rows queries = queries_in(h, query_chunk), keys = keys_in(h, key_chunk);
    if (keys.count == 0) return;
    const BackwardThreadScratch<T>& mine = scratch_.threads[thread];
    auto pairs = backward_pairs(problem_, weight_, query, queries.first, queries.count, key, keys.first, keys.count);
    pairs.weights = mine.weights;
    pairs.slopes = mine.slopes;
    pairs.query_gradient = mine.query_gradient;
    pairs.key_gradient = mine.key_gradient;
    pairs.value_gradient = mine.value_gradient;
    if (problem_.gradients.shift != nullptr) pairs.slope_sum = &shift_term(h, g, query_chunk);
    std::fill_n(mine.query_gradient, size * scratch_.key_stride, T(0));
    std::fill_n(mine.key_gradient, size * scratch_.key_stride, T(0));
    std::fill_n(mine.value_gradient, size * scratch_.value_stride, T(0));
    simd::backward_kernels<T>().direct(pairs);
    const auto add = simd::kernels<T>().add;
    add(queries.count * scratch_.key_stride, mine.query_gradient, query_gradient(h, g, queries.first));
    add(keys.count * scratch_.key_stride, mine.key_gradient, key_gradient(h, keys.first));
    add(keys.count * scratch_.value_stride, mine.value_gradient, value_gradient(h, keys.first));
  }

  // --- rows whose features cancel (cancellation.hpp) ---

  Index chunk_index(Index h, Index g, Index chunk) const { return (h * group_ + g) * scratch_.query_chunks + chunk; }
  double* square_sums(Index h, Index slice) const {
    return scratch_.square_sums + (h * scratch_.slices + slice) * scratch_.query_chunks;
  }
  // Keys that the rows of a chunk read.
  Index keys_read(Index h, Index chunk) const {
    const Index length = scratch_.packers.key[h].length;
    return p_.causal ? smaller(chunk * scratch_.chunk, length) : length;
  }

  // The gradient of a row's output, and with it everything that comes of the row, becomes 0.
  void silence(const BackwardQueryBlock<T>& query, Index row) const {
    for (Index c = 0; c <= p_.value_dim(); ++c) query.gradient_packed[c * size + row] = 0;
    std::fill_n(query.gradient_rows + row * scratch_.value_stride, scratch_.value_stride, T(0));
    query.dot[row] = 0;
  }

  // visit(row, whether the row may be read, |αq|², δ) for the rows of a packed chunk.
  template <class Visit>
  void for_each_row(Index h, Index g, Index chunk, const BackwardQueryBlock<T>& query, double key_squares,
                    const Visit& visit) const {
    const Rows rows = queries_in(h, chunk);
    const CancellationBound<T> bound(coefficients_, key_squares, keys_read(h, chunk));
    const Head<const T> normalizer = problem_.normalizer.head(batch(h), key_head(h) * group_ + g);
    T squares[std::size_t{size}];
    simd::kernels<T>().square_norms(query.packed, rows.count, p_.key_dim(), squares);
    for (Index row = 0; row < rows.count; ++row) {
      const T sum = weight_sum(p_, normalizer(rows.first + row, 0));
      const double square = static_cast<double>(squares[row]);
      visit(row, !(sum > 0) || bound.allows(square, sum, T(0)), square, static_cast<double>(sum));
    }
  }
  double key_squares_of(Index h, Index chunk) const {
    double sum = 0;
    for (Index slice = 0; slice < scratch_.slices; ++slice) sum += square_sums(h, slice)[chunk];
    return sum;
  }

  // Rows that may not be read are silenced, with what was pulled back for them where it was, and noted.
  void take_cancelled_out(Index h, Index g, Index chunk, const BackwardQueryBlock<T>& query,
                          const PulledBack<T>* read) const {
    if (coefficients_.c2 == 0 || keys_read(h, chunk) == 0) return;
    const double key_squares = key_squares_of(h, chunk);
    double& gradient_bound = scratch_.gradient_bound[chunk_index(h, g, chunk)];
    gradient_bound = 0;
    const GradientBound<T> bound(coefficients_, key_squares, keys_read(h, chunk), p_.key_dim());
    for_each_row(h, g, chunk, query, key_squares, [&](Index row, bool allowed, double square, double sum) {
      if (allowed) {
        if (query.dot[row] != 0) gradient_bound += bound.term(square, sum, static_cast<double>(query.dot[row]));
        return;
      }
      scratch_.cancels[chunk_index(h, g, chunk)] = true;
      silence(query, row);
      if (read == nullptr) return;
      for (Index a = 0; a < scratch_.key_stride; ++a) read->lanes[a * size + row] = 0;
      read->shift[row] = 0;
    });
  }
  void take_cancelled_out(Index first, Index last) const {
    parallel_for(heads_ * group_ * (last - first), p_.threads, [&](Index task, int) {
      const Index slot = task % (last - first), head = task / (last - first);
      const Index h = head / group_, g = head % group_;
      if (queries_in(h, first + slot).count > 0)
        take_cancelled_out(h, g, first + slot, query_block(h, g, slot), nullptr);
    });
  }

  void serve_cancelled() const {
    if (coefficients_.c2 == 0) return;
    parallel_for(heads_, p_.threads, [&](Index h, int thread) {
      serve_rows(h, false, thread);
      for (Index g = 0; g < group_; ++g) {
        if (!gradient_cancels(h, g)) continue;
        clear_gradients(h);
        serve_rows(h, true, thread);
        return;
      }
    });
  }

  // Whether the sums over the features are too large beside the gradient of the queries that is left of them.
  bool gradient_cancels(Index h, Index g) const {
    double bound = 0;
    for (Index chunk = 0; chunk < scratch_.query_chunks; ++chunk)
      bound += scratch_.gradient_bound[chunk_index(h, g, chunk)];
    // Rows up to whole blocks: all of them as one packed block of so many columns.
    T squares[std::size_t{size}];
    simd::kernels<T>().square_norms(query_gradient(h, g, 0), size, scratch_.query_rows / size * scratch_.key_stride,
                                    squares);
    double sum = 0;
    for (const T square : squares) sum += static_cast<double>(square);
    return GradientBound<T>::exceeds(bound, sum, p_.key_dim());
  }

  // A block of queries with outputs and normalisers computed again: what forward has lost in them is what cancels.
  void pack_anew(Index h, Index g, const Rows& rows, const BackwardQueryBlock<T>& query, int thread) const {
    const RowPacker<T>& packer = scratch_.packers.query[h * group_ + g];
    const DirectThreadScratch<T>& forward = scratch_.forward[thread];
    const BackwardThreadScratch<T>& mine = scratch_.threads[thread];
    serve_on_demand(p_, packer, scratch_.packers.key[h], batch(h), key_head(h), rows.first, rows.count, forward,
                    scratch_.forward_keys[thread]);
    simd::DivideRows<T> divide;
    divide.numerator = forward.numerator;
    divide.normalizer = forward.normalizer;
    divide.tokens = rows.count;
    divide.dim = p_.value_dim();
    divide.value_stride = divide.token_stride = scratch_.value_stride;
    divide.output = mine.value_gradient;
    simd::kernels<T>().divide(divide);
    pack_query_block(
        problem_, packer, batch(h), key_head(h) * group_ + g, rows.first, rows.count,
        {mine.value_gradient, scratch_.value_stride, 1, rows.count, p_.value_dim()},
        [&](Index row) { return scaled_normalizer(forward.normalizer[row], rescaled_exponent(forward.maximum[row])); },
        mine.sums, query);
  }

  // A head's rows directly, those noted or all of them, with all the keys that they see.
  void serve_rows(Index h, bool all, int thread) const {
    const BackwardQueryBlock<T> query = query_block(h, 0, 0);
    const BackwardKeyBlock<T> key = key_block(h, 0);
    for (Index g = 0; g < group_; ++g)
      for (Index chunk = 0; chunk < scratch_.query_chunks; ++chunk) {
        const Rows rows = queries_in(h, chunk);
        if (rows.count == 0 || !(all || scratch_.cancels[chunk_index(h, g, chunk)])) continue;
        if (all) {
          pack_anew(h, g, rows, query, thread);
        } else {
          pack_query_block(problem_, scratch_.packers.query[h * group_ + g], batch(h), key_head(h) * group_ + g,
                           rows.first, rows.count, scratch_.threads[thread].sums, query);
          for_each_row(h, g, chunk, query, key_squares_of(h, chunk), [&](Index row, bool allowed, double, double) {
            if (allowed) silence(query, row);
          });
        }
        for (Index c = 0; c < scratch_.chunks; ++c) {
          const Rows keys = keys_in(h, c);
          if (!p_.visibility().any(rows.first, rows.count, keys.first, keys.count)) continue;
          pack_key_block(problem_, scratch_.packers.key[h], batch(h), key_head(h), keys.first, keys.count,
                         scratch_.threads[thread].sums, scratch_.threads[thread].copy, key);
          add_pairs(h, g, chunk, query, c, key, thread);
        }
      }
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
    });
  }

  const BackwardProblem<T>& problem_;
  const Problem<T>& p_;
  const FactoredBackwardScratch<T>& scratch_;
  double* shift_terms_;  // ∂L/∂shift: [all key heads][group][query chunks]
  simd::KernelWeight weight_;
  Quadratic coefficients_;
  Index first_head_, heads_, group_;
};

template <class T>
void factored_attention_backward(const BackwardProblem<T>& problem, FactoredBackwardScratch<T>& scratch,
                                 double* shift_terms, Index first_head, Index heads) {
  scratch.packers.bind(problem.forward, first_head, heads);
  FactoredBackwardRun<T>(problem, scratch, shift_terms, first_head, heads).run();
}

}  // namespace CSQ_CODE::detail

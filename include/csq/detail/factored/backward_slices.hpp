// What a slice of both summaries does with one chunk in a factored backward call, and what is made of the slices'
// shares.
#pragma once

#include "csq/detail/factored/backward_heads.hpp"

namespace CSQ_CODE::detail {

template <class T>
class FactoredBackwardSlices : protected FactoredBackwardHeads<T> {
  using Base = FactoredBackwardHeads<T>;

 protected:
  using Base::coefficients_;
  using Base::first_head_;
  using Base::gate;
  using Base::group_;
  using Base::heads_;
  using Base::kept_by;
  using Base::key_block;
  using Base::key_gradient;
  using Base::keys_in;
  using Base::last_before;
  using Base::p_;
  using Base::problem_;
  using Base::queries_in;
  using Base::query_block;
  using Base::query_gradient;
  using Base::row_decay;
  using Base::scratch_;
  using Base::shift_term;
  using Base::size;
  using Base::value_gradient;
  using typename Base::Rows;

  explicit FactoredBackwardSlices(const Base& heads) : Base(heads) {}

  PulledBack<T> partial(Index h, Index slice, Index g, Index slot) const {
    return PulledBack<T>::at(scratch_.partial(h, slice, g, slot), scratch_.lanes_size());
  }
  T* panel(int thread) const { return scratch_.panels(thread); }
  T* summary_panel(int thread) const { return panel(thread) + simd::panel_features * size; }
  PulledBack<T> own(int thread) const {
    return PulledBack<T>::at(panel(thread) + 2 * simd::panel_features * size, scratch_.lanes_size());
  }
  SummarySlice<T> summary(Index h, Index slice) const {
    return scratch_.slice(scratch_.summary(h), scratch_.normalizer(h), slice);
  }
  SummarySlice<T> summary_gradient(Index h, Index slice) const {
    return scratch_.slice(scratch_.summary_gradient(h), scratch_.normalizer_gradient(h), slice);
  }

  template <class Visit>
  void for_each_slice(const Visit& visit) const {
    parallel_for(heads_ * scratch_.slices, p_.threads,
                 [&](Index task, int thread) { visit(task / scratch_.slices, task % scratch_.slices, thread); });
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

  void absorb_keys(Index h, Index slice, Index chunk, Index slot, int thread) const {
    const Rows rows = keys_in(h, chunk);
    const BackwardKeyBlock<T> key = key_block(h, slot);
    if (rows.count > 0)
      absorb(summary(h, slice), key.packed, key.value_rows, scratch_.unit ? scratch_.value_pairs(h, slot) : nullptr,
             p_.has_gates() ? scratch_.key_scales(h, slot) : key.packed + p_.key_dim() * size, rows.count,
             kept_by(h, chunk), thread);
  }
  // On the unit what it has, in float the rest.
  void absorb(const SummarySlice<T>& slice, const T* packed, const T* rows, const simd::BFloat16Bits* pairs,
              const T* row_weights, Index tokens, T keep, int thread) const {
    const bool on_unit = scratch_.unit && tokens > 0;
    const SummarySlice<T> rest = on_unit ? slice.part(scratch_.unit_end, slice.last) : slice;
    if (rest.first < rest.last) rest.absorb(packed, rows, row_weights, tokens, panel(thread), keep);
    if (on_unit)
      absorb_on_unit(*scratch_.unit.forward, slice.part(0, scratch_.unit_end), {1, tokens, tokens}, packed, 0, pairs, 0,
                     row_weights, 0, keep, scratch_.unit_scratch(thread));
  }
  void absorb_queries(Index h, Index slice, Index chunk, Index slot, int thread) const {
    const Rows rows = queries_in(h, chunk);
    // Without queries gates still decay what is there: a sum of no tokens.
    if (rows.count == 0 && kept_by(h, chunk) == 1) return;
    for (Index g = 0; g < (rows.count > 0 ? group_ : 1); ++g) {
      const BackwardQueryBlock<T> query = query_block(h, g, slot);
      const bool gated = p_.has_gates();
      // What was there stands at the chunk's end; the group brings it to the start once.
      absorb(summary_gradient(h, slice), query.packed,
             gated ? scratch_.scaled_gradient_rows(h, g, slot) : query.gradient_rows,
             scratch_.unit ? scratch_.gradient_pairs(h, g, slot) : nullptr,
             gated ? scratch_.scaled_dot(h, g, slot) : query.gradient_packed + p_.value_dim() * size, rows.count,
             g == 0 ? kept_by(h, chunk) : T(1), thread);
    }
  }

  // What the unit multiplies of packed blocks: of keys; of queries, as gradients that pull back and as rows that are
  // absorbed, once those that are not have been taken out.
  void make_key_tiles(Index h, Index chunk, Index slot) const {
    const Index count = keys_in(h, chunk).count;
    if (!scratch_.unit || count == 0) return;
    const BackwardKeyBlock<T> key = key_block(h, slot);
    const auto& unit = *scratch_.unit.forward;
    unit.value_pair_tiles(key.value_rows, count, scratch_.value_stride, scratch_.value_pairs(h, slot));
    unit.query_tiles(key.value_packed, count, p_.value_dim(), scratch_.value_targets(h, slot));
  }
  void make_query_tiles(Index h, Index g, Index chunk, Index slot) const {
    const Index count = queries_in(h, chunk).count;
    if (!scratch_.unit || count == 0) return;
    const BackwardQueryBlock<T> query = query_block(h, g, slot);
    const auto& unit = *scratch_.unit.forward;
    const T* const rows = p_.has_gates() ? scratch_.scaled_gradient_rows(h, g, slot) : query.gradient_rows;
    unit.value_pair_tiles(rows, count, scratch_.value_stride, scratch_.gradient_pairs(h, g, slot));
    unit.query_tiles(query.gradient_packed, count, p_.value_dim(), scratch_.gradient_targets(h, g, slot));
  }

  void clear_pulled_back(const PulledBack<T>& result) const {
    std::fill_n(result.lanes, scratch_.partial_size(), T(0));
  }
  void pull_back_queries(Index h, Index slice, Index g, Index chunk, Index slot, int thread,
                         const PulledBack<T>& result) const {
    const BackwardQueryBlock<T> query = query_block(h, g, slot);
    if (scratch_.unit) {
      pull_back_on_unit(*scratch_.unit.backward, summary(h, slice), coefficients_, query.packed,
                        queries_in(h, chunk).count, p_.value_dim(), scratch_.gradient_targets(h, g, slot),
                        query.gradient_packed + p_.value_dim() * size, result.lanes, result.shift,
                        scratch_.unit_scratch(thread));
      return;
    }
    summary(h, slice).pull_back(coefficients_, query.packed, query.gradient_packed, queries_in(h, chunk).count,
                                p_.value_dim(), panel(thread), summary_panel(thread), result.lanes, result.shift);
  }
  void pull_back_keys(Index h, Index slice, Index chunk, Index slot, int thread, const PulledBack<T>& result) const {
    const BackwardKeyBlock<T> key = key_block(h, slot);
    const Index count = keys_in(h, chunk).count;
    const SummarySlice<T> gradient = summary_gradient(h, slice);
    if (scratch_.unit) {
      pull_back_on_unit(*scratch_.unit.backward, gradient, coefficients_, key.packed, count, p_.value_dim(),
                        scratch_.value_targets(h, slot), key.value_packed + p_.value_dim() * size, result.lanes,
                        result.shift, scratch_.unit_scratch(thread));
      const SummarySlice<T> rest = gradient.part(scratch_.unit_end, gradient.last);
      if (rest.first < rest.last)
        rest.read(coefficients_, key.packed, count, panel(thread), result.value_rows, result.normalizer);
      T* const sums = scratch_.tile_sums(thread);
      std::fill_n(sums, simd::tiles_of(count) * simd::tiles_of(scratch_.value_stride) * simd::sum_tile_size, T(0));
      read_on_unit(*scratch_.unit.forward, gradient.part(0, scratch_.unit_end), coefficients_, {1, count, count},
                   key.packed, 0, sums, 0, result.normalizer, 0, scratch_.unit_scratch(thread));
      scratch_.unit.forward->move_sums(count, scratch_.value_stride, sums, result.value_rows);
      return;
    }
    gradient.pull_back(coefficients_, key.packed, key.value_packed, count, p_.value_dim(), panel(thread),
                       summary_panel(thread), result.lanes, result.shift);  // shift is not needed on this side
    gradient.read(coefficients_, key.packed, count, panel(thread), result.value_rows, result.normalizer);
  }

  // The slices' shares, summed in order into the first.
  PulledBack<T> sum_of_slices(Index h, Index g, Index slot) const {
    const PulledBack<T> sum = partial(h, 0, g, slot);
    for (Index slice = 1; slice < scratch_.slices; ++slice)
      simd::kernels<T>().add(scratch_.partial_size(), partial(h, slice, g, slot).lanes, sum.lanes);
    return sum;
  }

  void add_query_gradient(Index h, Index g, Index chunk, Index slot, const PulledBack<T>& result) const {
    const Rows rows = queries_in(h, chunk);
    if (p_.has_gates()) decay_pulled_back(h, slot, rows, result);
    simd::backward_kernels<T>().add_transposed(
        {result.lanes, rows.count, p_.key_dim(), query_gradient(h, g, rows.first)});
    double& shift = shift_term(h, g, chunk);
    for (Index row = 0; row < rows.count; ++row) shift += static_cast<double>(result.shift[row]);
  }
  void add_key_gradient(Index h, Index chunk, Index slot, const PulledBack<T>& result) const {
    const Rows rows = keys_in(h, chunk);
    if (p_.has_gates()) decay_read(h, slot, rows, result);
    simd::backward_kernels<T>().add_transposed({result.lanes, rows.count, p_.key_dim(), key_gradient(h, rows.first)});
    simd::kernels<T>().add(rows.count * scratch_.value_stride, result.value_rows, value_gradient(h, rows.first));
  }

  // What was pulled back and read from a summary that stands at the chunk's end, or start, brought to each token.
  void decay_read(Index h, Index slot, const Rows& rows, const PulledBack<T>& result) const {
    const T* scale = scratch_.key_scales(h, slot);
    simd::backward_kernels<T>().scale_tokens(p_.key_dim(), rows.count, scale, result.lanes);
    simd::kernels<T>().scale_rows(rows.count, scratch_.value_stride, scale, result.value_rows, result.value_rows);
    for (Index row = 0; row < rows.count && problem_.gate_gradient_heads() > 0; ++row)
      scratch_.key_terms(h)[rows.first + row] += static_cast<double>(scale[row] * result.normalizer[row]);
  }
  void decay_pulled_back(Index h, Index slot, const Rows& rows, const PulledBack<T>& result) const {
    const T* scale = scratch_.query_scales(h, slot);
    simd::backward_kernels<T>().scale_tokens(p_.key_dim(), rows.count, scale, result.lanes);
    for (Index row = 0; row < rows.count; ++row) result.shift[row] *= scale[row];
  }

  void scale_keys(Index h, Index chunk, Index slot) const {
    const Rows rows = keys_in(h, chunk);
    const BackwardKeyBlock<T> key = key_block(h, slot);
    T* scale = scratch_.key_scales(h, slot);
    gate(h).decays(last_before(chunk + 1), rows.first, rows.count, scale);
    simd::kernels<T>().scale_rows(rows.count, scratch_.value_stride, scale, key.value_rows, key.value_rows);
  }
  void find_query_scales(Index h, Index chunk, Index slot) const {
    const Rows rows = queries_in(h, chunk);
    T* scale = scratch_.query_scales(h, slot);
    if (chunk > 0) {
      gate(h).decays(last_before(chunk), rows.first + p_.visibility().offset(), rows.count, scale);
      return;
    }
    std::fill_n(scale, rows.count, T(1));
    std::fill_n(scale + rows.count, size - rows.count, T(0));
  }
  void scale_queries(Index h, Index g, Index chunk, Index slot) const {
    const Rows rows = queries_in(h, chunk);
    const BackwardQueryBlock<T> query = query_block(h, g, slot);
    const T* scale = scratch_.query_scales(h, slot);
    simd::kernels<T>().scale_rows(rows.count, scratch_.value_stride, scale, query.gradient_rows,
                                  scratch_.scaled_gradient_rows(h, g, slot));
    T* dot = scratch_.scaled_dot(h, g, slot);
    std::fill_n(dot, size, T(0));
    for (Index row = 0; row < rows.count; ++row) dot[row] = -query.dot[row] * scale[row];
  }
};

}  // namespace CSQ_CODE::detail

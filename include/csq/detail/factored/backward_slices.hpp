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
      summary(h, slice).absorb(key.packed, key.value_rows,
                               p_.has_gates() ? scratch_.key_scales(h, slot) : key.packed + p_.key_dim() * size,
                               rows.count, panel(thread), kept_by(h, chunk));
  }
  void absorb_queries(Index h, Index slice, Index chunk, Index slot, int thread) const {
    const Rows rows = queries_in(h, chunk);
    // Without queries gates still decay what is there: a sum of no tokens.
    if (rows.count == 0 && kept_by(h, chunk) == 1) return;
    for (Index g = 0; g < (rows.count > 0 ? group_ : 1); ++g) {
      const BackwardQueryBlock<T> query = query_block(h, g, slot);
      const bool gated = p_.has_gates();
      // What was there stands at the chunk's end; the group brings it to the start once.
      summary_gradient(h, slice).absorb(
          query.packed, gated ? scratch_.scaled_gradient_rows(h, g, slot) : query.gradient_rows,
          gated ? scratch_.scaled_dot(h, g, slot) : query.gradient_packed + p_.value_dim() * size, rows.count,
          panel(thread), g == 0 ? kept_by(h, chunk) : T(1));
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

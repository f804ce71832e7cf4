// What the slices of a summary do at a chunk of a factored forward call: absorb its keys, read it for its rows, in
// float and, for the features that a matrix unit multiplies, there.
#pragma once

#include "csq/detail/factored/forward_rows.hpp"

namespace CSQ_CODE::detail {

template <class T>
class FactoredSlices : protected FactoredRows<T> {
  using Base = FactoredRows<T>;

 protected:
  using Base::Base;
  using Base::chunk_size;
  using Base::coefficients_;
  using Base::group_;
  using Base::kept_by;
  using Base::keys_in;
  using Base::ones_of;
  using Base::problem_;
  using Base::scratch_;

  // The rows of a group at a chunk read a slice; what a matrix unit sums stays in tiles.
  void read_chunk(Index h, Index index, Index slot, Index real, int thread) const {
    const SummarySlice<T> slice = scratch_.slice(h, index), rest = slice.part(scratch_.unit_end, slice.last);
    for (Index g = 0; g < group_; ++g) {
      T* const normalizer = scratch_.partial_normalizer(h, index, g, slot);
      std::fill_n(normalizer, simd::block_tokens<T>, T(0));
      if (index < scratch_.first_float_slice) continue;
      T* const numerator = scratch_.partial(h, index - scratch_.first_float_slice, g, slot);
      std::fill_n(numerator, scratch_.partial.size(), T(0));
      if (rest.first < rest.last)
        rest.read(coefficients_, scratch_.queries(h, g, slot), real, scratch_.panels(thread), numerator, normalizer);
    }
    if (scratch_.matrix == nullptr) return;
    const Index sums = simd::tiles_of(real) * simd::tiles_of(scratch_.value_stride) * simd::sum_tile_size;
    for (Index g = 0; g < group_; ++g) std::fill_n(scratch_.partial_tiles(h, index, g, slot), sums, T(0));
    read_on_unit(*scratch_.matrix, slice.part(0, scratch_.unit_end), coefficients_, {group_, real, real},
                 scratch_.queries(h, 0, slot), scratch_.superblock * scratch_.queries.size(),
                 scratch_.partial_tiles(h, index, 0, slot), scratch_.superblock * scratch_.partial_tiles.size(),
                 scratch_.partial_normalizer(h, index, 0, slot),
                 scratch_.superblock * scratch_.partial_normalizer.size(), scratch_.threads[thread].matrix_scratch);
  }

  // A chunk's keys into a slice; without a mask the unit takes all chunks of a superblock together.
  void absorb_chunk(Index h, const SummarySlice<T>& slice, Index chunk, Index slot, int thread) const {
    const SummarySlice<T> rest = slice.part(scratch_.unit_end, slice.last);
    const bool gated = problem_.has_gates();
    const T* const key = scratch_.keys(h, slot);
    const T* const values = gated ? scratch_.scaled_values(h, slot) : scratch_.values(h, slot);
    const T* const weights = gated ? scratch_.scales(h, slot) : ones_of(key);
    const T kept = gated ? kept_by(h, chunk) : T(1);
    const Index count = keys_in(h, chunk);
    if (rest.first < rest.last) rest.absorb(key, values, weights, count, scratch_.panels(thread), kept);
    if (scratch_.matrix != nullptr && problem_.causal)
      absorb_on_unit(*scratch_.matrix, slice.part(0, scratch_.unit_end), {1, count, count}, key, 0,
                     scratch_.value_tiles(h, slot), 0, weights, 0, kept, scratch_.threads[thread].matrix_scratch);
  }
  void absorb_superblock(Index h, const SummarySlice<T>& slice, Index first, Index last, int thread) const {
    const Index keys =
        std::clamp<Index>(scratch_.packers.key[h].length - first * chunk_size(), 0, (last - first) * chunk_size());
    absorb_on_unit(*scratch_.matrix, slice.part(0, scratch_.unit_end), BlockRun::of(keys, chunk_size()),
                   scratch_.keys(h, 0), scratch_.keys.size(), scratch_.value_tiles(h, 0), scratch_.value_tiles.size(),
                   ones_of(scratch_.keys(h, 0)), scratch_.keys.size(), T(1), scratch_.threads[thread].matrix_scratch);
  }

  // The rows that the slices have read of a head's summary, in order: numerators and normalisers.
  void sum_slices(Index h, Index g, Index slot, Index real, DirectThreadScratch<T>& mine) const {
    mine.numerator = scratch_.partial(h, 0, g, slot);
    mine.normalizer = scratch_.partial_normalizer(h, 0, g, slot);
    std::fill_n(mine.maximum, simd::block_tokens<T>, simd::lowest_score<T>);
    const auto& kernels = simd::kernels<T>();
    for (Index slice = 1; slice < scratch_.slices; ++slice)
      kernels.add(simd::block_tokens<T>, scratch_.partial_normalizer(h, slice, g, slot), mine.normalizer);
    for (Index slice = 1; slice < scratch_.float_slices(); ++slice)
      kernels.add(real * scratch_.value_stride, scratch_.partial(h, slice, g, slot), mine.numerator);
    if (scratch_.matrix == nullptr) return;
    T* const sums = scratch_.partial_tiles(h, 0, g, slot);
    const Index numbers = simd::tiles_of(real) * simd::tiles_of(scratch_.value_stride) * simd::sum_tile_size;
    for (Index slice = 1; slice < scratch_.slices; ++slice)
      kernels.add(numbers, scratch_.partial_tiles(h, slice, g, slot), sums);
    scratch_.matrix->move_sums(real, scratch_.value_stride, sums, mine.numerator);
  }
};

}  // namespace CSQ_CODE::detail

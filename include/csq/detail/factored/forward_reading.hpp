// Without a mask every row of a factored forward call reads the whole summary: what the call has absorbed, or what it
// was given.
#pragma once

#include "csq/detail/factored/forward_slices.hpp"

namespace CSQ_CODE::detail {

template <class T>
class FactoredReading : protected FactoredSlices<T> {
  using Base = FactoredSlices<T>;

 protected:
  using Base::Base;
  using Base::chunk_size;
  using Base::coefficients_;
  using Base::first_head_;
  using Base::group_;
  using Base::heads_;
  using Base::mark_cancelled;
  using Base::mark_unread;
  using Base::problem_;
  using Base::scratch_;
  using Base::write_checked;
  using typename Base::Marks;
  using typename Base::Rows;

  T* continued(Index h) const { return problem_.continued + (first_head_ + h) * scratch_.whole(h).numbers(); }
  void read_all_rows() const {
    if (scratch_.matrix != nullptr) return read_all_rows_on_unit();
    const Index blocks = block_count(problem_.queries(), chunk_size());
    parallel_for(heads_ * group_ * blocks, problem_.threads, [&](Index task, int thread) {
      const Index h = task / (group_ * blocks), g = task / blocks % group_;
      const RowPacker<T>& packer = scratch_.packers.query[h * group_ + g];
      const Index first = task % blocks * chunk_size();
      const Index count = smaller(chunk_size(), problem_.queries() - first);
      const Rows rows{first, count, std::clamp<Index>(packer.length - first, 0, count)};
      const DirectThreadScratch<T>& mine = scratch_.threads[thread];
      mine.clear_sums(problem_.value_dim(), rows.count);
      if (rows.real > 0) {
        packer.pack_only(rows.first, rows.real, mine.rows, mine.sums, mine.query);
        for (Index slice = 0; slice < scratch_.slices; ++slice)
          readable(h, scratch_.slice(h, slice))
              .read(coefficients_, mine.query, rows.real, scratch_.panels(thread), mine.numerator, mine.normalizer);
      }
      write_read_rows(h, g, rows, mine, mine.query, thread);
    });
  }

 private:
  // What is read of a slice.
  SummarySlice<T> readable(Index h, SummarySlice<T> slice) const {
    if (problem_.held == 0) return slice;
    const SummarySlice<T> given = scratch_.whole(h).at(continued(h));
    slice.summary = given.summary + slice.first * slice.value_stride;
    slice.normalizer = given.normalizer + slice.first;
    return slice;
  }

  // Several blocks of rows of a head together.
  void read_all_rows_on_unit() const {
    const Index blocks = block_count(problem_.queries(), chunk_size()), together = scratch_.read_together;
    const Index runs = block_count(blocks, together);
    parallel_for(heads_ * group_ * runs, problem_.threads, [&](Index task, int thread) {
      const Index h = task / (group_ * runs), g = task / runs % group_, first = task % runs * together;
      const RowPacker<T>& packer = scratch_.packers.query[h * group_ + g];
      const SummarySlice<T> whole = readable(h, scratch_.whole(h));
      const SummarySlice<T> rest = whole.part(scratch_.unit_end, whole.last);
      const DirectThreadScratch<T>& mine = scratch_.threads[thread];
      const Index real = std::clamp<Index>(packer.length - first * chunk_size(), 0, together * chunk_size());
      const BlockRun run = BlockRun::of(real, chunk_size());
      std::fill_n(scratch_.read_tiles(thread, 0), run.blocks * scratch_.read_tiles.size(), T(0));
      std::fill_n(scratch_.read_normalizers(thread, 0), run.blocks * simd::block_tokens<T>, T(0));
      for (Index b = 0; b < run.blocks; ++b)
        packer.pack_only((first + b) * chunk_size(), b + 1 < run.blocks ? run.tokens : run.last_tokens, mine.rows,
                         mine.sums, scratch_.read_queries(thread, b));
      read_on_unit(*scratch_.matrix, whole.part(0, scratch_.unit_end), coefficients_, run,
                   scratch_.read_queries(thread, 0), scratch_.read_queries.size(), scratch_.read_tiles(thread, 0),
                   scratch_.read_tiles.size(), scratch_.read_normalizers(thread, 0), simd::block_tokens<T>,
                   mine.matrix_scratch);
      for (Index b = 0; b < together && first + b < blocks; ++b) {
        const Index start = (first + b) * chunk_size();
        const Index count = smaller(chunk_size(), problem_.queries() - start);
        const Rows rows{start, count, std::clamp<Index>(packer.length - start, 0, count)};
        mine.clear_sums(problem_.value_dim(), rows.count);
        DirectThreadScratch<T> sums = mine;
        if (rows.real > 0) {
          sums.normalizer = scratch_.read_normalizers(thread, b);
          if (rest.first < rest.last)
            rest.read(coefficients_, scratch_.read_queries(thread, b), rows.real, scratch_.panels(thread),
                      sums.numerator, sums.normalizer);
          scratch_.matrix->move_sums(rows.real, scratch_.value_stride, scratch_.read_tiles(thread, b), sums.numerator);
        }
        write_read_rows(h, g, rows, sums, scratch_.read_queries(thread, b), thread);
      }
    });
  }

  void write_read_rows(Index h, Index g, const Rows& rows, const DirectThreadScratch<T>& sums, const T* query,
                       int thread) const {
    write_checked(h, g, rows, sums, thread, [&](Marks& again) {
      const Index read = scratch_.packers.key[h].length + problem_.held;
      if (read == 0) return mark_unread(rows.real, sums.normalizer, again);
      // Of keys held, gates may have left less than their number.
      const SummarySlice<T> whole = readable(h, scratch_.whole(h));
      return mark_cancelled(query, rows.real, sums.normalizer, whole.square_sum(),
                            problem_.held > 0 ? whole.count_sum() : static_cast<double>(read), nullptr, again);
    });
  }
};

}  // namespace CSQ_CODE::detail

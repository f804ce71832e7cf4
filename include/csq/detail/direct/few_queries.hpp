// Direct attention of a few queries against many keys, as in decoding: nothing is packed, each key is read once.
//
//   o_i = Σ_j w(s_ij) v_j / Σ_j w(s_ij),  n ≤ 8
//
// Packing keys into tiles pays when many queries share them. Here keys and values stay in the caller's rows where these
// are contiguous whole vectors and need no centring; otherwise a block at a time is copied. n = 1, m = 4096, d = 64
// took 165 µs through tiles. The query heads of a group share what is loaded.
//
// Prefix means of keys are not subtracted from keys, which would take as long as all the rest: a mean of scores is the
// score of the mean,  s_ij = t_ij − (1/j) Σ_{i ≤ j} t_i  with t_j = αq·(k_j − r). r, the first key of the block, keeps
// an offset that the block has in common out of the scores, where float would lose it. Sums run in double from block to
// block; where a head is cut into stretches, each starts from the sum of the keys before it, which are then read twice.
//
// A task is a stretch of the keys of one key head against all queries of its group; where there are few heads the keys
// are cut into several stretches, their number a function of the shape, and their sums are merged in order. Cost
// O(n·m·(d+dᵥ)); memory O(n·dᵥ) for each stretch, and the means of the centring.
#pragma once

#include "csq/detail/direct/few_queries_scratch.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

template <class T>
class FewQueriesRun {
 public:
  FewQueriesRun(const Problem<T>& problem, const FewQueriesScratch<T>& scratch, Index first_head, Index heads)
      : problem_(problem),
        scratch_(scratch),
        weight_(kernel_weight(problem.weight)),
        first_head_(first_head),
        heads_(heads),
        group_(problem.group()),
        centers_scores_(FewQueriesScratch<T>::centers_scores(problem)) {}

  void run() const {
    parallel_for(heads_ * scratch_.stretches, problem_.threads, [&](Index task, int thread) {
      serve(task / scratch_.stretches, task % scratch_.stretches, scratch_.threads[thread]);
    });
    parallel_for(heads_ * group_, problem_.threads,
                 [&](Index head, int thread) { merge_and_write(head, scratch_.threads[thread].again); });
  }

 private:
  using Scratch = typename FewQueriesScratch<T>::Scratch;
  static constexpr Index size = simd::block_tokens<T>;
  static constexpr Index together = simd::FewQueriesBlock<T>::queries_together;

  struct Rows {
    const T* data;
    Index stride;
    const Storage<T>* storage = nullptr;

    const T* at(Index row) const { return moved(data, row * stride, storage); }
  };
  static bool is_whole(const StoredHead<const T>& head) {
    return head.dim_stride == 1 && head.dim == simd::padded_columns<T>(head.dim);
  }
  Rows keys_of(const RowPacker<T>& packer, Index first, Index count, const Scratch& mine) const {
    const bool is_raw = (packer.means.centering == Centering::none && !packer.elu) || centers_scores_;
    if (is_raw && is_whole(packer.head)) return {packer.head.at(first), packer.head.token_stride, packer.head.storage};
    if (is_raw) {
      simd::kernels<T>().pack_values(rows_of(packer.head, first, count), scratch_.key_stride, mine.keys);
      return {mine.keys, scratch_.key_stride};
    }
    packer.pack(first, count, mine.keys, mine.sums, nullptr);
    return {mine.keys, scratch_.key_stride};
  }
  Rows values_of(const StoredHead<const T>& head, Index first, Index count, const Scratch& mine) const {
    if (is_whole(head)) return {head.at(first), head.token_stride, head.storage};
    simd::kernels<T>().pack_values(rows_of(head, first, count), scratch_.value_stride, mine.values);
    return {mine.values, scratch_.value_stride};
  }

  void serve(Index h, Index stretch, const Scratch& mine) const {
    const Index batch = (first_head_ + h) / problem_.key.heads(), n = problem_.queries();
    const RowPacker<T>& key = scratch_.packers.key[h];
    const StoredHead<const T> value = problem_.value.head(batch, (first_head_ + h) % problem_.key.heads());
    const Index real = problem_.real_queries(batch);
    for (Index g = 0; g < group_; ++g) {
      const Index head = h * group_ + g;
      std::fill_n(scratch_.numerator(head, stretch), n * scratch_.value_stride, T(0));
      std::fill_n(scratch_.normalizer(head, stretch), n, T(0));
      std::fill_n(scratch_.maximum(head, stretch), n, simd::lowest_score<T>);
      if (real > 0)
        scratch_.packers.query[head].pack(0, real, mine.query + g * n * scratch_.key_stride, mine.sums, nullptr);
    }
    const Index end =
        smaller((stretch + 1) * scratch_.stretch_keys, problem_.visibility().keys_of(real - 1, key.length));
    // Whole blocks before the window are not visited.
    const Index start = larger(stretch * scratch_.stretch_keys, problem_.visibility().first_key(0) / size * size);
    for (Index first = start; real > 0 && first < end; first += size) {
      const Index count = smaller(size, end - first);
      const Rows keys = keys_of(key, first, count, mine), values = values_of(value, first, count, mine);
      if (centers_scores_) move_reference(h, real, first, first == start, keys, mine);
      for (Index i = 0; i < real; ++i)
        for (Index g = 0; g < group_; g += together) serve_some(h, g, i, stretch, {first, count, keys, values}, mine);
    }
  }

  static Index bytes_of(const Rows& rows) {
    return rows.storage == nullptr ? static_cast<Index>(sizeof(T)) : rows.storage->bytes;
  }

  struct Block {
    Index first, count;
    Rows keys, values;
  };
  // Query i of some heads of the group.
  void serve_some(Index h, Index g, Index i, Index stretch, const Block& at, const Scratch& mine) const {
    const Index head = h * group_ + g, n = problem_.queries();
    const Visibility visibility = problem_.visibility();
    const Index from = std::clamp<Index>(visibility.first_key(i) - at.first, 0, at.count);
    const Index end =
        std::clamp<Index>(visibility.keys_of(i, scratch_.packers.key[h].length) - at.first, from, at.count);
    if (end == from) return;
    simd::FewQueriesBlock<T> block;
    block.query = mine.query + (g * n + i) * scratch_.key_stride;
    block.query_stride = n * scratch_.key_stride;
    block.queries = smaller(together, group_ - g);
    block.key = at.keys.at(from);
    block.key_stride = at.keys.stride;
    block.values = at.values.at(from);
    block.value_stride = at.values.stride;
    block.keys = end - from;
    block.dim = scratch_.key_stride;
    block.value_dim = scratch_.value_stride;
    block.from_memory = block.queries == together && problem_.keys() * (at.keys.stride * bytes_of(at.keys) +
                                                                        at.values.stride * bytes_of(at.values)) >
                                                         simd::second_level_bytes;
    block.weight = weight_;
    simd::Adjustment<T> adjust[std::size_t{together}];
    if (!problem_.is_plain()) {
      for (Index r = 0; r < block.queries; ++r) {
        const RowPacker<T>& query = scratch_.packers.query[head + r];
        const Index position = larger<Index>(0, visibility.offset() + i);
        adjust[r] = adjustment_of(problem_, query, i, at.first + from, query.gate.from(position));
      }
      block.adjust = adjust;
    }
    block.weights = mine.weights;
    block.weight_stride = size;
    block.numerator = scratch_.numerator(head, stretch) + i * scratch_.value_stride;
    block.numerator_stride = scratch_.stretches * scratch_.numerator.size();
    block.normalizer = scratch_.normalizer(head, stretch) + i;
    block.maximum = scratch_.maximum(head, stretch) + i;
    block.statistic_stride = scratch_.stretches * scratch_.normalizer.size();
    if (centers_scores_) block.reference = mine.reference;
    (at.keys.storage == nullptr ? simd::kernels<T>().few_scores : at.keys.storage->few_scores)(block);
    for (Index r = 0; centers_scores_ && r < block.queries; ++r) center(h, g + r, i, at.first, block, r, mine);
    (at.values.storage == nullptr ? simd::kernels<T>().few_values : at.values.storage->few_values)(block);
  }

  // --- centring by scores ---

  // r becomes the first key of a block, and Σ t before it what it is with that r: at the beginning of a stretch from
  // the sum of the keys, later by the step that r has made.
  void move_reference(Index h, Index real, Index first, bool begins, const Rows& keys, const Scratch& mine) const {
    T* const key = mine.first_key;
    if (keys.storage == nullptr)
      std::copy_n(keys.data, scratch_.key_stride, key);
    else
      keys.storage->load(keys.data, 1, scratch_.key_stride, key);
    const HeadCentering& means = scratch_.packers.key[h].means;
    const Index dim = problem_.key_dim(), n = problem_.queries();
    const double before = means.history_count + static_cast<double>(first);
    for (Index g = 0; g < group_; ++g)
      for (Index i = 0; i < real; ++i) {
        const T* query = mine.query + (g * n + i) * scratch_.key_stride;
        double change = 0;
        for (Index a = 0; a < dim && before > 0; ++a) {
          const double mean = begins ? mean_before(h, first, a) : static_cast<double>(mine.reference[a]);
          change += static_cast<double>(query[a]) * (mean - static_cast<double>(key[a]));
        }
        double& sum = mine.score_sums[g * n + i];
        sum = (begins ? 0 : sum) + before * change;
      }
    std::copy_n(key, scratch_.key_stride, mine.reference);
  }
  // The mean of what comes before the first block of a stretch.
  double mean_before(Index h, Index first, Index a) const {
    const HeadCentering& means = scratch_.packers.key[h].means;
    if (first == 0)
      return problem_.key_history->mean[static_cast<std::size_t>((first_head_ + h) * problem_.key_dim() + a)];
    return means.sums[first / size * means.padded_dim + a] / (means.history_count + static_cast<double>(first));
  }
  void center(Index h, Index g, Index i, Index first, const simd::FewQueriesBlock<T>& block, Index row,
              const Scratch& mine) const {
    const HeadCentering& means = scratch_.packers.key[h].means;
    simd::CenterScores<T> center;
    center.scores = block.weights + row * block.weight_stride;
    center.keys = block.keys;
    center.sum = mine.score_sums + g * problem_.queries() + i;
    center.count = means.history_count + static_cast<double>(first);
    center.exclusive = means.centering == Centering::prefix_exclusive;
    simd::kernels<T>().center_scores(center);
    if (center.count > 0 || !center.exclusive) return;
    double score = 0;  // the first key has no mean: what was subtracted from it is added again
    const T* query = block.query + row * block.query_stride;
    for (Index a = 0; a < problem_.key_dim(); ++a)
      score += static_cast<double>(query[a]) * static_cast<double>(mine.reference[a]);
    center.scores[0] = static_cast<T>(static_cast<double>(center.scores[0]) + score);
  }

  // The first stretch takes up the others, in order.
  void merge_and_write(Index head, const RescaleScratch<T>& again) const {
    const Index n = problem_.queries(), stride = scratch_.value_stride;
    T* numerator = scratch_.numerator(head, 0);
    T* normalizer = scratch_.normalizer(head, 0);
    T* maximum = scratch_.maximum(head, 0);
    const bool exponential = problem_.weight.kind == Weight::Kind::exponential;
    for (Index stretch = 1; stretch < scratch_.stretches; ++stretch)
      for (Index i = 0; i < n; ++i) {
        const T other_maximum = scratch_.maximum(head, stretch)[i];
        T own = 1, others = 1;
        if (exponential) {
          const T highest = larger(maximum[i], other_maximum);
          own = std::exp2(maximum[i] - highest);
          others = std::exp2(other_maximum - highest);
          maximum[i] = highest;
        }
        normalizer[i] = normalizer[i] * own + scratch_.normalizer(head, stretch)[i] * others;
        const T* from = scratch_.numerator(head, stretch) + i * stride;
        for (Index c = 0; c < stride; ++c)
          numerator[i * stride + c] = numerator[i * stride + c] * own + from[c] * others;
      }
    const Index h = first_head_ + head / group_, batch = h / problem_.key.heads(), key_head = h % problem_.key.heads();
    const Index real = problem_.real_queries(batch);
    if (real > 0 && leave_range(problem_, real, normalizer)) {
      serve_on_demand(problem_, scratch_.packers.query[head], scratch_.packers.key[head / group_], batch, key_head, 0,
                      real, again.rows, again.keys);
      numerator = again.rows.numerator;
      normalizer = again.rows.normalizer;
      maximum = again.rows.maximum;
    }
    write_rows(problem_, simd::kernels<T>(), batch, key_head * group_ + head % group_, 0, n, real, numerator,
               normalizer, maximum);
  }

  const Problem<T>& problem_;
  const FewQueriesScratch<T>& scratch_;
  simd::KernelWeight weight_;
  Index first_head_, heads_, group_;
  bool centers_scores_;
};

template <class T>
void few_queries_attention(const Problem<T>& problem, FewQueriesScratch<T>& scratch, Index first_head, Index heads) {
  const bool sums_keys = !FewQueriesScratch<T>::centers_scores(problem) || scratch.stretches > 1;
  scratch.packers.bind(problem, first_head, heads, sums_keys);
  FewQueriesRun<T>(problem, scratch, first_head, heads).run();
}

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail

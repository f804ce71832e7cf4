// Direct attention of a few queries against many keys, as in decoding: nothing is packed, each key is read once.
//
//   o_i = Σ_j w(s_ij) v_j / Σ_j w(s_ij),  n ≤ 8
//
// Packing keys into tiles pays when many queries share them. Here keys and values stay in the caller's rows where these
// are contiguous whole vectors and need no centring; otherwise a block at a time is copied. n = 1, m = 4096, d = 64
// took 165 µs through tiles.
// A task is a stretch of the keys of one key head against all queries of its group; where there are few heads the keys
// are cut into several stretches, their number a function of the shape, and their sums are merged in order. Cost
// O(n·m·(d+dᵥ)); memory O(n·dᵥ) for each stretch, and the means of the centring.
#pragma once

#include "csq/detail/direct/forward.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

template <class T>
struct FewQueriesScratch {
  static constexpr Index size = simd::block_tokens<T>;

  // What one thread needs.
  struct Scratch {
    T* query = nullptr;   // [group][n][padded d]
    T* keys = nullptr;    // [B][padded d]
    T* values = nullptr;  // [B][padded dv]
    T* weights = nullptr;
    double* sums = nullptr;
    RescaleScratch<T> again;
  };

  Index heads = 1;  // key heads in flight
  Index stretches = 1, stretch_keys = 0;
  Index key_stride = 0, value_stride = 0;
  Packers<T> packers;
  Blocks<T, 2> numerator;   // [heads·group][stretches] [n][padded dv]
  Blocks<T, 2> normalizer;  // [heads·group][stretches] [B]
  Blocks<T, 2> maximum;
  Scratch* threads = nullptr;

  static FewQueriesScratch lay_out(Arena& arena, const Problem<T>& problem) {
    constexpr Index wanted_tasks = 16;
    constexpr Index shortest_stretch = 1024;
    FewQueriesScratch result;
    const Index keys = problem.plan.longest.keys, blocks = block_count(keys, size);
    const Index wanted = block_count(wanted_tasks, larger<Index>(problem.key_heads(), 1));
    result.stretches = std::clamp<Index>(keys / shortest_stretch, 1, wanted);
    result.stretch_keys = block_count(blocks, result.stretches) * size;
    result.heads = problem.teams > 1 ? 1 : larger<Index>(1, problem.key_heads());
    result.key_stride = simd::padded_columns<T>(problem.key_dim());
    result.value_stride = simd::padded_columns<T>(problem.value_dim());
    const Index heads = checked_product(result.heads, problem.group(), "workspace");
    result.packers = Packers<T>::lay_out(arena, problem, result.heads);
    result.numerator = {arena, {heads, result.stretches}, problem.queries() * result.value_stride};
    result.normalizer = {arena, {heads, result.stretches}, size};
    result.maximum = {arena, {heads, result.stretches}, size};
    result.threads = take_each<Scratch>(arena, problem.threads, [&] {
      Scratch scratch;
      scratch.query = arena.template take<T>(problem.group() * problem.queries() * result.key_stride);
      scratch.keys = arena.template take<T>(size * result.key_stride);
      scratch.values = arena.template take<T>(size * result.value_stride);
      scratch.weights = arena.template take<T>(size);
      scratch.sums = arena.template take<double>(RowPacker<T>::scratch_sums(problem.key_dim()));
      scratch.again = RescaleScratch<T>::lay_out(arena, problem);
      return scratch;
    });
    return result;
  }
};

template <class T>
class FewQueriesRun {
 public:
  FewQueriesRun(const Problem<T>& problem, const FewQueriesScratch<T>& scratch, Index first_head, Index heads)
      : problem_(problem),
        scratch_(scratch),
        weight_(kernel_weight(problem.weight)),
        first_head_(first_head),
        heads_(heads),
        group_(problem.group()) {}

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

  struct Rows {
    const T* data;
    Index stride;
  };
  static bool is_whole(const Head<const T>& head) {
    return head.dim_stride == 1 && head.dim == simd::padded_columns<T>(head.dim);
  }
  Rows keys_of(const RowPacker<T>& packer, Index first, Index count, const Scratch& mine) const {
    const bool as_it_is = packer.means.centering == Centering::none && !packer.elu && is_whole(packer.head);
    if (as_it_is) return {packer.head.data + first * packer.head.token_stride, packer.head.token_stride};
    packer.pack(first, count, mine.keys, mine.sums, nullptr);
    return {mine.keys, scratch_.key_stride};
  }
  Rows values_of(const Head<const T>& head, Index first, Index count, const Scratch& mine) const {
    if (is_whole(head)) return {head.data + first * head.token_stride, head.token_stride};
    simd::kernels<T>().pack_values(rows_of(head, first, count), scratch_.value_stride, mine.values);
    return {mine.values, scratch_.value_stride};
  }

  void serve(Index h, Index stretch, const Scratch& mine) const {
    const Index batch = (first_head_ + h) / problem_.key.heads(), n = problem_.queries();
    const RowPacker<T>& key = scratch_.packers.key[h];
    const Head<const T> value = problem_.value.head(batch, (first_head_ + h) % problem_.key.heads());
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
      for (Index g = 0; g < group_; ++g)
        for (Index i = 0; i < real; ++i) {
          const Index head = h * group_ + g;
          const Index from = std::clamp<Index>(problem_.visibility().first_key(i) - first, 0, count);
          simd::OneQueryBlock<T> block;
          block.query = mine.query + (g * n + i) * scratch_.key_stride;
          block.key = keys.data + from * keys.stride;
          block.key_stride = keys.stride;
          block.values = values.data + from * values.stride;
          block.value_stride = values.stride;
          block.keys = std::clamp<Index>(problem_.visibility().keys_of(i, key.length) - first, from, count) - from;
          block.dim = scratch_.key_stride;
          block.value_dim = scratch_.value_stride;
          block.weight = weight_;
          const RowPacker<T>& query = scratch_.packers.query[head];
          const Index position = larger<Index>(0, problem_.visibility().offset() + i);
          if (!problem_.is_plain())
            block.adjust = adjustment_of(problem_, query, i, first + from, query.gate.from(position));
          block.weights = mine.weights;
          block.numerator = scratch_.numerator(head, stretch) + i * scratch_.value_stride;
          block.normalizer = scratch_.normalizer(head, stretch) + i;
          block.maximum = scratch_.maximum(head, stretch) + i;
          if (block.keys > 0) simd::kernels<T>().one_query(block);
        }
    }
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
};

template <class T>
void few_queries_attention(const Problem<T>& problem, FewQueriesScratch<T>& scratch, Index first_head, Index heads) {
  scratch.packers.bind(problem, first_head, heads);
  FewQueriesRun<T>(problem, scratch, first_head, heads).run();
}

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail

// Gradients of direct attention, O(n·m·(d+dᵥ)): weights are recomputed tile by tile from q, k and the saved normaliser.
//
//   ∂L/∂s_ij = w'(s_ij)·(r_i·v_j − r_i·o_i), r_i = G_i/δ_i     (backward_blocks.hpp)
//   ∂L/∂v_j = Σ_i w_ij r_i     ∂L/∂k_j = α Σ_i ∂L/∂s_ij q_i     ∂L/∂q_i = α Σ_j ∂L/∂s_ij k_j     10·n·m·d flops
//
// A task is a set of key blocks of one key head against all the queries of its group: it owns their ∂k and ∂v. For ∂q
// each set keeps rows of its own, summed in order; where there are few heads the keys are dealt to several sets, their
// number a function of the shape. Memory: O(n·g·(d+dᵥ) + m·(d+dᵥ)) for each key head in flight, times the sets for ∂q.
#pragma once

#include "csq/backward_blocks.hpp"

namespace csq {

template <class T>
struct BackwardScratch {
  double* sums = nullptr;
  T* copy = nullptr;
  T* packed = nullptr;
  T* weights = nullptr;
  T* slopes = nullptr;
  T* query_gradient = nullptr;
  T* key_gradient = nullptr;
  T* value_gradient = nullptr;

  static BackwardScratch lay_out(ScratchLayout& layout, Index key_dim, Index value_dim) {
    constexpr Index size = simd::block_tokens<T>;
    const Index widest = std::max(key_dim, value_dim);
    BackwardScratch scratch;
    scratch.sums = layout.template take<double>(simd::padded_columns<double>(widest));
    scratch.copy = layout.template take<T>(RowPacker<T>::scratch_rows(widest));
    scratch.packed = layout.template take<T>(RowPacker<T>::packed_size(widest));
    scratch.weights = layout.template take<T>(size * size);
    scratch.slopes = layout.template take<T>(size * size);
    scratch.query_gradient = layout.template take<T>(size * simd::padded_columns<T>(key_dim));
    scratch.key_gradient = layout.template take<T>(size * simd::padded_columns<T>(key_dim));
    scratch.value_gradient = layout.template take<T>(size * simd::padded_columns<T>(value_dim));
    return scratch;
  }
};

template <class T>
struct DirectBackwardLayout {
  Index heads = 1;  // key heads in flight
  Index sets = 1;   // of key blocks
  Index query_blocks = 0, key_blocks = 0;
  Packers<T> packers;
  T* queries = nullptr;         // [heads][group][query_blocks] QueryBlock
  T* keys = nullptr;            // [heads][key_blocks] KeyValueBlock
  T* query_gradient = nullptr;  // [heads][sets][group][query_blocks][B][padded d]
  T* key_gradient = nullptr;    // [heads][key_blocks][B][padded d]
  double* slope_sum = nullptr;  // [all key heads][sets]
  BackwardScratch<T>* threads = nullptr;

  static DirectBackwardLayout lay_out(ScratchLayout& layout, const BackwardProblem<T>& problem) {
    constexpr Index size = simd::block_tokens<T>;
    constexpr Index wanted_tasks = 16;  // sets times key heads, at least, as long as their ∂q fits into this
    constexpr Index set_bytes = Index{64} << 20;
    const Problem<T>& p = problem.forward;
    DirectBackwardLayout result;
    result.query_blocks = block_count(p.queries(), size);
    result.key_blocks = block_count(p.keys(), size);
    result.sets = std::clamp<Index>(block_count(wanted_tasks, std::max<Index>(p.key_heads(), 1)), 1,
                                    std::max<Index>(result.key_blocks, 1));
    const Index query_bytes = checked_product(checked_product(p.query.heads(), result.query_blocks, "workspace"),
                                              RowPacker<T>::scratch_rows(p.key_dim()) * Index(sizeof(T)), "workspace");
    while (result.sets > 2 && result.sets * (query_bytes >> 10) > (set_bytes >> 10)) result.sets /= 2;
    const Index groups_of_heads = block_count(p.key_heads(), p.threads);
    result.heads = std::max<Index>(1, block_count(p.key_heads(), std::max<Index>(1, groups_of_heads)));
    const auto blocks = [](Index a, Index b) { return checked_product(a, b, "workspace"); };
    const Index query_count = blocks(result.heads * p.group(), result.query_blocks);
    const Index key_count = blocks(result.heads, result.key_blocks);
    const Index rows = RowPacker<T>::scratch_rows(p.key_dim());
    result.packers = Packers<T>::lay_out(layout, p, result.heads);
    result.queries = layout.template take<T>(blocks(query_count, QueryBlock<T>::size(p.key_dim(), p.value_dim())));
    result.keys = layout.template take<T>(blocks(key_count, KeyValueBlock<T>::size(p.key_dim(), p.value_dim())));
    result.query_gradient = layout.template take<T>(blocks(blocks(query_count, result.sets), rows));
    result.key_gradient = layout.template take<T>(blocks(key_count, rows));
    result.slope_sum = layout.template take<double>(blocks(p.key_heads(), result.sets));
    result.threads = layout.template take<BackwardScratch<T>>(p.threads);
    const bool counting = result.threads == nullptr;
    for (int thread = 0; thread < p.threads; ++thread) {
      const auto scratch = BackwardScratch<T>::lay_out(layout, p.key_dim(), p.value_dim());
      if (!counting) result.threads[thread] = scratch;
    }
    return result;
  }
};

template <class T>
class DirectBackwardRun {
 public:
  DirectBackwardRun(const BackwardProblem<T>& problem, const DirectBackwardLayout<T>& scratch, Index first_head,
                    Index heads)
      : problem_(problem),
        p_(problem.forward),
        scratch_(scratch),
        weight_(kernel_weight(problem.forward.weight)),
        first_head_(first_head),
        heads_(heads),
        group_(problem.forward.group()) {}

  void run() const {
    pack_all();
    parallel_for(heads_ * scratch_.sets, p_.threads,
                 [&](Index task, int thread) { run_set(task / scratch_.sets, task % scratch_.sets, thread); });
    write_all();
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
  QueryBlock<T> query_block(Index h, Index g, Index block) const {
    const Index index = (h * group_ + g) * scratch_.query_blocks + block;
    return QueryBlock<T>::at(scratch_.queries + index * QueryBlock<T>::size(p_.key_dim(), p_.value_dim()), p_.key_dim(),
                             p_.value_dim());
  }
  KeyValueBlock<T> key_block(Index h, Index block) const {
    const Index index = h * scratch_.key_blocks + block;
    return KeyValueBlock<T>::at(scratch_.keys + index * KeyValueBlock<T>::size(p_.key_dim(), p_.value_dim()),
                                p_.key_dim(), p_.value_dim());
  }
  Index rows_size() const { return RowPacker<T>::scratch_rows(p_.key_dim()); }
  T* query_gradient(Index h, Index set, Index g) const {
    return scratch_.query_gradient + ((h * scratch_.sets + set) * group_ + g) * scratch_.query_blocks * rows_size();
  }
  T* key_gradient(Index h) const { return scratch_.key_gradient + h * scratch_.key_blocks * rows_size(); }

  void pack_all() const {
    parallel_for(heads_ * scratch_.key_blocks, p_.threads, [&](Index task, int thread) {
      const Index h = task / scratch_.key_blocks, block = task % scratch_.key_blocks;
      if (keys_in(h, block) > 0)
        pack_key_block(problem_, scratch_.packers.key[h], batch(h), key_head(h), block * size, keys_in(h, block),
                       scratch_.threads[thread].sums, key_block(h, block));
    });
    parallel_for(heads_ * group_ * scratch_.query_blocks, p_.threads, [&](Index task, int thread) {
      const Index block = task % scratch_.query_blocks;
      const Index h = task / scratch_.query_blocks / group_, g = task / scratch_.query_blocks % group_;
      const BackwardScratch<T>& mine = scratch_.threads[thread];
      if (queries_in(h, block) > 0)
        pack_query_block(problem_, scratch_.packers.query[h * group_ + g], batch(h), key_head(h) * group_ + g,
                         block * size, queries_in(h, block), mine.sums, mine.copy, query_block(h, g, block));
    });
  }

  // Key blocks set, set + sets, …: dealt round, because under a causal mask the first are seen by more queries.
  void run_set(Index h, Index set, int thread) const {
    const BackwardScratch<T>& mine = scratch_.threads[thread];
    const Index value_stride = simd::padded_columns<T>(p_.value_dim());
    double& slope_sum = scratch_.slope_sum[(first_head_ + h) * scratch_.sets + set];
    slope_sum = 0;
    std::fill_n(query_gradient(h, set, 0), group_ * scratch_.query_blocks * rows_size(), T(0));
    for (Index block = set; block < scratch_.key_blocks; block += scratch_.sets) {
      const Index keys = keys_in(h, block);
      T* dk = key_gradient(h) + block * rows_size();
      std::fill_n(dk, rows_size(), T(0));
      std::fill_n(mine.value_gradient, size * value_stride, T(0));
      for (Index g = 0; g < group_ && keys > 0; ++g) {
        for (Index from = 0; from < scratch_.query_blocks; ++from) {
          auto pairs = backward_pairs(problem_, weight_, query_block(h, g, from), from * size, queries_in(h, from),
                                      key_block(h, block), block * size, keys);
          if (pairs.queries == 0 || pairs.diagonal + pairs.queries <= 1) continue;
          pairs.weights = mine.weights;
          pairs.slopes = mine.slopes;
          pairs.query_gradient = query_gradient(h, set, g) + from * rows_size();
          pairs.key_gradient = dk;
          pairs.value_gradient = mine.value_gradient;
          pairs.slope_sum = problem_.gradients.shift != nullptr ? &slope_sum : nullptr;
          simd::backward_kernels<T>().direct(pairs);
        }
      }
      // Keys past the length have no gradient: their rows are still zero, but for what a tile has spilt.
      const Index rows = std::min(size, p_.keys() - block * size);
      std::fill(mine.value_gradient + keys * value_stride, mine.value_gradient + rows * value_stride, T(0));
      write_rows_plain<T>(mine.value_gradient, block * size, rows,
                          problem_.gradients.value.head(batch(h), key_head(h)));
    }
  }

  void write_all() const {
    parallel_for(heads_ * (group_ + 1), p_.threads, [&](Index task, int thread) {
      const Index h = task / (group_ + 1), g = task % (group_ + 1);
      const BackwardScratch<T>& mine = scratch_.threads[thread];
      if (g == group_) {
        write_input_gradient(scratch_.packers.key[h], key_gradient_factor(p_), key_gradient(h), mine.sums, mine.packed,
                             mine.copy, problem_.gradients.key.head(batch(h), key_head(h)));
        return;
      }
      T* rows = query_gradient(h, 0, g);
      for (Index set = 1; set < scratch_.sets; ++set)
        simd::kernels<T>().add(scratch_.query_blocks * rows_size(), query_gradient(h, set, g), rows);
      write_input_gradient(scratch_.packers.query[h * group_ + g], query_gradient_factor(p_), rows, mine.sums,
                           mine.packed, mine.copy, problem_.gradients.query.head(batch(h), key_head(h) * group_ + g));
    });
  }

  const BackwardProblem<T>& problem_;
  const Problem<T>& p_;
  const DirectBackwardLayout<T>& scratch_;
  simd::KernelWeight weight_;
  Index first_head_, heads_, group_;
};

template <class T>
void direct_attention_backward(const BackwardProblem<T>& problem, DirectBackwardLayout<T>& scratch) {
  for (Index first = 0; first < problem.forward.key_heads(); first += scratch.heads) {
    const Index heads = std::min(scratch.heads, problem.forward.key_heads() - first);
    scratch.packers.bind(problem.forward, first, heads);
    DirectBackwardRun<T>(problem, scratch, first, heads).run();
  }
  if (problem.gradients.shift != nullptr) {
    double sum = 0;
    for (Index i = 0; i < problem.forward.key_heads() * scratch.sets; ++i) sum += scratch.slope_sum[i];
    *problem.gradients.shift = sum;
  }
}

}  // namespace csq

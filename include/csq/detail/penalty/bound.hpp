// The bound penalty, a training loss that keeps scores within a radius:
//
//   L_b = mean over visible pairs (and heads, batch) of max(0, |s_ij| − R)²        s after centring and scale
//
// No polynomial in s, so no summary gives it: exact here by tiles, O(n·m·d); sampled_bound.hpp estimates it.
// Returns the value and adds weight·∂L_b/∂q and ∂k, through the centring, to the gradients it is given; a view without
// data asks for the value alone. Memory: direct backward's, and contiguous copies of the gradients. Source: the paper,
// §8.
#pragma once

#include "csq/detail/direct/backward.hpp"
#include "csq/detail/penalty/scores.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

// What the bound penalty measures.
struct BoundValue {
  double value = 0;     // L_b
  double max_abs = 0;   // largest |s|
  double overflow = 0;  // Pr(|s| > R)
};

// Visible pairs of all heads: keys seen by each real row.
template <class T>
double count_visible_pairs(const Problem<T>& problem) {
  double pairs = 0;
  for (Index b = 0; b < problem.query.batch(); ++b)
    for (Index i = 0; i < problem.real_queries(b); ++i)
      pairs += static_cast<double>(larger<Index>(
          0, problem.visibility().keys_of(i, problem.visible_keys(b)) - problem.visibility().first_key(i)));
  return pairs * static_cast<double>(problem.query.heads());
}

// Where value and statistics are summed: direct attention's scratch, and one sum for each block of queries.
template <class T>
struct BoundScratch {
  HeadTeams<DirectScratch<T>> teams;
  Index part_count = 0;
  BoundValue* parts = nullptr;  // [all key heads][group][query blocks]

  static BoundScratch lay_out(Arena& arena, const Problem<T>& problem) {
    BoundScratch scratch;
    const Index blocks = block_count(problem.queries(), simd::block_tokens<T>);
    scratch.part_count =
        checked_product(checked_product(problem.key_heads(), problem.group(), "workspace"), blocks, "workspace");
    scratch.parts = arena.template take<BoundValue>(scratch.part_count);
    scratch.teams = HeadTeams<DirectScratch<T>>::lay_out(arena, problem, problem);
    return scratch;
  }
};

// The sums of key heads [first_head, first_head + heads), by tiles.
template <class T>
void sum_bound(const Problem<T>& problem, DirectScratch<T>& scratch, double radius, Index first_head, Index heads,
               BoundValue* parts) {
  constexpr Index size = simd::block_tokens<T>;
  const Index group = problem.group();
  const Index query_blocks = block_count(problem.queries(), size);
  scratch.packers.bind(problem, first_head, heads);
  parallel_for(heads * scratch.key_blocks, problem.threads, [&](Index task, int thread) {
    const Index h = task / scratch.key_blocks, block = task % scratch.key_blocks;
    const RowPacker<T>& packer = scratch.packers.key[h];
    const Index first = block * size;
    const Index count = smaller(size, packer.length - first);
    const DirectThreadScratch<T>& mine = scratch.threads[thread];
    if (count > 0) packer.pack_only(first, count, mine.rows, mine.sums, scratch.keys(h, block));
  });
  parallel_for(heads * group * query_blocks, problem.threads, [&](Index task, int thread) {
    const Index head = task / query_blocks, h = head / group;
    const Index first = task % query_blocks * size;
    const RowPacker<T>& packer = scratch.packers.query[head];
    const DirectThreadScratch<T>& mine = scratch.threads[thread];
    const Index queries = smaller(size, packer.length - first);
    BoundValue& part = parts[first_head * group * query_blocks + task];
    part = {};
    if (queries <= 0) return;
    packer.pack_only(first, queries, mine.rows, mine.sums, mine.query);
    for (Index key = 0; key < scratch.key_blocks; ++key) {
      const Index keys = smaller(size, scratch.packers.key[h].length - key * size);
      if (!problem.visibility().any(first, queries, key * size, keys)) continue;
      simd::ScoreStatistics<T> block;
      block.query = mine.query;
      block.key = scratch.keys(h, key);
      block.queries = queries;
      block.keys = keys;
      block.dim = problem.key_dim();
      block.diagonal = problem.visibility().diagonal(first, key * size, keys);
      block.band_start = problem.visibility().band_start(first, key * size);
      block.radius = radius;
      block.scores = mine.weights;
      block.excess = &part.value;
      block.beyond = &part.overflow;
      block.largest = &part.max_abs;
      simd::backward_kernels<T>().score_statistics(block);
    }
  });
}

// Value and statistics: the sums of all blocks, added up in order.
template <class T>
BoundValue bound_statistics(const Problem<T>& problem, const BoundScratch<T>& scratch, double radius, double pairs) {
  scratch.teams.serve(problem.key_heads(), [&](DirectScratch<T>& own, Index first, Index heads) {
    sum_bound(problem, own, radius, first, heads, scratch.parts);
  });
  BoundValue result;
  for (Index i = 0; i < scratch.part_count; ++i) {
    const BoundValue& part = scratch.parts[i];
    result.value += part.value;
    result.overflow += part.overflow;
    if (part.max_abs > result.max_abs || is_nan(part.max_abs)) result.max_abs = part.max_abs;  // NaN stays
  }
  if (pairs > 0) {
    result.value /= pairs;
    result.overflow /= pairs;
  }
  return result;
}

// The gradients before they are added, contiguous.
template <class T>
StoredGradients<T> take_gradients(Arena& arena, const Problem<T>& problem) {
  StoredGradients<T> gradients;
  gradients.query = take_heads<T>(arena, problem.query.shape);
  gradients.key = take_heads<T>(arena, problem.key.shape);
  gradients.value = take_heads<T>(arena, problem.value.shape);  // of the ones: nobody's
  return gradients;
}

// L_b, exact. Its gradient is that of Σ w(s_ij) with w = max(0, |s| − R)²: attention backward with weight w, v = 1,
// δ = 1 and o = 0.
template <class T>
BoundValue bound_penalty(const StoredHeads<const T>& q, const StoredHeads<const T>& k, const StoredHeads<T>& dq,
                         const StoredHeads<T>& dk, double radius, double weight, const Options& options) {
  const T one = 1, zero = 0;
  BackwardProblem<T> problem;
  problem.forward = score_problem<T>(q, k, &one, dq, dk, radius, weight, options);
  Problem<T>& p = problem.forward;
  const double pairs = count_visible_pairs(p);
  Options plan_options = options;  // whose method and chunk have no meaning here
  plan_options.method = Method::direct;
  make_plan(problem, plan_options);
  const bool has_gradient = (dq.data != nullptr || dk.data != nullptr) && pairs > 0;
  const typename Heads<const T>::Shape rows{q.batch(), q.heads(), q.tokens(), 1};
  problem.output = {&zero, rows, {0, 0, 0, 0}};
  problem.normalizer = {&one, rows, {0, 0, 0, 0}};
  problem.output_gradient = {&one, rows, {0, 0, 0, 0}};

  // Statistics first, gradients then, in the same memory.
  Arena statistics_counter, gradient_counter;
  BoundScratch<T>::lay_out(statistics_counter, p);
  if (has_gradient) take_gradients(gradient_counter, p);
  const std::size_t gradient_bytes = has_gradient ? gradient_counter.bytes() + scratch_bytes(problem) : 0;
  Workspace local;
  std::byte* const memory = (options.workspace != nullptr ? *options.workspace : local)
                                .reserve(larger(statistics_counter.bytes(), gradient_bytes));
  Arena statistics_arena(memory), gradient_arena(memory);
  const BoundValue result = bound_statistics(p, BoundScratch<T>::lay_out(statistics_arena, p), radius, pairs);
  if (!has_gradient) return result;

  problem.gradients = take_gradients(gradient_arena, p);
  run_in(gradient_arena, problem);
  add_scaled(problem.gradients.query, weight / pairs, dq);
  add_scaled(problem.gradients.key, weight / pairs, dk);
  return result;
}

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail

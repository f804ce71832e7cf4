// The bound penalty, a training loss that keeps scores within a radius:
//
//   L_b = mean over visible pairs (and heads, batch) of max(0, |s_ij| − R)²        s after centring and scale
//
// No polynomial in s, so no summary gives it: exact here by tiles, O(n·m·d); sampled_bound_penalty.hpp estimates it.
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
      pairs += static_cast<double>(problem.visibility().keys_of(i, problem.visible_keys(b)));
  return pairs * static_cast<double>(problem.query.heads());
}

// Value and statistics, by tiles: one sum for each block of queries, added up in order.
template <class T>
BoundValue bound_statistics(const Problem<T>& problem, double radius, double pairs) {
  constexpr Index size = simd::block_tokens<T>;
  Workspace workspace;
  Arena counter;
  DirectScratch<T>::lay_out(counter, problem);
  Arena arena(workspace.reserve(counter.bytes()));
  DirectScratch<T> scratch = DirectScratch<T>::lay_out(arena, problem);
  const Index group = problem.group();
  const Index query_blocks = block_count(problem.queries(), size);
  const Index key_size = RowPacker<T>::packed_size(problem.key_dim());
  BoundValue result;
  for (Index first_head = 0; first_head < problem.key_heads(); first_head += scratch.heads) {
    const Index heads = smaller(scratch.heads, problem.key_heads() - first_head);
    scratch.packers.bind(problem, first_head, heads);
    parallel_for(heads * scratch.key_blocks, problem.threads, [&](Index task, int thread) {
      const RowPacker<T>& packer = scratch.packers.key[task / scratch.key_blocks];
      const Index first = task % scratch.key_blocks * size;
      const Index count = smaller(size, packer.length - first);
      const DirectThreadScratch<T>& mine = scratch.threads[thread];
      if (count > 0) packer.pack_only(first, count, mine.rows, mine.sums, scratch.keys + task * key_size);
    });
    std::vector<BoundValue> parts(static_cast<std::size_t>(heads * group * query_blocks));
    parallel_for(heads * group * query_blocks, problem.threads, [&](Index task, int thread) {
      const Index head = task / query_blocks, h = head / group;
      const Index first = task % query_blocks * size;
      const RowPacker<T>& packer = scratch.packers.query[head];
      const DirectThreadScratch<T>& mine = scratch.threads[thread];
      const Index queries = smaller(size, packer.length - first);
      if (queries <= 0) return;
      packer.pack_only(first, queries, mine.rows, mine.sums, mine.query);
      BoundValue& part = parts[static_cast<std::size_t>(task)];
      for (Index key = 0; key < scratch.key_blocks; ++key) {
        const Index keys = smaller(size, scratch.packers.key[h].length - key * size);
        if (!problem.visibility().any(first, queries, key * size, keys)) continue;
        simd::ScoreStatistics<T> block;
        block.query = mine.query;
        block.key = scratch.keys + (h * scratch.key_blocks + key) * key_size;
        block.queries = queries;
        block.keys = keys;
        block.dim = problem.key_dim();
        block.diagonal = problem.visibility().diagonal(first, key * size, keys);
        block.radius = radius;
        block.scores = mine.weights;
        block.excess = &part.value;
        block.beyond = &part.overflow;
        block.largest = &part.max_abs;
        simd::backward_kernels<T>().score_statistics(block);
      }
    });
    for (const BoundValue& part : parts) {
      result.value += part.value;
      result.overflow += part.overflow;
      if (part.max_abs > result.max_abs || is_nan(part.max_abs)) result.max_abs = part.max_abs;  // NaN stays
    }
  }
  if (pairs > 0) {
    result.value /= pairs;
    result.overflow /= pairs;
  }
  return result;
}

// L_b, exact. Its gradient is that of Σ w(s_ij) with w = max(0, |s| − R)²: attention backward with weight w, v = 1,
// δ = 1 and o = 0.
template <class T>
BoundValue bound_penalty(const Heads<const T>& q, const Heads<const T>& k, const Heads<T>& dq, const Heads<T>& dk,
                         double radius, double weight, const Options& options) {
  const T one = 1, zero = 0;
  BackwardProblem<T> problem;
  problem.forward = score_problem<T>(q, k, &one, dq, dk, radius, weight, options);
  Problem<T>& p = problem.forward;
  const double pairs = count_visible_pairs(p);
  make_direct_plan(p, options);
  const BoundValue result = bound_statistics(p, radius, pairs);
  if ((dq.data == nullptr && dk.data == nullptr) || pairs == 0) return result;

  const typename Heads<const T>::Shape rows{q.batch(), q.heads(), q.tokens(), 1};
  problem.output = {&zero, rows, {0, 0, 0, 0}};
  problem.normalizer = {&one, rows, {0, 0, 0, 0}};
  problem.output_gradient = {&one, rows, {0, 0, 0, 0}};
  const auto numbers = [](const auto& shape) {
    return static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]);
  };
  std::vector<T> query_gradient(numbers(q.shape)), key_gradient(numbers(k.shape)), unused(numbers(p.value.shape));
  problem.gradients = {
      {query_gradient.data(), q.shape}, {key_gradient.data(), k.shape}, {unused.data(), p.value.shape}};
  Workspace local;
  Workspace& workspace = options.workspace != nullptr ? *options.workspace : local;
  Arena arena(workspace.reserve(scratch_bytes(problem)));
  auto scratch = DirectBackwardScratch<T>::lay_out(arena, problem);
  direct_attention_backward(problem, scratch);
  add_scaled(query_gradient, weight / pairs, dq);
  add_scaled(key_gradient, weight / pairs, dk);
  return result;
}

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail

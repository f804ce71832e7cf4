// Direct attention of heads of a few tokens, forward and backward: batches of many heads are all that they cost.
//
//   o_i = Σ_j w(s_ij) v_j / Σ_j w(s_ij),  n, m ≤ 8
//
// Blocks, packed and padded, are made for many tokens: one token in one of 144 took 9 to 20 times a plain loop,
// backward 37 to 46 times. Here one kernel call serves one query head with rows as they are; what is centred is copied.
// Cost O(n·m·(d+dᵥ)) a head, memory O((n+m)·(d+dᵥ)) a thread. Gradients: block/backward.hpp.
#pragma once

#include "csq/detail/block/backward.hpp"
#include "csq/detail/block/head_teams.hpp"
#include "csq/detail/block/output.hpp"
#include "csq/detail/direct/block.hpp"

namespace CSQ_CODE::detail {

// Key heads that one task serves.
template <class T>
Index short_heads_of_a_task(const Problem<T>& problem) {
  constexpr Index tasks_of_a_thread = 8, most = 64;
  return std::clamp<Index>(problem.key_heads() / (tasks_of_a_thread * problem.teams), 1, most);
}

// The rows of a head of q or k, as the short kernels take them.
template <class T>
simd::ShortRows<T> short_rows(const Problem<T>& problem, const History* history, Index batch, double factor) {
  using Centering = typename simd::ShortRows<T>::Centering;
  simd::ShortRows<T> rows;
  rows.centering = problem.centering == csq::Centering::sequence           ? Centering::sequence
                   : problem.centering == csq::Centering::prefix           ? Centering::prefix
                   : problem.centering == csq::Centering::prefix_exclusive ? Centering::prefix_exclusive
                                                                           : Centering::none;
  if (history != nullptr) rows.history_count = static_cast<double>(history->count[static_cast<std::size_t>(batch)]);
  rows.factor = factor;
  rows.elu = problem.weight.kind == Weight::Kind::feature_product;
  return rows;
}

// Moves them to another head.
template <class T>
void bind_short_rows(const StoredHeads<const T>& heads, const History* history, Index batch, Index head, Index length,
                     simd::ShortRows<T>& rows) {
  rows.source = rows_of(heads.head(batch, head), 0, length);
  if (history != nullptr) rows.history = history->mean.data() + (batch * heads.heads() + head) * heads.dim();
}

template <class T>
struct FewTokensScratch {
  Index heads = 1;
  simd::ShortHead<T> head;
  Packers<T> packers;                      // of one head, for scale-blind weights alone
  Gates<T> gates;                          // of one head
  T *gate = nullptr, *gate_low = nullptr;  // their sums at the queries
  RescaleScratch<T> again;

  static FewTokensScratch lay_out(Arena& arena, const Problem<T>& problem) {
    const Index n = problem.queries(), m = problem.keys();
    const Index key_stride = simd::padded_columns<T>(problem.key_dim());
    const Index value_stride = simd::padded_columns<T>(problem.value_dim());
    FewTokensScratch scratch;
    scratch.heads = short_heads_of_a_task(problem);
    scratch.head.sums = arena.template take<double>(simd::padded_columns<double>(problem.key_dim()));
    scratch.head.queries = arena.template take<T>(n * key_stride);
    scratch.head.keys = arena.template take<T>(m * key_stride);
    scratch.head.values = arena.template take<T>(m * value_stride);
    scratch.head.weights = arena.template take<T>(simd::token_group);
    scratch.head.numerator = arena.template take<T>(n * value_stride);
    scratch.head.normalizer = arena.template take<T>(n);
    scratch.head.maximum = arena.template take<T>(n);
    if (problem.weight.is_scale_blind()) scratch.packers = Packers<T>::lay_out(arena, problem, 1);
    scratch.again = RescaleScratch<T>::lay_out(arena, problem);
    if (problem.has_gates()) {
      scratch.gates = Gates<T>::lay_out(arena, problem, 1);
      scratch.gate = arena.template take<T>(n);
      scratch.gate_low = arena.template take<T>(n);
    }
    return scratch;
  }

  // Cap, gates and bias of a query head. The gates are bound to its key head.
  simd::Adjustment<T> adjustment(const Problem<T>& problem, Index batch, Index query_head, Index g) const {
    simd::Adjustment<T> adjust;
    adjust.soft_cap = problem.soft_cap;
    if (problem.has_bias()) {
      const Head<const T> bias = problem.bias.head(batch, query_head);
      adjust.bias = bias.data;
      adjust.bias_query_stride = bias.token_stride;
      adjust.bias_key_stride = bias.dim_stride;
    }
    if (!problem.has_gates() || problem.keys() == 0) return adjust;
    const GateSums<T> sums = gates.of(0, g);
    for (Index i = 0; i < problem.queries(); ++i) {
      const Index token = larger<Index>(0, problem.visibility().offset() + i);
      gate[i] = sums.high[token];
      gate_low[i] = sums.low[token];
    }
    adjust.query_gate = gate;
    adjust.query_gate_low = gate_low;
    adjust.key_gate = sums.high;
    adjust.key_gate_low = sums.low;
    return adjust;
  }
};

template <class T>
void few_tokens_attention(const Problem<T>& problem, FewTokensScratch<T>& scratch, Index first_head, Index heads) {
  const auto& kernels = simd::kernels<T>();
  const Visibility visibility = problem.visibility();
  const Index group = problem.group();
  simd::ShortHead<T> head = scratch.head;
  head.weight = kernel_weight(problem.weight);
  head.band_start = visibility.band_start(0, 0);
  // Counted, not divided: a division takes as long as the products of a head of one token.
  Index batch = first_head / problem.key.heads(), key_head = first_head % problem.key.heads(), keys = 0, queries = 0;
  for (Index h = first_head; h < first_head + heads; ++h, ++key_head) {
    if (key_head == problem.key.heads()) {
      key_head = 0;
      ++batch;
    }
    if (h == first_head || key_head == 0) {
      keys = problem.visible_keys(batch);
      queries = problem.real_queries(batch);
      head.query = short_rows(problem, problem.query_history, batch, query_factor(problem));
      head.key = short_rows(problem, problem.key_history, batch, 1);
      head.diagonal = visibility.diagonal(0, 0, keys);
    }
    bind_short_rows(problem.key, problem.key_history, batch, key_head, keys, head.key);
    head.value = rows_of(problem.value.head(batch, key_head), 0, keys);
    if (problem.has_gates()) scratch.gates.bind(problem, h, 1);
    for (Index g = 0; g < group; ++g) {
      if (!problem.is_plain()) head.adjust = scratch.adjustment(problem, batch, key_head * group + g, g);
      bind_short_rows(problem.query, problem.query_history, batch, key_head * group + g, queries, head.query);
      head.prepares_keys = g == 0;
      kernels.short_head(head);
      const bool again = queries > 0 && leave_range(problem, queries, head.normalizer);
      if (again) {
        scratch.packers.bind(problem, h, 1);
        serve_on_demand(problem, scratch.packers.query[g], scratch.packers.key[0], batch, key_head, 0, queries,
                        scratch.again.rows, scratch.again.keys);
      }
      write_rows(problem, kernels, batch, key_head * group + g, 0, problem.queries(), queries,
                 again ? scratch.again.rows.numerator : head.numerator,
                 again ? scratch.again.rows.normalizer : head.normalizer,
                 again ? scratch.again.rows.maximum : head.maximum);
    }
  }
}

template <class T>
struct FewTokensBackwardScratch {
  Index heads = 1;
  T* factor = nullptr;
  T* log_normalizer = nullptr;
  simd::ShortHeadBackward<T> head;

  static Index parameter_terms(const BackwardProblem<T>&) { return 1; }  // of a key head

  static FewTokensBackwardScratch lay_out(Arena& arena, const BackwardProblem<T>& problem) {
    const Problem<T>& p = problem.forward;
    const Index n = p.queries(), m = p.keys();
    const Index key_stride = simd::padded_columns<T>(p.key_dim());
    const Index value_stride = simd::padded_columns<T>(p.value_dim());
    FewTokensBackwardScratch scratch;
    scratch.heads = short_heads_of_a_task(p);
    scratch.factor = arena.template take<T>(n);
    scratch.log_normalizer = arena.template take<T>(simd::token_group);
    scratch.head.dot = arena.template take<T>(simd::token_group);
    scratch.head.sums = arena.template take<double>(simd::padded_columns<double>(p.key_dim()));
    scratch.head.queries = arena.template take<T>(n * key_stride);
    scratch.head.keys = arena.template take<T>(m * key_stride);
    scratch.head.values = arena.template take<T>(m * value_stride);
    scratch.head.gradient_rows = arena.template take<T>(n * value_stride);
    scratch.head.output_row = arena.template take<T>(value_stride);
    scratch.head.weights = arena.template take<T>(m * simd::block_tokens<T>);
    scratch.head.slopes = arena.template take<T>(m * simd::block_tokens<T>);
    scratch.head.query_gradient = arena.template take<T>(n * key_stride);
    scratch.head.key_gradient = arena.template take<T>(m * key_stride);
    scratch.head.value_gradient = arena.template take<T>(m * value_stride);
    return scratch;
  }
};

template <class T>
void few_tokens_attention_backward(const BackwardProblem<T>& problem, FewTokensBackwardScratch<T>& scratch,
                                   double* parameter_terms, Index first_head, Index heads) {
  const Problem<T>& p = problem.forward;
  const auto& kernels = simd::backward_kernels<T>();
  const Visibility visibility = p.visibility();
  const Index group = p.group();
  const auto target = [](const StoredHead<T>& gradient) -> simd::Target<T> {
    return {gradient.data, gradient.token_stride, gradient.dim_stride, gradient.tokens, gradient.dim, gradient.storage};
  };
  simd::ShortHeadBackward<T> head = scratch.head;
  head.weight = kernel_weight(p.weight);
  head.query_factor = query_gradient_factor(p);
  head.key_factor = key_gradient_factor(p);
  head.factor = scratch.factor;
  head.log_normalizer = scratch.log_normalizer;
  std::fill_n(scratch.log_normalizer, simd::token_group, T(0));  // also past the queries: vectors read them
  std::fill_n(head.dot, simd::token_group, T(0));
  Index batch = first_head / p.key.heads(), key_head = first_head % p.key.heads(), keys = 0, queries = 0;
  for (Index h = first_head; h < first_head + heads; ++h, ++key_head) {
    if (key_head == p.key.heads()) {
      key_head = 0;
      ++batch;
    }
    if (h == first_head || key_head == 0) {
      keys = p.visible_keys(batch);
      queries = p.real_queries(batch);
      head.query = short_rows(p, p.query_history, batch, query_factor(p));
      head.key = short_rows(p, p.key_history, batch, 1);
      head.diagonal = visibility.diagonal(0, 0, keys);
    }
    bind_short_rows(p.key, p.key_history, batch, key_head, keys, head.key);
    head.value = rows_of(p.value.head(batch, key_head), 0, keys);
    head.key_target = target(problem.gradients.key.head(batch, key_head));
    head.value_target = target(problem.gradients.value.head(batch, key_head));
    parameter_terms[h] = 0;
    head.slope_sum = problem.gradients.shift != nullptr ? parameter_terms + h : nullptr;
    for (Index g = 0; g < group; ++g) {
      const Index query_head = key_head * group + g;
      bind_short_rows(p.query, p.query_history, batch, query_head, queries, head.query);
      head.output = rows_of(problem.output.head(batch, query_head), 0, queries);
      head.output_gradient = rows_of(problem.output_gradient.head(batch, query_head), 0, queries);
      read_normalizers(p, problem.normalizer.head(batch, query_head), 0, queries, scratch.factor,
                       scratch.log_normalizer);
      head.query_target = target(problem.gradients.query.head(batch, query_head));
      head.is_first = g == 0;
      head.is_last = g == group - 1;
      kernels.short_head(head);
    }
  }
}

}  // namespace CSQ_CODE::detail

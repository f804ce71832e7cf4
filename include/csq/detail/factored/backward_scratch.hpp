// Where a factored backward call keeps what: its slices of both summaries, and the scratch for gradients and blocks.
#pragma once

#include "csq/detail/block/backward_thread_scratch.hpp"
#include "csq/detail/call/scan_plan.hpp"
#include "csq/detail/direct/block.hpp"
#include "csq/detail/factored/summary.hpp"

namespace CSQ_CODE::detail {

template <class T>
struct FactoredBackwardScratch {
  Index chunk = 1, chunks = 0;  // chunks of positions (causal) or of keys
  Index query_chunks = 0;       // without a mask queries have chunks of their own; else the same
  simd::FeatureMap map;
  Index features = 0, slices = 1, heads = 1, superblock = 1;
  Index key_stride = 0, value_stride = 0;
  Index query_rows = 0, key_rows = 0;  // rows of the gradients kept for a head, up to whole blocks

  Packers<T> packers;
  T* summary = nullptr;           // S: [heads][padded features][value stride]
  T* normalizer = nullptr;        // [heads][features]
  T* summary_gradient = nullptr;  // dS
  T* normalizer_gradient = nullptr;
  T* keys = nullptr;                 // [heads][superblock] BackwardKeyBlock
  T* queries = nullptr;              // [heads][group][superblock] BackwardQueryBlock
  T* partial = nullptr;              // [heads][slices][group][superblock] lanes, shift, value rows
  T* query_gradient = nullptr;       // [heads][group][query_rows][key stride]
  T* key_gradient = nullptr;         // [heads][key_rows][key stride]
  T* value_gradient = nullptr;       // [heads][key_rows][value stride]
  double* square_sums = nullptr;     // [heads][slices][query chunks], Σ|k|² of the keys that a chunk's rows read
  double* gradient_bound = nullptr;  // [heads][group][query chunks], Σ B_i² of cancellation.hpp
  bool* cancels = nullptr;           // [heads][group][query chunks]: some rows are served directly
  T** panels = nullptr;              // [threads] two panels
  BackwardThreadScratch<T>* threads = nullptr;
  DirectThreadScratch<T>* forward = nullptr;  // [threads], for outputs that are computed again
  KeysOnDemand<T>* forward_keys = nullptr;

  Index padded_features() const { return SummarySlice<T>::padded_rows(features); }
  Index lanes_size() const { return key_stride * simd::block_tokens<T>; }
  Index partial_size() const { return lanes_size() + simd::block_tokens<T> * (1 + value_stride); }

  SummarySlice<T> slice(T* s, T* z, Index head, Index index) const {
    const Index units = padded_features() / simd::slice_features;
    const auto start = [&](Index i) { return smaller(features, units * i / slices * simd::slice_features); };
    return {map,
            value_stride,
            start(index),
            start(index + 1),
            s + (head * padded_features() + start(index)) * value_stride,
            z + head * features + start(index)};
  }

  // S of one key head, all features.
  SummarySlice<T> whole(Index head) const {
    return {map,
            value_stride,
            0,
            features,
            summary + head * padded_features() * value_stride,
            normalizer + head * features};
  }

  static Index query_chunks_of(const Problem<T>& problem) {
    return block_count(problem.causal ? problem.keys() : problem.queries(), problem.plan.scan.chunk);
  }
  static Index shift_terms(const BackwardProblem<T>& problem) {  // of a key head
    return problem.forward.group() * query_chunks_of(problem.forward);
  }

  static FactoredBackwardScratch lay_out(Arena& arena, const BackwardProblem<T>& problem);
};

template <class T>
FactoredBackwardScratch<T> FactoredBackwardScratch<T>::lay_out(Arena& arena, const BackwardProblem<T>& problem) {
  constexpr Index size = simd::block_tokens<T>;
  constexpr Index superblock_tokens = 1024;
  constexpr Index partial_bytes = Index{8} << 20;

  const Problem<T>& p = problem.forward;
  FactoredBackwardScratch result;
  result.map = feature_map(p.weight, p.key_dim(), problem.gradients.shift != nullptr);
  result.features = result.map.size();
  result.key_stride = simd::padded_columns<T>(p.key_dim());
  result.value_stride = simd::padded_columns<T>(p.value_dim());
  result.chunk = p.plan.scan.chunk;
  result.chunks = block_count(p.keys(), result.chunk);
  result.query_chunks = query_chunks_of(p);
  result.slices = p.plan.slices;
  const Index groups_of_heads = block_count(p.key_heads(), p.threads);
  result.heads = p.teams > 1 ? 1 : larger<Index>(1, block_count(p.key_heads(), larger<Index>(1, groups_of_heads)));
  const Index partial_row = result.slices * p.group() * result.partial_size() * static_cast<Index>(sizeof(T));
  const Index fitting = larger<Index>(1, partial_bytes / larger<Index>(1, partial_row));
  const Index wanted = larger<Index>(1, superblock_tokens / result.chunk);
  result.superblock = larger<Index>(1, smaller(smaller(wanted, fitting), larger(result.chunks, result.query_chunks)));
  result.query_rows = block_count(p.queries(), size) * size;
  result.key_rows = block_count(p.keys(), size) * size;

  const auto times = [](Index a, Index b) { return checked_product(a, b, "workspace"); };
  const Index group = p.group(), heads = result.heads;
  const Index summary = times(heads, times(result.padded_features(), result.value_stride));
  result.packers = Packers<T>::lay_out(arena, p, heads);
  result.summary = arena.template take<T>(summary);
  result.normalizer = arena.template take<T>(heads * result.features);
  result.summary_gradient = arena.template take<T>(summary);
  result.normalizer_gradient = arena.template take<T>(heads * result.features);
  result.keys = arena.template take<T>(
      times(heads * result.superblock, BackwardKeyBlock<T>::size(p.key_dim(), p.value_dim(), true)));
  result.queries = arena.template take<T>(
      times(heads * group * result.superblock, BackwardQueryBlock<T>::size(p.key_dim(), p.value_dim())));
  if (p.causal)
    result.partial =
        arena.template take<T>(times(heads * result.slices * group * result.superblock, result.partial_size()));
  result.query_gradient = arena.template take<T>(times(heads * group, times(result.query_rows, result.key_stride)));
  result.key_gradient = arena.template take<T>(times(heads, times(result.key_rows, result.key_stride)));
  result.value_gradient = arena.template take<T>(times(heads, times(result.key_rows, result.value_stride)));
  result.square_sums = arena.template take<double>(heads * result.slices * result.query_chunks);
  result.gradient_bound = arena.template take<double>(heads * group * result.query_chunks);
  result.cancels = arena.template take<bool>(heads * group * result.query_chunks);
  result.panels = arena.template take<T*>(p.threads);
  result.threads = arena.template take<BackwardThreadScratch<T>>(p.threads);
  result.forward = arena.template take<DirectThreadScratch<T>>(p.threads);
  result.forward_keys = arena.template take<KeysOnDemand<T>>(p.threads);
  const bool counting = result.threads == nullptr;
  for (int thread = 0; thread < p.threads; ++thread) {
    T* panels = arena.template take<T>(2 * simd::panel_features * size + result.partial_size());
    const auto scratch = BackwardThreadScratch<T>::lay_out(arena, p.key_dim(), p.value_dim());
    const auto forward = DirectThreadScratch<T>::lay_out(arena, p.key_dim(), p.value_dim());
    const auto keys = KeysOnDemand<T>::lay_out(arena, p.key_dim(), p.value_dim());
    if (!counting) {
      result.forward[thread] = forward;
      result.forward_keys[thread] = keys;
      result.panels[thread] = panels;
      result.threads[thread] = scratch;
    }
  }
  return result;
}

// What pulling back one block leaves: lanes of ∂x̃, the shift's share of each token and, for keys, rows of ∂v.
template <class T>
struct PulledBack {
  T* lanes;
  T* shift;
  T* value_rows;

  static PulledBack at(T* memory, Index lanes_size) {
    return {memory, memory + lanes_size, memory + lanes_size + simd::block_tokens<T>};
  }
};

}  // namespace CSQ_CODE::detail

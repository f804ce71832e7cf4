// Where a factored forward call keeps what: the plan of its scan, its slices of the summary, and the scratch for both.
#pragma once

#include "csq/detail/call/scan_plan.hpp"
#include "csq/detail/direct/block.hpp"
#include "csq/detail/factored/summary.hpp"

namespace CSQ_CODE::detail {

template <class T>
struct FactoredScratch {
  ScanPlan plan;
  Index key_chunks = 0;  // chunks that have keys in any entry of the batch
  simd::FeatureMap map;
  Index features = 0;
  Index slices = 1;
  Index heads = 1;       // key heads in flight
  Index chunks = 0;      // chunks of positions [0, max(n, m))
  Index superblock = 1;  // chunks whose packed tokens are in memory at a time
  Index stored = 0;      // chunks of keys that are served directly from far away: the first ones, later the last ones
  Index value_stride = 0;
  Index partial_rows = 0;

  Packers<T> packers;
  T* summary = nullptr;     // [heads][padded features][value stride]
  T* normalizer = nullptr;  // [heads][features]
  T* keys = nullptr;        // [heads][superblock][packed]
  T* values = nullptr;      // [heads][superblock][chunk][value stride]
  T* queries = nullptr;     // [heads][group][superblock][packed]
  T* partial = nullptr;     // [heads][slices][group][superblock][partial rows][value stride]
  T* partial_normalizer = nullptr;
  T* stored_keys = nullptr;  // [heads][stored][packed]
  T* stored_values = nullptr;
  double* square_sums = nullptr;  // [heads][slices][superblock], Σ|k|² of the keys that a chunk's rows read
  T** panels = nullptr;           // [threads]
  DirectThreadScratch<T>* threads = nullptr;
  KeysOnDemand<T>* direct_keys = nullptr;  // [threads], for blocks that are not read after all

  Index packed_size(const Problem<T>& problem) const { return RowPacker<T>::packed_size(problem.key_dim()); }
  Index value_block_size() const { return plan.chunk * value_stride; }
  Index partial_size() const { return partial_rows * value_stride; }
  Index padded_features() const { return SummarySlice<T>::padded_rows(features); }

  Index slice_start(Index slice) const {
    const Index units = padded_features() / simd::slice_features;
    return smaller(features, units * slice / slices * simd::slice_features);
  }

  SummarySlice<T> slice(Index head, Index index) const {
    const Index first = slice_start(index);
    return {map,
            value_stride,
            first,
            slice_start(index + 1),
            summary + (head * padded_features() + first) * value_stride,
            normalizer + head * features + first};
  }

  SummarySlice<T> whole(Index head) const {
    return {map,
            value_stride,
            0,
            features,
            summary + head * padded_features() * value_stride,
            normalizer + head * features};
  }

  static FactoredScratch lay_out(Arena& arena, const Problem<T>& problem);
};

template <class T>
FactoredScratch<T> FactoredScratch<T>::lay_out(Arena& arena, const Problem<T>& problem) {
  constexpr Index size = simd::block_tokens<T>;
  constexpr Index superblock_tokens = 2048;
  constexpr Index partial_bytes = Index{4} << 20;

  FactoredScratch result;
  result.map = feature_map(problem.weight, problem.key_dim());
  result.features = result.map.size();
  result.value_stride = simd::padded_columns<T>(problem.value_dim());
  result.plan = problem.plan.scan;
  const Index group = problem.group();
  result.chunks = block_count(problem.keys(), result.plan.chunk);
  result.key_chunks = block_count(problem.plan.longest.keys, result.plan.chunk);
  result.slices = problem.plan.slices;
  const Index groups_of_heads = block_count(problem.key_heads(), problem.threads);
  result.heads =
      problem.teams > 1 ? 1 : larger<Index>(1, block_count(problem.key_heads(), larger<Index>(1, groups_of_heads)));
  result.partial_rows = smaller(size, SummarySlice<T>::padded_rows(result.plan.chunk));
  const Index row_bytes = result.slices * group * (result.value_stride + 1) * static_cast<Index>(sizeof(T));
  // Without a mask there are no partial rows, and longer superblocks mean fewer waits of one slice for another.
  const Index fitting = problem.causal ? partial_bytes / larger<Index>(1, row_bytes) : superblock_tokens;
  const Index tokens = std::clamp(fitting, result.plan.chunk, superblock_tokens);
  result.superblock = larger<Index>(1, smaller(tokens / result.plan.chunk, result.chunks));
  if (problem.causal)
    result.stored = larger(smaller(result.plan.first_read, result.key_chunks),
                           larger<Index>(0, result.key_chunks - result.plan.first_kept));

  const auto blocks = [&](Index count) { return checked_product(result.heads, count, "workspace"); };
  result.packers = Packers<T>::lay_out(arena, problem, result.heads);
  result.summary =
      arena.template take<T>(blocks(checked_product(result.padded_features(), result.value_stride, "workspace")));
  result.normalizer = arena.template take<T>(blocks(result.features));
  result.keys = arena.template take<T>(blocks(result.superblock * result.packed_size(problem)));
  result.values = arena.template take<T>(blocks(result.superblock * result.value_block_size()));
  if (problem.causal) {
    result.queries = arena.template take<T>(blocks(group * result.superblock * result.packed_size(problem)));
    const Index rows = blocks(result.slices * group * result.superblock);
    result.partial = arena.template take<T>(checked_product(rows, result.partial_size(), "workspace"));
    result.partial_normalizer = arena.template take<T>(checked_product(rows, size, "workspace"));
    result.square_sums = arena.template take<double>(blocks(result.slices * result.superblock));
    result.stored_keys =
        arena.template take<T>(blocks(checked_product(result.stored, result.packed_size(problem), "workspace")));
    result.stored_values =
        arena.template take<T>(blocks(checked_product(result.stored, result.value_block_size(), "workspace")));
  }
  result.panels = arena.template take<T*>(problem.threads);
  result.threads = arena.template take<DirectThreadScratch<T>>(problem.threads);
  result.direct_keys = arena.template take<KeysOnDemand<T>>(problem.threads);
  const bool counting = result.threads == nullptr;
  for (int thread = 0; thread < problem.threads; ++thread) {
    T* panel = arena.template take<T>(simd::panel_features * size);
    const auto scratch = DirectThreadScratch<T>::lay_out(arena, problem.key_dim(), problem.value_dim());
    const auto keys = KeysOnDemand<T>::lay_out(arena, problem.key_dim(), problem.value_dim());
    if (!counting) {
      result.direct_keys[thread] = keys;
      result.panels[thread] = panel;
      result.threads[thread] = scratch;
    }
  }
  return result;
}

}  // namespace CSQ_CODE::detail

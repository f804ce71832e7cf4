// Where a factored forward call keeps what: the plan of its scan, its slices of the summary, and the scratch for both.
#pragma once

#include "csq/detail/call/scan_plan.hpp"
#include "csq/detail/direct/block.hpp"
#include "csq/detail/direct/tiles.hpp"
#include "csq/detail/factored/on_unit.hpp"

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

  Packers<T> packers;
  Blocks<T, 1> summary;             // [heads] [padded features][value stride]
  Blocks<T, 1> normalizer;          // [heads] [features]
  Blocks<T, 2> keys;                // [heads][superblock] packed
  Blocks<T, 2> values;              // [heads][superblock] [chunk][value stride]
  Blocks<T, 3> queries;             // [heads][group][superblock] packed
  Blocks<T, 4> partial;             // [heads][slices][group][superblock] [partial rows][value stride]
  Blocks<T, 4> partial_normalizer;  // the same, [B]
  Blocks<T, 2> scaled_values;       // the same as values, times what gates leave at the chunk's end
  Blocks<T, 2> scales;              // [heads][superblock] [B], that
  Blocks<T, 2> stored_keys;         // [heads][stored] packed
  Blocks<T, 2> stored_values;       // [heads][stored] [chunk][value stride]
  Blocks<double, 2> square_sums;    // [heads][slices] [superblock], Σ|k|² of the keys that a chunk's rows read
  Blocks<double, 2> count_sums;     // the same, Σ 1 of what gates have left
  Blocks<T, 1> panels;              // [threads]
  // Where there is a matrix unit:
  const simd::MatrixKernelSet<T>* matrix = nullptr;
  Index unit_end = 0;                         // features from here on are float's
  Index first_float_slice = 0;                // slices before it have none; `partial` begins with it
  KeyTiles<T> tiles, stored_tiles;            // [heads][superblock], [heads][stored]
  Blocks<simd::BFloat16Bits, 2> value_tiles;  // [heads][superblock], of values or scaled values, to be absorbed
  Blocks<T, 4> partial_tiles;                 // [heads][slices][group][superblock], sums
  Index read_together = 1;                    // blocks of rows that share a summary, without a mask
  Blocks<T, 2> read_queries, read_tiles, read_normalizers;  // [threads][read_together]
  DirectThreadScratch<T>* threads = nullptr;
  KeysOnDemand<T>* direct_keys = nullptr;  // [threads], for blocks that are not read after all

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
            summary(head) + first * value_stride,
            normalizer(head) + first};
  }

  // Slices with features of float.
  Index float_slices() const { return slices - first_float_slice; }

  SummarySlice<T> whole(Index head) const { return {map, value_stride, 0, features, summary(head), normalizer(head)}; }

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
  const Index row_bytes = result.slices * group * (result.value_stride + 1) * static_cast<Index>(sizeof(T));
  // Without a mask there are no partial rows, and longer superblocks mean fewer waits of one slice for another.
  const Index fitting = problem.causal ? partial_bytes / larger<Index>(1, row_bytes) : superblock_tokens;
  const Index tokens = std::clamp(fitting, result.plan.chunk, superblock_tokens);
  result.superblock = larger<Index>(1, smaller(tokens / result.plan.chunk, result.chunks));
  if (problem.causal)
    result.stored = larger(smaller(result.plan.first_read, result.key_chunks),
                           larger<Index>(0, result.key_chunks - result.plan.first_kept));

  result.matrix = problem.matrix();
  if (result.matrix != nullptr) {
    result.unit_end = end_of_unit(result.map);
    while (result.first_float_slice + 1 < result.slices &&
           result.slice_start(result.first_float_slice + 1) <= result.unit_end)
      ++result.first_float_slice;
  }

  const Index heads = result.heads, packed = RowPacker<T>::packed_size(problem.key_dim());
  const Index values = result.plan.chunk * result.value_stride;
  result.packers = Packers<T>::lay_out(arena, problem, heads);
  result.summary = {arena, {heads}, checked_product(result.padded_features(), result.value_stride, "workspace")};
  result.normalizer = {arena, {heads}, result.features};
  result.keys = {arena, {heads, result.superblock}, packed};
  result.values = {arena, {heads, result.superblock}, values};
  if (problem.causal) {
    const Index partial_rows = result.matrix == nullptr ? smaller(size, SummarySlice<T>::padded_rows(result.plan.chunk))
                                                        : simd::padded_tokens<T>(result.plan.chunk);
    result.queries = {arena, {heads, group, result.superblock}, packed};
    result.partial = {
        arena, {heads, result.float_slices(), group, result.superblock}, partial_rows * result.value_stride};
    result.partial_normalizer = {arena, {heads, result.slices, group, result.superblock}, size};
    result.square_sums = {arena, {heads, result.slices}, result.superblock};
    if (problem.has_gates()) {
      result.scaled_values = {arena, {heads, result.superblock}, values};
      result.scales = {arena, {heads, result.superblock}, size};
      result.count_sums = {arena, {heads, result.slices}, result.superblock};
    }
    result.stored_keys = {arena, {heads, result.stored}, packed};
    result.stored_values = {arena, {heads, result.stored}, values};
  }
  result.panels = {arena, {problem.threads}, simd::panel_features * size};
  if (result.matrix != nullptr) {
    const Index sums = simd::sum_tiles_size<T>(result.value_stride);
    result.value_tiles = {arena, {heads, result.superblock}, simd::value_tiles_size<T>(result.value_stride)};
    if (problem.causal) {
      result.tiles = KeyTiles<T>::lay_out(arena, problem, heads, result.superblock);
      result.stored_tiles = KeyTiles<T>::lay_out(arena, problem, heads, result.stored);
      result.partial_tiles = {arena, {heads, result.slices, group, result.superblock}, sums};
    } else {
      // Enough of them that rounding the summary is little, as long as every thread has some.
      constexpr Index enough = 8;
      const Index rows = heads * group * block_count(problem.queries(), result.plan.chunk);
      result.read_together = std::clamp<Index>(rows / (2 * problem.threads), 1, enough);
      result.read_queries = {arena, {problem.threads, result.read_together}, packed};
      result.read_tiles = {arena, {problem.threads, result.read_together}, sums};
      result.read_normalizers = {arena, {problem.threads, result.read_together}, size};
    }
  }
  result.threads = take_each<DirectThreadScratch<T>>(arena, problem.threads,
                                                     [&] { return DirectThreadScratch<T>::lay_out(arena, problem); });
  result.direct_keys = take_each<KeysOnDemand<T>>(
      arena, problem.threads, [&] { return KeysOnDemand<T>::lay_out(arena, problem.key_dim(), problem.value_dim()); });
  return result;
}

}  // namespace CSQ_CODE::detail

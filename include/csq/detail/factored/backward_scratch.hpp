// Where a factored backward call keeps what: its slices of both summaries, and the scratch for gradients and blocks.
#pragma once

#include "csq/detail/block/backward_thread_scratch.hpp"
#include "csq/detail/block/backward_tiles.hpp"
#include "csq/detail/block/gate_gradient.hpp"
#include "csq/detail/call/scan_plan.hpp"
#include "csq/detail/direct/block.hpp"
#include "csq/detail/factored/on_unit.hpp"

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
  Blocks<T, 1> summary;           // S: [heads] [padded features][value stride]
  Blocks<T, 1> normalizer;        // [heads] [features]
  Blocks<T, 1> summary_gradient;  // dS
  Blocks<T, 1> normalizer_gradient;
  Blocks<T, 2> keys;                 // [heads][superblock] BackwardKeyBlock
  Blocks<T, 3> queries;              // [heads][group][superblock] BackwardQueryBlock
  Blocks<T, 4> partial;              // [heads][slices][group][superblock] PulledBack
  Blocks<T, 2> query_gradient;       // [heads][group] [query_rows][key stride]
  Blocks<T, 1> key_gradient;         // [heads] [key_rows][key stride]
  Blocks<T, 1> value_gradient;       // [heads] [key_rows][value stride]
  Blocks<double, 2> square_sums;     // [heads][slices] [query chunks], Σ|k|² of the keys that a chunk's rows read
  Blocks<double, 2> gradient_bound;  // [heads][group] [query chunks], Σ B_i² of cancellation.hpp
  Blocks<bool, 2> cancels;           // [heads][group] [query chunks]: some rows are served directly
  // Where there are gates: what they leave between a query and its chunk's start, and between a key and its end; and
  // the gradients of outputs times the former.
  Blocks<T, 3> scaled_gradient_rows, scaled_dot;  // [heads][group][superblock]
  Blocks<T, 2> query_scales, key_scales;          // [heads][superblock] [B]
  Blocks<double, 2> count_sums;                   // as square_sums, Σ 1 of what gates have left
  Blocks<double, 1> key_terms;                    // [heads] [key_rows], the gradients of gates, where they are wanted
  Blocks<T, 1> panels;                            // [threads] a panel of features, one of the summary, PulledBack
  BackwardThreadScratch<T>* threads = nullptr;
  DirectThreadScratch<T>* forward = nullptr;  // [threads], for outputs that are computed again
  KeysOnDemand<T>* forward_keys = nullptr;
  // Where there is a matrix unit:
  MatrixUnit<T> unit;
  Index unit_end = 0;                                    // what absorb and read leave to float begins here
  Blocks<simd::BFloat16Bits, 2> value_pairs;             // [heads][superblock], of values, to be absorbed
  Blocks<simd::BFloat16Bits, 2> value_targets;           // [heads][superblock], of values, to be pulled back
  Blocks<simd::BFloat16Bits, 3> gradient_pairs;          // [heads][group][superblock]
  Blocks<simd::BFloat16Bits, 3> gradient_targets;        // the same
  Blocks<simd::BFloat16Bits, 1> query_tiles, key_tiles;  // [threads], of pairs that are computed directly
  Blocks<T, 1> tile_sums;                                // [threads]
  Blocks<std::byte, 1> unit_scratch;                     // [threads]

  Index padded_features() const { return SummarySlice<T>::padded_rows(features); }
  Index lanes_size() const { return key_stride * simd::block_tokens<T>; }
  Index partial_size() const { return lanes_size() + simd::block_tokens<T> * (2 + value_stride); }

  // Of the head's summary s or its gradient, with its normaliser z.
  SummarySlice<T> slice(T* s, T* z, Index index) const {
    const Index units = padded_features() / simd::slice_features;
    const auto start = [&](Index i) { return smaller(features, units * i / slices * simd::slice_features); };
    return {map, value_stride, start(index), start(index + 1), s + start(index) * value_stride, z + start(index)};
  }

  // S of one key head, all features.
  SummarySlice<T> whole(Index head) const { return {map, value_stride, 0, features, summary(head), normalizer(head)}; }

  static Index query_chunks_of(const Problem<T>& problem) {
    return block_count(problem.causal ? problem.keys() : problem.queries(), problem.plan.scan.chunk);
  }
  static Index parameter_terms(const BackwardProblem<T>& problem) {  // of a key head
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

  const Index group = p.group(), heads = result.heads;
  const Index summary = checked_product(result.padded_features(), result.value_stride, "workspace");
  const Index query_size = checked_product(result.query_rows, result.key_stride, "workspace");
  result.packers = Packers<T>::lay_out(arena, p, heads);
  result.summary = {arena, {heads}, summary};
  result.normalizer = {arena, {heads}, result.features};
  result.summary_gradient = {arena, {heads}, summary};
  result.normalizer_gradient = {arena, {heads}, result.features};
  result.keys = {arena, {heads, result.superblock}, BackwardKeyBlock<T>::size(p.key_dim(), p.value_dim(), true)};
  result.queries = {arena, {heads, group, result.superblock}, BackwardQueryBlock<T>::size(p.key_dim(), p.value_dim())};
  if (p.causal) result.partial = {arena, {heads, result.slices, group, result.superblock}, result.partial_size()};
  result.query_gradient = {arena, {heads, group}, query_size};
  result.key_gradient = {arena, {heads}, checked_product(result.key_rows, result.key_stride, "workspace")};
  result.value_gradient = {arena, {heads}, checked_product(result.key_rows, result.value_stride, "workspace")};
  result.square_sums = {arena, {heads, result.slices}, result.query_chunks};
  result.gradient_bound = {arena, {heads, group}, result.query_chunks};
  if (p.has_gates()) {
    result.scaled_gradient_rows = {arena, {heads, group, result.superblock}, size * result.value_stride};
    result.scaled_dot = {arena, {heads, group, result.superblock}, size};
    result.query_scales = {arena, {heads, result.superblock}, size};
    result.key_scales = {arena, {heads, result.superblock}, size};
    result.count_sums = {arena, {heads, result.slices}, result.query_chunks};
  }
  if (problem.gate_gradient_heads() > 0) result.key_terms = {arena, {heads}, result.key_rows};
  result.cancels = {arena, {heads, group}, result.query_chunks};
  result.panels = {arena, {p.threads}, 2 * simd::panel_features * size + result.partial_size()};
  result.threads = take_each<BackwardThreadScratch<T>>(
      arena, p.threads, [&] { return BackwardThreadScratch<T>::lay_out(arena, problem); });
  result.forward =
      take_each<DirectThreadScratch<T>>(arena, p.threads, [&] { return DirectThreadScratch<T>::lay_out(arena, p); });
  result.forward_keys = take_each<KeysOnDemand<T>>(
      arena, p.threads, [&] { return KeysOnDemand<T>::lay_out(arena, p.key_dim(), p.value_dim()); });
  result.unit = MatrixUnit<T>::of(problem);
  if (!result.unit) return result;
  result.unit_end = end_of_unit(result.map);
  const Index pairs = simd::value_tiles_size<T>(result.value_stride);
  const Index targets = simd::token_tiles_size<T>(p.value_dim());
  result.value_pairs = {arena, {heads, result.superblock}, pairs};
  result.value_targets = {arena, {heads, result.superblock}, targets};
  result.gradient_pairs = {arena, {heads, group, result.superblock}, pairs};
  result.gradient_targets = {arena, {heads, group, result.superblock}, targets};
  result.query_tiles = {arena, {p.threads}, BackwardQueryTiles<T>::size(p.key_dim(), p.value_dim())};
  result.key_tiles = {arena, {p.threads}, BackwardKeyTiles<T>::size(p.key_dim(), p.value_dim())};
  result.tile_sums = {arena, {p.threads}, simd::sum_tiles_size<T>(larger(result.key_stride, result.value_stride))};
  result.unit_scratch = {arena,
                         {p.threads},
                         larger(larger(simd::matrix_scratch_bytes<T>(result.value_stride),
                                       simd::matrix_direct_backward_bytes<T>(result.key_stride)),
                                simd::matrix_pull_back_bytes<T>(p.value_dim()))};
  return result;
}

// What pulling back one block leaves: lanes of ∂x̃, the shift's share of each token and, for keys, the gradient of the
// normalisers with respect to each, and rows of ∂v.
template <class T>
struct PulledBack {
  T* lanes;
  T* shift;
  T* normalizer;
  T* value_rows;

  static PulledBack at(T* memory, Index lanes_size) {
    constexpr Index size = simd::block_tokens<T>;
    return {memory, memory + lanes_size, memory + lanes_size + size, memory + lanes_size + 2 * size};
  }
};

}  // namespace CSQ_CODE::detail

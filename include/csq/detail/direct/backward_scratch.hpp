// Where a direct backward call keeps what: its blocks of queries, the terms and sums of ∂q, and how many key blocks of
// a head are dealt out at a time.
#pragma once

#include "csq/detail/block/backward_thread_scratch.hpp"
#include "csq/detail/block/backward_tiles.hpp"
#include "csq/detail/block/gate_gradient.hpp"

namespace CSQ_CODE::detail {

template <class T>
struct DirectBackwardScratch {
  Index heads = 1;  // key heads in flight
  // Key blocks of a head side by side, each with its own terms of ∂q; 0: one after another, added at once.
  Index beside = 0;
  Index query_blocks = 0, key_blocks = 0;
  Packers<T> packers;
  Blocks<T, 3> queries;          // [heads][group][query_blocks] BackwardQueryBlock
  Blocks<T, 1> keys;             // [threads] BackwardKeyBlock
  Blocks<T, 3> query_gradient;   // [heads][group][query_blocks] [B][padded d]
  Blocks<T, 4> query_terms;      // [heads][beside][group][query_blocks] [B][padded d]
  Blocks<T, 2> key_gradient;     // [heads][key_blocks] [B][padded d], unless they leave at once
  Blocks<double, 2> key_terms;   // [heads][gate heads] [keys], v_j·∂L/∂v_j + e_j, where gates have a gradient
  Blocks<double, 2> sink_terms;  // [heads][group] [queries], G_i·o_i·e^(sink − lse_i), where sinks are summed over
  BackwardThreadScratch<T>* threads = nullptr;
  // Where there is a matrix unit. Pairs of blocks that it cannot serve leave their terms of ∂q in rows, as without one.
  MatrixUnit<T> unit;
  Blocks<simd::BFloat16Bits, 3> query_tiles;  // [heads][group][query_blocks]
  Blocks<bool, 3> finite;                     // the same
  Blocks<simd::BFloat16Bits, 1> key_tiles;    // [threads]
  Blocks<T, 3> query_sums;                    // [heads][group][query_blocks], ∂q in tiles
  Blocks<T, 4> sum_terms;                     // [heads][beside][group][query_blocks]
  Blocks<bool, 4> in_rows;                    // the same: the term is in query_terms
  Blocks<std::byte, 1> unit_scratch;          // [threads]

  // ∂q and ∂k are those of the packed rows, but for a factor.
  static bool leaves_at_once(const Problem<T>& problem) {
    return problem.centering == Centering::none && problem.weight.kind != Weight::Kind::feature_product;
  }

  // Of a key head: one for each block of keys for the shift, or for each query head for its sink. No mechanism has
  // both.
  static Index parameter_terms(const BackwardProblem<T>& problem) {
    if (!problem.gradients.sink.empty()) return problem.forward.group();
    return block_count(problem.forward.keys(), simd::block_tokens<T>);
  }

  static DirectBackwardScratch lay_out(Arena& arena, const BackwardProblem<T>& problem) {
    constexpr Index size = simd::block_tokens<T>;
    constexpr Index terms_bytes = Index{64} << 20;  // of all blocks side by side
    constexpr Index many_heads = 8;  // a thread: what their last round leaves idle is not worth the terms
    constexpr Index tasks_per_thread = 2;
    constexpr Index fewest_tasks = 16;
    const Problem<T>& p = problem.forward;
    DirectBackwardScratch result;
    result.query_blocks = block_count(p.queries(), size);
    result.key_blocks = block_count(p.keys(), size);
    const Index groups_of_heads = block_count(p.key_heads(), p.threads);
    result.heads = p.teams > 1 ? 1 : larger<Index>(1, block_count(p.key_heads(), larger<Index>(1, groups_of_heads)));
    const Index heads = result.heads, group = p.group(), rows = RowPacker<T>::scratch_rows(p.key_dim());
    result.packers = Packers<T>::lay_out(arena, p, heads);
    result.queries = {
        arena, {heads, group, result.query_blocks}, BackwardQueryBlock<T>::size(p.key_dim(), p.value_dim())};
    result.keys = {arena, {p.threads}, BackwardKeyBlock<T>::size(p.key_dim(), p.value_dim(), false)};
    result.query_gradient = {arena, {heads, group, result.query_blocks}, rows};
    if (p.key_heads() % p.threads != 0 && p.key_heads() < many_heads * p.threads) {
      const Index bytes = heads * group * result.query_blocks * rows * Index(sizeof(T));  // of query_gradient
      const Index fitting = larger<Index>(2, terms_bytes / larger<Index>(bytes, 1));
      const Index wanted = block_count(larger(tasks_per_thread * p.threads, fewest_tasks), heads);
      result.beside = smaller(result.key_blocks, smaller(fitting, wanted));
    }
    result.query_terms = {arena, {heads, result.beside, group, result.query_blocks}, rows};
    if (!leaves_at_once(p)) result.key_gradient = {arena, {heads, result.key_blocks}, rows};
    if (problem.gate_gradient_heads() > 0) result.key_terms = {arena, {heads, problem.gate_gradient_heads()}, p.keys()};
    if (!p.sink.empty()) result.sink_terms = {arena, {heads, group}, p.queries()};
    result.threads = take_each<BackwardThreadScratch<T>>(
        arena, p.threads, [&] { return BackwardThreadScratch<T>::lay_out(arena, problem); });
    result.unit = MatrixUnit<T>::of(problem);
    if (!result.unit) return result;
    const Index key_stride = simd::padded_columns<T>(p.key_dim()), sums = simd::sum_tiles_size<T>(key_stride);
    result.query_tiles = {
        arena, {heads, group, result.query_blocks}, BackwardQueryTiles<T>::size(p.key_dim(), p.value_dim())};
    result.finite = {arena, {heads, group, result.query_blocks}, 1};
    result.key_tiles = {arena, {p.threads}, BackwardKeyTiles<T>::size(p.key_dim(), p.value_dim())};
    result.query_sums = {arena, {heads, group, result.query_blocks}, sums};
    result.sum_terms = {arena, {heads, result.beside, group, result.query_blocks}, sums};
    result.in_rows = {arena, {heads, result.beside, group, result.query_blocks}, 1};
    result.unit_scratch = {arena, {p.threads}, simd::matrix_direct_backward_bytes<T>(key_stride)};
    return result;
  }
};

}  // namespace CSQ_CODE::detail

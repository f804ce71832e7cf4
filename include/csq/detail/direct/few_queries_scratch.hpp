// How a call of a few queries is cut into stretches of keys, and the scratch that it takes (few_queries.hpp).
#pragma once

#include "csq/detail/direct/forward.hpp"

namespace CSQ_CODE::detail {

template <class T>
struct FewQueriesScratch {
  static constexpr Index size = simd::block_tokens<T>;

  // What one thread needs.
  struct Scratch {
    T* query = nullptr;            // [group][n][padded d]
    T* keys = nullptr;             // [B][padded d]
    T* values = nullptr;           // [B][padded dv]
    T* weights = nullptr;          // [queries together][B]
    T* reference = nullptr;        // r
    T* first_key = nullptr;        // of a block
    double* score_sums = nullptr;  // Σ t: [group][n]
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

  // Whether keys are centred by their scores. Not where the window hides keys that the means cover, nor where rows may
  // have to be served again.
  static bool centers_scores(const Problem<T>& problem) {
    return is_prefix(problem.centering) && problem.weight.kind != Weight::Kind::feature_product &&
           problem.window == 0 && !problem.weight.is_scale_blind();
  }

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
      scratch.weights = arena.template take<T>(simd::FewQueriesBlock<T>::queries_together * size);
      scratch.reference = arena.template take<T>(result.key_stride);
      scratch.first_key = arena.template take<T>(result.key_stride);
      scratch.score_sums = arena.template take<double>(problem.group() * problem.queries());
      scratch.sums = arena.template take<double>(RowPacker<T>::scratch_sums(problem.key_dim()));
      scratch.again = RescaleScratch<T>::lay_out(arena, problem);
      return scratch;
    });
    return result;
  }
};

}  // namespace CSQ_CODE::detail

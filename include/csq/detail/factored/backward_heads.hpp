// The key heads in flight of one factored backward call: which rows a chunk has, where its blocks and gradients lie,
// and the pairs that are computed directly.
#pragma once

#include "csq/detail/factored/backward_scratch.hpp"

namespace CSQ_CODE::detail {

template <class T>
class FactoredBackwardHeads {
 public:
  FactoredBackwardHeads(const BackwardProblem<T>& problem, const FactoredBackwardScratch<T>& scratch,
                        double* parameter_terms, Index first_head, Index heads)
      : problem_(problem),
        p_(problem.forward),
        scratch_(scratch),
        parameter_terms_(parameter_terms),
        weight_(kernel_weight(problem.forward.weight)),
        coefficients_(feature_coefficients(problem.forward.weight)),
        first_head_(first_head),
        heads_(heads),
        group_(problem.forward.group()) {}

 protected:
  static constexpr Index size = simd::block_tokens<T>;

  struct Rows {
    Index first, count;
  };
  Index batch(Index h) const { return (first_head_ + h) / p_.key.heads(); }
  Index key_head(Index h) const { return (first_head_ + h) % p_.key.heads(); }
  Rows keys_in(Index h, Index chunk) const {
    const Index first = chunk * scratch_.chunk;
    return {first, std::clamp<Index>(scratch_.packers.key[h].length - first, 0, scratch_.chunk)};
  }
  // Real rows of a chunk of queries: under a mask those at the chunk's positions.
  Rows queries_in(Index h, Index chunk) const {
    const Index length = scratch_.packers.query[h * group_].length;
    const Index start = chunk * scratch_.chunk, end = start + scratch_.chunk;
    if (!p_.causal) return {smaller(start, length), smaller(end, length) - smaller(start, length)};
    const Index first = p_.visibility().first_query_at(start, length);
    return {first, p_.visibility().first_query_at(end, length) - first};
  }
  BackwardKeyBlock<T> key_block(Index h, Index slot) const {
    return BackwardKeyBlock<T>::at(scratch_.keys(h, slot), p_.key_dim(), p_.value_dim(), true);
  }
  BackwardQueryBlock<T> query_block(Index h, Index g, Index slot) const {
    return BackwardQueryBlock<T>::at(scratch_.queries(h, g, slot), p_.key_dim(), p_.value_dim());
  }
  T* query_gradient(Index h, Index g, Index row) const {
    return scratch_.query_gradient(h, g) + row * scratch_.key_stride;
  }
  T* key_gradient(Index h, Index row) const { return scratch_.key_gradient(h) + row * scratch_.key_stride; }
  T* value_gradient(Index h, Index row) const { return scratch_.value_gradient(h) + row * scratch_.value_stride; }
  double& shift_term(Index h, Index g, Index chunk) const {
    return parameter_terms_[((first_head_ + h) * group_ + g) * scratch_.query_chunks + chunk];
  }

  void clear_gradients(Index h) const {
    std::fill_n(query_gradient(h, 0, 0), group_ * scratch_.query_gradient.size(), T(0));
    std::fill_n(key_gradient(h, 0), scratch_.key_gradient.size(), T(0));
    std::fill_n(value_gradient(h, 0), scratch_.value_gradient.size(), T(0));
    std::fill_n(&shift_term(h, 0, 0), group_ * scratch_.query_chunks, 0.0);
    if (problem_.gate_gradient_heads() > 0) std::fill_n(scratch_.key_terms(h), scratch_.key_rows, 0.0);
  }

  // The pairs of a chunk of queries with a chunk of keys.
  void add_pairs(Index h, Index g, Index query_chunk, const BackwardQueryBlock<T>& query, Index key_chunk,
                 const BackwardKeyBlock<T>& key, int thread) const {
    const Rows queries = queries_in(h, query_chunk), keys = keys_in(h, key_chunk);
    if (keys.count == 0) return;
    const BackwardThreadScratch<T>& mine = scratch_.threads[thread];
    auto pairs = backward_pairs(problem_, weight_, scratch_.packers.query[h * group_ + g], query, queries.first,
                                queries.count, key, keys.first, keys.count);
    pairs.weights = mine.weights;
    pairs.slopes = mine.slopes;
    pairs.query_gradient = mine.query_gradient;
    pairs.key_gradient = mine.key_gradient;
    pairs.value_gradient = mine.value_gradient;
    pairs.key_sums = mine.key_sums;
    if (problem_.gradients.shift != nullptr) pairs.slope_sum = &shift_term(h, g, query_chunk);
    if (mine.key_sums != nullptr) std::fill_n(mine.key_sums, size, T(0));
    std::fill_n(mine.query_gradient, size * scratch_.key_stride, T(0));
    std::fill_n(mine.key_gradient, size * scratch_.key_stride, T(0));
    std::fill_n(mine.value_gradient, size * scratch_.value_stride, T(0));
    run_pairs(pairs, query, key, thread);
    const auto add = simd::kernels<T>().add;
    add(queries.count * scratch_.key_stride, mine.query_gradient, query_gradient(h, g, queries.first));
    add(keys.count * scratch_.key_stride, mine.key_gradient, key_gradient(h, keys.first));
    add(keys.count * scratch_.value_stride, mine.value_gradient, value_gradient(h, keys.first));
    for (Index row = 0; row < keys.count && mine.key_sums != nullptr; ++row)
      scratch_.key_terms(h)[keys.first + row] += static_cast<double>(mine.key_sums[row]);
  }

  void run_pairs(const simd::DirectBackwardBlock<T>& pairs, const BackwardQueryBlock<T>& query,
                 const BackwardKeyBlock<T>& key, int thread) const {
    if (!scratch_.unit) {
      simd::backward_kernels<T>().direct(pairs);
      return;
    }
    const auto query_tiles = BackwardQueryTiles<T>::at(scratch_.query_tiles(thread), p_.key_dim(), p_.value_dim());
    const auto key_tiles = BackwardKeyTiles<T>::at(scratch_.key_tiles(thread), p_.key_dim());
    const bool queries_are_finite = query_tiles.make(scratch_.unit, query, pairs.queries, p_.key_dim(), p_.value_dim());
    const bool keys_are_finite = key_tiles.make(scratch_.unit, key, pairs.keys, p_.key_dim(), p_.value_dim());
    if (!(queries_are_finite && keys_are_finite) && !pairs.sees_all()) {
      simd::backward_kernels<T>().direct(pairs);
      return;
    }
    T* const sums = scratch_.tile_sums(thread);
    std::fill_n(sums, scratch_.tile_sums.size(), T(0));
    run_on_unit(scratch_.unit, pairs, query_tiles, key_tiles, sums, scratch_.unit_scratch(thread));
    scratch_.unit.forward->move_sums(pairs.queries, scratch_.key_stride, sums, pairs.query_gradient);
  }

  GateSums<T> gate(Index h) const { return scratch_.packers.gates.of(h, 0); }
  // The last token before a chunk; a summary of all keys before it stands there.
  Index last_before(Index chunk) const { return smaller(chunk * scratch_.chunk, p_.keys()) - 1; }
  // What gates leave, at the end of a chunk, of what was there at its start.
  T kept_by(Index h, Index chunk) const {
    return p_.has_gates() && chunk > 0 ? static_cast<T>(gate(h).decay(last_before(chunk), last_before(chunk + 1)))
                                       : T(1);
  }
  // What gates leave, at a query, of the summary that its chunk reads.
  double row_decay(Index h, Index chunk, Index query) const {
    if (!p_.has_gates() || chunk == 0) return 1;
    return gate(h).decay(last_before(chunk), query + p_.visibility().offset());
  }

  const BackwardProblem<T>& problem_;
  const Problem<T>& p_;
  const FactoredBackwardScratch<T>& scratch_;
  double* parameter_terms_;  // ∂L/∂shift: [all key heads][group][query chunks]
  simd::KernelWeight weight_;
  Quadratic coefficients_;
  Index first_head_, heads_, group_;
};

}  // namespace CSQ_CODE::detail

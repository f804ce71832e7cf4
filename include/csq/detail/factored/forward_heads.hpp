// The key heads in flight of one factored forward call: which rows and keys a chunk has.
#pragma once

#include "csq/detail/factored/forward_scratch.hpp"

namespace CSQ_CODE::detail {

template <class T>
class FactoredHeads {
 public:
  FactoredHeads(const Problem<T>& problem, const FactoredScratch<T>& scratch, Index first_head, Index heads)
      : problem_(problem),
        scratch_(scratch),
        weight_(kernel_weight(problem.weight)),
        coefficients_(feature_coefficients(problem.weight)),
        first_head_(first_head),
        heads_(heads),
        group_(problem.group()) {}

 protected:
  // Rows [first, first + count) of a head; `real` of them are within the query length.
  struct Rows {
    Index first, count, real;
  };

  Index batch(Index h) const { return (first_head_ + h) / problem_.key.heads(); }
  Index key_head(Index h) const { return (first_head_ + h) % problem_.key.heads(); }
  Index chunk_size() const { return scratch_.plan.chunk; }

  // Keys of a chunk that are within the length.
  Index keys_in(Index h, Index chunk) const {
    return std::clamp<Index>(scratch_.packers.key[h].length - chunk * chunk_size(), 0, chunk_size());
  }
  // The row of ones of a packed block, zero past its tokens.
  const T* ones_of(const T* packed) const { return packed + problem_.key_dim() * simd::block_tokens<T>; }
  // Rows whose positions lie in a chunk.
  Rows rows_in(Index h, Index chunk) const {
    const Visibility visibility = problem_.visibility();
    const Index first = visibility.first_query_at(chunk * chunk_size(), problem_.queries());
    const Index last = visibility.first_query_at((chunk + 1) * chunk_size(), problem_.queries());
    const Index real = std::clamp<Index>(scratch_.packers.query[h * group_].length - first, 0, last - first);
    return {first, last - first, real};
  }

  // The token that a summary of the keys before a chunk stands at: the last absorbed, −1 for none.
  Index absorbed_until(Index h, Index chunk) const {
    return smaller(smaller(chunk, scratch_.plan.first_kept) * chunk_size(), scratch_.packers.key[h].length) - 1;
  }
  // The same for its decay: what a call goes on from has been brought to the first token already.
  Index decays_from(Index h, Index chunk) const {
    const Index token = absorbed_until(h, chunk);
    return problem_.held > 0 ? larger<Index>(0, token) : token;
  }
  GateSums<T> gate(Index h) const { return scratch_.packers.gates.of(h, 0); }
  // What gates leave of that summary at the end of the chunk.
  T kept_by(Index h, Index chunk) const {
    const Index before = decays_from(h, chunk), after = absorbed_until(h, chunk + 1);
    return problem_.has_gates() && before >= 0 ? static_cast<T>(gate(h).decay(before, after)) : T(1);
  }

  void write(Index h, Index g, const Rows& rows, const DirectThreadScratch<T>& mine) const {
    write_rows(problem_, simd::kernels<T>(), batch(h), key_head(h) * group_ + g, rows.first, rows.count, rows.real,
               mine.numerator, mine.normalizer, mine.maximum);
  }

  bool is_kept(Index chunk) const { return chunk >= scratch_.plan.first_kept; }
  bool is_read(Index chunk) const { return chunk >= scratch_.plan.first_read; }

  const Problem<T>& problem_;
  const FactoredScratch<T>& scratch_;
  simd::KernelWeight weight_;
  Quadratic coefficients_;
  Index first_head_, heads_, group_;
};

}  // namespace CSQ_CODE::detail

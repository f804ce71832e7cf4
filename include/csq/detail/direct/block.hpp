// A block of queries against all the keys that it sees, one block of keys after another.
//
// Rows of a scale-blind weight (Squared) are the same whatever the size of the scores: where their weights leave the
// range of T, the block is served once more with the scores of those rows brought to about 1 by powers of two, which is
// exact. Their normaliser is δ = 2^maximum·(what was summed), as for softmax.
#pragma once

#include "csq/detail/block/output.hpp"
#include "csq/detail/direct/pairs.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

// A block of keys and its values, packed when they are needed.
template <class T>
struct KeysOnDemand {
  T* key = nullptr;
  T* values = nullptr;

  static KeysOnDemand lay_out(Arena& arena, Index key_dim, Index value_dim) {
    KeysOnDemand keys;
    keys.key = arena.template take<T>(RowPacker<T>::packed_size(key_dim));
    keys.values = arena.template take<T>(RowPacker<T>::scratch_rows(value_dim));
    return keys;
  }

  PackedKeyBlock<T> pack(const Problem<T>& problem, const RowPacker<T>& packer, Index batch, Index key_head,
                         Index block, const DirectThreadScratch<T>& scratch) const {
    constexpr Index size = simd::block_tokens<T>;
    const Index first = block * size;
    const Index count = smaller(size, packer.length - first);
    pack_keys(problem, packer, batch, key_head, first, count, scratch, key, values);
    return {key, values, first, count};
  }
};

// Whether a sum of the weights of at most `keys` keys is neither underflowed, not even in part, nor infinite or NaN.
template <class T>
bool is_in_range(T normalizer, Index keys) {
  return normalizer >= least_normalizer<T>(keys) && normalizer <= (std::numeric_limits<T>::max)();
}

// Whether rows of a scale-blind weight have to be served again.
template <class T>
bool leave_range(const Problem<T>& problem, Index rows, const T* normalizer) {
  if (!problem.weight.is_scale_blind() || problem.is_piece) return false;
  for (Index row = 0; row < rows; ++row)
    if (!is_in_range(normalizer[row], problem.keys())) return true;
  return false;
}

// Rows [first, first + queries) of one query head. `keys_at(block)` is a packed block of its key head of `length` keys.
template <class T>
class BlockService {
 public:
  BlockService(const Problem<T>& problem, const RowPacker<T>& packer, Index length, Index first, Index queries,
               const DirectThreadScratch<T>& scratch)
      : problem_(problem),
        packer_(packer),
        first_(first),
        queries_(queries),
        first_seen_(problem.visibility().first_key(first) / size),
        seen_(block_count(problem.visibility().keys_of(first + queries - 1, length), size)),
        scratch_(scratch) {}

  // The sums of the rows, in scratch. `stays`: packed blocks stay, so that the next may be asked for ahead.
  template <class KeysAt>
  void serve(bool stays, const KeysAt& keys_at) const {
    scratch_.clear_sums(problem_.value_dim(), queries_);
    packer_.pack_only(first_, queries_, scratch_.rows, scratch_.sums, scratch_.query);
    copy_gates(problem_, packer_, first_, queries_, scratch_.gate, scratch_.gate_low);
    scratch_.begin_pairs(scratch_.query, queries_, problem_.key_dim(), problem_.value_dim());
    add_all(kernel_weight(problem_.weight), stays, keys_at);
    scratch_.end_pairs(queries_, problem_.value_dim());
    if (leave_range(problem_, queries_, scratch_.normalizer))
      serve_rescaled(stays, [&](Index block) { return keys_at(block).without_tiles(); });
  }

 private:
  static constexpr Index size = simd::block_tokens<T>;

  template <class KeysAt>
  void add_all(const simd::KernelWeight& weight, bool stays, const KeysAt& keys_at) const {
    for (Index block = first_seen_; block < seen_; ++block)
      add_pairs(problem_, weight, scratch_, packer_, scratch_.query, queries_, first_, keys_at(block),
                stays ? keys_at(block + 1 < seen_ ? block + 1 : first_seen_) : PackedKeyBlock<T>{});
  }

  // Two more passes over the keys: the largest score of each row, then the row in its units. NaN stays NaN.
  template <class KeysAt>
  void serve_rescaled(bool stays, const KeysAt& keys_at) const {
    constexpr int highest = std::numeric_limits<T>::max_exponent - 4;  // the row is 1 to 4 already
    int exponent[std::size_t{size}];
    bool rescaled[std::size_t{size}];
    for (Index row = 0; row < queries_; ++row) {
      exponent[row] = 0;
      rescaled[row] = !is_in_range(scratch_.normalizer[row], problem_.keys());
      if (rescaled[row]) bring_to_unit_size(row, exponent[row]);
    }
    T largest[std::size_t{size}];
    find_largest_scores(keys_at, largest);
    for (Index row = 0; row < queries_; ++row)
      if (rescaled[row] && largest[row] > 0 && largest[row] <= (std::numeric_limits<T>::max)())
        multiply(row, smaller(-std::ilogb(largest[row]), highest), exponent[row]);
    scratch_.clear_sums(problem_.value_dim(), queries_);
    add_all(kernel_weight(problem_.weight), stays, keys_at);
    for (Index row = 0; row < queries_; ++row)
      if (rescaled[row]) scratch_.maximum[row] = static_cast<T>(-2 * exponent[row]);
  }

  // The packed row becomes 2^exponent·α(x − mean), its largest element 1 to 4: packed anew, since α·x may have
  // underflowed where x has not.
  void bring_to_unit_size(Index row, int& exponent) const {
    const Index dim = problem_.key_dim();
    RowPacker<T> packer = packer_;
    packer.factor = 1;
    packer.pack(first_ + row, 1, scratch_.rows, scratch_.sums, nullptr);
    T largest = 0;
    for (Index a = 0; a < dim; ++a) largest = larger(largest, std::abs(scratch_.rows[a]));
    if (!(largest > 0 && largest <= (std::numeric_limits<T>::max)()) || packer_.factor == 0) return;
    exponent = -std::ilogb(packer_.factor) - std::ilogb(largest);
    packer.factor = std::ldexp(packer_.factor, exponent);
    packer.pack(first_ + row, 1, scratch_.rows, scratch_.sums, nullptr);
    for (Index a = 0; a < dim; ++a) scratch_.query[a * size + row] = scratch_.rows[a];
  }
  void multiply(Index row, int by, int& exponent) const {
    exponent += by;
    for (Index a = 0; a < problem_.key_dim(); ++a)
      scratch_.query[a * size + row] = std::ldexp(scratch_.query[a * size + row], by);
  }

  template <class KeysAt>
  void find_largest_scores(const KeysAt& keys_at, T* largest) const {
    simd::KernelWeight score;
    score.c1 = 1;
    std::fill_n(largest, size, T(0));
    for (Index block = first_seen_; block < seen_; ++block) {
      const PackedKeyBlock<T> keys = keys_at(block);
      add_pairs(problem_, score, scratch_, RowPacker<T>{}, scratch_.query, queries_, first_, keys);
      for (Index row = 0; row < queries_; ++row) {
        const Index visible = smaller(keys.count, problem_.visibility().diagonal(first_, keys.first, keys.count) + row);
        const Index first = larger<Index>(0, problem_.visibility().band_start(first_, keys.first) + row);
        for (Index key = first; key < visible; ++key)
          largest[row] = larger(largest[row], std::abs(scratch_.weights[key * size + row]));
      }
    }
  }

  const Problem<T>& problem_;
  const RowPacker<T>& packer_;
  Index first_, queries_;
  Index first_seen_, seen_;  // blocks of keys
  const DirectThreadScratch<T>& scratch_;
};

// The same with keys that are packed on the way.
template <class T>
void serve_on_demand(const Problem<T>& problem, const RowPacker<T>& query, const RowPacker<T>& key, Index batch,
                     Index key_head, Index first, Index queries, const DirectThreadScratch<T>& scratch,
                     const KeysOnDemand<T>& keys) {
  BlockService<T>(problem, query, key.length, first, queries, scratch).serve(false, [&](Index block) {
    return keys.pack(problem, key, batch, key_head, block, scratch);
  });
}

// Scratch for rows of a scale-blind weight that other engines have to serve again, of one head at a time.
template <class T>
struct RescaleScratch {
  DirectThreadScratch<T> rows;
  KeysOnDemand<T> keys;

  static RescaleScratch lay_out(Arena& arena, const Problem<T>& problem) {
    RescaleScratch scratch;
    if (!problem.weight.is_scale_blind()) return scratch;
    scratch.rows = DirectThreadScratch<T>::lay_out(arena, problem);
    scratch.keys = KeysOnDemand<T>::lay_out(arena, problem.key_dim(), problem.value_dim());
    return scratch;
  }
};

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail

// Direct attention, O(n·m·(d+dᵥ)): every visible score is computed, in tiles; n×m is never in memory.
//
//   o_i = Σ_j w(s_ij) v_j / Σ_j w(s_ij)
//
// K and V are packed once per key head and read by all its query heads (V where it lies would do when rows are
// contiguous, but vectors that cross cache lines cost more than the copy: .74 against .80 of the FMA peak at d = 128, n
// = 1024). A task is one block of queries of one head against all the keys that it sees, in order: with the grid fixed
// by the shape, results do not depend on threads. Softmax keeps a running maximum per row (Milakov & Gimelshein 2018;
// Rabe & Staats 2021; Dao et al. 2022). Memory: O(m·(d+dᵥ)) for each key head in flight, O(d+dᵥ) per query of a block.
// Backward needs the normaliser only.
#pragma once

#include "csq/detail/direct/block.hpp"
#include "csq/detail/direct/tiles.hpp"

namespace CSQ_CODE::detail {

// Scratch of a direct call: packers and packed keys of the heads in flight, and a set for each thread.
template <class T>
struct DirectScratch {
  Index heads = 0;  // key heads in flight
  Index key_blocks = 0;
  Packers<T> packers;
  Blocks<T, 2> keys;    // [heads][key_blocks] packed
  Blocks<T, 2> values;  // [heads][key_blocks] [B][value stride]
  KeyTiles<T> tiles;
  DirectThreadScratch<T>* threads = nullptr;

  static DirectScratch lay_out(Arena& arena, const Problem<T>& problem) {
    constexpr Index in_flight_bytes = Index{8}
                                      << 20;  // enough heads at a time to feed every thread, but no more than this
    DirectScratch result;
    result.key_blocks = block_count(problem.plan.longest.keys, simd::block_tokens<T>);
    const Index key_size = RowPacker<T>::packed_size(problem.key_dim());
    const Index value_size = RowPacker<T>::scratch_rows(problem.value_dim());
    const Index head_bytes =
        checked_product(checked_product(result.key_blocks, key_size + value_size, "workspace"), sizeof(T), "workspace");
    const Index wanted = larger<Index>(problem.threads, in_flight_bytes / larger<Index>(head_bytes, 1));
    result.heads = problem.teams > 1 ? 1 : larger<Index>(1, smaller(problem.key_heads(), wanted));
    result.packers = Packers<T>::lay_out(arena, problem, result.heads);
    result.keys = {arena, {result.heads, result.key_blocks}, key_size};
    result.values = {arena, {result.heads, result.key_blocks}, value_size};
    result.tiles = KeyTiles<T>::lay_out(arena, problem, result.heads, result.key_blocks);
    result.threads = take_each<DirectThreadScratch<T>>(arena, problem.threads,
                                                       [&] { return DirectThreadScratch<T>::lay_out(arena, problem); });
    return result;
  }
};

template <class T>
void direct_attention(const Problem<T>& problem, DirectScratch<T>& scratch, Index first_head, Index heads) {
  constexpr Index size = simd::block_tokens<T>;
  const Index group = problem.group();
  const Index query_blocks = block_count(problem.queries(), size);

  // A head's packed keys and values.
  const bool is_large =
      scratch.key_blocks * (scratch.keys.size() + scratch.values.size()) * Index(sizeof(T)) > simd::second_level_bytes;

  scratch.packers.bind(problem, first_head, heads);

  const auto key_block = [&](Index h, Index index) {
    PackedKeyBlock<T> block;
    block.first = index * size;
    block.count = std::clamp<Index>(scratch.packers.key[h].length - block.first, 0, size);
    block.key = scratch.keys(h, index);
    block.values = scratch.values(h, index);
    return scratch.tiles.with(block, h, index);
  };
  parallel_for(heads * scratch.key_blocks, problem.threads, [&](Index task, int thread) {
    const Index h = task / scratch.key_blocks, block = task % scratch.key_blocks;
    const Index first = block * size;
    const Index count = smaller(size, scratch.packers.key[h].length - first);
    if (count <= 0) return;
    pack_keys(problem, scratch.packers.key[h], (first_head + h) / problem.key.heads(),
              (first_head + h) % problem.key.heads(), first, count, scratch.threads[thread], scratch.keys(h, block),
              scratch.values(h, block));
    scratch.tiles.make(problem, h, block, scratch.keys(h, block), scratch.values(h, block), count);
  });

  parallel_for(heads * group * query_blocks, problem.threads, [&](Index task, int thread) {
    // The last blocks see the most keys under a causal mask: first come, so that no thread is left with one at the
    // end.
    const Index block = query_blocks - 1 - task / (heads * group);
    const Index h = task % (heads * group) / group;
    const Index g = task % group;
    const Index batch = (first_head + h) / problem.key.heads();
    const Index head = (first_head + h) % problem.key.heads() * group + g;
    const RowPacker<T>& packer = scratch.packers.query[h * group + g];
    const DirectThreadScratch<T>& mine = scratch.threads[thread];
    const Index first = block * size;
    const Index rows = smaller(size, problem.queries() - first);
    const Index queries = std::clamp<Index>(packer.length - first, 0, rows);
    if (queries > 0)
      BlockService<T>(problem, packer, scratch.packers.key[h].length, first, queries, mine)
          .serve(is_large, [&](Index key) { return key_block(h, key); });
    else
      mine.clear_sums(problem.value_dim(), rows);
    write_rows(problem, simd::kernels<T>(), batch, head, first, rows, queries, mine.numerator, mine.normalizer,
               mine.maximum);
  });
}

}  // namespace CSQ_CODE::detail

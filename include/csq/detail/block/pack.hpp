// Any rows → packed blocks X̃ᵀ [d+1][B], tokens contiguous, a row of ones: strides, type, centring, scale and φ are
// dealt with here and nowhere else.
#pragma once

#include <algorithm>

#include "csq/detail/base/arena.hpp"
#include "csq/detail/base/parallel.hpp"
#include "csq/detail/block/centering.hpp"
#include "csq/detail/block/gates.hpp"
#include "csq/detail/call/problem.hpp"

namespace CSQ_CODE::detail {

// Packs rows of one head of q or k.
template <class T>
struct RowPacker {
  StoredHead<const T> head;
  Index length = 0;  // rows from here on do not exist
  HeadCentering means;
  double factor = 1;
  bool elu = false;
  GateSums<T> gate;      // of a query head: of the keys that it sees
  Head<const T> bias{};  // of a query head: [queries, keys]; data is null without

  static Index scratch_rows(Index dim) { return simd::block_tokens<T> * simd::padded_columns<T>(dim); }
  static Index scratch_group(Index dim) { return simd::token_group * simd::padded_columns<T>(dim); }
  static Index scratch_sums(Index dim) { return simd::padded_columns<double>(dim); }
  static Index packed_size(Index dim) { return (dim + 1) * simd::block_tokens<T>; }

  // Packs rows [first, first + count), count ≤ block_tokens; with `packed` null only the rows are made. Scratch:
  // scratch_rows of T and scratch_sums of double.
  void pack(Index first, Index count, T* rows, double* sums, T* packed) const {
    run(first, count, rows, true, sums, packed);
  }
  // The same without the rows: less to write. Scratch: scratch_group of T.
  void pack_only(Index first, Index count, T* scratch, double* sums, T* packed) const {
    run(first, count, scratch, false, sums, packed);
  }

 private:
  void run(Index first, Index count, T* rows, bool keeps_rows, double* sums, T* packed) const {
    constexpr Index size = simd::block_tokens<T>;
    simd::PackBlock<T> block;
    block.source = rows_of(head, first, count);
    block.factor = factor;
    block.elu = elu;
    block.rows = rows;
    block.keeps_rows = keeps_rows;
    block.packed = packed;
    if (means.centering == Centering::sequence) block.mean = means.sums;
    if (is_prefix(means.centering)) {
      const Index start = first / size * size;
      std::copy_n(means.sums + first / size * means.padded_dim, means.padded_dim, sums);
      if (start < first) simd::kernels<T>().add_rows(rows_of(head, start, first - start), sums);
      block.running_sum = sums;
      block.running_count = means.history_count + static_cast<double>(first);
      block.exclusive = means.centering == Centering::prefix_exclusive;
    }
    simd::kernels<T>().pack(block);
  }
};

// The packers of some key heads and of their query heads, with the sums that they need.
template <class T>
struct Packers {
  RowPacker<T>* key = nullptr;    // [heads]
  RowPacker<T>* query = nullptr;  // [heads·group]
  double* key_sums = nullptr;
  double* query_sums = nullptr;
  Gates<T> gates;

  static Packers lay_out(Arena& arena, const Problem<T>& problem, Index heads) {
    Packers packers;
    const Index group = problem.group();
    packers.key = arena.template take<RowPacker<T>>(heads);
    packers.query = arena.template take<RowPacker<T>>(heads * group);
    packers.key_sums =
        arena.template take<double>(heads * centering_doubles<T>(problem.centering, problem.keys(), problem.key_dim()));
    packers.query_sums = arena.template take<double>(
        heads * group * centering_doubles<T>(problem.centering, problem.queries(), problem.key_dim()));
    packers.gates = Gates<T>::lay_out(arena, problem, heads);
    return packers;
  }

  // Binds the packers to key heads [first, first + heads) and sums what the centring needs, of the keys if asked.
  void bind(const Problem<T>& problem, Index first, Index heads, bool sums_keys = true) {
    const Index group = problem.group();
    for (Index h = 0; h < heads; ++h) {
      const Index batch = (first + h) / problem.key.heads();
      const Index key_head = (first + h) % problem.key.heads();
      key[h] = make(problem, problem.key.head(batch, key_head), problem.visible_keys(batch), 1, problem.key_history,
                    batch, key_sums + h * centering_doubles<T>(problem.centering, problem.keys(), problem.key_dim()));
      for (Index g = 0; g < group; ++g) {
        query[h * group + g] =
            make(problem, problem.query.head(batch, key_head * group + g), problem.real_queries(batch),
                 query_factor(problem), problem.query_history, batch,
                 query_sums +
                     (h * group + g) * centering_doubles<T>(problem.centering, problem.queries(), problem.key_dim()));
        query[h * group + g].gate = gates.of(h, g);
        if (problem.has_bias()) query[h * group + g].bias = problem.bias.head(batch, key_head * group + g);
      }
    }
    gates.bind(problem, first, heads);
    if (problem.centering == Centering::none) return;
    if (sums_keys) sum(problem, key, heads, problem.keys(), problem.key_history, first);
    sum(problem, query, heads * group, problem.queries(), problem.query_history, first * group);
  }

 private:
  static RowPacker<T> make(const Problem<T>& problem, const StoredHead<const T>& head, Index length, double factor,
                           const History* history, Index batch, double* sums) {
    RowPacker<T> packer;
    packer.head = head;
    packer.length = length;
    packer.factor = factor;
    packer.elu = problem.weight.kind == Weight::Kind::feature_product;
    packer.means.centering = problem.centering;
    packer.means.padded_dim = simd::padded_columns<double>(head.dim);
    packer.means.sums = sums;
    if (history != nullptr)
      packer.means.history_count = static_cast<double>(history->count[static_cast<std::size_t>(batch)]);
    return packer;
  }

  static void sum(const Problem<T>& problem, RowPacker<T>* packers, Index heads, Index tokens, const History* history,
                  Index first_head) {
    const Index blocks = block_count(tokens, simd::block_tokens<T>);
    const Index dim = problem.key_dim();
    parallel_for(heads * blocks, problem.threads, [&](Index task, int) {
      const RowPacker<T>& packer = packers[task / blocks];
      sum_block(packer.means, packer.head, packer.length, task % blocks);
    });
    parallel_for(heads, problem.threads, [&](Index h, int) {
      const double* mean = history == nullptr ? nullptr : history->mean.data() + (first_head + h) * dim;
      finish_sums<T>(packers[h].means, packers[h].length, blocks, mean, dim);
    });
  }
};

}  // namespace CSQ_CODE::detail

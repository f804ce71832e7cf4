// What one thread needs for the gradients of a block of queries against a block of keys.
#pragma once

#include "csq/detail/base/blocks.hpp"
#include "csq/detail/block/backward.hpp"

namespace CSQ_CODE::detail {

template <class T>
struct BackwardThreadScratch {
  double* sums = nullptr;
  T* copy = nullptr;
  T* packed = nullptr;
  T* weights = nullptr;
  T* slopes = nullptr;
  T* query_gradient = nullptr;
  T* key_gradient = nullptr;
  T* value_gradient = nullptr;
  T* cap_slopes = nullptr;          // where there is a cap
  T* key_sums = nullptr;            // [B], where gates have a gradient
  T* own_value_gradient = nullptr;  // of one query head, where each has gates of its own

  static BackwardThreadScratch lay_out(Arena& arena, const BackwardProblem<T>& problem) {
    const Index key_dim = problem.forward.key_dim(), value_dim = problem.forward.value_dim();
    constexpr Index size = simd::block_tokens<T>;
    const Index widest = larger(key_dim, value_dim);
    BackwardThreadScratch scratch;
    scratch.sums = arena.template take<double>(simd::padded_columns<double>(widest));
    scratch.copy = arena.template take<T>(RowPacker<T>::scratch_rows(widest));
    scratch.packed = arena.template take<T>(RowPacker<T>::packed_size(widest));
    scratch.weights = arena.template take<T>(size * size);
    scratch.slopes = arena.template take<T>(size * size);
    scratch.query_gradient = arena.template take<T>(size * simd::padded_columns<T>(key_dim));
    scratch.key_gradient = arena.template take<T>(size * simd::padded_columns<T>(key_dim));
    scratch.value_gradient = arena.template take<T>(size * simd::padded_columns<T>(value_dim));
    if (problem.forward.soft_cap != 0) scratch.cap_slopes = arena.template take<T>(size * size);
    if (problem.gate_gradient_heads() > 0) scratch.key_sums = arena.template take<T>(size);
    if (problem.gate_gradient_heads() > 1)
      scratch.own_value_gradient = arena.template take<T>(size * simd::padded_columns<T>(value_dim));
    return scratch;
  }
};

}  // namespace CSQ_CODE::detail

// Cap, gates and bias of a block of queries of one head, as the kernels take them.
#pragma once

#include <algorithm>

#include "csq/detail/block/pack.hpp"

namespace CSQ_CODE::detail {

// The sums of gates at the positions of queries [first, first + count), to two arrays of a block. Queries that stand
// before the first key see nothing: any sum does.
template <class T>
void copy_gates(const Problem<T>& problem, const RowPacker<T>& query, Index first, Index count, T* gate, T* gate_low) {
  if (query.gate.high == nullptr || problem.gate_positions() == 0) return;
  for (Index row = 0; row < simd::block_tokens<T>; ++row) {
    const Index position = problem.visibility().offset() + first + smaller(row, count - 1);
    const Index token = std::clamp<Index>(position, 0, problem.gate_positions() - 1);
    gate[row] = query.gate.high[token];
    gate_low[row] = query.gate.low[token];
  }
}

// The adjustment of queries from `first` on and the keys from `key` on; `gate`: the queries' sums, where copy_gates has
// put them.
template <class T>
simd::Adjustment<T> adjustment_of(const Problem<T>& problem, const RowPacker<T>& query, Index first, Index key,
                                  const GateSums<T>& gate) {
  simd::Adjustment<T> adjust;
  adjust.soft_cap = problem.soft_cap;
  if (query.bias.data != nullptr) {
    adjust.bias = query.bias.data + first * query.bias.token_stride + key * query.bias.dim_stride;
    adjust.bias_query_stride = query.bias.token_stride;
    adjust.bias_key_stride = query.bias.dim_stride;
  }
  if (query.gate.high != nullptr) {
    adjust.query_gate = gate.high;
    adjust.query_gate_low = gate.low;
    adjust.key_gate = query.gate.high + key;
    adjust.key_gate_low = query.gate.low + key;
  }
  return adjust;
}

}  // namespace CSQ_CODE::detail

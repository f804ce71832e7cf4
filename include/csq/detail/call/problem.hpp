// One checked call, as the engines read it: the arrays, the weight and every option resolved.
#pragma once

#include <span>

#include "csq/detail/call/plan.hpp"
#include "csq/detail/call/stored_heads.hpp"

namespace CSQ_CODE::detail {

template <class T>
struct Problem {
  StoredHeads<const T> query, key, value;
  StoredHeads<T> output;
  Heads<T> normalizer;  // [batch, heads, tokens, 1]; data is null when the caller wants none
  Weight weight;
  double scale = 1;  // α
  bool causal = false;
  Index window = 0;                       // 0: none
  Centering centering = Centering::none;  // never automatic
  std::span<const Index> key_length, query_length;
  Heads<const T> log_gate;  // [batch, gate heads, gate positions, 1]; no heads: no gates
  Heads<const T> bias;      // [batch, heads, queries, keys]; no heads: none
  std::span<const double> sink;
  double soft_cap = 0;
  const char* direct_only = nullptr;  // an option that only direct has
  const History* query_history = nullptr;
  const History* key_history = nullptr;
  Plan plan;
  Threads threads;  // of each team
  Threads teams;    // that serve heads of their own, a thread each: head_teams.hpp
  KeptSummary* summary = nullptr;
  // [key heads] summaries that a factored call goes on from and, where it is causal, brings to the end of its keys
  // (summary.hpp); and the keys in each. Rows that may not be read are then NaN: their keys are gone.
  T* continued = nullptr;
  Index held = 0;
  // A piece of a bigger call: its last query stands `ahead` positions behind its last key, and gates reach as far; its
  // sums are added to others, so that how small they are says nothing.
  bool is_piece = false;
  Index ahead = 0;

  Index queries() const { return query.tokens(); }
  Index keys() const { return key.tokens(); }
  Index keys_and_held() const { return keys() + held; }
  Index gate_positions() const { return keys() + larger<Index>(ahead, 0); }
  Index key_dim() const { return query.dim(); }
  Index value_dim() const { return value.dim(); }
  Index group() const { return query.heads() / key.heads(); }
  // Key heads of all batches, one after another; query heads of key head h are [h·group, (h+1)·group).
  Index key_heads() const { return key.batch() * key.heads(); }
  Index visible_keys(Index batch) const {
    return key_length.empty() ? keys() : key_length[static_cast<std::size_t>(batch)];
  }
  Index real_queries(Index batch) const {
    return query_length.empty() ? queries() : query_length[static_cast<std::size_t>(batch)];
  }
  // The matrix unit that multiplies such arrays; null: none.
  const simd::MatrixKernelSet<T>* matrix() const { return query.storage == nullptr ? nullptr : query.storage->matrix; }
  bool has_gates() const { return log_gate.heads() > 0; }
  bool is_plain() const { return window == 0 && sink.empty() && soft_cap == 0 && !has_bias() && !has_gates(); }
  bool has_bias() const { return bias.heads() > 0; }
  // Gate heads of a key head: one, or one for each query head.
  Index gates_of_key_head() const { return log_gate.heads() / key.heads(); }
  Visibility visibility() const { return {queries(), keys(), causal, window, ahead}; }
};

template <class T>
Workload workload_of(const Problem<T>& p) {
  const Shape shape{p.queries(),     p.keys(),        p.key_dim(),   p.value_dim(),
                    p.query.batch(), p.query.heads(), p.key.heads(), p.causal};
  return {shape, p.key_length, p.query_length, p.window, p.is_plain(), p.direct_only, p.ahead};
}

// One checked backward call.
template <class T>
struct BackwardProblem {
  Problem<T> forward;  // output and normalizer unused
  StoredHeads<const T> output, output_gradient;
  Heads<const T> normalizer;
  StoredGradients<T> gradients;
  const simd::MatrixBackwardKernelSet<T>* matrix = nullptr;  // used where forward has a unit too
  // Of a piece, whose gates' gradients are sums over all pieces: v_j·∂L/∂v_j + e_j of its keys, [batch, gate heads,
  // keys] (block/gate_gradient.hpp).
  bool wants_key_terms = false;
  double* key_terms = nullptr;
  // Gate heads of a key head whose gradient is wanted.
  Index gate_gradient_heads() const {
    return gradients.log_gate.heads() == 0 && !wants_key_terms ? 0 : forward.gates_of_key_head();
  }
  double* key_terms_of(Index batch, Index gate_head) const {
    return key_terms + (batch * forward.log_gate.heads() + gate_head) * forward.keys();
  }
  double shift_rate = 1;  // of the gradient of the shift to the sum of the gradients of all scores
};

}  // namespace CSQ_CODE::detail

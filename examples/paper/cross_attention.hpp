// Attention of queries over another sequence's keys and values, the mechanism chosen at run time:
//
//   out = attention(q, k, v)        q [B·n, H·d], k [B·m, H·d], v [B·m, H·dᵥ] → out [B·n, H·dᵥ], normalizer [B, H, n]
//
// A row holds all heads of a token one after another; the tokens of all B sequences follow each other. No mask but that
// of the options. Backward needs out and the normaliser. Used by the programs whose layer is no self-attention:
// capacity and depth.
#pragma once

#include <optional>
#include <string_view>

#include "layers.hpp"

namespace paper {

struct CrossShape {
  Index sequences = 0, queries = 0, keys = 0, heads = 0, key_dim = 0, value_dim = 0;

  Index query_rows() const { return sequences * queries; }
  Index key_rows() const { return sequences * keys; }
  Index key_width() const { return heads * key_dim; }
  Index value_width() const { return heads * value_dim; }
  Index normalizer_size() const { return sequences * heads * queries; }

  // What the cost model counts.
  csq::Shape counted() const {
    return {.queries = queries,
            .keys = keys,
            .key_dim = key_dim,
            .value_dim = value_dim,
            .batch = sequences,
            .heads = heads,
            .kv_heads = heads};
  }
};

// [B·tokens, H·dim] as [B, H, tokens, dim].
template <class T>
Heads<T> token_rows(T* data, const CrossShape& s, Index tokens, Index dim) {
  return {data, {s.sequences, s.heads, tokens, dim}, {tokens * s.heads * dim, dim, s.heads * dim, 1}};
}
template <class T>
Heads<T> token_normalizers(T* data, const CrossShape& s) {
  return {data, {s.sequences, s.heads, s.queries, 1}};
}

template <class T>
void cross_attention(const Mechanism& mechanism, const CrossShape& s, const T* q, const T* k, const T* v, T* out,
                     T* normalizer, const csq::Options& options) {
  std::visit(
      [&](const auto& chosen) {
        csq::attention(chosen, token_rows(q, s, s.queries, s.key_dim), token_rows(k, s, s.keys, s.key_dim),
                       token_rows(v, s, s.keys, s.value_dim), token_rows(out, s, s.queries, s.value_dim),
                       token_normalizers(normalizer, s), options);
      },
      mechanism);
}

// out = attention(q, k, v):   dq, dk, dv, and dlog_gate where options has gates, from dout, overwritten
template <class T>
void cross_attention_backward(const Mechanism& mechanism, const CrossShape& s, const T* q, const T* k, const T* v,
                              const T* out, const T* normalizer, const T* dout, T* dq, T* dk, T* dv,
                              const Heads<T>& dlog_gate, const csq::Options& options) {
  std::visit(
      [&](const auto& chosen) {
        csq::attention_backward(chosen, token_rows(q, s, s.queries, s.key_dim), token_rows(k, s, s.keys, s.key_dim),
                                token_rows(v, s, s.keys, s.value_dim), token_rows(out, s, s.queries, s.value_dim),
                                token_normalizers(normalizer, s), token_rows(dout, s, s.queries, s.value_dim),
                                csq::Gradients<T>{.query = token_rows(dq, s, s.queries, s.key_dim),
                                                  .key = token_rows(dk, s, s.keys, s.key_dim),
                                                  .value = token_rows(dv, s, s.keys, s.value_dim),
                                                  .log_gate = dlog_gate},
                                options);
      },
      mechanism);
}

}  // namespace paper

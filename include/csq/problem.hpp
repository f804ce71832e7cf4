// One checked call, as the engines read it: the arrays, the weight and every option resolved.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "csq/mechanism.hpp"
#include "csq/options.hpp"
#include "csq/simd/kernel_set.hpp"
#include "csq/tensor.hpp"
#include "csq/workspace.hpp"

namespace csq {

template <class T>
struct Problem {
  Heads<const T> query, key, value;
  Heads<T> output;
  Heads<T> normalizer;  // [batch, heads, tokens, 1]; data is null when the caller wants none
  Weight weight;
  double scale = 1;  // α
  bool causal = false;
  Centering centering = Centering::none;  // never automatic
  std::span<const Index> key_length, query_length;
  const History* query_history = nullptr;
  const History* key_history = nullptr;
  Index chunk = 0;
  int threads = 1;  // resolved
  KeptSummary* summary = nullptr;

  Index queries() const { return query.tokens(); }
  Index keys() const { return key.tokens(); }
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
  // Position of query 0 on the axis of keys: query i sees the keys up to position i + offset.
  Index offset() const { return keys() - queries(); }
  // Keys that query `row` sees when `count` keys are within the length.
  Index keys_seen(Index row, Index count) const {
    return causal ? std::clamp<Index>(row + offset() + 1, 0, count) : count;
  }
};

// What q is multiplied by when it is packed. Softmax works in powers of two.
template <class T>
double query_factor(const Problem<T>& problem) {
  constexpr double log2_e = 1.442695040888963407359924681001892137;
  if (problem.weight.kind == Weight::Kind::feature_product) return 1;
  return problem.weight.kind == Weight::Kind::exponential ? problem.scale * log2_e : problem.scale;
}

// Quadratics as completed squares, c2·(s+h)² + rest: c0 + c1·s + c2·s² itself would cancel near its minimum.
inline simd::KernelWeight kernel_weight(const Weight& weight) {
  simd::KernelWeight result;
  switch (weight.kind) {
    case Weight::Kind::exponential:
      result.kind = simd::KernelWeight::Kind::exponential;
      break;
    case Weight::Kind::quadratic:
      if (weight.quadratic.c2 > 0) {
        result.c2 = weight.quadratic.c2;
        result.offset = weight.quadratic.c1 / (2 * result.c2);
        result.c0 = std::max(0.0, weight.quadratic.c0 - result.c2 * result.offset * result.offset);
      } else {
        result.c0 = weight.quadratic.c0;
      }
      break;
    case Weight::Kind::feature_product:
      result.c1 = 1;
      break;
    case Weight::Kind::power_series:
      result.kind = simd::KernelWeight::Kind::power_series;
      break;
    case Weight::Kind::chebyshev_square:
      result.kind = simd::KernelWeight::Kind::chebyshev_square;
      break;
    case Weight::Kind::bound:
      result.kind = simd::KernelWeight::Kind::bound;
      break;
  }
  result.coefficients = weight.coefficients.data();
  result.coefficient_count = static_cast<Index>(weight.coefficients.size());
  result.radius = weight.radius;
  result.floor = weight.floor;
  return result;
}

// Divides, writes the output rows [first, first + tokens) of one head, and their normalisers. Rows from `real` on lie
// past the query length: the kernels have filled them with what a zero query would give. Rows that see no key are 0,
// whatever q is: read from an empty summary, a NaN in q would have reached them.
template <class T, class Kernels>
void write_rows(const Problem<T>& problem, const Kernels& kernels, Index batch, Index head, Index first, Index tokens,
                Index real, const T* numerator, T* normalizer, const T* maximum) {
  std::fill(normalizer + real, normalizer + tokens, T(0));
  for (Index token = 0; token < real && problem.keys_seen(first + token, problem.visible_keys(batch)) == 0; ++token)
    normalizer[token] = 0;
  const Head<T> output = problem.output.head(batch, head);
  simd::DivideRows<T> rows;
  rows.numerator = numerator;
  rows.normalizer = normalizer;
  rows.tokens = tokens;
  rows.dim = output.dim;
  rows.value_stride = simd::padded_columns<T>(output.dim);
  rows.output = output.data + first * output.token_stride;
  rows.token_stride = output.token_stride;
  rows.dim_stride = output.dim_stride;
  kernels.divide(rows);
  if (problem.normalizer.data == nullptr) return;
  const Head<T> statistic = problem.normalizer.head(batch, head);
  constexpr double ln_2 = 0.693147180559945309417232121458176568;
  for (Index token = 0; token < tokens; ++token) {
    T value = normalizer[token];
    if (problem.weight.kind == Weight::Kind::exponential)
      value = static_cast<T>(
          value == 0 ? -HUGE_VAL : static_cast<double>(maximum[token]) * ln_2 + std::log(static_cast<double>(value)));
    statistic(first + token, 0) = value;
  }
}

}  // namespace csq

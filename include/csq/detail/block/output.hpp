// From the sums of a block of queries to the caller's rows.
#pragma once

#include <algorithm>
#include <cmath>

#include "csq/detail/call/problem.hpp"
#include "csq/detail/simd/kernel_set.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

// Divides, writes the output rows [first, first + tokens) of one head, and their normalisers. Rows from `real` on lie
// past the query length: the kernels have filled them with what a zero query would give. Rows that see no key are 0,
// whatever q is: read from an empty summary, a NaN in q would have reached them.
template <class T, class Kernels>
void write_rows(const Problem<T>& problem, const Kernels& kernels, Index batch, Index head, Index first, Index tokens,
                Index real, const T* numerator, T* normalizer, const T* maximum) {
  std::fill(normalizer + real, normalizer + tokens, T(0));
  for (Index token = 0; token < real && problem.visibility().keys_of(first + token, problem.visible_keys(batch)) == 0;
       ++token)
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

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail

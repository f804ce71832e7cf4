// From the sums of a block of queries to the caller's rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "csq/detail/call/problem.hpp"
#include "csq/detail/simd/kernel_set.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

// Rows whose weights have underflowed, wholly or in part, are NaN. A sum that is exactly 0 is one of weights that are,
// unless the least of them could not have been held.
template <class T>
void refuse_underflow(const Weight& weight, Index keys, Index rows, T* normalizer) {
  const T least = least_normalizer<T>(keys);
  const bool hides = weight.kind == Weight::Kind::quadratic && weight.quadratic.c0 > 0 &&
                     weight.quadratic.c0 < static_cast<double>(least_normalizer<T>(1));
  for (Index row = 0; row < rows; ++row)
    if (normalizer[row] < least && (normalizer[row] > 0 || (hides && normalizer[row] == 0)))
      normalizer[row] = std::numeric_limits<T>::quiet_NaN();
}

// A row's `maximum` where weights are not exponential: the power of two that they are relative to, if the row had to be
// rescaled (direct/block.hpp).
template <class T>
int rescaled_exponent(T maximum) {
  // Chosen before it is converted: a compiler may convert first, and lowest_score is no int (FE_INVALID).
  const T power = maximum == simd::lowest_score<T> ? T(0) : maximum;
  return static_cast<int>(power);
}

// What the caller gets as normaliser of a row that was computed with weights 2^exponent times too small: NaN where T
// does not hold it to all its digits. Backward divides by it, so that the row's gradients are then NaN, never wrong.
template <class T>
T scaled_normalizer(T value, int exponent) {
  if (exponent == 0) return value;
  const T scaled = static_cast<T>(std::ldexp(static_cast<double>(value), exponent));
  const bool held = scaled >= (std::numeric_limits<T>::min)() && scaled <= (std::numeric_limits<T>::max)();
  return value == 0 || held ? scaled : std::numeric_limits<T>::quiet_NaN();
}

// Adds e^sink to the normalisers of softmax's rows. Where it is far above what a row has seen, the row is brought to
// its units: the sum would overflow.
template <class T>
void add_sink(double sink, Index rows, Index value_stride, T* numerator, T* normalizer, T* maximum) {
  constexpr double log2_e = 1.442695040888963407359924681001892137;
  constexpr double far_above = 64;
  if (is_minus_infinity(sink)) return;
  const double level = std::clamp(sink * log2_e, static_cast<double>(simd::lowest_score<T>),
                                  -static_cast<double>(simd::lowest_score<T>));
  const double held = static_cast<double>(static_cast<T>(level));  // as a maximum
  for (Index row = 0; row < rows; ++row) {
    if (normalizer[row] == 0 || level > static_cast<double>(maximum[row]) + far_above) {
      const double left = normalizer[row] == 0 ? 0 : std::exp2(static_cast<double>(maximum[row]) - held);
      for (Index a = 0; a < value_stride; ++a) numerator[row * value_stride + a] *= static_cast<T>(left);
      normalizer[row] *= static_cast<T>(left);
      maximum[row] = static_cast<T>(held);
      normalizer[row] += 1;
    } else {
      normalizer[row] += static_cast<T>(std::exp2(level - static_cast<double>(maximum[row])));
    }
  }
}

// Divides, writes the output rows [first, first + tokens) of one head, and their normalisers. Rows from `real` on lie
// past the query length: the kernels have filled them with what a zero query would give. Rows that see no key are 0,
// whatever q is: read from an empty summary, a NaN in q would have reached them.
template <class T, class Kernels>
void write_rows(const Problem<T>& problem, const Kernels& kernels, Index batch, Index head, Index first, Index tokens,
                Index real, T* numerator, T* normalizer, T* maximum) {
  if (problem.weight.is_polynomial() && !problem.is_piece)
    refuse_underflow(problem.weight, problem.keys_and_held(), real, normalizer);
  std::fill(normalizer + real, normalizer + tokens, T(0));
  for (Index token = 0;
       token < real && problem.held == 0 && !problem.visibility().sees_any(first + token, problem.visible_keys(batch));
       ++token)
    normalizer[token] = 0;
  if (!problem.sink.empty())
    add_sink(problem.sink[static_cast<std::size_t>(head)], real, simd::padded_columns<T>(problem.value_dim()),
             numerator, normalizer, maximum);
  const StoredHead<T> output = problem.output.head(batch, head);
  simd::DivideRows<T> rows;
  rows.numerator = numerator;
  rows.normalizer = normalizer;
  rows.tokens = tokens;
  rows.dim = output.dim;
  rows.value_stride = simd::padded_columns<T>(output.dim);
  rows.output = output.at(first);
  rows.token_stride = output.token_stride;
  rows.dim_stride = output.dim_stride;
  rows.storage = output.storage;
  kernels.divide(rows);
  if (problem.normalizer.data == nullptr) return;
  const Head<T> statistic = problem.normalizer.head(batch, head);
  constexpr double ln_2 = 0.693147180559945309417232121458176568;
  for (Index token = 0; token < tokens; ++token) {
    T value = normalizer[token];
    if (problem.weight.kind == Weight::Kind::exponential)
      value = static_cast<T>(
          value == 0 ? -HUGE_VAL : static_cast<double>(maximum[token]) * ln_2 + std::log(static_cast<double>(value)));
    else if (token < real)
      value = scaled_normalizer(value, problem.weight.exponent + rescaled_exponent(maximum[token]));
    statistic(first + token, 0) = value;
  }
}

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail

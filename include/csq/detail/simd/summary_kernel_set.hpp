// The kernels of summaries that are kept: what streams and csq::Summary run beside those of kernel_set.hpp.
#pragma once

#include "csq/detail/simd/kernel_set.hpp"

namespace CSQ_CODE::detail::simd {

// numerator[r] = Σ_f φ_f(q_r) summary[f] and sums[r] = Σ_f φ_f(q_r) normalizer[f] for a few queries in rows.
template <class T>
struct ReadRows {
  static constexpr int rows_together = 4;
  static constexpr Index features_together = 256;
  static constexpr Index feature_stride = features_together + 16;  // whole vectors past the last

  const T* query = nullptr;  // [queries][query_stride], and a whole vector behind
  Index query_stride = 0;
  Index queries = 0;
  Index value_stride = 0;
  FeatureMap map;
  FeatureCoefficients<T> coefficients;
  const T* summary = nullptr;
  const T* normalizer = nullptr;
  T* features = nullptr;  // scratch [rows_together][feature_stride]
  T* numerator = nullptr;
  T* sums = nullptr;
};

// What only streams and summaries that are kept run: a program without them does not compile it.
template <class T>
struct SummaryKernelSet {
  void (*read_rows)(const ReadRows<T>& block);
};

}  // namespace CSQ_CODE::detail::simd

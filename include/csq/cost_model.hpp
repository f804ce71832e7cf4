// What a call costs, in multiply-adds, before anybody pays: pure arithmetic on shapes.
//
//   direct     g·n·m·(d+dᵥ) per key head with g query heads; about half under a causal mask
//   factored   (g·n + m)·D·(dᵥ+1); causal adds the pairs inside chunks, g·n·C·(d+dᵥ)/2, less two exact savings
//
// D features: (d+1)(d+2)/2 for degree 2. The savings (t = D(dᵥ+1)/(d+dᵥ), about D/2): reading a summary of t keys costs
// as much as serving those keys directly, so rows that see at most t keys read nothing; and the last t/g keys,
// absorbed, would be read too rarely to pay, so they are not.
//
// A call costs what the lengths of its entries make it cost, not what its buffers hold. Whatever chooses a method, here
// or in a call, weighs these counts with the same two fractions of the peak (CrossoverModel), so all of them agree:
// choose_method, used_method, Method::automatic, and predicted_crossover for n = m.
// Of the options the counts read causal, key_length, query_length and chunk. A shape that cannot be is an error.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "csq/detail/call/cost.hpp"

namespace CSQ_CODE {

/// D = (d+1)(d+2)/2: features of degree 2 and less.
inline Index feature_count(Index key_dim) { return detail::feature_count(key_dim); }

/// Features that a mechanism needs: a degree whose coefficient is zero is not computed.
template <class Mechanism>
Index feature_count(const Mechanism& mechanism, Index key_dim) {
  const detail::Weight weight = detail::weight_of(mechanism);
  return weight.has_factored_form() ? detail::feature_count(weight, key_dim) : 0;
}

/// Pairs (i, j) with j visible to i, for one head of one entry of the batch.
inline double visible_pairs(const Shape& shape) {
  const detail::Workload work = detail::workload_of(shape, {});
  return work.visibility().pairs(work.shape.queries, work.shape.keys);
}

/// Forward, of all heads and the whole batch; factored without a mechanism: with all D features.
inline double direct_multiply_adds(const Shape& shape, const Options& options = {}) {
  return detail::count_direct(detail::workload_of(shape, options));
}
inline double factored_multiply_adds(const Shape& shape, const Options& options = {}) {
  return detail::count_factored(detail::workload_of(shape, options), feature_count(shape.key_dim), options.chunk);
}
template <class Mechanism>
double factored_multiply_adds(const Mechanism& mechanism, const Shape& shape, const Options& options = {}) {
  return detail::count_factored(detail::workload_of(shape, options), feature_count(mechanism, shape.key_dim),
                                options.chunk);
}

/// Backward, without the forward before it.
inline double direct_backward_multiply_adds(const Shape& shape, const Options& options = {}) {
  return detail::count_direct_backward(detail::workload_of(shape, options));
}
inline double factored_backward_multiply_adds(const Shape& shape, const Options& options = {}) {
  return detail::count_factored_backward(detail::workload_of(shape, options), feature_count(shape.key_dim));
}
template <class Mechanism>
double factored_backward_multiply_adds(const Mechanism& mechanism, const Shape& shape, const Options& options = {}) {
  return detail::count_factored_backward(detail::workload_of(shape, options), feature_count(mechanism, shape.key_dim));
}

}  // namespace CSQ_CODE

namespace CSQ_TYPES {

struct CrossoverModel {
  bool causal = false;
  Index group = 1;  ///< query heads per key head, at least 1
  /// f_s and f_f, the fractions of the FMA peak that the two sides reach, positive; unset: those by which
  /// Method::automatic chooses. Both 1 compares the counts alone.
  std::optional<double> direct_efficiency{};
  std::optional<double> factored_efficiency{};
};

}  // namespace CSQ_TYPES

namespace CSQ_CODE {

namespace detail {

// The length from which factored is cheaper, n = m; infinite where no length that can be counted is.
inline double crossover(Index features, Index key_dim, Index value_dim, const CrossoverModel& model) {
  require(model.group >= 1, "group: is ", model.group, " but must be at least 1");
  Workload work{
      checked_shape({.key_dim = key_dim, .value_dim = value_dim, .heads = model.group, .kv_heads = 1}), {}, {}};
  work.shape.causal = model.causal;
  const Efficiency measured = measured_efficiency(key_dim);
  const Efficiency efficiency{model.direct_efficiency.value_or(measured.direct),
                              model.factored_efficiency.value_or(measured.factored)};
  const auto check_efficiency = [](const char* name, double value) {
    require(is_finite(value) && value > 0, name, ": is ", value, " but must be positive and finite");
  };
  check_efficiency("direct_efficiency", efficiency.direct);
  check_efficiency("factored_efficiency", efficiency.factored);

  constexpr double never = std::numeric_limits<double>::infinity();
  constexpr double longest = static_cast<double>(largest_size);
  if (!model.causal) {
    const double ratio = efficiency.direct / efficiency.factored;
    const double tokens = (1 + 1 / static_cast<double>(model.group)) * break_even_keys(work.shape, features) * ratio;
    return tokens <= longest ? tokens : never;
  }
  const auto factored_wins = [&](double tokens) {
    work.shape.queries = work.shape.keys = static_cast<Index>(tokens);
    return cheaper_method(work, features, efficiency) == Method::factored;
  };
  double low = 0, high = 1;
  while (!factored_wins(high)) {
    if (high >= longest) return never;
    low = high;
    high = smaller(2 * high, longest);
  }
  while (high - low > 1) {
    const double middle = std::floor((low + high) / 2);
    (factored_wins(middle) ? high : low) = middle;
  }
  return high;
}

}  // namespace detail

/// Tokens from which factored is expected to be faster, n = m, infinite where it never is. Without a mask
/// (1 + 1/g)·t·f_s/f_f: with dᵥ = d and g = 1, (1 + 1/d)·D·f_s/f_f.
inline double predicted_crossover(Index key_dim, Index value_dim, const CrossoverModel& model = {}) {
  return detail::crossover(feature_count(key_dim), key_dim, value_dim, model);
}
template <class Mechanism>
double predicted_crossover(const Mechanism& mechanism, Index key_dim, Index value_dim,
                           const CrossoverModel& model = {}) {
  const detail::Weight weight = detail::weight_of(mechanism);
  if (!weight.has_factored_form()) return std::numeric_limits<double>::infinity();
  return detail::crossover(detail::feature_count(weight, key_dim), key_dim, value_dim, model);
}

/// What Method::automatic chooses, with all D features or with those of a mechanism.
inline Method choose_method(const Shape& shape, const Options& options = {}) {
  const detail::Workload work = detail::workload_of(shape, options);
  if (work.direct_only != nullptr) return Method::direct;
  return detail::cheaper_method(work, feature_count(shape.key_dim));
}
template <class Mechanism>
Method choose_method(const Mechanism& mechanism, const Shape& shape, const Options& options = {}) {
  const detail::Workload work = detail::workload_of(shape, options);
  const detail::Weight weight = detail::weight_of(mechanism);
  if (!weight.has_factored_form() || work.direct_only != nullptr) return Method::direct;
  return detail::cheaper_method(work, detail::feature_count(weight, shape.key_dim));
}

}  // namespace CSQ_CODE

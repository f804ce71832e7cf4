// What a call runs, decided from sizes and options.
#pragma once

#include "csq/detail/call/arguments.hpp"
#include "csq/detail/call/cost.hpp"

namespace CSQ_CODE::detail {

// The method that a call with these sizes would use. A causal call too short for any read to pay is the direct path,
// whatever was asked for (unless a chunk was).
inline Method resolve_method(const Weight& weight, const Shape& shape, Method method, Index chunk) {
  if (!weight.has_factored_form()) return Method::direct;
  const Index features = feature_count(weight, shape.key_dim);
  if (method == Method::automatic) return cheaper_method(shape, features);
  if (method == Method::factored && chunk == 0 && served_directly(shape, features)) return Method::direct;
  return method;
}

// The method that a backward call runs. Its choice is its own: backward takes no savings under a causal mask.
inline Method resolve_backward_method(const Weight& weight, const Shape& shape, Method method) {
  if (!weight.has_factored_form()) return Method::direct;
  if (method != Method::automatic) return method;
  const double direct = count_direct_backward(shape) / direct_efficiency(shape.key_dim);
  const double factored =
      count_factored_backward(shape, feature_count(weight, shape.key_dim)) / factored_efficiency(shape.key_dim);
  return factored < direct ? Method::factored : Method::direct;
}

// The problem that a call with these sizes would be, without memory: what lays scratch out reads no more of it.
template <class T, class Mechanism>
Problem<T> problem_of_sizes(const Mechanism& mechanism, const Shape& shape, const Options& options) {
  Problem<T> problem;
  problem.weight = weight_of(mechanism);
  const auto sized = [&](Index heads, Index tokens, Index dim) {
    Heads<const T> view;
    view.shape = {shape.batch, heads, tokens, dim};
    return view;
  };
  problem.query = sized(shape.heads, shape.queries, shape.key_dim);
  problem.key = sized(shape.kv_heads, shape.keys, shape.key_dim);
  problem.value = sized(shape.kv_heads, shape.keys, shape.value_dim);
  require(shape.queries >= 0 && shape.keys >= 0 && shape.key_dim >= 1 && shape.value_dim >= 1 && shape.batch >= 0 &&
              shape.kv_heads >= 1 && shape.heads >= 1 && shape.heads % shape.kv_heads == 0,
          "shape: queries ", shape.queries, ", keys ", shape.keys, ", key_dim ", shape.key_dim, ", value_dim ",
          shape.value_dim, ", batch ", shape.batch, ", heads ", shape.heads, ", kv_heads ", shape.kv_heads);
  check_method(problem.weight, options.method);
  check_counts(options);
  problem.causal = options.causal || shape.causal;
  problem.centering =
      options.centering == Centering::automatic ? default_centering<Mechanism>(problem.causal) : options.centering;
  problem.chunk = options.chunk;
  return problem;
}

}  // namespace CSQ_CODE::detail

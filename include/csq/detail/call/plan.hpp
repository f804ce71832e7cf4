// What a call runs, decided once from its sizes, lengths and options; everything after it reads it.
//
// How many threads run it is no part of the plan (Problem::threads): so results do not depend on them.
#pragma once

#include "csq/detail/call/cost.hpp"

namespace CSQ_CODE::detail {

// What serves a call. Few queries are a case of their own forward alone.
enum class Engine { direct, few_queries, few_tokens, factored };

// From more queries on tiles are faster.
inline constexpr Index few_queries_limit = 8;
// From more queries or keys on blocks are faster.
inline constexpr Index few_tokens_limit = 8;
inline bool has_few_tokens(const Workload& work) {
  return work.shape.queries <= few_tokens_limit && work.shape.keys <= few_tokens_limit;
}

struct Plan {
  Engine engine = Engine::direct;
  Extent longest;  // queries and keys that no entry of the batch exceeds
  // Of a factored call:
  ScanPlan scan;
  Index features = 0;
  Index slices = 1;  // of the feature axis

  Method method() const { return engine == Engine::factored ? Method::factored : Method::direct; }
};

inline void check_method(const Workload& work, const Weight& weight, Method method) {
  if (method != Method::factored) return;
  require(weight.has_factored_form(),
          "method: factored needs a weight of degree 2 or less; this mechanism has only direct");
  require(work.direct_only == nullptr, "method: factored has no ", work.direct_only == nullptr ? "" : work.direct_only,
          "; direct has");
}

// The method that a call would use. A causal call too short for any read to pay is the direct path, whatever was asked
// for (unless a chunk was).
inline Method resolve_method(const Workload& work, const Weight& weight, const Options& options) {
  check_method(work, weight, options.method);
  if (!weight.has_factored_form() || work.direct_only != nullptr) return Method::direct;
  const Index features = feature_count(weight, work.shape.key_dim);
  if (options.method == Method::automatic) return cheaper_method(work, features);
  if (options.method == Method::factored && options.chunk == 0 && served_directly(work, features))
    return Method::direct;
  return options.method;
}

// The method that a backward call runs. Its choice is its own: backward takes no savings under a causal mask.
inline Method resolve_backward_method(const Workload& work, const Weight& weight, const Options& options) {
  check_method(work, weight, options.method);
  if (!weight.has_factored_form() || work.direct_only != nullptr) return Method::direct;
  if (options.method != Method::automatic) return options.method;
  return cheaper_backward_method(work, feature_count(weight, work.shape.key_dim));
}

// Every size of scratch is a product of some of what stands here. Bounded once, in double, so that none overflows.
inline void check_scratch_fits(const Workload& work, const Weight& weight) {
  const Shape& shape = work.shape;
  const auto number = [](Index size) { return static_cast<double>(size); };
  constexpr double padding = 64;  // columns and features are padded to less
  constexpr double most_slices = 16;
  constexpr double bytes = 16;  // of the largest element, twice
  const double block = number(counted_block);
  const double features = weight.has_factored_form() ? number(feature_count(shape.key_dim)) : 0;
  const double heads = number(shape.batch) * number(shape.heads);
  // A chunk of one token may take a whole block.
  const double tokens = (number(shape.queries) + number(shape.keys) + 2) * block;
  const double columns = number(shape.key_dim) + number(shape.value_dim) + padding;
  const double summaries = heads * (features + padding) * columns;
  const double threads = number(most_threads) * (block + heads) * (block + columns) * block;
  const double total = (heads * tokens * columns * most_slices + summaries + threads) * bytes;
  require(total < 0x1p62, "workspace: a call of batch ", shape.batch, ", heads ", shape.heads, ", queries ",
          shape.queries, ", keys ", shape.keys, ", key_dim ", shape.key_dim, ", value_dim ", shape.value_dim,
          " overflows a 64-bit size");
}

inline Index slices_of(const Workload& work, Index features) {
  constexpr Index wanted_tasks = 16;     // slices times key heads, at least
  constexpr Index smallest_slice = 128;  // features
  const double key_heads = static_cast<double>(work.shape.batch) * static_cast<double>(work.shape.kv_heads);
  if (key_heads >= static_cast<double>(wanted_tasks)) return 1;
  return std::clamp<Index>(block_count(wanted_tasks, larger<Index>(1, static_cast<Index>(key_heads))), 1,
                           larger<Index>(1, features / smallest_slice));
}

// `unit_chunk`: the chunk that a matrix unit takes; 0 without one.
inline Plan plan_forward(const Workload& work, const Weight& weight, const Options& options, Index block_tokens,
                         Index unit_chunk = 0) {
  const Method method = resolve_method(work, weight, options);
  Plan plan;
  plan.longest = work.longest();
  if (method == Method::direct) {
    plan.engine = has_few_tokens(work)                      ? Engine::few_tokens
                  : work.shape.queries <= few_queries_limit ? Engine::few_queries
                                                            : Engine::direct;
  } else {
    plan.engine = Engine::factored;
    plan.features = feature_count(weight, work.shape.key_dim);
    plan.slices = slices_of(work, plan.features);
    if (work.shape.causal) {
      plan.scan = plan_scan(work, plan.features, options.chunk, block_tokens,
                            unit_chunk > 0 ? unit_chunk : tuned_chunk(work.shape.key_dim, block_tokens));
    } else {
      const Index tuned = unit_chunk > 0 ? unit_chunk : block_tokens;
      plan.scan.chunk = options.chunk == 0 ? tuned : smaller(options.chunk, block_tokens);
      plan.scan.first_kept = block_count(work.shape.keys, plan.scan.chunk);
    }
  }
  return plan;
}

// `features`: those of the weight, and of the gradient of its shift where one is wanted.
inline Plan plan_backward(const Workload& work, const Weight& weight, Index features, const Options& options,
                          Index block_tokens, Index unit_chunk = 0) {
  const Method method = resolve_backward_method(work, weight, options);
  Plan plan;
  plan.longest = work.longest();
  if (method == Method::factored) {
    plan.engine = Engine::factored;
    plan.features = features;
    plan.slices = slices_of(work, features);
    // Whole blocks: on AVX-512 causal chunks of 72, 96, 144 took 1.26, 1.11, 1.05 times softmax's forward at d = 32.
    const Index tuned = unit_chunk > 0 ? unit_chunk : block_tokens;
    plan.scan.chunk = options.chunk == 0 ? tuned : smaller(options.chunk, block_tokens);
  } else if (has_few_tokens(work) && work.is_plain) {  // the others are not worth kernels of their own
    plan.engine = Engine::few_tokens;
  }
  return plan;
}

}  // namespace CSQ_CODE::detail

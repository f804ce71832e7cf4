// An unbiased estimate of the bound penalty and its gradients from r random visible keys per query, O(n·r·d).
#pragma once

#include <cmath>
#include <cstdint>

#include "csq/detail/base/random.hpp"
#include "csq/detail/penalty/bound.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

// What one thread needs for a key head and its group: rows of both, centred, and the gradients of the rows.
template <class T>
struct SampledThreadScratch {
  T* keys = nullptr;     // [tokens up to whole blocks][padded d]
  T* queries = nullptr;  // the same of one query head
  T* key_gradient = nullptr;
  T* query_gradient = nullptr;
  T* gradient = nullptr;  // [tokens][d], as it is added
  double* sums = nullptr;

  static SampledThreadScratch lay_out(Arena& arena, const Problem<T>& problem) {
    constexpr Index size = simd::block_tokens<T>;
    const auto rows = [&](Index tokens) {
      return arena.template take<T>(
          checked_product(block_count(tokens, size), RowPacker<T>::scratch_rows(problem.key_dim()), "workspace"));
    };
    SampledThreadScratch scratch;
    scratch.keys = rows(problem.keys());
    scratch.queries = rows(problem.queries());
    scratch.key_gradient = rows(problem.keys());
    scratch.query_gradient = rows(problem.queries());
    scratch.gradient = arena.template take<T>(
        checked_product(larger(problem.keys(), problem.queries()), problem.key_dim(), "workspace"));
    scratch.sums = arena.template take<double>(RowPacker<T>::scratch_sums(problem.key_dim()));
    return scratch;
  }
};

template <class T>
struct SampledScratch {
  Packers<T> packers;
  BoundValue* parts = nullptr;  // [key heads]
  SampledThreadScratch<T>* threads = nullptr;

  static SampledScratch lay_out(Arena& arena, const Problem<T>& problem) {
    SampledScratch scratch;
    scratch.packers = Packers<T>::lay_out(arena, problem, problem.key_heads());
    scratch.parts = arena.template take<BoundValue>(problem.key_heads());
    scratch.threads = arena.template take<SampledThreadScratch<T>>(problem.threads);
    const bool counting = scratch.threads == nullptr;
    for (int thread = 0; thread < problem.threads; ++thread) {
      const auto own = SampledThreadScratch<T>::lay_out(arena, problem);
      if (!counting) scratch.threads[thread] = own;
    }
    return scratch;
  }
};

// L_b from `samples` keys per query, drawn evenly from those that it sees, with replacement; each query weighs
// |J_i|/Σ|J|, so value, overflow and gradients are unbiased. max_abs is the largest of what was drawn.
template <class T>
BoundValue sampled_bound_penalty(const StoredHeads<const T>& q, const StoredHeads<const T>& k, const StoredHeads<T>& dq,
                                 const StoredHeads<T>& dk, Index samples, std::uint64_t seed, double radius,
                                 double weight, const Options& options) {
  const T one = 1;
  require(samples >= 1, "samples: is ", samples, " but must be at least 1");
  Problem<T> problem = score_problem<T>(q, k, &one, dq, dk, radius, weight, options);
  const double pairs = count_visible_pairs(problem);
  const Index dim = problem.key_dim(), stride = simd::padded_columns<T>(dim), group = problem.group();
  BoundValue result;
  if (pairs == 0) return result;
  const double queries = static_cast<double>(q.batch() * q.heads()) * static_cast<double>(q.tokens());
  problem.threads =
      threads_for_work(queries * static_cast<double>(samples) * static_cast<double>(2 * dim), threads_of(options));

  // A key head with its group at a time, each by one thread: samples scatter into the gradients of its keys.
  Workspace local;
  Arena counter;
  SampledScratch<T>::lay_out(counter, problem);
  Arena arena((options.workspace != nullptr ? *options.workspace : local).reserve(counter.bytes()));
  SampledScratch<T> scratch = SampledScratch<T>::lay_out(arena, problem);
  const Packers<T>& packers = scratch.packers;
  scratch.packers.bind(problem, 0, problem.key_heads());
  parallel_for(problem.key_heads(), problem.threads, [&](Index h, int thread) {
    const Index batch = h / problem.key.heads(), key_head = h % problem.key.heads();
    const SampledThreadScratch<T>& mine = scratch.threads[thread];
    const auto clear = [&](T* rows, const RowPacker<T>& packer) { std::fill_n(rows, packer.length * stride, T(0)); };
    const auto add_gradient = [&](const RowPacker<T>& packer, double factor, T* rows, const StoredHead<T>& gradient) {
      const StoredHead<T> own{mine.gradient, gradient.tokens, dim, dim, 1};
      write_input_gradient<T>(packer, factor, rows, mine.sums, nullptr, nullptr, own);
      add_scaled(mine.gradient, 1, gradient);
    };
    BoundValue part;
    centered_rows(packers.key[h], mine.keys, mine.sums);
    clear(mine.key_gradient, packers.key[h]);
    for (Index g = 0; g < group; ++g) {
      const RowPacker<T>& packer = packers.query[h * group + g];
      centered_rows(packer, mine.queries, mine.sums);
      clear(mine.query_gradient, packer);
      for (Index i = 0; i < packer.length; ++i) {
        const Index first = problem.visibility().first_key(i);
        const Index seen = larger<Index>(0, problem.visibility().keys_of(i, packers.key[h].length) - first);
        const T* query = mine.queries + i * stride;
        const double share = static_cast<double>(seen) / (pairs * static_cast<double>(samples));
        for (Index s = 0; s < samples && seen > 0; ++s) {
          const auto draw = static_cast<std::uint64_t>(((h * group + g) * problem.queries() + i) * samples + s);
          const Index j = first + static_cast<Index>(random_bits(seed, draw) % static_cast<std::uint64_t>(seen));
          const T* key = mine.keys + j * stride;
          double score = 0;
          for (Index a = 0; a < dim; ++a) score += static_cast<double>(query[a]) * static_cast<double>(key[a]);
          if (std::abs(score) > part.max_abs || is_nan(score)) part.max_abs = std::abs(score);  // NaN stays
          const double excess = std::abs(score) - radius;
          if (excess <= 0) continue;
          part.value += share * excess * excess;
          part.overflow += share;
          const T slope = static_cast<T>((score > 0 ? 2 : -2) * excess * share * weight);
          for (Index a = 0; a < dim; ++a) {
            mine.query_gradient[i * stride + a] += slope * key[a];
            mine.key_gradient[j * stride + a] += slope * query[a];
          }
        }
      }
      if (dq.data != nullptr)
        add_gradient(packer, problem.scale, mine.query_gradient, dq.head(batch, key_head * group + g));
    }
    if (dk.data != nullptr) add_gradient(packers.key[h], 1, mine.key_gradient, dk.head(batch, key_head));
    scratch.parts[h] = part;
  });
  for (Index h = 0; h < problem.key_heads(); ++h) {
    const BoundValue& part = scratch.parts[h];
    result.value += part.value;
    result.overflow += part.overflow;
    if (part.max_abs > result.max_abs || is_nan(part.max_abs)) result.max_abs = part.max_abs;
  }
  return result;
}

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail

// An unbiased estimate of the bound penalty and its gradients from r random visible keys per query, O(n·r·d).
#pragma once

#include <cmath>
#include <cstdint>

#include "csq/detail/base/random.hpp"
#include "csq/detail/penalty/bound.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

// L_b from `samples` keys per query, drawn evenly from those that it sees, with replacement; each query weighs
// |J_i|/Σ|J|, so value, overflow and gradients are unbiased. max_abs is the largest of what was drawn.
template <class T>
BoundValue sampled_bound_penalty(const Heads<const T>& q, const Heads<const T>& k, const Heads<T>& dq,
                                 const Heads<T>& dk, Index samples, std::uint64_t seed, double radius, double weight,
                                 const Options& options) {
  constexpr Index size = simd::block_tokens<T>;
  const T one = 1;
  require(samples >= 1, "samples: is ", samples, " but must be at least 1");
  Problem<T> problem = score_problem<T>(q, k, &one, dq, dk, radius, weight, options);
  problem.threads = usable_threads(options.threads);
  const double pairs = count_visible_pairs(problem);
  const Index dim = problem.key_dim(), stride = simd::padded_columns<T>(dim), group = problem.group();
  const Index query_rows = block_count(problem.queries(), size) * size * stride;
  const Index key_rows = block_count(problem.keys(), size) * size * stride;
  BoundValue result;
  if (pairs == 0) return result;
  std::vector<BoundValue> parts(static_cast<std::size_t>(problem.key_heads()));
  const auto numbers = [](const auto& shape) {
    return static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]);
  };
  std::vector<T> query_gradient(numbers(q.shape)), key_gradient(numbers(k.shape));
  const Heads<T> query_target(query_gradient.data(), q.shape), key_target(key_gradient.data(), k.shape);

  // A key head with its group at a time, each by one thread: samples scatter into the gradients of its keys.
  Arena counter;
  Packers<T>::lay_out(counter, problem, problem.key_heads());
  Workspace workspace;
  Arena arena(workspace.reserve(counter.bytes()));
  Packers<T> packers = Packers<T>::lay_out(arena, problem, problem.key_heads());
  packers.bind(problem, 0, problem.key_heads());
  parallel_for(problem.key_heads(), problem.threads, [&](Index h, int) {
    const Index batch = h / problem.key.heads(), key_head = h % problem.key.heads();
    BoundValue& part = parts[static_cast<std::size_t>(h)];
    const auto cells = [](Index count) { return static_cast<std::size_t>(count); };
    std::vector<T> keys(cells(key_rows)), queries(cells(query_rows)), dkeys(cells(key_rows)),
        dqueries(cells(query_rows));
    std::vector<T> packed(cells(RowPacker<T>::packed_size(dim))), copy(cells(RowPacker<T>::scratch_rows(dim)));
    std::vector<double> sums(cells(simd::padded_columns<double>(dim)));
    centered_rows(packers.key[h], keys.data(), packed.data(), sums.data());
    for (Index g = 0; g < group; ++g) {
      const RowPacker<T>& packer = packers.query[h * group + g];
      centered_rows(packer, queries.data(), packed.data(), sums.data());
      std::fill(dqueries.begin(), dqueries.end(), T(0));
      for (Index i = 0; i < packer.length; ++i) {
        const Index seen = problem.visibility().keys_of(i, packers.key[h].length);
        const T* query = queries.data() + i * stride;
        const double share = static_cast<double>(seen) / (pairs * static_cast<double>(samples));
        for (Index s = 0; s < samples && seen > 0; ++s) {
          const auto draw = static_cast<std::uint64_t>(((h * group + g) * problem.queries() + i) * samples + s);
          const Index j = static_cast<Index>(random_bits(seed, draw) % static_cast<std::uint64_t>(seen));
          const T* key = keys.data() + j * stride;
          double score = 0;
          for (Index a = 0; a < dim; ++a) score += static_cast<double>(query[a]) * static_cast<double>(key[a]);
          if (std::abs(score) > part.max_abs || is_nan(score)) part.max_abs = std::abs(score);  // NaN stays
          const double excess = std::abs(score) - radius;
          if (excess <= 0) continue;
          part.value += share * excess * excess;
          part.overflow += share;
          const T slope = static_cast<T>((score > 0 ? 2 : -2) * excess * share * weight);
          for (Index a = 0; a < dim; ++a) {
            dqueries[cells(i * stride + a)] += slope * key[a];
            dkeys[cells(j * stride + a)] += slope * query[a];
          }
        }
      }
      write_input_gradient(packer, problem.scale, dqueries.data(), sums.data(), packed.data(), copy.data(),
                           query_target.head(batch, key_head * group + g));
    }
    write_input_gradient(packers.key[h], 1, dkeys.data(), sums.data(), packed.data(), copy.data(),
                         key_target.head(batch, key_head));
  });
  for (const BoundValue& part : parts) {
    result.value += part.value;
    result.overflow += part.overflow;
    if (part.max_abs > result.max_abs || is_nan(part.max_abs)) result.max_abs = part.max_abs;
  }
  add_scaled(query_gradient, 1, dq);
  add_scaled(key_gradient, 1, dk);
  return result;
}

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail

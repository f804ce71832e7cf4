// Soft penalties: training losses on the scores and on the spread of q and k, never part of the forward.
//
//   bound   L_b = mean over visible pairs (and heads, batch) of max(0, |s_ij| − R)²        s after centring and scale
//   rank    L_r = −mean over heads (and batch) of logdet(Xcᵀ·Xc/L + λI)                    Xc the centred rows of q or
//   k
//
// The bound is no polynomial in s, so no summary gives it: exact in O(n·m·d) by tiles, or estimated without bias from r
// random visible keys per query in O(n·r·d). The rank penalty costs O(n·d² + d³).
// Each returns its value and adds weight·∂L/∂(its input), through the centring, to the gradients it is given; a view
// without data asks for the value alone. Options are attention's (method and chunk have no meaning here);
// Centering::automatic centres as Csq does. Results do not depend on threads. Source: the paper's §8.
#pragma once

#include <Eigen/Cholesky>
#include <cstdint>
#include <vector>

#include "csq/attention_backward.hpp"

namespace csq {

struct BoundPenalty {
  double value = 0;     // L_b
  double max_abs = 0;   // largest |s|
  double overflow = 0;  // Pr(|s| > R)
};

// Checks q and k like attention does; the value is a column of ones that no gradient reaches.
template <class T>
Problem<T> score_problem(const Heads<const T>& q, const Heads<const T>& k, const T* one, const Heads<T>& dq,
                         const Heads<T>& dk, double radius, double weight, const Options& options) {
  check(std::isfinite(radius) && radius >= 0, "radius: is ", radius, " but must be finite and not negative");
  check(std::isfinite(weight), "weight: is ", weight, " but must be finite");
  Problem<T> problem;
  problem.query = q;
  problem.key = k;
  problem.value = Heads<const T>(one, {k.batch(), k.heads(), k.tokens(), 1}, {0, 0, 0, 0});
  problem.weight.kind = Weight::Kind::bound;
  problem.weight.radius = radius;
  check_inputs(problem);
  const auto check_gradient = [&](std::string_view name, const Heads<T>& gradient, std::string_view of,
                                  const Heads<const T>& input) {
    if (gradient.data == nullptr) return;
    check_shape_like(name, gradient, of, input);
    check_no_self_overlap(name, gradient);
    check_not_same(name, gradient, "q", q);
    check_not_same(name, gradient, "k", k);
  };
  check_gradient("dq", dq, "q", q);
  check_gradient("dk", dk, "k", k);
  if (dq.data != nullptr && dk.data != nullptr) check_not_same("dq", dq, "dk", dk);
  resolve_options(problem, options, options.causal ? Centering::prefix : Centering::sequence);
  return problem;
}

// Visible pairs of all heads: keys seen by each real row.
template <class T>
double count_visible_pairs(const Problem<T>& problem) {
  double pairs = 0;
  for (Index b = 0; b < problem.query.batch(); ++b)
    for (Index i = 0; i < problem.real_queries(b); ++i)
      pairs += static_cast<double>(problem.keys_seen(i, problem.visible_keys(b)));
  return pairs * static_cast<double>(problem.query.heads());
}

// target += factor·source, source contiguous.
template <class T>
void add_scaled(const std::vector<T>& source, double factor, const Heads<T>& target) {
  if (target.data == nullptr) return;
  std::size_t index = 0;
  for (Index b = 0; b < target.batch(); ++b)
    for (Index h = 0; h < target.heads(); ++h) {
      const Head<T> head = target.head(b, h);
      for (Index t = 0; t < head.tokens; ++t)
        for (Index a = 0; a < head.dim; ++a, ++index)
          head(t, a) = static_cast<T>(static_cast<double>(head(t, a)) + factor * static_cast<double>(source[index]));
    }
}

// Value and statistics, by tiles: one sum for each block of queries, added up in order.
template <class T>
BoundPenalty bound_statistics(const Problem<T>& problem, double radius, double pairs) {
  constexpr Index size = simd::block_tokens<T>;
  Workspace workspace;
  ScratchLayout counter;
  DirectLayout<T>::lay_out(counter, problem);
  ScratchLayout layout(workspace.reserve(counter.bytes()));
  DirectLayout<T> scratch = DirectLayout<T>::lay_out(layout, problem);
  const Index group = problem.group();
  const Index query_blocks = block_count(problem.queries(), size);
  const Index key_size = RowPacker<T>::packed_size(problem.key_dim());
  BoundPenalty result;
  for (Index first_head = 0; first_head < problem.key_heads(); first_head += scratch.heads) {
    const Index heads = std::min(scratch.heads, problem.key_heads() - first_head);
    scratch.packers.bind(problem, first_head, heads);
    parallel_for(heads * scratch.key_blocks, problem.threads, [&](Index task, int thread) {
      const RowPacker<T>& packer = scratch.packers.key[task / scratch.key_blocks];
      const Index first = task % scratch.key_blocks * size;
      const Index count = std::min(size, packer.length - first);
      const DirectScratch<T>& mine = scratch.threads[thread];
      if (count > 0) packer.pack(first, count, mine.rows, mine.sums, scratch.keys + task * key_size);
    });
    std::vector<BoundPenalty> parts(static_cast<std::size_t>(heads * group * query_blocks));
    parallel_for(heads * group * query_blocks, problem.threads, [&](Index task, int thread) {
      const Index head = task / query_blocks, h = head / group;
      const Index first = task % query_blocks * size;
      const RowPacker<T>& packer = scratch.packers.query[head];
      const DirectScratch<T>& mine = scratch.threads[thread];
      const Index queries = std::min(size, packer.length - first);
      if (queries <= 0) return;
      packer.pack(first, queries, mine.rows, mine.sums, mine.query);
      BoundPenalty& part = parts[static_cast<std::size_t>(task)];
      for (Index key = 0; key < scratch.key_blocks; ++key) {
        const Index keys = std::min(size, scratch.packers.key[h].length - key * size);
        const Index diagonal = problem.causal ? first + problem.offset() + 1 - key * size : keys;
        if (keys <= 0 || diagonal + queries <= 1) continue;
        simd::ScoreStatistics<T> block;
        block.query = mine.query;
        block.key = scratch.keys + (h * scratch.key_blocks + key) * key_size;
        block.queries = queries;
        block.keys = keys;
        block.dim = problem.key_dim();
        block.diagonal = diagonal;
        block.radius = radius;
        block.scores = mine.weights;
        block.excess = &part.value;
        block.beyond = &part.overflow;
        block.largest = &part.max_abs;
        simd::backward_kernels<T>().score_statistics(block);
      }
    });
    for (const BoundPenalty& part : parts) {
      result.value += part.value;
      result.overflow += part.overflow;
      if (!(part.max_abs <= result.max_abs)) result.max_abs = part.max_abs;
    }
  }
  if (pairs > 0) {
    result.value /= pairs;
    result.overflow /= pairs;
  }
  return result;
}

// L_b, exact. Its gradient is that of Σ w(s_ij) with w = max(0, |s| − R)²: attention backward with weight w, v = 1,
// δ = 1 and o = 0.
template <class Q, class K, class T>
requires SameScalar<Q, K, T, T> BoundPenalty bound_penalty(Heads<Q> q, Heads<K> k, Heads<T> dq, Heads<T> dk,
                                                           double radius = 4, double weight = 1,
                                                           const Options& options = {}) {
  const T one = 1, zero = 0;
  BackwardProblem<T> problem;
  problem.forward = score_problem<T>(q, k, &one, dq, dk, radius, weight, options);
  Problem<T>& p = problem.forward;
  const double pairs = count_visible_pairs(p);
  p.threads = threads_for(shape_of(p), p.weight, Method::direct, options);
  const BoundPenalty result = bound_statistics(p, radius, pairs);
  if ((dq.data == nullptr && dk.data == nullptr) || pairs == 0) return result;

  const typename Heads<const T>::Shape rows{q.batch(), q.heads(), q.tokens(), 1};
  problem.output = {&zero, rows, {0, 0, 0, 0}};
  problem.normalizer = {&one, rows, {0, 0, 0, 0}};
  problem.output_gradient = {&one, rows, {0, 0, 0, 0}};
  const auto numbers = [](const auto& shape) {
    return static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]);
  };
  std::vector<T> query_gradient(numbers(q.shape)), key_gradient(numbers(k.shape)), unused(numbers(p.value.shape));
  problem.gradients = {
      {query_gradient.data(), q.shape}, {key_gradient.data(), k.shape}, {unused.data(), p.value.shape}};
  Workspace local;
  Workspace& workspace = options.workspace != nullptr ? *options.workspace : local;
  ScratchLayout layout(workspace.reserve(backward_scratch_bytes(problem, Method::direct)));
  auto scratch = DirectBackwardLayout<T>::lay_out(layout, problem);
  direct_attention_backward(problem, scratch);
  add_scaled(query_gradient, weight / pairs, dq);
  add_scaled(key_gradient, weight / pairs, dk);
  return result;
}

// The rows of one head, centred and scaled: [tokens][padded dim], zero past the length.
template <class T>
void centered_rows(const RowPacker<T>& packer, T* rows, T* packed, double* sums) {
  constexpr Index size = simd::block_tokens<T>;
  const Index stride = simd::padded_columns<T>(packer.head.dim);
  for (Index first = 0; first < packer.length; first += size)
    packer.pack(first, std::min(size, packer.length - first), rows + first * stride, sums, packed);
}

// 64 random bits from a counter (SplitMix64's finaliser, Steele et al. 2014): the same for any number of threads.
inline std::uint64_t random_bits(std::uint64_t seed, std::uint64_t counter) {
  std::uint64_t x = seed + 0x9e3779b97f4a7c15u * (counter + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// L_b from `samples` keys per query, drawn evenly from those that it sees, with replacement; each query weighs
// |J_i|/Σ|J|, so value, overflow and gradients are unbiased. max_abs is the largest of what was drawn.
template <class Q, class K, class T>
requires SameScalar<Q, K, T, T> BoundPenalty sampled_bound_penalty(Heads<Q> q, Heads<K> k, Heads<T> dq, Heads<T> dk,
                                                                   Index samples, std::uint64_t seed, double radius = 4,
                                                                   double weight = 1, const Options& options = {}) {
  constexpr Index size = simd::block_tokens<T>;
  const T one = 1;
  check(samples >= 1, "samples: is ", samples, " but must be at least 1");
  Problem<T> problem = score_problem<T>(q, k, &one, dq, dk, radius, weight, options);
  problem.threads = usable_threads(options.threads);
  const double pairs = count_visible_pairs(problem);
  const Index dim = problem.key_dim(), stride = simd::padded_columns<T>(dim), group = problem.group();
  const Index query_rows = block_count(problem.queries(), size) * size * stride;
  const Index key_rows = block_count(problem.keys(), size) * size * stride;
  BoundPenalty result;
  if (pairs == 0) return result;
  std::vector<BoundPenalty> parts(static_cast<std::size_t>(problem.key_heads()));
  const auto numbers = [](const auto& shape) {
    return static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]);
  };
  std::vector<T> query_gradient(numbers(q.shape)), key_gradient(numbers(k.shape));
  const Heads<T> query_target(query_gradient.data(), q.shape), key_target(key_gradient.data(), k.shape);

  // A key head with its group at a time, each by one thread: samples scatter into the gradients of its keys.
  ScratchLayout counter;
  Packers<T>::lay_out(counter, problem, problem.key_heads());
  Workspace workspace;
  ScratchLayout layout(workspace.reserve(counter.bytes()));
  Packers<T> packers = Packers<T>::lay_out(layout, problem, problem.key_heads());
  packers.bind(problem, 0, problem.key_heads());
  parallel_for(problem.key_heads(), problem.threads, [&](Index h, int) {
    const Index batch = h / problem.key.heads(), key_head = h % problem.key.heads();
    BoundPenalty& part = parts[static_cast<std::size_t>(h)];
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
        const Index seen = problem.keys_seen(i, packers.key[h].length);
        const T* query = queries.data() + i * stride;
        const double share = static_cast<double>(seen) / (pairs * static_cast<double>(samples));
        for (Index s = 0; s < samples && seen > 0; ++s) {
          const auto draw = static_cast<std::uint64_t>(((h * group + g) * problem.queries() + i) * samples + s);
          const Index j = static_cast<Index>(random_bits(seed, draw) % static_cast<std::uint64_t>(seen));
          const T* key = keys.data() + j * stride;
          double score = 0;
          for (Index a = 0; a < dim; ++a) score += static_cast<double>(query[a]) * static_cast<double>(key[a]);
          part.max_abs = std::max(part.max_abs, std::abs(score));
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
  for (const BoundPenalty& part : parts) {
    result.value += part.value;
    result.overflow += part.overflow;
    result.max_abs = std::max(result.max_abs, part.max_abs);
  }
  add_scaled(query_gradient, 1, dq);
  add_scaled(key_gradient, 1, dk);
  return result;
}

// L_r of one array, q or k (add the two for the paper's): −mean of logdet(XcᵀXc/L + λI), L the rows within
// options.query_length; options.query_history is x's. ∂L_r/∂Xc = −2/(L·heads·batch)·Xc·(XcᵀXc/L + λI)⁻¹.
template <class X, class T>
requires SameScalar<X, X, X, T>
double rank_penalty(Heads<X> x, Heads<T> dx, double ridge = 1e-3, double weight = 1, const Options& options = {}) {
  constexpr Index size = simd::block_tokens<T>;
  check(std::isfinite(ridge) && ridge > 0, "ridge: is ", ridge, " but must be positive and finite");
  Options centring_only = options;  // every head a key head of its own, and no scale
  centring_only.key_length = options.query_length;
  centring_only.key_history = options.query_history;
  centring_only.scale = 1;
  const T one = 1;
  Problem<T> problem = score_problem<T>(x, x, &one, dx, Heads<T>{}, 0, weight, centring_only);
  problem.threads = usable_threads(options.threads);
  const Index dim = x.dim(), stride = simd::padded_columns<T>(dim), heads = problem.key_heads();
  const Index row_cells = block_count(x.tokens(), size) * size * stride;
  std::vector<T> gradient(static_cast<std::size_t>(x.batch() * x.heads() * x.tokens() * dim));
  const Heads<T> target(gradient.data(), x.shape);
  std::vector<double> values(static_cast<std::size_t>(heads));

  ScratchLayout counter;
  Packers<T>::lay_out(counter, problem, heads);
  Workspace workspace;
  ScratchLayout layout(workspace.reserve(counter.bytes()));
  Packers<T> packers = Packers<T>::lay_out(layout, problem, heads);
  packers.bind(problem, 0, heads);
  parallel_for(heads, problem.threads, [&](Index h, int) {
    const RowPacker<T>& packer = packers.key[h];
    const auto cells = [](Index count) { return static_cast<std::size_t>(count); };
    std::vector<T> rows(cells(row_cells)), packed(cells(RowPacker<T>::packed_size(dim))),
        copy(cells(RowPacker<T>::scratch_rows(dim)));
    std::vector<double> sums(cells(simd::padded_columns<double>(dim)));
    centered_rows(packer, rows.data(), packed.data(), sums.data());
    const double length = static_cast<double>(std::max<Index>(packer.length, 1));
    Matrix<double> centered = Matrix<double>::Zero(packer.length, dim);
    for (Index t = 0; t < packer.length; ++t)
      for (Index a = 0; a < dim; ++a) centered(t, a) = static_cast<double>(rows[cells(t * stride + a)]);
    const Matrix<double> covariance =
        centered.transpose() * centered / length + ridge * Matrix<double>::Identity(dim, dim);
    const Eigen::LLT<Matrix<double>> factor(covariance);
    values[cells(h)] = -2 * Matrix<double>(factor.matrixL()).diagonal().array().log().sum();
    const Matrix<double> slope =
        factor.solve(centered.transpose()).transpose() * (-2 / (length * static_cast<double>(heads)) * weight);
    for (Index t = 0; t < packer.length; ++t)
      for (Index a = 0; a < dim; ++a) rows[cells(t * stride + a)] = static_cast<T>(slope(t, a));
    write_input_gradient(packer, 1, rows.data(), sums.data(), packed.data(), copy.data(),
                         target.head(h / x.heads(), h % x.heads()));
  });
  double sum = 0;
  for (const double value : values) sum += value;
  add_scaled(gradient, 1, dx);
  return heads > 0 ? sum / static_cast<double>(heads) : 0;
}

}  // namespace csq

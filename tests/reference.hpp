// The definition of attention as plain loops: what every kernel is compared with. Shares no code with the library, so
// that a mistake in one is not a mistake in both; slow on purpose.
//
//   s_ij = α q_i·k_j,   δ_i = Σ_{j visible} w(s_ij),   o_i = Σ_{j visible} w(s_ij) v_j / δ_i
//
// with q and k centred first. Softmax: the row statistic is ln δ_i instead of δ_i.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include "real.hpp"

namespace reference {

using Index = std::int64_t;
using ::Real;

// [batch, heads, tokens, dim], contiguous.
struct Tensor {
  Index batch = 0, heads = 0, tokens = 0, dim = 0;
  std::vector<double> values;

  Tensor() = default;
  Tensor(Index b, Index h, Index t, Index d)
      : batch(b), heads(h), tokens(t), dim(d), values(static_cast<std::size_t>(b * h * t * d)) {}

  double& operator()(Index b, Index h, Index t, Index a) { return values[offset(b, h, t, a)]; }
  double operator()(Index b, Index h, Index t, Index a) const { return values[offset(b, h, t, a)]; }

 private:
  std::size_t offset(Index b, Index h, Index t, Index a) const {
    return static_cast<std::size_t>(((b * heads + h) * tokens + t) * dim + a);
  }
};

struct Weight {
  enum class Kind { of_score, exponential, feature_product };

  Kind kind = Kind::of_score;
  std::function<Real(Real)> of_score;  // w(s), for Kind::of_score only
  // The same with every term positive: w at |α| Σ_a |q_a k_a| is what a sum of features adds up on its way to w(s).
  std::function<Real(Real)> magnitude;
};

enum class Centre { none, sequence, prefix, prefix_exclusive };

// `count[b]` rows of mean `mean[b, head, dim]` came before the call.
struct History {
  std::vector<Index> count;
  std::vector<double> mean;
};

struct Call {
  Tensor q, k, v;
  Weight weight;
  std::optional<double> scale;
  bool causal = false;
  Centre centre = Centre::none;
  std::vector<Index> key_length, query_length;  // empty: all
  std::optional<History> query_history, key_history;
  Index window{};              // 0: none
  std::vector<double> sink{};  // one number a query head; empty: none
  double soft_cap{};           // 0: none
  Tensor bias{};               // [batch, heads, queries, keys], axes of size 1 mean all; no batch: none
  Tensor log_gate{};           // [batch, gate heads, keys, 1]; no batch: none
};

struct Result {
  Tensor output, statistic;  // statistic: the normaliser, for softmax its logarithm; dim 1
  Tensor condition;          // Σ_j magnitude / δ_i: how much rounding of the features is amplified; dim 1, else 0
};

// Rows of one head minus their means, [tokens][dim].
inline std::vector<std::vector<Real>> centred_rows(const Tensor& x, Index b, Index h, Centre centre, Index length,
                                                   const std::optional<History>& history) {
  const auto tokens = static_cast<std::size_t>(x.tokens);
  const auto dim = static_cast<std::size_t>(x.dim);
  std::vector<std::vector<Real>> rows(tokens, std::vector<Real>(dim));
  for (std::size_t a = 0; a < dim; ++a) {
    const auto value = [&](std::size_t t) { return Real(x(b, h, Index(t), Index(a))); };
    Real sum = 0;    // of the rows so far, the history's included
    Real count = 0;  // of the rows so far
    if (history) {
      count = Real(history->count[static_cast<std::size_t>(b)]);
      sum = count * Real(history->mean[static_cast<std::size_t>((b * x.heads + h) * x.dim) + a]);
    }
    if (centre == Centre::sequence) {
      for (std::size_t t = 0; t < static_cast<std::size_t>(length); ++t) sum += value(t);
      count = Real(length);
    }
    for (std::size_t t = 0; t < tokens; ++t) {
      if (centre == Centre::prefix) {
        sum += value(t);
        count += 1;
      }
      const Real mean = centre == Centre::none || count == 0 ? 0 : sum / count;
      rows[t][a] = value(t) - mean;
      if (centre == Centre::prefix_exclusive) {
        sum += value(t);
        count += 1;
      }
    }
  }
  return rows;
}

// Query i sees key j.
inline bool visible(const Call& call, Index b, Index i, Index j) {
  const auto at = static_cast<std::size_t>(b);
  if (!call.key_length.empty() && j >= call.key_length[at]) return false;
  if (!call.query_length.empty() && i >= call.query_length[at]) return false;
  const Index position = i + (call.k.tokens - call.q.tokens);
  if (call.window > 0 && (j <= position - call.window || j >= position + call.window)) return false;
  return !call.causal || j <= position;
}

// ln of what gates leave of key j at query i: Σ ℓ_t over j < t ≤ p, one after another.
inline Real log_decay(const Call& call, Index b, Index h, Index i, Index j) {
  if (call.log_gate.batch == 0) return 0;
  const Index head = call.log_gate.heads == call.q.heads ? h : h / (call.q.heads / call.k.heads);
  const Index position = i + (call.k.tokens - call.q.tokens);
  const Index end = call.key_length.empty() ? call.k.tokens : call.key_length[static_cast<std::size_t>(b)];
  Real sum = 0;
  for (Index t = j + 1; t <= position && t < end; ++t) {
    const double gate = call.log_gate(b, head, t, 0);
    sum += gate < -1e4 ? Real(-1e4) : Real(gate);
  }
  return sum;
}
inline Real bias_of(const Call& call, Index b, Index h, Index i, Index j) {
  const Tensor& x = call.bias;
  if (x.batch == 0) return 0;
  return Real(x(x.batch == 1 ? 0 : b, x.heads == 1 ? 0 : h, x.tokens == 1 ? 0 : i, x.dim == 1 ? 0 : j));
}

inline Real elu_plus_one(Real x) { return x > 0 ? x + 1 : std::exp(x); }

// Only the query rows listed: result row r is query rows[r].
inline Result attention(const Call& call, const std::vector<Index>& rows) {
  const Index queries = call.q.tokens, keys = call.k.tokens, dim = call.q.dim, value_dim = call.v.dim;
  const Index group = call.q.heads / call.k.heads;
  const Real scale = call.scale ? Real(*call.scale) : 1 / std::sqrt(Real(dim));
  const bool softmax = call.weight.kind == Weight::Kind::exponential;
  Result result{Tensor(call.q.batch, call.q.heads, Index(rows.size()), value_dim),
                Tensor(call.q.batch, call.q.heads, Index(rows.size()), 1),
                Tensor(call.q.batch, call.q.heads, Index(rows.size()), 1)};
  for (Index b = 0; b < call.q.batch; ++b) {
    const auto batch = static_cast<std::size_t>(b);
    const Index query_length = call.query_length.empty() ? queries : call.query_length[batch];
    const Index key_length = call.key_length.empty() ? keys : call.key_length[batch];
    for (Index h = 0; h < call.q.heads; ++h) {
      const auto q = centred_rows(call.q, b, h, call.centre, query_length, call.query_history);
      const auto k = centred_rows(call.k, b, h / group, call.centre, key_length, call.key_history);
      for (std::size_t r = 0; r < rows.size(); ++r) {
        const Index i = rows[r];
        std::vector<Index> seen;
        std::vector<Real> weight;
        Real maximum = -std::numeric_limits<Real>::infinity();
        Real magnitude = 0;
        for (Index j = 0; j < keys; ++j) {
          if (!visible(call, b, i, j)) continue;
          Real product = 0, absolute = 0;
          for (std::size_t a = 0; a < static_cast<std::size_t>(dim); ++a) {
            const Real x = q[static_cast<std::size_t>(i)][a], y = k[static_cast<std::size_t>(j)][a];
            product += call.weight.kind == Weight::Kind::feature_product ? elu_plus_one(x) * elu_plus_one(y) : x * y;
            absolute += std::abs(scale * x * y);
          }
          Real score = scale * product;
          if (call.soft_cap > 0) score = call.soft_cap * std::tanh(score / call.soft_cap);
          const Real gate = log_decay(call, b, h, i, j);
          if (softmax) score += gate + bias_of(call, b, h, i, j);
          seen.push_back(j);
          switch (call.weight.kind) {
            case Weight::Kind::of_score:
              weight.push_back(call.weight.of_score(score) * std::exp(gate));
              break;
            case Weight::Kind::exponential:
              weight.push_back(score);
              break;
            case Weight::Kind::feature_product:
              weight.push_back(product * std::exp(gate));
              break;
          }
          maximum = std::max(maximum, score);
          if (call.weight.magnitude) magnitude += call.weight.magnitude(absolute) * std::exp(gate);
        }
        const bool has_sink = !call.sink.empty() && i < query_length;
        const Real sink = has_sink ? Real(call.sink[static_cast<std::size_t>(h)]) : 0;
        if (has_sink) maximum = std::max(maximum, sink);
        // Scores of −∞ alone weigh nothing; NaN, which std::max passes over, stays.
        const bool none = std::all_of(weight.begin(), weight.end(),
                                      [](Real score) { return score == -std::numeric_limits<Real>::infinity(); });
        if (softmax)
          for (Real& w : weight) w = none ? 0 : std::exp(w - maximum);
        Real normalizer = std::accumulate(weight.begin(), weight.end(), Real(0));
        if (has_sink) normalizer += std::exp(sink - maximum);
        result.statistic(b, h, Index(r), 0) = double(softmax ? maximum + std::log(normalizer) : normalizer);
        if (seen.empty()) {
          result.statistic(b, h, Index(r), 0) = has_sink  ? double(sink)
                                                : softmax ? -std::numeric_limits<double>::infinity()
                                                          : 0;
          continue;
        }
        if (normalizer != 0) result.condition(b, h, Index(r), 0) = double(magnitude / std::abs(normalizer));
        for (Index a = 0; a < value_dim; ++a) {
          Real sum = 0;
          for (std::size_t s = 0; s < seen.size(); ++s) sum += weight[s] * Real(call.v(b, h / group, seen[s], a));
          Real row = sum / normalizer;
          if (normalizer == 0) row = 0;
          if (normalizer < 0) row = std::numeric_limits<Real>::quiet_NaN();
          result.output(b, h, Index(r), a) = double(row);
        }
      }
    }
  }
  return result;
}

inline Result attention(const Call& call) {
  std::vector<Index> rows(static_cast<std::size_t>(call.q.tokens));
  std::iota(rows.begin(), rows.end(), Index{0});
  return attention(call, rows);
}

struct BoundPenalty {
  double value = 0, max_abs = 0, overflow = 0;
};

// Mean over the visible pairs of all heads and batches of max(0, |s| − radius)²; largest |s|; share of |s| > radius.
inline BoundPenalty bound_penalty(const Call& call, double radius) {
  const Index group = call.q.heads / call.k.heads;
  const Real scale = call.scale ? Real(*call.scale) : 1 / std::sqrt(Real(call.q.dim));
  Real excess = 0, largest = 0, pairs = 0, beyond = 0;
  for (Index b = 0; b < call.q.batch; ++b) {
    const auto batch = static_cast<std::size_t>(b);
    const Index query_length = call.query_length.empty() ? call.q.tokens : call.query_length[batch];
    const Index key_length = call.key_length.empty() ? call.k.tokens : call.key_length[batch];
    for (Index h = 0; h < call.q.heads; ++h) {
      const auto q = centred_rows(call.q, b, h, call.centre, query_length, call.query_history);
      const auto k = centred_rows(call.k, b, h / group, call.centre, key_length, call.key_history);
      for (Index i = 0; i < call.q.tokens; ++i)
        for (Index j = 0; j < call.k.tokens; ++j) {
          if (!visible(call, b, i, j)) continue;
          const auto& x = q[static_cast<std::size_t>(i)];
          const auto& y = k[static_cast<std::size_t>(j)];
          const Real score = std::abs(scale * std::inner_product(x.begin(), x.end(), y.begin(), Real(0)));
          pairs += 1;
          largest = std::max(largest, score);
          if (score <= radius) continue;
          beyond += 1;
          excess += (score - radius) * (score - radius);
        }
    }
  }
  if (pairs == 0) return {};
  return {double(excess / pairs), double(largest), double(beyond / pairs)};
}

// −mean over heads and batches of logdet(XᵀX/L + ridge·I), X the centred queries within the length L.
inline double rank_penalty(const Call& call, double ridge) {
  const auto dim = static_cast<std::size_t>(call.q.dim);
  Real sum = 0;
  for (Index b = 0; b < call.q.batch; ++b) {
    const Index length = call.query_length.empty() ? call.q.tokens : call.query_length[static_cast<std::size_t>(b)];
    for (Index h = 0; h < call.q.heads; ++h) {
      const auto x = centred_rows(call.q, b, h, call.centre, length, call.query_history);
      std::vector<std::vector<Real>> matrix(dim, std::vector<Real>(dim));
      for (std::size_t a = 0; a < dim; ++a) {
        for (std::size_t c = 0; c < dim; ++c)
          for (std::size_t t = 0; t < static_cast<std::size_t>(length); ++t)
            matrix[a][c] += x[t][a] * x[t][c] / Real(length);
        matrix[a][a] += ridge;
      }
      for (std::size_t pivot = 0; pivot < dim; ++pivot) {  // elimination; the determinant is the product of the pivots
        sum -= std::log(matrix[pivot][pivot]);
        for (std::size_t row = pivot + 1; row < dim; ++row)
          for (std::size_t c = dim; c-- > pivot;)
            matrix[row][c] -= matrix[row][pivot] / matrix[pivot][pivot] * matrix[pivot][c];
      }
    }
  }
  return call.q.batch == 0 ? 0 : double(sum / Real(call.q.batch * call.q.heads));
}

}  // namespace reference

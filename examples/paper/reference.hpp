// The transformer of model.hpp once more, in plain loops and double, sharing no code with it but the parameter table:
// what the model and its gradients are checked against.
//
//   reference_forward    one sequence → logits [n, V] and, for every layer and head, A [n, n], centred q and k [n, d]
//   reference_loss       the loss of a batch, penalties included (training.hpp)
//   check_gradient       ∂loss/∂parameters against central differences of a reference loss, elements of every parameter
#pragma once

#include <complex>
#include <cstdio>

#include "training.hpp"

namespace paper {

using Table = std::vector<std::vector<double>>;  // [rows][columns]

struct ReferenceHead {
  Table query, key;  // centred, [n, d]
  Table attention;   // A [n, n], rows sum to one
};
struct ReferenceLayer {
  Table input;  // LN₁(x), [n, C]
  std::vector<ReferenceHead> heads;
};
struct ReferenceForward {
  Table logits;  // [n, V]
  std::vector<ReferenceLayer> layers;
};

inline std::size_t cell(Index index) { return static_cast<std::size_t>(index); }

inline Table reference_linear(const double* p, const LinearParameters& linear, const Table& x) {
  Table y;
  for (const auto& row : x) {
    std::vector<double> out;
    for (Index o = 0; o < linear.weight.rows; ++o) {
      double sum = p[linear.bias.offset + o];
      for (Index i = 0; i < linear.weight.columns; ++i)
        sum += p[linear.weight.offset + o * linear.weight.columns + i] * row[cell(i)];
      out.push_back(sum);
    }
    y.push_back(out);
  }
  return y;
}

inline Table reference_norm(const double* p, const NormParameters& norm, const Table& x) {
  Table y = x;
  for (auto& row : y) {
    const double width = static_cast<double>(row.size());
    double mean = 0, variance = 0;
    for (const double value : row) mean += value / width;
    for (const double value : row) variance += (value - mean) * (value - mean) / width;
    for (std::size_t i = 0; i < row.size(); ++i)
      row[i] = (row[i] - mean) / std::sqrt(variance + 1e-5) * p[norm.gain.offset + static_cast<Index>(i)] +
               p[norm.bias.offset + static_cast<Index>(i)];
  }
  return y;
}

inline Table reference_centered(const Table& x, csq::Centering centering) {
  Table y = x;
  for (std::size_t i = 0; i < x.size(); ++i) {
    std::size_t rows = 0;
    if (centering == csq::Centering::sequence) rows = x.size();
    if (centering == csq::Centering::prefix) rows = i + 1;
    if (centering == csq::Centering::prefix_exclusive) rows = i;
    for (std::size_t t = 0; t < rows; ++t)
      for (std::size_t a = 0; a < x[i].size(); ++a) y[i][a] -= x[t][a] / static_cast<double>(rows);
  }
  return y;
}

// Row i as d/2 complex numbers x_a + i·x_(a+d/2), each times e^(i·angle).
inline Table reference_rotated(const Table& x) {
  Table y = x;
  for (std::size_t i = 0; i < x.size(); ++i)
    for (std::size_t a = 0, half = x[i].size() / 2; a < half; ++a) {
      const double rate = std::pow(10000.0, -2.0 * static_cast<double>(a) / static_cast<double>(x[i].size()));
      const auto turned =
          std::complex<double>(x[i][a], x[i][a + half]) * std::polar(1.0, static_cast<double>(i) * rate);
      y[i][a] = turned.real();
      y[i][a + half] = turned.imag();
    }
  return y;
}

inline double reference_dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// w of one pair; the scores are αq·k with α = 1/√d.
inline double reference_weight(const Mechanism& mechanism, const std::vector<double>& q, const std::vector<double>& k) {
  const double s = reference_dot(q, k) / std::sqrt(static_cast<double>(q.size()));
  if (std::holds_alternative<csq::Softmax>(mechanism)) return std::exp(s);
  if (std::holds_alternative<csq::Squared>(mechanism)) return s * s;
  if (const auto* shifted = std::get_if<csq::ShiftedQuadratic>(&mechanism)) return std::pow(s + shifted->shift, 2);
  if (const auto* csq = std::get_if<csq::Csq>(&mechanism)) return std::pow(s + csq->shift, 2);
  if (std::holds_alternative<csq::Taylor>(mechanism)) return 1 + s + s * s / 2;
  if (const auto* general = std::get_if<csq::Quadratic>(&mechanism))
    return general->c0 + general->c1 * s + general->c2 * s * s;
  if (const auto* poly = std::get_if<csq::Polynomial>(&mechanism)) {
    double sum = 0;
    for (std::size_t t = 0; t < poly->coefficients.size(); ++t)
      sum += poly->coefficients[t] * std::pow(s, static_cast<double>(t));
    return sum;
  }
  if (const auto* poly = std::get_if<csq::PositivePolynomial>(&mechanism)) {
    double root = 0, before = 1, now = s / poly->radius;  // T₀, T₁
    for (std::size_t t = 0; t < poly->root.size(); ++t) {
      root += poly->root[t] * before;
      const double next = 2 * (s / poly->radius) * now - before;
      before = now;
      now = next;
    }
    return root * root + poly->floor;
  }
  double sum = 0;  // Linear
  for (std::size_t a = 0; a < q.size(); ++a) {
    const auto phi = [](double x) { return x > 0 ? x + 1 : std::exp(x); };
    sum += phi(q[a]) * phi(k[a]);
  }
  return sum;
}

inline ReferenceForward reference_forward(const ModelConfig& config, const ParameterTable& table, const double* p,
                                          const Index* tokens, Index length) {
  ReferenceForward result;
  Table x;
  for (Index i = 0; i < length; ++i) {
    x.emplace_back();
    for (Index c = 0; c < config.d_model; ++c)
      x.back().push_back(p[table.token.offset + tokens[i] * config.d_model + c] +
                         (config.rotary ? 0 : p[table.position.offset + i * config.d_model + c]));
  }
  const auto add = [&](const Table& y) {
    for (std::size_t i = 0; i < x.size(); ++i)
      for (std::size_t c = 0; c < x[i].size(); ++c) x[i][c] += y[i][c];
  };
  for (std::size_t l = 0; l < config.attention.size(); ++l) {
    const AttentionSettings& settings = config.attention[l];
    ReferenceLayer layer;
    layer.input = reference_norm(p, table.layers[l].norm1, x);
    const Table qkv = reference_linear(p, table.layers[l].qkv, layer.input);
    const Table gates = table.layers[l].gate ? reference_linear(p, *table.layers[l].gate, layer.input) : Table();
    Table attended(cell(length));
    for (Index h = 0; h < config.heads; ++h) {
      std::array<Table, 3> parts;  // q, k, v of this head
      for (std::size_t part = 0; part < 3; ++part)
        for (const auto& row : qkv) {
          const auto start = row.begin() + (static_cast<Index>(part) * config.heads + h) * config.head_dim;
          parts[part].emplace_back(start, start + config.head_dim);
        }
      if (config.rotary) {
        parts[0] = reference_rotated(parts[0]);
        parts[1] = reference_rotated(parts[1]);
      }
      ReferenceHead head{reference_centered(parts[0], settings.resolved_centering()),
                         reference_centered(parts[1], settings.resolved_centering()),
                         Table(cell(length), std::vector<double>(cell(length)))};
      for (std::size_t i = 0; i < cell(length); ++i) {
        const std::size_t seen = settings.causal ? i + 1 : cell(length);
        double normalizer = 0;
        for (std::size_t j = 0; j < seen; ++j) {
          double weight = reference_weight(settings.mechanism, head.query[i], head.key[j]);
          for (std::size_t t = j + 1; !gates.empty() && t <= i; ++t) weight /= 1 + std::exp(-gates[t][cell(h)]);
          normalizer += head.attention[i][j] = weight;
        }
        for (std::size_t j = 0; j < seen; ++j) head.attention[i][j] /= normalizer;
        for (std::size_t a = 0; a < cell(config.head_dim); ++a) {
          double sum = 0;
          for (std::size_t j = 0; j < seen; ++j) sum += head.attention[i][j] * parts[2][j][a];
          attended[i].push_back(sum);
        }
      }
      layer.heads.push_back(head);
    }
    add(reference_linear(p, table.layers[l].projection, attended));
    result.layers.push_back(layer);
    Table hidden = reference_linear(p, table.layers[l].up, reference_norm(p, table.layers[l].norm2, x));
    for (auto& row : hidden)
      for (double& value : row) value *= 0.5 * (1 + std::erf(value / std::numbers::sqrt2));
    add(reference_linear(p, table.layers[l].down, hidden));
  }
  result.logits = reference_linear(p, table.head, reference_norm(p, table.norm, x));
  return result;
}

inline double reference_cross_entropy(const std::vector<double>& logits, Index target) {
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit - logits[cell(target)]);
  return std::log(sum);
}

// −logdet(XᵀX/n + λI) by Gaussian elimination.
inline double reference_rank_penalty(const Table& x, double ridge) {
  const std::size_t dim = x.front().size();
  Table a(dim, std::vector<double>(dim));
  for (std::size_t i = 0; i < dim; ++i)
    for (std::size_t j = 0; j < dim; ++j) {
      for (const auto& row : x) a[i][j] += row[i] * row[j] / static_cast<double>(x.size());
      if (i == j) a[i][j] += ridge;
    }
  double log_determinant = 0;
  for (std::size_t pivot = 0; pivot < dim; ++pivot) {
    log_determinant += std::log(a[pivot][pivot]);
    for (std::size_t i = pivot + 1; i < dim; ++i)
      for (std::size_t j = dim; j-- > pivot;) a[i][j] -= a[i][pivot] / a[pivot][pivot] * a[pivot][j];
  }
  return -log_determinant;
}

inline double reference_loss(const ModelConfig& config, const ParameterTable& table, const double* p,
                             const Batch& batch, const Penalties& penalties) {
  const double heads = static_cast<double>(batch.sequences * config.heads);
  const double marked = static_cast<double>(batch.marked());
  double loss = 0;
  for (Index b = 0; b < batch.sequences; ++b) {
    const ReferenceForward f = reference_forward(config, table, p, &batch.tokens[cell(b * batch.length)], batch.length);
    for (Index i = 0; i < batch.length; ++i) {
      const Index target = batch.targets[cell(b * batch.length + i)];
      if (target >= 0) loss += reference_cross_entropy(f.logits[cell(i)], target) / marked;
    }
    if (!penalties.any()) continue;
    for (std::size_t l = 0; l < f.layers.size(); ++l)
      for (const ReferenceHead& head : f.layers[l].heads) {
        double excess = 0, pairs = 0;
        for (std::size_t i = 0; i < head.query.size(); ++i)
          for (std::size_t j = 0; j < (config.attention[l].causal ? i + 1 : head.key.size()); ++j, ++pairs) {
            const double s =
                reference_dot(head.query[i], head.key[j]) / std::sqrt(static_cast<double>(config.head_dim));
            excess += std::pow(std::max(0.0, std::abs(s) - penalties.radius), 2);
          }
        loss += penalties.bound * excess / pairs / heads;
        loss +=
            penalties.rank *
            (reference_rank_penalty(head.query, penalties.ridge) + reference_rank_penalty(head.key, penalties.ridge)) /
            heads;
      }
  }
  return loss;
}

// Central differences of loss(parameters) at `elements` elements of every parameter. The error of an element is
// |difference − gradient| / (|gradient| + rms of the whole gradient); returns the largest.
template <class Loss>
double check_gradient(const Model<double>& model, const std::vector<double>& gradient, Index elements,
                      std::uint64_t seed, const Loss& loss) {
  constexpr double step = 1e-5;
  const double typical = global_norm(gradient) / std::sqrt(static_cast<double>(gradient.size()));
  std::vector<double> parameters = model.parameters;
  double largest = 0;
  std::uint64_t draw = 0;
  for (const Parameter& parameter : model.table.all)
    for (Index e = 0; e < elements; ++e) {
      const std::size_t at = cell(parameter.offset + random_index(seed, draw++, parameter.size()));
      const double value = parameters[at];
      parameters[at] = value + step;
      const double up = loss(parameters.data());
      parameters[at] = value - step;
      const double down = loss(parameters.data());
      parameters[at] = value;
      const double error = std::abs((up - down) / (2 * step) - gradient[at]) / (std::abs(gradient[at]) + typical);
      if (!(error <= largest)) largest = error;
    }
  return largest;
}

}  // namespace paper

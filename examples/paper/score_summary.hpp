// What the scores of a trained model look like: Z = α·Qc·Kcᵀ, after the layer's centring and scale.
//
//   max|Z|, Pr(|Z| > R)     over visible pairs, heads and layers (csq/penalties.hpp)
//   stable rank             ‖X‖_F²/σ_max²(X) of Qc and of Kc [n, d], mean over heads, layers and sequences
#pragma once

#include <Eigen/Eigenvalues>
#include <cmath>

#include "training.hpp"

namespace paper {

struct ScoreSummary {
  double max_abs = 0;
  std::array<double, 2> overflow{};  // Pr(|Z| > radius), for two radii
  double query_rank = 0, key_rank = 0;
  double weight = 0;  // sequences and layers that were seen

  // Adds `more`; overflow and ranks are means by weight.
  void add(const ScoreSummary& more) {
    if (more.weight == 0) return;
    const double mine = weight / (weight + more.weight), theirs = more.weight / (weight + more.weight);
    if (more.max_abs > max_abs || std::isnan(more.max_abs)) max_abs = more.max_abs;
    for (std::size_t r = 0; r < overflow.size(); ++r) overflow[r] = mine * overflow[r] + theirs * more.overflow[r];
    query_rank = mine * query_rank + theirs * more.query_rank;
    key_rank = mine * key_rank + theirs * more.key_rank;
    weight += more.weight;
  }
};

// Rows of one head, centred, in double.
template <class T>
Matrix<double> centered_head(const csq::Head<const T>& head, csq::Centering centering) {
  Matrix<double> x(head.tokens, head.dim);
  for (Index i = 0; i < head.tokens; ++i)
    for (Index a = 0; a < head.dim; ++a) x(i, a) = static_cast<double>(head(i, a));
  if (centering == csq::Centering::none) return x;
  if (centering == csq::Centering::sequence) return x.rowwise() - x.colwise().mean();
  const bool inclusive = centering == csq::Centering::prefix;
  Eigen::RowVectorXd sum = Eigen::RowVectorXd::Zero(head.dim);  // of the rows before
  for (Index i = 0; i < head.tokens; ++i) {
    const Eigen::RowVectorXd row = x.row(i);
    const Index rows = inclusive ? i + 1 : i;
    if (rows > 0) x.row(i) -= (inclusive ? Eigen::RowVectorXd(sum + row) : sum) / static_cast<double>(rows);
    sum += row;
  }
  return x;
}

inline double stable_rank(const Matrix<double>& x) {
  const Eigen::MatrixXd gram = x.transpose() * x;
  const double largest =
      Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(gram, Eigen::EigenvaluesOnly).eigenvalues().maxCoeff();
  return largest == 0 ? 0 : gram.trace() / largest;  // NaN where the scores are
}

// All layers of one chunk that have scores: Linear has none.
template <class T>
ScoreSummary summarise_scores(const Model<T>& model, const Activations<T>& a, const std::array<double, 2>& radii) {
  ScoreSummary summary;
  const double each = 1 / static_cast<double>(a.shape.sequences * a.shape.heads);
  for (std::size_t layer = 0; layer < a.layers.size(); ++layer) {
    const AttentionSettings& settings = model.config.attention[layer];
    if (std::holds_alternative<csq::Linear>(settings.mechanism)) continue;
    const csq::Options options = settings.options(nullptr);
    ScoreSummary mine;
    mine.weight = static_cast<double>(a.shape.sequences);
    for (std::size_t r = 0; r < radii.size(); ++r) {
      const csq::BoundPenalty bound =
          csq::bound_penalty(a.query(layer), a.key(layer), Heads<T>{}, Heads<T>{}, radii[r], 1, options);
      mine.max_abs = bound.max_abs;
      mine.overflow[r] = bound.overflow;
    }
    for (Index b = 0; b < a.shape.sequences; ++b)
      for (Index h = 0; h < a.shape.heads; ++h) {
        mine.query_rank += each * stable_rank(centered_head(a.query(layer).head(b, h), options.centering));
        mine.key_rank += each * stable_rank(centered_head(a.key(layer).head(b, h), options.centering));
      }
    summary.add(mine);
  }
  return summary;
}

}  // namespace paper

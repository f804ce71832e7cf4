// The paper's theorems about attention as a function of M, the matrix between queries and keys:
//
//   S = scale·X·M·Yᵀ + B      X [n, d], M [d, e], Y [m, e], B [n, m]      P = row map of S, one row at a time
//
//   3.1  pullback       ∂J/∂M = scale·Xᵀ·G·Y with G = ∂J/∂S, in a space of dimension rank(X)·rank(Y)
//   4.1  Jacobian rank  rank D_M P = r(r − ε) for softmax, Y = X, r = rank(X), ε = 1 when the ones vector lies in
//   col(X) 5.5  swap bound     sup‖o_exp − o_P‖ ≤ 4e^R·B_V·η for |s| ≤ R, |P − exp| ≤ η ≤ e^{−R}/2 there, B_V =
//   max‖v_j‖ 6.8  no-go          L(2w² + 3) ≥ p for L degree-2 blocks of width w that reach p independent outputs
//        surrogate      ‖Xᵀ(A_s − A_t)X‖²_F, the distillation's loss on two attention matrices
//
// The row map is the library's: P is its output for V = I, G what its backward pass makes of ∂J/∂P. Everything is in
// double. Source: "The d² Pullback Theorem: Why Attention is a d²-Dimensional Problem" (2026).
#pragma once

#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <csq/csq.hpp>
#include <numbers>

namespace paper {

using csq::Index;
using Matrix = csq::Matrix<double>;

// ---------------------------------------------------------------------------------------------------------------------
// Attention matrices and their gradients, through the library
// ---------------------------------------------------------------------------------------------------------------------

// S as q·kᵀ with a scale of 1, bias included: q = [scale·X·M, B], k = [Y, I].
struct Scores {
  Matrix query, key;
};

inline Scores scores_of(const Matrix& x, const Matrix& m, const Matrix& y, double scale) { return {scale * x * m, y}; }

inline Scores scores_of(const Matrix& x, const Matrix& m, const Matrix& y, double scale, const Matrix& bias) {
  Scores scores{Matrix(x.rows(), m.cols() + y.rows()), Matrix(y.rows(), m.cols() + y.rows())};
  scores.query << scale * x * m, bias;
  scores.key << y, Matrix::Identity(y.rows(), y.rows());
  return scores;
}

// P [n, m].
template <class Mechanism>
Matrix attention_matrix(const Mechanism& mechanism, const Scores& scores, bool causal) {
  const Matrix identity = Matrix::Identity(scores.key.rows(), scores.key.rows());
  return csq::attention(mechanism, scores.query, scores.key, identity, {.scale = 1, .causal = causal, .threads = 1});
}

// ∂J/∂query = G·key, J a function of the output P·V with gradient `slope`.
template <class Mechanism>
Matrix query_gradient(const Mechanism& mechanism, const Scores& scores, const Matrix& value, const Matrix& slope,
                      bool causal) {
  const Matrix &query = scores.query, &key = scores.key;
  const csq::Options options{.scale = 1, .causal = causal, .threads = 1};
  Matrix out, normalizer, dq(query.rows(), query.cols()), dk(key.rows(), key.cols()), dv(value.rows(), value.cols());
  csq::attention(mechanism, query, key, value, out, normalizer, options);
  csq::attention_backward(mechanism, csq::heads_of(query), csq::heads_of(key), csq::heads_of(value), csq::heads_of(out),
                          csq::heads_of(normalizer), csq::heads_of(slope),
                          {csq::heads_of(dq), csq::heads_of(dk), csq::heads_of(dv)}, options);
  return dq;
}

// The same for J a function of P itself, V = I.
template <class Mechanism>
Matrix query_gradient(const Mechanism& mechanism, const Scores& scores, const Matrix& slope, bool causal) {
  return query_gradient(mechanism, scores, Matrix::Identity(scores.key.rows(), scores.key.rows()), slope, causal);
}

// G = ∂J/∂S [n, m]: with keys I the queries are the scores.
template <class Mechanism>
Matrix score_gradient(const Mechanism& mechanism, const Matrix& s, const Matrix& slope, bool causal) {
  return query_gradient(mechanism, {s, Matrix::Identity(s.cols(), s.cols())}, slope, causal);
}

// ---------------------------------------------------------------------------------------------------------------------
// 3.1 and 4.1: the pullback and the Jacobian
// ---------------------------------------------------------------------------------------------------------------------

// 3.1: ∂J/∂M [d, e].
inline Matrix pullback_gradient(const Matrix& x, const Matrix& g, const Matrix& y, double scale) {
  return scale * x.transpose() * g * y;
}

// D_M P [n·m, d·e] at M, no bias: row i·m + j holds ∂P_ij/∂M. Row i of P depends on row i of the queries alone, so one
// backward call with V = e_j, whose output is column j of P, gives ∂P_ij/∂M for all i: scale·X_iᵀ·(G·Y)_i.
template <class Mechanism>
Matrix jacobian(const Mechanism& mechanism, const Matrix& x, const Matrix& m, const Matrix& y, double scale,
                bool causal) {
  const Index rows = x.rows(), columns = y.rows(), d = m.rows(), e = m.cols();
  const Scores scores = scores_of(x, m, y, scale);
  Matrix result(rows * columns, d * e);
  for (Index j = 0; j < columns; ++j) {
    const Matrix dq =
        query_gradient(mechanism, scores, Matrix::Identity(columns, columns).col(j), Matrix::Ones(rows, 1), causal);
    for (Index i = 0; i < rows; ++i)
      for (Index a = 0; a < d; ++a) result.row(i * columns + j).segment(a * e, e) = scale * x(i, a) * dq.row(i);
  }
  return result;
}

// Singular values above `threshold` times the largest.
inline Index numerical_rank(const Matrix& matrix, double threshold = 1e-10) {
  const Eigen::JacobiSVD<Eigen::MatrixXd, Eigen::HouseholderQRPreconditioner> svd(matrix);
  const auto& values = svd.singularValues();
  return values.size() == 0 || values(0) == 0 ? 0 : (values.array() > threshold * values(0)).count();
}

// Whether the ones vector lies in the column space of x.
inline bool spans_ones(const Matrix& x) {
  Matrix extended(x.rows(), x.cols() + 1);
  extended << x, Matrix::Ones(x.rows(), 1);
  return numerical_rank(extended) == numerical_rank(x);
}

// ---------------------------------------------------------------------------------------------------------------------
// 5.5: the same-depth replacement of exp
// ---------------------------------------------------------------------------------------------------------------------

// P = r² + floor of the given even degree, r the Chebyshev series of e^{x/2} on [−radius, radius] cut after degree/2,
// its coefficients by the discrete cosine sum at many more nodes than it keeps.
inline csq::PositivePolynomial exponential_polynomial(int degree, double radius, double floor = 1e-12) {
  const int kept = degree / 2 + 1, nodes = 4 * kept + 8 * static_cast<int>(std::ceil(radius)) + 32;
  csq::PositivePolynomial polynomial{{}, radius, floor};
  for (int t = 0; t < kept; ++t) {
    double sum = 0;
    for (int node = 0; node < nodes; ++node) {
      const double angle = std::numbers::pi * (node + 0.5) / nodes;
      sum += std::exp(radius / 2 * std::cos(angle)) * std::cos(t * angle);
    }
    polynomial.root.push_back((t == 0 ? 1 : 2) * sum / nodes);
  }
  return polynomial;
}

// P(s), by Clenshaw's recurrence.
inline double value_at(const csq::PositivePolynomial& polynomial, double s) {
  const double x = s / polynomial.radius;
  double b1 = 0, b2 = 0;
  for (std::size_t t = polynomial.root.size() - 1; t > 0; --t) {
    const double b0 = polynomial.root[t] + 2 * x * b1 - b2;
    b2 = b1;
    b1 = b0;
  }
  const double r = polynomial.root[0] + x * b1 - b2;
  return r * r + polynomial.floor;
}

// η = sup|P − exp| on [−radius, radius], on an even grid that holds both ends.
inline double exponential_error(const csq::PositivePolynomial& polynomial) {
  constexpr int steps = 20000;
  double largest = 0;
  for (int i = 0; i <= steps; ++i) {
    const double s = polynomial.radius * (2.0 * i / steps - 1);
    largest = std::max(largest, std::abs(value_at(polynomial, s) - std::exp(s)));
  }
  return largest;
}

struct SwapBound {
  double error = 0;         // η
  double bound = 0;         // 4e^R·B_V·η
  bool applicable = false;  // η ≤ e^{−R}/2; otherwise the theorem says nothing
};

// `largest_value` is B_V = max_j ‖v_j‖; the polynomial's radius is R.
inline SwapBound swap_bound(const csq::PositivePolynomial& polynomial, double largest_value) {
  const double error = exponential_error(polynomial), radius = polynomial.radius;
  return {error, 4 * std::exp(radius) * largest_value * error, error <= std::exp(-radius) / 2};
}

// ---------------------------------------------------------------------------------------------------------------------
// 6.8 and the surrogate loss
// ---------------------------------------------------------------------------------------------------------------------

// The fewest blocks of width w whose 2w² + 3 parameters each reach p independent outputs.
inline Index no_go_depth(Index p, Index width) {
  const Index parameters = 2 * width * width + 3;
  return (p + parameters - 1) / parameters;
}

// ‖Xᵀ(A_s − A_t)X‖²_F for attention matrices [n, n] and X [n, d], and its gradient by A_s, 2·X·(Xᵀ(A_s − A_t)X)·Xᵀ.
inline double surrogate_loss(const Matrix& x, const Matrix& student, const Matrix& teacher) {
  return (x.transpose() * (student - teacher) * x).squaredNorm();
}
inline Matrix surrogate_gradient(const Matrix& x, const Matrix& student, const Matrix& teacher) {
  return 2 * x * (x.transpose() * (student - teacher) * x) * x.transpose();
}

}  // namespace paper

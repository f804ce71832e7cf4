// The paper's theorems about attention as a function of M, the matrix between queries and keys:
//
//   S = scale·X·M·Yᵀ + B      X [n, d], M [d, e], Y [m, e], B [n, m]      P = row map of S, one row at a time
//
//   3.1  pullback       ∂J/∂M = scale·Xᵀ·G·Y with G = ∂J/∂S, in a space of dimension rank(X)·rank(Y)
//   4.1  Jacobian rank  rank D_M P = r(r − ε) for softmax and Y = X; r = rank(X), ε = 1 when col(X) holds the ones
//                       vector
//   5.5  swap bound     swap_bound.hpp
//   6.8  no-go          L(2w² + 3) ≥ p for L degree-2 blocks of width w that reach p independent outputs
//        surrogate      ‖Xᵀ(A_s − A_t)X‖²_F, the distillation's loss on two attention matrices
//
// The row map is the library's: P is its output for V = I, G what its backward pass makes of ∂J/∂P. Everything is in
// double. Source: "The d² Pullback Theorem: Why Attention is a d²-Dimensional Problem" (2026).
#pragma once

#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <csq/csq.hpp>

#include "swap_bound.hpp"

namespace paper {

using csq::Index;
using DoubleMatrix = csq::Matrix<double>;

// ---------------------------------------------------------------------------------------------------------------------
// Attention matrices and their gradients, through the library
// ---------------------------------------------------------------------------------------------------------------------

// S as q·kᵀ with a scale of 1, bias included: q = [scale·X·M, B], k = [Y, I].
struct Scores {
  DoubleMatrix query, key;
};

inline Scores scores_of(const DoubleMatrix& x, const DoubleMatrix& m, const DoubleMatrix& y, double scale) {
  return {scale * x * m, y};
}

inline Scores scores_of(const DoubleMatrix& x, const DoubleMatrix& m, const DoubleMatrix& y, double scale,
                        const DoubleMatrix& bias) {
  Scores scores{DoubleMatrix(x.rows(), m.cols() + y.rows()), DoubleMatrix(y.rows(), m.cols() + y.rows())};
  scores.query << scale * x * m, bias;
  scores.key << y, DoubleMatrix::Identity(y.rows(), y.rows());
  return scores;
}

// P [n, m].
template <class Mechanism>
DoubleMatrix attention_matrix(const Mechanism& mechanism, const Scores& scores, bool causal) {
  const DoubleMatrix identity = DoubleMatrix::Identity(scores.key.rows(), scores.key.rows());
  return csq::attention(mechanism, scores.query, scores.key, identity, {.scale = 1, .causal = causal, .threads = 1});
}

// ∂J/∂query = G·key, J a function of the output P·V with gradient `slope`.
template <class Mechanism>
DoubleMatrix query_gradient(const Mechanism& mechanism, const Scores& scores, const DoubleMatrix& value,
                            const DoubleMatrix& slope, bool causal) {
  const DoubleMatrix &query = scores.query, &key = scores.key;
  const csq::Options options{.scale = 1, .causal = causal, .threads = 1};
  DoubleMatrix out, normalizer, dq(query.rows(), query.cols()), dk(key.rows(), key.cols()),
      dv(value.rows(), value.cols());
  csq::attention(mechanism, query, key, value, out, normalizer, options);
  csq::attention_backward(mechanism, csq::heads_of(query), csq::heads_of(key), csq::heads_of(value), csq::heads_of(out),
                          csq::heads_of(normalizer), csq::heads_of(slope),
                          {csq::heads_of(dq), csq::heads_of(dk), csq::heads_of(dv)}, options);
  return dq;
}

// The same for J a function of P itself, V = I.
template <class Mechanism>
DoubleMatrix query_gradient(const Mechanism& mechanism, const Scores& scores, const DoubleMatrix& slope, bool causal) {
  return query_gradient(mechanism, scores, DoubleMatrix::Identity(scores.key.rows(), scores.key.rows()), slope, causal);
}

// G = ∂J/∂S [n, m]: with keys I the queries are the scores.
template <class Mechanism>
DoubleMatrix score_gradient(const Mechanism& mechanism, const DoubleMatrix& s, const DoubleMatrix& slope, bool causal) {
  return query_gradient(mechanism, {s, DoubleMatrix::Identity(s.cols(), s.cols())}, slope, causal);
}

// ---------------------------------------------------------------------------------------------------------------------
// 3.1 and 4.1: the pullback and the Jacobian
// ---------------------------------------------------------------------------------------------------------------------

// 3.1: ∂J/∂M [d, e].
inline DoubleMatrix pullback_gradient(const DoubleMatrix& x, const DoubleMatrix& g, const DoubleMatrix& y,
                                      double scale) {
  return scale * x.transpose() * g * y;
}

// D_M P [n·m, d·e] at M, no bias: row i·m + j holds ∂P_ij/∂M. Row i of P depends on row i of the queries alone, so one
// backward call with V = e_j, whose output is column j of P, gives ∂P_ij/∂M for all i: scale·X_iᵀ·(G·Y)_i.
template <class Mechanism>
DoubleMatrix jacobian(const Mechanism& mechanism, const DoubleMatrix& x, const DoubleMatrix& m, const DoubleMatrix& y,
                      double scale, bool causal) {
  const Index rows = x.rows(), columns = y.rows(), d = m.rows(), e = m.cols();
  const Scores scores = scores_of(x, m, y, scale);
  DoubleMatrix result(rows * columns, d * e);
  for (Index j = 0; j < columns; ++j) {
    const DoubleMatrix dq = query_gradient(mechanism, scores, DoubleMatrix::Identity(columns, columns).col(j),
                                           DoubleMatrix::Ones(rows, 1), causal);
    for (Index i = 0; i < rows; ++i)
      for (Index a = 0; a < d; ++a) result.row(i * columns + j).segment(a * e, e) = scale * x(i, a) * dq.row(i);
  }
  return result;
}

// Singular values above `threshold` times the largest.
inline Index numerical_rank(const DoubleMatrix& matrix, double threshold = 1e-10) {
  const Eigen::JacobiSVD<Eigen::MatrixXd, Eigen::HouseholderQRPreconditioner> svd(matrix);
  const auto& values = svd.singularValues();
  return values.size() == 0 || values(0) == 0 ? 0 : (values.array() > threshold * values(0)).count();
}

// Whether the ones vector lies in the column space of x.
inline bool spans_ones(const DoubleMatrix& x) {
  DoubleMatrix extended(x.rows(), x.cols() + 1);
  extended << x, DoubleMatrix::Ones(x.rows(), 1);
  return numerical_rank(extended) == numerical_rank(x);
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
inline double surrogate_loss(const DoubleMatrix& x, const DoubleMatrix& student, const DoubleMatrix& teacher) {
  return (x.transpose() * (student - teacher) * x).squaredNorm();
}
inline DoubleMatrix surrogate_gradient(const DoubleMatrix& x, const DoubleMatrix& student,
                                       const DoubleMatrix& teacher) {
  return 2 * x * (x.transpose() * (student - teacher) * x) * x.transpose();
}

}  // namespace paper

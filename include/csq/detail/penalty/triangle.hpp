// logdet(XᵀX/n + λI) and products with its inverse, without ever forming XᵀX, which would square the condition number:
//
//   QR of the stacked rows [X/√n; √λ·I] leaves an upper triangle R with RᵀR = XᵀX/n + λI
//   logdet = 2·Σ log|r_aa|        x·(XᵀX/n + λI)⁻¹ by two substitutions with R
//
// R starts as √λ·I and takes up a block of rows at a time by Householder reflections: 2·d² multiply-adds a row, memory
// d² whatever n, errors ε·‖X‖ beside √λ where a Cholesky of the covariance has ε·‖X‖² beside λ. All in double, no
// allocation and no exception: it runs inside tasks.
#pragma once

#include <algorithm>
#include <cmath>

#include "csq/detail/base/arena.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

class Triangle {
 public:
  // Columns and rows that loops of a fixed length run over.
  static constexpr Index lanes = 8;
  static Index padded(Index dim) { return block_count(dim, lanes) * lanes; }

  // Rows of a block are padded to padded(dim), zero past dim.
  static Triangle lay_out(Arena& arena, Index dim) {
    Triangle triangle;
    triangle.dim_ = dim;
    triangle.stride_ = padded(dim);
    triangle.rows_ = arena.template take<double>(checked_product(dim, triangle.stride_, "workspace"));
    triangle.projection_ = arena.template take<double>(triangle.stride_);
    return triangle;
  }

  void start(double ridge) const {
    std::fill_n(rows_, dim_ * stride_, 0.0);
    for (Index a = 0; a < dim_; ++a) row(a)[a] = std::sqrt(ridge);
  }

  // RᵀR += Σ_t x_tᵀx_t for the rows of `block` [count][padded(dim)], which are used up.
  void absorb(double* block, Index count) const {
    for (Index a = 0; a < dim_; ++a) {
      // The column below the diagonal, over its largest element: no square overflows or vanishes.
      double largest = std::abs(row(a)[a]);
      for (Index t = 0; t < count; ++t) largest = larger(largest, std::abs(block[t * stride_ + a]));
      double squares = square(row(a)[a] / largest);
      for (Index t = 0; t < count; ++t) squares += square(block[t * stride_ + a] / largest);
      const double norm = largest * std::sqrt(squares), diagonal = row(a)[a];
      // v = [first, column] with first of the sign that adds; scaled so that its first element is 1.
      const double first = diagonal + (diagonal < 0 ? -norm : norm);
      const double factor = first / (diagonal < 0 ? -norm : norm);
      for (Index t = 0; t < count; ++t) block[t * stride_ + a] /= first;
      const Index from = a / lanes * lanes;  // what is left of it is not read again
      std::copy(row(a) + from, row(a) + stride_, projection_ + from);
      for (Index t = 0; t < count; ++t)
        add_multiple(block[t * stride_ + a], block + t * stride_ + from, projection_ + from, stride_ - from);
      for (Index b = from; b <= a; ++b) projection_[b] = 0;
      add_multiple(-factor, projection_ + from, row(a) + from, stride_ - from);
      row(a)[a] = diagonal < 0 ? norm : -norm;
      for (Index t = 0; t < count; ++t)
        add_multiple(-factor * block[t * stride_ + a], projection_ + from, block + t * stride_ + from, stride_ - from);
    }
  }

  double log_determinant() const {
    double sum = 0;
    for (Index a = 0; a < dim_; ++a) sum += std::log(std::abs(row(a)[a]));
    return 2 * sum;
  }

  // columns ← (RᵀR)⁻¹·columns, [dim][lanes]: as many right-hand sides at a time.
  void solve(double* columns) const {
    for (Index a = 0; a < dim_; ++a) {
      for (Index b = 0; b < a; ++b) add_multiple(-row(b)[a], columns + b * lanes, columns + a * lanes, lanes);
      for (Index lane = 0; lane < lanes; ++lane) columns[a * lanes + lane] /= row(a)[a];
    }
    for (Index a = dim_ - 1; a >= 0; --a) {
      for (Index b = a + 1; b < dim_; ++b) add_multiple(-row(a)[b], columns + b * lanes, columns + a * lanes, lanes);
      for (Index lane = 0; lane < lanes; ++lane) columns[a * lanes + lane] /= row(a)[a];
    }
  }

 private:
  static double square(double x) { return x * x; }
  // to += factor·from, a multiple of `lanes` elements that do not overlap: the inner loop has a fixed length, so that
  // it becomes vectors at -O2 too.
  static void add_multiple(double factor, const double* from, double* to, Index count) {
    for (Index first = 0; first < count; first += lanes) {
      double sum[std::size_t{lanes}];
      for (Index lane = 0; lane < lanes; ++lane) sum[lane] = to[first + lane] + factor * from[first + lane];
      for (Index lane = 0; lane < lanes; ++lane) to[first + lane] = sum[lane];
    }
  }
  double* row(Index a) const { return rows_ + a * stride_; }

  Index dim_ = 0, stride_ = 0;
  double* rows_ = nullptr;        // R, [dim][stride], zero below the diagonal
  double* projection_ = nullptr;  // [stride]
};

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail

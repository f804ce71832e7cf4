// The rank penalty, a training loss that keeps q and k spread over all directions:
//
//   L_r = −mean over heads (and batch) of logdet(Xcᵀ·Xc/L + λI)                    Xc the centred rows of q or k
//
// O(L·d² + d³) per head, in double. Returns the value and adds weight·∂L_r/∂x, through the centring, to dx; a view
// without data asks for the value alone. Source: the paper, §8.
#pragma once

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <vector>

#include "csq/detail/penalty/scores.hpp"

namespace CSQ_CODE::detail {

// L_r of one array, q or k (add the two for the paper's): −mean of logdet(XcᵀXc/L + λI), L the rows within
// options.query_length; options.query_history is x's. ∂L_r/∂Xc = −2/(L·heads·batch)·Xc·(XcᵀXc/L + λI)⁻¹.
template <class T>
double rank_penalty(const Heads<const T>& x, const Heads<T>& dx, double ridge, double weight, const Options& options) {
  constexpr Index size = simd::block_tokens<T>;
  require(is_finite(ridge) && ridge > 0, "ridge: is ", ridge, " but must be positive and finite");
  check_heads("x", x);
  if (dx.data != nullptr) {
    check_shape_like("dx", dx, "x", x);
    check_no_self_overlap("dx", dx);
    check_not_same("dx", dx, "x", x);
  }
  check_lengths("query_length", options.query_length, x.batch(), x.tokens());
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

  Arena counter;
  Packers<T>::lay_out(counter, problem, heads);
  Workspace workspace;
  Arena arena(workspace.reserve(counter.bytes()));
  Packers<T> packers = Packers<T>::lay_out(arena, problem, heads);
  packers.bind(problem, 0, heads);
  parallel_for(heads, problem.threads, [&](Index h, int) {
    const RowPacker<T>& packer = packers.key[h];
    const auto cells = [](Index count) { return static_cast<std::size_t>(count); };
    std::vector<T> rows(cells(row_cells)), packed(cells(RowPacker<T>::packed_size(dim))),
        copy(cells(RowPacker<T>::scratch_rows(dim)));
    std::vector<double> sums(cells(simd::padded_columns<double>(dim)));
    centered_rows(packer, rows.data(), packed.data(), sums.data());
    const double length = static_cast<double>(larger<Index>(packer.length, 1));
    Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> centered =
        Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>::Zero(packer.length, dim);
    for (Index t = 0; t < packer.length; ++t)
      for (Index a = 0; a < dim; ++a) centered(t, a) = static_cast<double>(rows[cells(t * stride + a)]);
    const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> covariance =
        centered.transpose() * centered / length +
        ridge * Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>::Identity(dim, dim);
    const Eigen::LLT<Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> factor(covariance);
    values[cells(h)] = -2 * Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>(factor.matrixL())
                                .diagonal()
                                .array()
                                .log()
                                .sum();
    const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> slope =
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

}  // namespace CSQ_CODE::detail

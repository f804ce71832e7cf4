// Compiled for the machine at hand, since Eigen's speed follows the unit's flags. Eigen's alignment stays that of the
// other units, whose copies of its functions may be the ones that are linked.
#define EIGEN_MAX_ALIGN_BYTES 16
#include "eigen_softmax.hpp"

#include <Eigen/Core>
#include <cmath>

namespace bench {

void eigen_softmax(const float* q, const float* k, const float* v, float* out, long n, long m, long d) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Input = Eigen::Map<const Matrix>;
  thread_local Matrix scores;
  scores.noalias() = Input(q, n, d) * Input(k, m, d).transpose();
  scores *= 1 / std::sqrt(static_cast<float>(d));
  scores.colwise() -= scores.rowwise().maxCoeff().eval();
  scores = scores.array().exp();
  const Eigen::VectorXf sum = scores.rowwise().sum();
  Eigen::Map<Matrix> result(out, n, d);
  result.noalias() = scores * Input(v, m, d);
  result.array().colwise() /= sum.array();
}

}  // namespace bench

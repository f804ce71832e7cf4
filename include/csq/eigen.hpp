// Eigen's matrices as heads, and attention on them.
#pragma once

#include <Eigen/Core>
#include <concepts>
#include <type_traits>

#include "csq/attention.hpp"

namespace CSQ_CODE {

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// A dense Eigen object of any kind, and one whose elements lie in memory: a matrix, map or block, not an expression.
template <class X>
concept EigenDense = std::derived_from<std::remove_cvref_t<X>, Eigen::DenseBase<std::remove_cvref_t<X>>>;
template <class X>
concept EigenInMemory = EigenDense<X> && requires(X& matrix) {
  matrix.data();
  matrix.innerStride();
  matrix.outerStride();
};

// One head seen in any Eigen matrix, map or block, of either storage order: [1, 1, rows, columns].
template <class X>
requires EigenDense<X>
auto heads_of(X&& matrix) {
  static_assert(EigenInMemory<std::remove_reference_t<X>>,
                "csq::heads_of: an expression has no memory to view; evaluate it into a matrix first");
  static_assert(std::is_lvalue_reference_v<X> ||
                    !std::derived_from<std::remove_cvref_t<X>, Eigen::PlainObjectBase<std::remove_cvref_t<X>>>,
                "csq::heads_of: a temporary matrix would be gone before its view is used");
  using T = std::remove_pointer_t<decltype(matrix.data())>;
  const Index inner = matrix.innerStride();
  const Index outer = matrix.outerStride();
  const Index row = std::remove_cvref_t<X>::IsRowMajor ? outer : inner;
  const Index column = std::remove_cvref_t<X>::IsRowMajor ? inner : outer;
  return Heads<T>(matrix.data(), {1, 1, matrix.rows(), matrix.cols()},
                  {row * matrix.rows(), row * matrix.rows(), row, column});
}

// One sentence about matrices that cannot go together.
template <class Q, class K, class V>
constexpr void require_one_scalar() {
  using T = typename Q::Scalar;
  static_assert(std::same_as<T, float> || std::same_as<T, double>, "csq: matrices are of float or double");
  static_assert(std::same_as<T, typename K::Scalar> && std::same_as<T, typename V::Scalar>,
                "csq: q, k and v must have the same scalar type");
}

// `matrix` itself when it has the size already, else a new one that takes its place once the call has succeeded.
template <class T, class Call>
void with_size(Matrix<T>& matrix, Index rows, Index columns, const Call& call) {
  if (matrix.rows() == rows && matrix.cols() == columns) return call(matrix);
  Matrix<T> sized(rows, columns);
  call(sized);
  matrix.swap(sized);
}

// One head: q n×d, k m×d, v m×dᵥ are any Eigen matrices, maps or blocks. `out` becomes n×dᵥ, `normalizer` n×1; neither
// may be one of the inputs. (To write into another kind of matrix, pass heads_of(it) with heads_of the inputs.)
template <class M, EigenDense Q, EigenDense K, EigenDense V, class T = typename Q::Scalar>
void attention(const M& mechanism, const Q& q, const K& k, const V& v, Matrix<T>& out, const Options& options = {}) {
  require_one_scalar<Q, K, V>();
  const Heads<const T> query = heads_of(q), key = heads_of(k), value = heads_of(v);
  detail::check(
      out.data() == nullptr || (out.data() != query.data && out.data() != key.data && out.data() != value.data),
      "out: an output may not be one of the inputs");
  with_size(out, q.rows(), v.cols(),
            [&](Matrix<T>& result) { attention(mechanism, query, key, value, heads_of(result), options); });
}
template <class M, EigenDense Q, EigenDense K, EigenDense V, class T = typename Q::Scalar>
void attention(const M& mechanism, const Q& q, const K& k, const V& v, Matrix<T>& out, Matrix<T>& normalizer,
               const Options& options = {}) {
  require_one_scalar<Q, K, V>();
  const Heads<const T> query = heads_of(q), key = heads_of(k), value = heads_of(v);
  for (const Matrix<T>* output : {&out, &normalizer})
    detail::check(output->data() == nullptr ||
                      (output->data() != query.data && output->data() != key.data && output->data() != value.data),
                  output == &out ? "out" : "normalizer", ": an output may not be one of the inputs");
  detail::check(&normalizer != &out, "normalizer: an output may not be another argument");
  with_size(out, q.rows(), v.cols(), [&](Matrix<T>& result) {
    with_size(normalizer, q.rows(), Index{1}, [&](Matrix<T>& statistic) {
      attention(mechanism, query, key, value, heads_of(result), heads_of(statistic), options);
    });
  });
}
template <class M, EigenDense Q, EigenDense K, EigenDense V, class T = typename Q::Scalar>
Matrix<T> attention(const M& mechanism, const Q& q, const K& k, const V& v, const Options& options = {}) {
  Matrix<T> out;
  attention(mechanism, q, k, v, out, options);
  return out;
}

}  // namespace CSQ_CODE

// Eigen's matrices as heads, and attention on them.
#pragma once

#include <Eigen/Core>
#include <concepts>
#include <type_traits>

#include "csq/attention.hpp"

namespace CSQ_CODE {

// Row-major. Not aligned by Eigen: how it aligns, and so frees, follows a unit's flags, and units of one program that
// differ in them would free each other's matrices. Kernels ask for no alignment.
template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic,
                             static_cast<int>(Eigen::RowMajor) | static_cast<int>(Eigen::DontAlign)>;

// A dense Eigen object of any kind, and one whose elements lie in memory: a matrix, map or block, not an expression.
template <class Dense>
concept EigenDense = std::derived_from<std::remove_cvref_t<Dense>, Eigen::DenseBase<std::remove_cvref_t<Dense>>>;
template <class Dense>
concept EigenInMemory = EigenDense<Dense> && requires(Dense& matrix) {
  matrix.data();
  matrix.innerStride();
  matrix.outerStride();
};

// One head seen in any Eigen matrix, map or block, of either storage order: [1, 1, rows, columns].
template <class Dense>
requires EigenDense<Dense>
auto heads_of(Dense&& matrix) {
  static_assert(EigenInMemory<std::remove_reference_t<Dense>>,
                "csq::heads_of: an expression has no memory to view; evaluate it into a matrix first");
  static_assert(std::is_lvalue_reference_v<Dense> ||
                    !std::derived_from<std::remove_cvref_t<Dense>, Eigen::PlainObjectBase<std::remove_cvref_t<Dense>>>,
                "csq::heads_of: a temporary matrix would be gone before its view is used");
  using T = std::remove_pointer_t<decltype(matrix.data())>;
  const Index inner = matrix.innerStride();
  const Index outer = matrix.outerStride();
  const Index row = std::remove_cvref_t<Dense>::IsRowMajor ? outer : inner;
  const Index column = std::remove_cvref_t<Dense>::IsRowMajor ? inner : outer;
  return Heads<T>(matrix.data(), {1, 1, matrix.rows(), matrix.cols()},
                  {row * matrix.rows(), row * matrix.rows(), row, column});
}

// One sentence about matrices that cannot go together.
template <class Query, class Key, class Value>
constexpr void require_one_scalar() {
  using T = typename Query::Scalar;
  static_assert(std::same_as<T, float> || std::same_as<T, double>, "csq: matrices are of float or double");
  static_assert(std::same_as<T, typename Key::Scalar> && std::same_as<T, typename Value::Scalar>,
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
template <class Mechanism, EigenDense Query, EigenDense Key, EigenDense Value, class T = typename Query::Scalar>
void attention(const Mechanism& mechanism, const Query& q, const Key& k, const Value& v, Matrix<T>& out,
               const Options& options = {}) {
  require_one_scalar<Query, Key, Value>();
  const Heads<const T> query = heads_of(q), key = heads_of(k), value = heads_of(v);
  detail::require(
      out.data() == nullptr || (out.data() != query.data && out.data() != key.data && out.data() != value.data),
      "out: an output may not be one of the inputs");
  with_size(out, q.rows(), v.cols(),
            [&](Matrix<T>& result) { attention(mechanism, query, key, value, heads_of(result), options); });
}
template <class Mechanism, EigenDense Query, EigenDense Key, EigenDense Value, class T = typename Query::Scalar>
void attention(const Mechanism& mechanism, const Query& q, const Key& k, const Value& v, Matrix<T>& out,
               Matrix<T>& normalizer, const Options& options = {}) {
  require_one_scalar<Query, Key, Value>();
  const Heads<const T> query = heads_of(q), key = heads_of(k), value = heads_of(v);
  for (const Matrix<T>* output : {&out, &normalizer})
    detail::require(output->data() == nullptr ||
                        (output->data() != query.data && output->data() != key.data && output->data() != value.data),
                    output == &out ? "out" : "normalizer", ": an output may not be one of the inputs");
  detail::require(&normalizer != &out, "normalizer: an output may not be another argument");
  with_size(out, q.rows(), v.cols(), [&](Matrix<T>& result) {
    with_size(normalizer, q.rows(), Index{1}, [&](Matrix<T>& statistic) {
      attention(mechanism, query, key, value, heads_of(result), heads_of(statistic), options);
    });
  });
}
template <class Mechanism, EigenDense Query, EigenDense Key, EigenDense Value, class T = typename Query::Scalar>
Matrix<T> attention(const Mechanism& mechanism, const Query& q, const Key& k, const Value& v,
                    const Options& options = {}) {
  Matrix<T> out;
  attention(mechanism, q, k, v, out, options);
  return out;
}

}  // namespace CSQ_CODE

// Attention on whatever Eigen holds in memory, read and written: the numbers are those of a plain csq::Matrix.
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "catch.hpp"
#include "problem.hpp"

namespace {

constexpr int tokens = 6, dim = 4;

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using ColumnMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
template <class T>
using Vector = Eigen::Matrix<T, Eigen::Dynamic, 1>;
template <class T>
using RowVector = Eigen::Matrix<T, 1, Eigen::Dynamic>;

// Classes of a user's own.
template <class T>
struct Activations : csq::Matrix<T> {
  using csq::Matrix<T>::Matrix;
  int layer = 3;
};
template <class T>
struct Columns : ColumnMajor<T> {
  using ColumnMajor<T>::ColumnMajor;
};

template <class T>
csq::Matrix<T> random_matrix(Random& random, Index rows, Index columns) {
  csq::Matrix<T> matrix(rows, columns);
  for (Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = static_cast<T>(random.normal());
  return matrix;
}

template <class T>
struct Call {
  csq::Matrix<T> q, k, v, out, normalizer;

  explicit Call(Random& random, Index queries = tokens, Index key_dim = dim, Index value_dim = dim) {
    q = random_matrix<T>(random, queries, key_dim);
    k = random_matrix<T>(random, tokens, key_dim);
    v = random_matrix<T>(random, tokens, value_dim);
    csq::attention(csq::Taylor{}, q, k, v, out, normalizer);
  }
};

template <class Source, class Target>
void copy(const Source& source, Target&& target) {
  for (Index row = 0; row < source.rows(); ++row)
    for (Index column = 0; column < source.cols(); ++column) target(row, column) = source(row, column);
}
// Up to rounding: rows that are not contiguous are divided, others multiplied by a reciprocal.
template <class One, class Other>
bool equal(const One& one, const Other& other) {
  using T = typename One::Scalar;
  if (one.rows() != other.rows() || one.cols() != other.cols()) return false;
  for (Index row = 0; row < one.rows(); ++row)
    for (Index column = 0; column < one.cols(); ++column)
      if (!(std::abs(one(row, column) - other(row, column)) <= 8 * std::numeric_limits<T>::epsilon())) return false;
  return true;
}

// see(storage) is an object of some kind: as each input, as the output, as the normaliser and in backward. Of the
// storage nothing else is written.
template <class T, class Storage, class See>
void check_kind(const Call<T>& call, Storage blank, const See& see) {
  blank.setConstant(T(-7.5));
  Storage q = blank, k = blank, v = blank, out = blank, expected = blank;
  copy(call.q, see(q));
  copy(call.k, see(k));
  copy(call.v, see(v));
  copy(call.out, see(expected));
  CHECK(csq::attention(csq::Taylor{}, see(q), call.k, call.v) == call.out);
  CHECK(csq::attention(csq::Taylor{}, call.q, see(k), call.v) == call.out);
  CHECK(csq::attention(csq::Taylor{}, call.q, call.k, see(v)) == call.out);

  csq::attention(csq::Taylor{}, see(q), see(k), see(v), see(out));
  CHECK(equal(out, expected));
  out = blank;
  csq::Matrix<T> normalizer;
  csq::attention(csq::Taylor{}, see(q), see(k), see(v), see(out), normalizer, {.threads = 2});
  CHECK(equal(out, expected));
  CHECK(normalizer == call.normalizer);

  csq::Matrix<T> dq(tokens, dim), dk(tokens, dim), dv(tokens, dim), same_dq(tokens, dim);
  csq::attention_backward(csq::Taylor{}, call.q, call.k, call.v, call.out, normalizer, call.v,
                          {csq::heads_of(same_dq), csq::heads_of(dk), csq::heads_of(dv)});
  csq::attention_backward(csq::Taylor{}, see(q), see(k), see(v), see(out), normalizer, see(v),
                          {csq::heads_of(dq), csq::heads_of(dk), csq::heads_of(dv)});
  CHECK(equal(dq, same_dq));
}

template <class Function>
std::string error_of(const Function& function) {
  try {
    function();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

constexpr auto itself = [](auto& matrix) -> auto& { return matrix; };

}  // namespace

TEST_CASE("matrices, arrays and classes derived from them") {
  Random random(31);
  for_float_and_double([&]<class T>() {
    const Call<T> call(random);
    check_kind(call, csq::Matrix<T>(tokens, dim), itself);
    check_kind(call, RowMajor<T>(tokens, dim), itself);
    check_kind(call, ColumnMajor<T>(tokens, dim), itself);
    check_kind(call, Eigen::Matrix<T, tokens, dim>(), itself);
    check_kind(call, Eigen::Array<T, Eigen::Dynamic, Eigen::Dynamic>(tokens, dim), itself);
    check_kind(call, Activations<T>(tokens, dim), itself);
    check_kind(call, Columns<T>(tokens, dim), itself);
  });
}

TEST_CASE("views of matrices") {
  Random random(32);
  for_float_and_double([&]<class T>() {
    const Call<T> call(random);
    const csq::Matrix<T> large(3 * tokens, 3 * dim);
    check_kind(call, large, [](auto& x) { return x.block(2, 3, tokens, dim); });
    check_kind(call, large, [](auto& x) { return x.template block<tokens, dim>(2, 3); });
    check_kind(call, ColumnMajor<T>(large), [](auto& x) { return x.topLeftCorner(tokens, dim); });
    check_kind(call, csq::Matrix<T>(tokens, 3 * dim), [](auto& x) { return x.middleCols(dim, dim); });
    check_kind(call, Activations<T>(3 * tokens, dim), [](auto& x) { return x.bottomRows(tokens); });
    check_kind(call, csq::Matrix<T>(dim, tokens), [](auto& x) { return x.transpose(); });
    check_kind(call, csq::Matrix<T>(tokens, dim), [](auto& x) { return x.array(); });
    check_kind(call, csq::Matrix<T>(tokens, dim), [](auto& x) { return Eigen::Ref<csq::Matrix<T>>(x); });
    check_kind(call, Vector<T>(tokens * dim),
               [](auto& x) { return Eigen::Map<csq::Matrix<T>>(x.data(), tokens, dim); });
    check_kind(call, Vector<T>(tokens * dim),
               [](auto& x) { return Eigen::Map<ColumnMajor<T>>(x.data(), tokens, dim); });
    check_kind(call, large, [](auto& x) {
      using Stride = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
      return Eigen::Map<csq::Matrix<T>, 0, Stride>(x.data() + 5, tokens, dim, Stride(3 * dim, 2));
    });
  });
}

TEST_CASE("vectors and their parts are matrices of one column or one row") {
  Random random(33);
  for_float_and_double([&]<class T>() {
    const Call<T> narrow(random, tokens, 1, 1), one(random, 1);
    Vector<T> q(2 * tokens), k(2 * tokens), v(2 * tokens), out = Vector<T>::Constant(2 * tokens + 1, 7);
    q.head(tokens) = narrow.q;
    k.segment(3, tokens) = narrow.k;
    v.tail(tokens) = narrow.v;
    CHECK(csq::attention(csq::Taylor{}, q.head(tokens), k.segment(3, tokens), v.tail(tokens)) == narrow.out);
    csq::attention(csq::Taylor{}, narrow.q, narrow.k, narrow.v, out.head(tokens), out.tail(tokens));
    CHECK(equal(out.head(tokens), narrow.out));
    CHECK(out(tokens) == 7);
    CHECK(equal(out.tail(tokens), narrow.normalizer));
    csq::Matrix<T> columns = csq::Matrix<T>::Constant(tokens, 3, 7);
    csq::attention(csq::Taylor{}, narrow.q, narrow.k, narrow.v, columns.col(1));
    CHECK(equal(columns.col(1), narrow.out));
    CHECK((columns.col(0).array() == 7).all());

    const Vector<T> column = one.q.transpose();
    CHECK(csq::attention(csq::Taylor{}, column.transpose(), one.k, one.v) == one.out);
    CHECK(csq::attention(csq::Taylor{}, RowVector<T>(one.q), one.k, one.v) == one.out);
    csq::Matrix<T> rows = csq::Matrix<T>::Constant(3, dim, 7);
    csq::attention(csq::Taylor{}, one.q.row(0), one.k, one.v, rows.row(1));
    CHECK(equal(rows.row(1), one.out));
    CHECK((rows.row(0).array() == 7).all());
    CHECK((rows.row(2).array() == 7).all());
  });
}

TEST_CASE("a matrix takes the size of the output, and keeps what it holds when the call fails") {
  Random random(34);
  for_float_and_double([&]<class T>() {
    const Call<T> call(random), narrow(random, tokens, dim, 1), one(random, 1);
    const auto check_takes = [&](const Call<T>& wanted, auto out, auto normalizer) {
      out.setConstant(T(7));
      const auto before = out;
      csq::Matrix<T> wrong = wanted.k.leftCols(dim - 1);
      CHECK_THROWS_AS(csq::attention(csq::Taylor{}, wanted.q, wrong, wanted.v, out, normalizer), std::invalid_argument);
      CHECK(equal(out, before));
      csq::attention(csq::Taylor{}, wanted.q, wanted.k, wanted.v, out, normalizer);
      CHECK(equal(out, wanted.out));
      CHECK(equal(normalizer, wanted.normalizer));
    };
    check_takes(call, csq::Matrix<T>(), Vector<T>());
    check_takes(call, ColumnMajor<T>::Ones(2, 3).eval(), ColumnMajor<T>());
    check_takes(call, Activations<T>(2, 3), Activations<T>());
    check_takes(call, Eigen::Array<T, Eigen::Dynamic, dim>(3, dim), Eigen::Matrix<T, tokens, 1>());
    check_takes(call, Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor, 8, 8>(2, 2), Vector<T>());
    check_takes(narrow, Vector<T>(), Vector<T>());
    check_takes(one, RowVector<T>(), csq::Matrix<T>());

    Activations<T> kept;
    kept.layer = 5;
    csq::attention(csq::Taylor{}, call.q, call.k, call.v, kept);
    CHECK(kept.layer == 5);
  });
}

TEST_CASE("what cannot take another size is an error that names both") {
  Random random(35);
  const Call<float> call(random);
  const auto refused = [&](auto&& out) {
    return error_of([&] { csq::attention(csq::Taylor{}, call.q, call.k, call.v, out); }) ==
           "csq: out: shape is [1, 1, " + std::to_string(out.rows()) + ", " + std::to_string(out.cols()) +
               "] but must be [1, 1, 6, 4]";
  };
  csq::Matrix<float> large(8, 8);
  CHECK(refused(large.topRows(5)));
  CHECK(refused(Eigen::Map<csq::Matrix<float>>(large.data(), 6, 5)));
  CHECK(refused(Eigen::Matrix4f()));
  CHECK(refused(Eigen::VectorXf(6)));
  CHECK(refused(Eigen::Matrix<float, Eigen::Dynamic, 5>(6, 5)));
  CHECK(refused(Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor, 5, 5>(5, 5)));
}

TEST_CASE("an output is no input") {
  Random random(36);
  Call<double> call(random);
  const auto attend = [&](auto&& out) {
    return error_of([&] { csq::attention(csq::Taylor{}, call.q, call.k, call.v, out); });
  };
  CHECK(attend(call.q) == "csq: out: an output may not be one of the inputs");
  CHECK(attend(call.v.topRows(tokens)) == "csq: out: an output may not be one of the inputs");
  CHECK(attend(call.k.transpose()) == "csq: out: an output may not be one of the inputs");
  csq::Matrix<double> out;
  CHECK(error_of([&] { csq::attention(csq::Taylor{}, call.q, call.k, call.v, out, out); }) ==
        "csq: normalizer: an output may not be another argument");
  CHECK(error_of([&] { csq::attention(csq::Taylor{}, call.q, call.k, call.v, out, call.k); }) ==
        "csq: normalizer: an output may not be one of the inputs");
}

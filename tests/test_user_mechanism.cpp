// A mechanism that is not csq's own: a struct with `Quadratic quadratic() const` has both methods, every option and the
// gradients; and Eigen's column-major matrices, blocks and maps serve as inputs, outputs and gradients.
#include <Eigen/Core>

#include "catch.hpp"
#include "problem.hpp"

namespace {

// w(s) = ½ + (s − tilt)²/4, whatever the centring.
struct Tilted {
  double tilt = 1;

  csq::Quadratic quadratic() const { return {0.5 + tilt * tilt / 4, -tilt / 2, 0.25}; }
};

// The same, centred by default as it pleases.
struct CentredTilted : Tilted {
  static csq::Centering default_centering(bool causal) {
    return causal ? csq::Centering::prefix_exclusive : csq::Centering::sequence;
  }
};

reference::Weight tilted_weight(double tilt) { return power_series({0.5 + tilt * tilt / 4, -tilt / 2, 0.25}); }

// L = Σ dout·out along p + step·direction, by the library's own forward pass in double.
template <class M>
double loss(const M& mechanism, Problem p, const Problem& direction, double step) {
  const auto move = [step](Tensor& x, const Tensor& along) {
    for (std::size_t i = 0; i < x.values.size(); ++i) x.values[i] += step * along.values[i];
  };
  move(p.q, direction.q);
  move(p.k, direction.k);
  move(p.v, direction.v);
  const Outputs<double> result = attend<double>(mechanism, p, {csq::Method::direct});
  double sum = 0;
  for (std::size_t i = 0; i < result.output.size(); ++i) sum += p.dout.values[i] * result.output[i];
  return sum;
}

double dot(const std::vector<double>& x, const Tensor& y) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * y.values[i];
  return sum;
}

template <class M>
void check_mechanism(const NamedMechanism<M>& named) {
  Random random(801);
  for (const bool causal : {false, true})
    for (const csq::Centering centering : {csq::Centering::automatic, csq::Centering::none, csq::Centering::prefix})
      for (const Sizes& sizes : {Sizes{5, 5, 3, 2}, Sizes{170, 170, 9, 4, 2, 4, 2}}) {
        const Problem p = Problem::random_backward(random, sizes, causal, centering);
        // Not the centring of a decoder with prefix means, so there is no history to give.
        const reference::Result expected = reference_result(named, p);
        for (const csq::Method method : methods(true))
          for (const Index chunk : {0, 7}) {
            INFO(named.name << ", " << p.describe() << ", " << name_of(method) << ", chunk " << chunk);
            for_float_and_double([&]<class T>() {
              const Outputs<T> result = attend<T>(named.mechanism, p, {method, chunk});
              const double tolerance = sizeof(T) == 4 ? 2e-4 : 1e-10;
              CHECK(distance(result.output, expected.output) <= tolerance);
              CHECK(distance(result.statistic, expected.statistic) <= tolerance);
            });
            const GradientOutputs<double> result = gradients<double>(named.mechanism, p, {method, chunk});
            const Problem along = Problem::random(random, sizes);
            constexpr double step = 1e-5;
            const double numeric =
                (loss(named.mechanism, p, along, step) - loss(named.mechanism, p, along, -step)) / (2 * step);
            const double exact = dot(result.query, along.q) + dot(result.key, along.k) + dot(result.value, along.v);
            CHECK(std::abs(numeric - exact) <= 1e-6 * (1 + std::abs(exact)));
          }
      }
}

TEST_CASE("a user's own mechanism: outputs and gradients, both methods") {
  check_mechanism(NamedMechanism<Tilted>{"tilted", {1.5}, tilted_weight(1.5)});
}

TEST_CASE("a user's own mechanism with a centring of its own") {
  Random random(802);
  CentredTilted mechanism;
  mechanism.tilt = -0.75;
  for (const bool causal : {false, true}) {
    Problem p = Problem::random(random, {150, 150, 6, 5}, causal);
    CHECK(csq::default_centering(mechanism, causal) == CentredTilted::default_centering(causal));
    const Outputs<double> automatic = attend<double>(mechanism, p);
    p.centering = CentredTilted::default_centering(causal);
    CHECK(same_bits(attend<double>(mechanism, p), automatic));
    const NamedMechanism<CentredTilted> named{"centred", mechanism, tilted_weight(-0.75)};
    CHECK(distance(automatic.output, reference_result(named, p).output) <= 1e-10);
  }
}

TEST_CASE("a user's own mechanism is checked as csq's are") {
  struct Negative {
    csq::Quadratic quadratic() const { return {-1, 0, 1}; }
  };
  const csq::Matrix<float> x = csq::Matrix<float>::Ones(3, 2);
  CHECK(names(rejection([&] { csq::attention(Negative{}, x, x, x); }), "Quadratic"));
}

// The same numbers as a row-major matrix of their own.
template <class Dense>
csq::Matrix<typename Dense::Scalar> copy_of(const Dense& matrix) {
  return csq::Matrix<typename Dense::Scalar>(matrix);
}

template <class T, class Query, class Key, class Value>
void check_matrices(const char* name, const Query& q, const Key& k, const Value& v) {
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-13;
  for (const bool causal : {false, true})
    for (const csq::Method method : methods(true)) {
      INFO(name << (causal ? ", causal" : "") << ", " << name_of(method) << ", " << 8 * sizeof(T) << " bits");
      const csq::Options options{.causal = causal, .method = method};
      csq::Matrix<T> out, normalizer, plain_out, plain_normalizer;
      csq::attention(csq::Csq{}, q, k, v, out, normalizer, options);
      csq::attention(csq::Csq{}, copy_of(q), copy_of(k), copy_of(v), plain_out, plain_normalizer, options);
      CHECK((out - plain_out).norm() <= tolerance * plain_out.norm());
      CHECK((normalizer - plain_normalizer).norm() <= tolerance * plain_normalizer.norm());
      CHECK((csq::attention(csq::Csq{}, q, k, v, options) - plain_out).norm() <= tolerance * plain_out.norm());

      // Column-major outputs and gradients, the gradients in blocks of one matrix.
      using ColumnMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
      const Index n = q.rows(), m = k.rows(), d = q.cols(), dv = v.cols();
      ColumnMajor column_out(n, dv), column_normalizer(n, 1), all = ColumnMajor::Constant(n + 2 * m + 2, d + dv, T(-7));
      const ColumnMajor dout = ColumnMajor::Random(n, dv);
      csq::Heads<const T> query = csq::heads_of(q), key = csq::heads_of(k), value = csq::heads_of(v);
      csq::attention(csq::Csq{}, query, key, value, csq::heads_of(column_out), csq::heads_of(column_normalizer),
                     options);
      CHECK((column_out - plain_out).norm() <= tolerance * plain_out.norm());
      csq::Matrix<T> dq(n, d), dk(m, d), dv_plain(m, dv), plain_dout = dout;
      auto dq_block = all.block(1, 0, n, d), dk_block = all.block(n + 1, 0, m, d),
           dv_block = all.block(n + 1, d, m, dv);
      double shift = 0, plain_shift = 0;
      csq::attention_backward(
          csq::Csq{}, query, key, value, csq::heads_of(column_out), csq::heads_of(column_normalizer),
          csq::heads_of(dout),
          csq::Gradients<T>{csq::heads_of(dq_block), csq::heads_of(dk_block), csq::heads_of(dv_block), &shift},
          options);
      const csq::Matrix<T> q_copy = copy_of(q), k_copy = copy_of(k), v_copy = copy_of(v);
      csq::attention_backward(
          csq::Csq{}, csq::heads_of(q_copy), csq::heads_of(k_copy), csq::heads_of(v_copy), csq::heads_of(plain_out),
          csq::heads_of(plain_normalizer), csq::heads_of(plain_dout),
          csq::Gradients<T>{csq::heads_of(dq), csq::heads_of(dk), csq::heads_of(dv_plain), &plain_shift}, options);
      CHECK((dq_block - dq).norm() <= 10 * tolerance * dq.norm());
      CHECK((dk_block - dk).norm() <= 10 * tolerance * dk.norm());
      CHECK((dv_block - dv_plain).norm() <= 10 * tolerance * dv_plain.norm());
      CHECK(std::abs(shift - plain_shift) <= 100 * tolerance * (1 + std::abs(plain_shift)));
      // Nothing else of the matrix was written.
      dq_block.setConstant(T(-7));
      dk_block.setConstant(T(-7));
      dv_block.setConstant(T(-7));
      CHECK((all.array() == T(-7)).all());
    }
}

TEST_CASE("column-major matrices, blocks and maps") {
  for_float_and_double([]<class T>() {
    using ColumnMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
    std::srand(803);
    const Index m = 151, d = 7, dv = 5;
    const ColumnMajor q = ColumnMajor::Random(m, d), k = ColumnMajor::Random(m, d), v = ColumnMajor::Random(m, dv);
    check_matrices<T>("column-major", q, k, v);
    // Causal CSQ with fewer queries than keys would need a history, so all have m rows.
    const ColumnMajor columns = ColumnMajor::Random(m + 9, 3 * d + dv);
    check_matrices<T>("blocks of a column-major matrix", columns.block(2, 1, m, d), columns.block(0, d + 1, m, d),
                      columns.block(9, 2 * d, m, dv));
    const csq::Matrix<T> rows = csq::Matrix<T>::Random(m + 9, 3 * d + dv);
    check_matrices<T>("blocks of a row-major matrix", rows.block(2, 1, m, d), rows.block(0, d + 1, m, d),
                      rows.block(9, 2 * d, m, dv));
    const std::vector<T> memory(std::size_t(3 * m * (d + dv) + 64), T(0.25));
    using Strided = Eigen::Map<const ColumnMajor, Eigen::Unaligned, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
    const Strided map(memory.data() + 1, m, d, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(3 * m, 2));
    check_matrices<T>("a strided map", map, k, v);
    const Eigen::Matrix<T, 6, 4> fixed = Eigen::Matrix<T, 6, 4>::Random();
    check_matrices<T>("matrices of fixed size", fixed, fixed.template topRows<6>(), fixed.template leftCols<2>());
  });
}

}  // namespace

// The paper's theorems as a table that can fail: theorem, setting, predicted, measured, verdict; exit 1 when a
// prediction misses.
//
//   3.1  the pullback gradient by its formula, by the library's backward pass, by forward differentiation in plain
//        loops, and against golden cases; the dimension of the score subspace
//   4.1  the rank of D_M P for softmax, and what was measured beyond it: the raw square is always one dimension short,
//        the shift restores it
//   5.5  the deviation of a positive polynomial swapped for exp, beside its bound
//   6.8  the rank that stacks of degree-2 blocks reach, beside their parameters
//   surrogate loss: its gradient, its dimension, and what it is the square of
//   and the time of softmax and CSQ beside the rank, as n grows: the landscape's dimension is not a cost
//
// Equations: pullback.hpp.   theorems [--seed 1] [--draws 5] [--csv FILE] [--quick]
#include <CLI/CLI.hpp>
#include <chrono>
#include <csq/csq.hpp>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "csv.hpp"
#include "layers.hpp"
#include "npy.hpp"
#include "pullback.hpp"

namespace {

using paper::Index;
using Matrix = paper::DoubleMatrix;

struct Settings {
  std::uint64_t seed = 1;
  int draws = 5;
  std::string csv;
  bool quick = false;
};

// ---------------------------------------------------------------------------------------------------------------------
// Random matrices
// ---------------------------------------------------------------------------------------------------------------------

class Random {
 public:
  explicit Random(std::uint64_t seed) : stream_(paper::random_stream(seed, 0)) {}

  double normal() { return paper::random_normal(stream_, counter_++); }
  Matrix normal(Index rows, Index columns) {
    Matrix matrix(rows, columns);
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < columns; ++j) matrix(i, j) = normal();
    return matrix;
  }
  // n×d of the given rank; with `ones` the ones vector lies in its column space.
  Matrix of_rank(Index n, Index d, Index rank, bool ones) {
    Matrix columns = normal(n, rank);
    if (ones) columns.col(0).setOnes();
    return rank == d ? columns : Matrix(columns * normal(rank, d));
  }

 private:
  std::uint64_t stream_, counter_ = 0;
};

// ---------------------------------------------------------------------------------------------------------------------
// The table
// ---------------------------------------------------------------------------------------------------------------------

enum class Relation { equal, at_most, none };

// What is printed and asserted. `setting` holds no comma.
class Table {
 public:
  explicit Table(const std::string& csv)
      : csv_(csv, "program,theorem,mechanism,setting,relation,predicted,measured,verdict") {
    std::printf("%-10s %-10s %-44s %12s %12s  %s\n", "theorem", "mechanism", "setting", "predicted", "measured",
                "verdict");
  }

  void add(const std::string& theorem, const std::string& mechanism, const std::string& setting, Relation relation,
           double predicted, double measured) {
    const bool holds = relation == Relation::equal ? measured == predicted : measured <= predicted;
    if (!holds) ++failures_;
    write(theorem, mechanism, setting, relation, predicted, measured, holds ? "holds" : "fails");
  }
  void add_not_applicable(const std::string& theorem, const std::string& mechanism, const std::string& setting,
                          double predicted, double measured) {
    write(theorem, mechanism, setting, Relation::at_most, predicted, measured, "bound not applicable");
  }
  // A time: nothing predicts it.
  void add_time(const std::string& mechanism, const std::string& setting, double rank, double milliseconds) {
    csv_.row("theorems", "cost", mechanism, setting, "", rank, milliseconds, "");
  }

  int failures() const { return failures_; }
  void finish() { csv_.finish(); }

 private:
  void write(const std::string& theorem, const std::string& mechanism, const std::string& setting, Relation relation,
             double predicted, double measured, const std::string& verdict) {
    const char* sign = relation == Relation::equal ? "=" : "<=";
    std::printf("%-10s %-10s %-44s %2s %9.4g %12.4g  %s\n", theorem.c_str(), mechanism.c_str(), setting.c_str(), sign,
                predicted, measured, verdict.c_str());
    csv_.row("theorems", theorem, mechanism, setting, sign, predicted, measured, verdict);
  }

  paper::CsvFile csv_;
  int failures_ = 0;
};

double relative_error(const Matrix& value, const Matrix& reference) {
  return (value - reference).norm() / reference.norm();
}

// ---------------------------------------------------------------------------------------------------------------------
// 3.1
// ---------------------------------------------------------------------------------------------------------------------

// A row map for the reference: w and w′.
struct RowMap {
  std::function<double(double)> weight, slope;
};

// dP for a change dS of the scores, in plain loops: P_ij = w(S_ij)/Σ_k w(S_ik).
Matrix directional_derivative(const RowMap& map, const Matrix& s, const Matrix& ds, bool causal) {
  Matrix result = Matrix::Zero(s.rows(), s.cols());
  for (Index i = 0; i < s.rows(); ++i) {
    const Index visible = causal ? std::max<Index>(0, std::min(s.cols(), i + 1 + s.cols() - s.rows())) : s.cols();
    double sum = 0, change = 0;
    for (Index j = 0; j < visible; ++j) {
      sum += map.weight(s(i, j));
      change += map.slope(s(i, j)) * ds(i, j);
    }
    for (Index j = 0; j < visible; ++j)
      result(i, j) = (map.slope(s(i, j)) * ds(i, j) - map.weight(s(i, j)) / sum * change) / sum;
  }
  return result;
}

// Calls use(name, mechanism, row map) for each row-wise map that is tested.
template <class Use>
void for_row_maps(const Use& use) {
  use("softmax", csq::Softmax{}, RowMap{[](double s) { return std::exp(s); }, [](double s) { return std::exp(s); }});
  use("squared", csq::Squared{}, RowMap{[](double s) { return s * s; }, [](double s) { return 2 * s; }});
  use("shifted", csq::ShiftedQuadratic{1},
      RowMap{[](double s) { return (s + 1) * (s + 1); }, [](double s) { return 2 * (s + 1); }});
  use("taylor", csq::Taylor{}, RowMap{[](double s) { return 1 + s + s * s / 2; }, [](double s) { return 1 + s; }});
}

// J = Σ T∘P on random X, M, Y, B: the formula against the library's backward pass by M, and against J's derivative
// along every entry of M, taken forward without any G.
void check_pullback(Table& table, Random& random) {
  constexpr double tolerance = 1e-13;
  const Index n = 20, m = 26, d = 6, e = 5;
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  const Matrix x = random.normal(n, d), y = random.normal(m, e), map = random.normal(d, e);
  const Matrix bias = random.normal(n, m), slope = random.normal(n, m);
  const Matrix s = scale * x * map * y.transpose() + bias;
  for (const bool causal : {false, true}) {
    const std::string setting = std::string("n=20 m=26 d=6 e=5 bias ") + (causal ? "causal" : "full");
    for_row_maps([&](const char* name, const auto& mechanism, const RowMap& reference) {
      const Matrix formula = paper::pullback_gradient(x, paper::score_gradient(mechanism, s, slope, causal), y, scale);
      const Matrix dq =
          paper::query_gradient(mechanism, paper::scores_of(x, map, y, scale, bias), slope, causal).leftCols(e);
      Matrix forward(d, e);
      for (Index a = 0; a < d; ++a)
        for (Index b = 0; b < e; ++b)
          forward(a, b) = directional_derivative(reference, s, scale * x.col(a) * y.col(b).transpose(), causal)
                              .cwiseProduct(slope)
                              .sum();
      table.add("3.1", name, setting + " vs backward", Relation::at_most, tolerance,
                relative_error(formula, scale * x.transpose() * dq));
      table.add("3.1", name, setting + " vs forward", Relation::at_most, tolerance, relative_error(formula, forward));
    });
  }
}

Matrix read_matrix(const std::string& path) {
  const npy::Array<double> array = npy::read<double>(path);
  if (array.shape.size() != 2) npy::fail(path, "its shape is " + npy::shape_text(array.shape));
  return Eigen::Map<const Matrix>(array.data.data(), array.shape[0], array.shape[1]);
}

// tests/golden/pullback_*: gradients by PyTorch's autograd, J = Σ T∘P, scale 1/√d.
template <class Mechanism>
void check_golden(Table& table, const char* name, const Mechanism& mechanism, const std::string& folder) {
  const auto read = [&](const char* file) { return read_matrix(folder + "/" + file + ".npy"); };
  const Matrix x = read("x"), y = read("y"), m = read("m"), slope = read("t"), gs = read("gs"), gm = read("gm");
  const double scale = 1 / std::sqrt(static_cast<double>(x.cols()));
  const Matrix g = paper::score_gradient(mechanism, scale * x * m * y.transpose(), slope, false);
  table.add("3.1", name, "golden case: dJ/dS", Relation::at_most, 1e-13, relative_error(g, gs));
  table.add("3.1", name, "golden case: dJ/dM", Relation::at_most, 1e-13,
            relative_error(paper::pullback_gradient(x, g, y, scale), gm));
}

void check_golden(Table& table) {
  const auto here = std::filesystem::path(__FILE__).parent_path();
  const std::string folder = (here / "../../tests/golden").lexically_normal().string();
  check_golden(table, "softmax", csq::Softmax{}, folder + "/pullback_softmax");
  check_golden(table, "shifted", csq::ShiftedQuadratic{1}, folder + "/pullback_shifted_quadratic");
}

// The space that holds scale·X·M·Yᵀ for all M, and the one that holds the gradients scale·Xᵀ·G·Y for all G.
void check_dimension(Table& table, Random& random) {
  const Index n = 24, m = 18, d = 5, e = 4;
  for (const auto& [rank_x, rank_y] : {std::pair<Index, Index>{5, 4}, {3, 4}, {3, 2}}) {
    const Matrix x = random.of_rank(n, d, rank_x, false), y = random.of_rank(m, e, rank_y, false);
    Matrix scores(n * m, d * e), gradients(2 * d * e, d * e);
    for (Index a = 0; a < d; ++a)
      for (Index b = 0; b < e; ++b) {
        const Matrix entry = x.col(a) * y.col(b).transpose();
        scores.col(a * e + b) = entry.reshaped<Eigen::RowMajor>();
      }
    for (Index i = 0; i < gradients.rows(); ++i) {
      const Matrix gradient = paper::pullback_gradient(x, random.normal(n, m), y, 1);
      gradients.row(i) = gradient.reshaped<Eigen::RowMajor>().transpose();
    }
    const std::string setting = "n=24 m=18 d=5 e=4 rank X=" + std::to_string(rank_x) + " Y=" + std::to_string(rank_y);
    const auto predicted = static_cast<double>(rank_x * rank_y);
    table.add("dimension", "any", setting + " scores", Relation::equal, predicted,
              static_cast<double>(paper::numerical_rank(scores)));
    table.add("dimension", "any", setting + " gradients", Relation::equal, predicted,
              static_cast<double>(paper::numerical_rank(gradients)));
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// 4.1 and beyond
// ---------------------------------------------------------------------------------------------------------------------

// X as Csq centres it: the mean of all rows taken off under no mask, the mean of the rows up to each under a causal
// one.
Matrix centered(const Matrix& x, bool causal) {
  if (!causal) return x.rowwise() - x.colwise().mean();
  Matrix result = x;
  Matrix sum = Matrix::Zero(1, x.cols());
  for (Index i = 0; i < x.rows(); ++i) {
    sum += x.row(i);
    result.row(i) -= sum / static_cast<double>(i + 1);
  }
  return result;
}

// One mechanism's rank over all draws of a setting: what is reported is the draw that misses the prediction most.
struct RankRow {
  const char* theorem;
  const char* mechanism;
  double predicted = 0, measured = 0;

  void add(Index prediction, Index rank) {
    const bool first = predicted == 0;
    const auto expected = static_cast<double>(prediction), seen = static_cast<double>(rank);
    if (first || std::abs(seen - expected) > std::abs(measured - predicted)) {
      predicted = expected;
      measured = seen;
    }
  }
};

// Each mechanism's rank of D_M P beside its prediction. CSQ is the shifted quadratic on centred rows, whose columns
// never span the ones vector; that the library's Csq is that is asserted too.
void check_jacobian_ranks(Table& table, Random& random, Index d, Index r, bool ones, bool causal, int draws) {
  constexpr Index n = 24;
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  RankRow softmax{"4.1", "softmax"}, squared{"beyond 4.1", "squared"}, shifted{"beyond 4.1", "shifted"},
      taylor{"beyond 4.1", "taylor"}, csq_row{"beyond 4.1", "csq"};
  double distance = 0;
  for (int draw = 0; draw < draws; ++draw) {
    const Matrix x = random.of_rank(n, d, r, ones), m = random.normal(d, d), rows = centered(x, causal);
    const Index epsilon = paper::spans_ones(x) ? 1 : 0, rank = paper::numerical_rank(rows);
    const auto rank_of = [&](const auto& mechanism, const Matrix& of) {
      return paper::numerical_rank(paper::jacobian(mechanism, of, m, of, scale, causal));
    };
    softmax.add(r * (r - epsilon), rank_of(csq::Softmax{}, x));
    squared.add(r * r - 1, rank_of(csq::Squared{}, x));
    shifted.add(r * r - epsilon, rank_of(csq::ShiftedQuadratic{1}, x));
    taylor.add(r * r, rank_of(csq::Taylor{}, x));
    csq_row.add(rank * rank, rank_of(csq::ShiftedQuadratic{1}, rows));
    const paper::Scores scores = paper::scores_of(x, m, x, scale),
                        centered_scores = paper::scores_of(rows, m, rows, scale);
    distance =
        std::max(distance, relative_error(paper::attention_matrix(csq::Csq{1}, scores, causal),
                                          paper::attention_matrix(csq::ShiftedQuadratic{1}, centered_scores, causal)));
  }
  const std::string setting = "n=24 d=" + std::to_string(d) + " r=" + std::to_string(r) +
                              " eps=" + std::to_string(ones ? 1 : 0) + (causal ? " causal" : " full");
  for (const RankRow& row : {softmax, squared, shifted, taylor, csq_row})
    table.add(row.theorem, row.mechanism, setting, Relation::equal, row.predicted, row.measured);
  table.add("beyond 4.1", "csq", setting + " = shifted; centred X", Relation::at_most, 1e-12, distance);
}

void check_jacobian_ranks(Table& table, Random& random, int draws) {
  for (const auto& [d, r] : {std::pair<Index, Index>{4, 4}, {5, 3}})
    for (const bool ones : {false, true})
      for (const bool causal : {false, true}) check_jacobian_ranks(table, random, d, r, ones, causal, draws);
}

// ---------------------------------------------------------------------------------------------------------------------
// 5.5
// ---------------------------------------------------------------------------------------------------------------------

// Scores scaled so that the largest is R.
void check_swap(Table& table, Random& random) {
  const Index n = 128, d = 16;
  const Matrix direction = random.normal(n, d), k = random.normal(n, d), v = random.normal(n, d);
  const double largest_value = v.rowwise().norm().maxCoeff();
  for (const double radius : {1.0, 2.0, 4.0, 8.0, 16.0}) {
    const Matrix q = direction * (radius / (direction * k.transpose()).cwiseAbs().maxCoeff());
    const csq::Options options{.scale = 1, .threads = 1};
    const Matrix exact = csq::attention(csq::Softmax{}, q, k, v, options);
    for (const int degree : {2, 8, 16, 24, 32}) {
      const csq::PositivePolynomial polynomial = paper::exponential_polynomial(degree, radius);
      const Matrix swapped = csq::attention(polynomial, q, k, v, options);
      const double deviation = (swapped - exact).rowwise().norm().maxCoeff();
      const paper::SwapBound bound = paper::swap_bound(polynomial, largest_value);
      char setting[64];
      std::snprintf(setting, sizeof setting, "R=%g degree %d eta=%.1e", radius, degree, bound.error);
      if (bound.applicable)
        table.add("5.5", "polynomial", setting, Relation::at_most, bound.bound, deviation);
      else
        table.add_not_applicable("5.5", "polynomial", setting, bound.bound, deviation);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// 6.8
// ---------------------------------------------------------------------------------------------------------------------

// Two w×w matrices and three coefficients: y = c0·x + c1·Ax + c2·(Ax)∘(Bx).
struct Block {
  Matrix a, b;
  double c0, c1, c2;
};

// How the outputs of a stack change with every parameter: one row for each parameter, the outputs of all points in it.
// Tangents go forward: a parameter's own block adds its change, later blocks carry it on.
Matrix parameter_jacobian(const std::vector<Block>& blocks, Matrix x) {  // x [w, points]
  const Index width = x.rows(), outputs = x.size();
  std::vector<Matrix> tangents;
  for (const Block& block : blocks) {
    const Matrix ax = block.a * x, bx = block.b * x;
    for (Matrix& tangent : tangents)
      tangent = (block.c0 * tangent + block.c1 * (block.a * tangent) +
                 block.c2 * ((block.a * tangent).cwiseProduct(bx) + ax.cwiseProduct(block.b * tangent)))
                    .eval();
    for (Index i = 0; i < width; ++i)
      for (Index j = 0; j < width; ++j) {
        Matrix of_a = Matrix::Zero(width, x.cols()), of_b = of_a;
        of_a.row(i) = block.c1 * x.row(j) + block.c2 * x.row(j).cwiseProduct(bx.row(i));
        of_b.row(i) = block.c2 * ax.row(i).cwiseProduct(x.row(j));
        tangents.push_back(of_a);
        tangents.push_back(of_b);
      }
    tangents.push_back(x);
    tangents.push_back(ax);
    tangents.push_back(ax.cwiseProduct(bx));
    x = (block.c0 * x + block.c1 * ax + block.c2 * ax.cwiseProduct(bx)).eval();
  }
  Matrix result(static_cast<Index>(tangents.size()), outputs);
  for (std::size_t i = 0; i < tangents.size(); ++i)
    result.row(static_cast<Index>(i)) = tangents[i].reshaped<Eigen::RowMajor>().transpose();
  return result;
}

// A stack with fewer than p parameters reaches no open set of p outputs: the rank stays below its parameters.
void check_no_go(Table& table, Random& random) {
  for (const Index width : {1, 2, 3})
    for (const Index depth : {1, 2, 4}) {
      const Index parameters = depth * (2 * width * width + 3), points = parameters / width + 8;
      std::vector<Block> blocks;
      for (Index l = 0; l < depth; ++l)
        blocks.push_back({random.normal(width, width), random.normal(width, width), random.normal(), random.normal(),
                          random.normal()});
      const Matrix jacobian = parameter_jacobian(blocks, random.normal(width, points));
      table.add("6.8", "degree 2",
                "w=" + std::to_string(width) + " L=" + std::to_string(depth) + " p=" + std::to_string(width * points) +
                    " outputs",
                Relation::at_most, static_cast<double>(parameters),
                static_cast<double>(paper::numerical_rank(jacobian)));
    }
  for (const auto& [p, width, depth] : {std::tuple<Index, Index, Index>{11, 2, 1}, {12, 2, 2}, {1000, 4, 29}})
    table.add("6.8", "bound", "p=" + std::to_string(p) + " w=" + std::to_string(width) + ": fewest blocks",
              Relation::equal, static_cast<double>(depth), static_cast<double>(paper::no_go_depth(p, width)));
}

// ---------------------------------------------------------------------------------------------------------------------
// Surrogate loss
// ---------------------------------------------------------------------------------------------------------------------

void check_surrogate(Table& table, Random& random) {
  const Index n = 24, d = 4;
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  const Matrix x = random.normal(n, d);
  const paper::Scores student_scores = paper::scores_of(x, random.normal(d, d), x, scale);
  const paper::Scores teacher_scores = paper::scores_of(x, random.normal(d, d), x, scale);
  const Matrix teacher = paper::attention_matrix(csq::Softmax{}, teacher_scores, false);
  const Matrix student = paper::attention_matrix(csq::Softmax{}, student_scores, false);
  const Matrix csq_student = paper::attention_matrix(csq::Csq{1}, student_scores, false);

  // Quadratic in A_s, so that a central difference is exact but for rounding.
  const Matrix direction = random.normal(n, n);
  const double difference = (paper::surrogate_loss(x, csq_student + direction, teacher) -
                             paper::surrogate_loss(x, csq_student - direction, teacher)) /
                            2;
  const double slope = paper::surrogate_gradient(x, csq_student, teacher).cwiseProduct(direction).sum();
  table.add("surrogate", "csq", "gradient by A_s vs central difference", Relation::at_most, 1e-12,
            std::abs(difference / slope - 1));

  // Its gradients fill r² of the n² dimensions; the rest it does not see.
  Matrix gradients(2 * d * d, n * n);
  for (Index i = 0; i < gradients.rows(); ++i)
    gradients.row(i) =
        paper::surrogate_gradient(x, random.normal(n, n), teacher).reshaped<Eigen::RowMajor>().transpose();
  table.add("surrogate", "any", "n=24 d=4 dimension of its gradients", Relation::equal, static_cast<double>(d * d),
            static_cast<double>(paper::numerical_rank(gradients)));

  // For a softmax student, cross-entropy against the teacher's rows has G = A_s − A_t: the loss is ‖∂CE/∂M‖²/scale².
  const Matrix dq = paper::query_gradient(csq::Softmax{}, student_scores, -teacher.cwiseQuotient(student), false);
  const double squared = (x.transpose() * dq).squaredNorm();
  table.add("surrogate", "softmax", "vs squared gradient of cross-entropy", Relation::at_most, 1e-12,
            std::abs(squared / paper::surrogate_loss(x, student, teacher) - 1));
}

// ---------------------------------------------------------------------------------------------------------------------
// The landscape is not the cost
// ---------------------------------------------------------------------------------------------------------------------

// Median milliseconds of a call, one thread, over at least 20 ms and 5 calls.
template <class Call>
double milliseconds(const Call& call) {
  using Clock = std::chrono::steady_clock;
  call();  // the first touches new memory
  std::vector<double> times;
  for (double sum = 0; sum < 20 || times.size() < 5; sum += times.back()) {
    const auto start = Clock::now();
    call();
    times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

// Rank of D_M P, r = d, as n grows, beside the time of a forward call in float.
void show_cost(Table& table, Random& random, bool quick) {
  std::printf(
      "\nThe landscape is not the cost: rank of D_M P beside milliseconds of one head, d = dv, float, one thread\n");
  std::printf("%6s %4s %14s %10s %10s %12s %13s\n", "n", "d", "rank softmax", "rank CSQ", "softmax", "CSQ direct",
              "CSQ factored");
  for (const Index d : {4, 8})
    for (const Index n : quick ? std::vector<Index>{24, 96} : std::vector<Index>{24, 96, 384}) {
      const double scale = 1 / std::sqrt(static_cast<double>(d));
      const Matrix x = random.normal(n, d), m = random.normal(d, d), rows = centered(x, false);
      const auto rank_softmax =
          static_cast<double>(paper::numerical_rank(paper::jacobian(csq::Softmax{}, x, m, x, scale, false)));
      const auto rank_csq = static_cast<double>(
          paper::numerical_rank(paper::jacobian(csq::ShiftedQuadratic{1}, rows, m, rows, scale, false)));
      const csq::Matrix<float> q = (x * m).cast<float>(), k = x.cast<float>(), v = random.normal(n, d).cast<float>();
      csq::Matrix<float> out;
      csq::Workspace workspace;
      const auto time = [&](const auto& mechanism, csq::Method method) {
        const csq::Options options{.method = method, .threads = 1, .workspace = &workspace};
        return milliseconds([&] { csq::attention(mechanism, q, k, v, out, options); });
      };
      const double softmax = time(csq::Softmax{}, csq::Method::direct), direct = time(csq::Csq{}, csq::Method::direct),
                   factored = time(csq::Csq{}, csq::Method::factored);
      std::printf("%6ld %4ld %14g %10g %10.4f %12.4f %13.4f\n", static_cast<long>(n), static_cast<long>(d),
                  rank_softmax, rank_csq, softmax, direct, factored);
      const std::string setting = "n=" + std::to_string(n) + " d=" + std::to_string(d);
      table.add_time("softmax", setting, rank_softmax, softmax);
      table.add_time("csq_direct", setting, rank_csq, direct);
      table.add_time("csq_factored", setting, rank_csq, factored);
    }
}

int run(const Settings& settings) {
  Random random(settings.seed);
  Table table(settings.csv);
  const auto progress = [](const char* what) { std::fprintf(stderr, "theorems: %s\n", what); };
  progress("3.1, the pullback gradient and the dimension of the score subspace");
  check_pullback(table, random);
  check_golden(table);
  check_dimension(table, random);
  progress("4.1, the rank of the Jacobian");
  check_jacobian_ranks(table, random, settings.quick ? 1 : settings.draws);
  progress("5.5, the swap bound; 6.8, no-go; the surrogate loss");
  check_swap(table, random);
  check_no_go(table, random);
  check_surrogate(table, random);
  progress("the rank beside the time");
  show_cost(table, random, settings.quick);
  if (table.failures() > 0) {
    std::fflush(stdout);
    std::fprintf(stderr, "theorems: %d predictions failed\n", table.failures());
  }
  table.finish();  // what fails belongs into the report too
  return table.failures() > 0 ? 1 : 0;
}

}  // namespace

int main(int count, char** words) {
  CLI::App app{"The paper's theorems, each with its prediction beside what is measured; exit 1 when one fails.",
               "theorems"};
  Settings settings;
  app.add_option("--seed", settings.seed, "of the random matrices; 1")->type_name("S");
  app.add_option("--draws", settings.draws, "matrices per setting of the Jacobian's rank; 5")
      ->check(CLI::Range(1, 1000))
      ->type_name("N");
  app.add_option("--csv", settings.csv, "every row of the tables")->type_name("FILE");
  app.add_flag("--quick", settings.quick, "one draw, smaller sizes");
  try {
    app.parse(count, words);
    return run(settings);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "theorems: %s\n", error.what());
    return 2;
  }
}

// A selection of degree p in the scores, learned by stacks of 1 to 4 quadratic attention layers.
//
//   a sequence   8 memory tokens z_j = [k_j, v_j, 1], the k_j a randomly rotated regular simplex of unit vectors in R⁸
//                (so Σ_j k_j = 0), v_j ~ N(0, I₈), and 32 questions x_i ~ N(0, I₈) less their mean, all drawn afresh
//   the teacher  y_i = U·Σ_j (1 + s_ij)^p v_j / Σ_j (1 + s_ij)^p,   s_ij = (A·x_i)·k_j,   p = 4 or 8; A [8, 8] of
//                N(0, 1/8) and a rotation U, random and fixed by the seed
//   the student  h⁰ = W_in·[x_i, 1],   h^l = h^(l−1) + W_o·attention(W_q·h^(l−1), W_k·z, W_v·z),   ŷ_i = W_out·h^L
//                no mask, no norm, nothing between the attentions; width 32, heads of 8, 12/L heads in each of L
//                layers, so that every depth has the same parameters
//   error        Σ‖ŷ − y‖²/Σ‖y‖² on fresh sequences
//
// Why depth should help: a layer of weights w_j with values k_j returns Σ_j ŵ_j k_j, ŵ = w/Σw, and its product with k_j
// is (8·ŵ_j − 1)/7: asked again with scale 7 and shift 1, the next layer weighs with (8·ŵ_j)². So a chain of L shifted
// quadratic layers selects by (1 + s)^(2^L), and log₂ p of them are the teacher. The chain is built by hand as `chain`:
// at L = log₂ p its error must vanish, and at other depths it says how far apart the selections are. Beside it stands
// the no-go bound of the paper (6.8): L blocks of width w reach p independent outputs only if L(2w² + 3) ≥ p.
//
// Keys and questions have mean zero, so that csq's centring takes nothing from the first layer, and the constant in z
// and x gives squared what the shift gives csq and shifted. Training: AdamW without decay, the rate falling linearly to
// 0, on the error. Source: "The d² Pullback Theorem" (2026), §6.
#include <CLI/CLI.hpp>
#include <Eigen/QR>
#include <chrono>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "cross_attention.hpp"
#include "csv.hpp"

namespace {

using csq::Matrix;
using paper::ConstRows;
using paper::CrossShape;
using paper::Index;
using paper::Rows;

constexpr Index dim = 8, slots = 8, questions = 32, width = 32, head_dim = 8, all_heads = 12;
constexpr Index question_width = dim + 1, memory_width = 2 * dim + 1;  // with their constant

// ---------------------------------------------------------------------------------------------------------------------
// The task
// ---------------------------------------------------------------------------------------------------------------------

class Normals {
 public:
  explicit Normals(std::uint64_t stream) : stream_(stream) {}

  template <class T>
  Matrix<T> draw(Index rows, Index columns, double deviation) {
    Matrix<T> result(rows, columns);
    for (Index i = 0; i < result.size(); ++i)
      result.data()[i] = static_cast<T>(deviation * paper::random_normal(stream_, counter_++));
    return result;
  }

  // The Q of a normal matrix.
  Matrix<double> rotation(Index size) {
    const Eigen::HouseholderQR<Eigen::MatrixXd> qr(draw<double>(size, size, 1));
    return qr.householderQ() * Eigen::MatrixXd::Identity(size, size);
  }

  // Rows are the corners of a regular simplex around 0, unit vectors with products −1/(size − 1).
  Matrix<double> simplex(Index size) {
    Matrix<double> corners = rotation(size);
    corners.rowwise() -= corners.colwise().mean().eval();
    return corners.rowwise().normalized();
  }

 private:
  std::uint64_t stream_, counter_ = 0;
};

// `sequences` of everything, one after another.
template <class T>
struct Batch {
  Matrix<T> question;  // [x, 1], [B·n, 9]
  Matrix<T> memory;    // z [B·m, 17]
  Matrix<T> target;    // y [B·n, 8]
};

struct Teacher {
  int power = 4;
  Matrix<double> a, u;

  Teacher(int power_in, std::uint64_t seed) : power(power_in) {
    Normals normals(paper::random_stream(seed, 1));
    a = normals.draw<double>(dim, dim, 1 / std::sqrt(static_cast<double>(dim)));
    u = normals.rotation(dim);
  }

  // Through the library, with the weight (1 + s)ᵖ as a power series.
  Matrix<double> answer(const Matrix<double>& x, const Matrix<double>& key, const Matrix<double>& value) const {
    csq::Polynomial weight{{1}};
    for (int t = 1; t <= power; ++t) weight.coefficients.push_back(weight.coefficients.back() * (power - t + 1) / t);
    const Matrix<double> query = x * a.transpose();
    return csq::attention(weight, query, key, value, {.scale = 1, .threads = 1}) * u.transpose();
  }

  // `depth` shifted quadratic layers, each asking with what the one before returned; the last returns values.
  Matrix<double> chain(const Matrix<double>& x, const Matrix<double>& key, const Matrix<double>& value,
                       Index depth) const {
    const csq::ShiftedQuadratic weight{.shift = 1};
    Matrix<double> query = x * a.transpose();
    for (Index layer = 1; layer < depth; ++layer)
      query = static_cast<double>(slots - 1) * csq::attention(weight, query, key, key, {.scale = 1, .threads = 1});
    return csq::attention(weight, query, key, value, {.scale = 1, .threads = 1}) * u.transpose();
  }
};

struct Memory {
  Matrix<double> question, key, value;
};

Memory draw_sequence(Normals& normals) {
  Memory drawn{normals.draw<double>(questions, dim, 1), normals.simplex(slots), normals.draw<double>(slots, dim, 1)};
  drawn.question.rowwise() -= drawn.question.colwise().mean().eval();
  return drawn;
}

template <class T>
void draw(const Teacher& teacher, Index sequences, Normals& normals, Batch<T>& batch) {
  batch.question.setOnes(sequences * questions, question_width);
  batch.memory.setOnes(sequences * slots, memory_width);
  batch.target.resize(sequences * questions, dim);
  for (Index s = 0; s < sequences; ++s) {
    const Memory drawn = draw_sequence(normals);
    batch.question.middleRows(s * questions, questions).leftCols(dim) = drawn.question.cast<T>();
    batch.memory.middleRows(s * slots, slots).leftCols(dim) = drawn.key.cast<T>();
    batch.memory.middleRows(s * slots, slots).middleCols(dim, dim) = drawn.value.cast<T>();
    batch.target.middleRows(s * questions, questions) =
        teacher.answer(drawn.question, drawn.key, drawn.value).cast<T>();
  }
}

// Error of the chain on `sequences` fresh sequences.
double chain_error(const Teacher& teacher, Index depth, Index sequences, std::uint64_t seed) {
  Normals normals(paper::random_stream(seed, 3));
  double difference = 0, size = 0;
  for (Index s = 0; s < sequences; ++s) {
    const Memory drawn = draw_sequence(normals);
    const Matrix<double> target = teacher.answer(drawn.question, drawn.key, drawn.value);
    difference += (teacher.chain(drawn.question, drawn.key, drawn.value, depth) - target).squaredNorm();
    size += target.squaredNorm();
  }
  return difference / size;
}

// ---------------------------------------------------------------------------------------------------------------------
// The student
// ---------------------------------------------------------------------------------------------------------------------

template <class T>
class Student {
 public:
  Student(const paper::Mechanism& mechanism, Index depth, Index sequences, std::uint64_t seed)
      : mechanism_(mechanism),
        shape_{.sequences = sequences,
               .queries = questions,
               .keys = slots,
               .heads = all_heads / depth,
               .key_dim = head_dim,
               .value_dim = head_dim} {
    const Index inner = shape_.key_width();
    in_ = place(width, question_width);
    for (Index layer = 0; layer < depth; ++layer)
      layers_.push_back(
          {place(inner, width), place(inner, memory_width), place(inner, memory_width), place(width, inner)});
    out_ = place(dim, width);
    gradient.resize(parameters.size());
    Normals normals(paper::random_stream(seed, 4));
    const auto fill = [&](const Weight& w) {
      write(w, parameters) = normals.draw<T>(w.rows, w.columns, 1 / std::sqrt(static_cast<double>(w.columns)));
    };
    fill(in_);
    for (const Layer& layer : layers_)
      for (const Weight& w : {layer.query, layer.key, layer.value, layer.output}) fill(w);
    fill(out_);
    activations_.resize(layers_.size());
  }

  // Error of a batch; with `learn` its gradient too.
  double run(const Batch<T>& batch, bool learn) {
    h_.noalias() = batch.question * read(in_).transpose();
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      const Layer& layer = layers_[l];
      Activations& a = activations_[l];
      a.input = h_;
      a.query.noalias() = h_ * read(layer.query).transpose();
      a.key.noalias() = batch.memory * read(layer.key).transpose();
      a.value.noalias() = batch.memory * read(layer.value).transpose();
      a.output.resize(shape_.query_rows(), shape_.value_width());
      a.normalizer.resize(static_cast<std::size_t>(shape_.normalizer_size()));
      paper::cross_attention(mechanism_, shape_, std::as_const(a.query).data(), std::as_const(a.key).data(),
                             std::as_const(a.value).data(), a.output.data(), a.normalizer.data(), options());
      h_.noalias() += a.output * read(layer.output).transpose();
    }
    difference_ = -batch.target;
    difference_.noalias() += h_ * read(out_).transpose();
    const auto size = static_cast<double>(batch.target.squaredNorm());
    const double error = static_cast<double>(difference_.squaredNorm()) / size;
    if (!learn) return error;
    difference_ *= static_cast<T>(2 / size);  // now ∂error/∂ŷ
    back(batch);
    return error;
  }

  std::vector<T> parameters, gradient;

 private:
  struct Weight {
    Index offset = 0, rows = 0, columns = 0;
  };
  struct Layer {
    Weight query, key, value, output;
  };
  struct Activations {
    Matrix<T> input, query, key, value, output;
    std::vector<T> normalizer;
  };

  Weight place(Index rows, Index columns) {
    const Weight weight{static_cast<Index>(parameters.size()), rows, columns};
    parameters.resize(parameters.size() + static_cast<std::size_t>(rows * columns));
    return weight;
  }
  ConstRows<T> read(const Weight& w) const { return {parameters.data() + w.offset, w.rows, w.columns}; }
  static Rows<T> write(const Weight& w, std::vector<T>& into) { return {into.data() + w.offset, w.rows, w.columns}; }
  csq::Options options() { return {.threads = 1, .workspace = &workspace_}; }

  void back(const Batch<T>& batch) {
    // ŷ = h·W_outᵀ
    write(out_, gradient).noalias() = difference_.transpose() * h_;
    dh_.noalias() = difference_ * read(out_);
    dquery_.resize(shape_.query_rows(), shape_.key_width());
    dkey_.resize(shape_.key_rows(), shape_.key_width());
    dvalue_.resize(shape_.key_rows(), shape_.value_width());
    for (std::size_t l = layers_.size(); l-- > 0;) {
      const Layer& layer = layers_[l];
      const Activations& a = activations_[l];
      // h += attention(q, k, v)·W_oᵀ
      write(layer.output, gradient).noalias() = dh_.transpose() * a.output;
      doutput_.noalias() = dh_ * read(layer.output);
      paper::cross_attention_backward(mechanism_, shape_, a.query.data(), a.key.data(), a.value.data(), a.output.data(),
                                      a.normalizer.data(), std::as_const(doutput_).data(), dquery_.data(), dkey_.data(),
                                      dvalue_.data(), {}, options());
      // q = h·W_qᵀ,   k = z·W_kᵀ,   v = z·W_vᵀ
      write(layer.query, gradient).noalias() = dquery_.transpose() * a.input;
      write(layer.key, gradient).noalias() = dkey_.transpose() * batch.memory;
      write(layer.value, gradient).noalias() = dvalue_.transpose() * batch.memory;
      dh_.noalias() += dquery_ * read(layer.query);
    }
    // h⁰ = [x, 1]·W_inᵀ
    write(in_, gradient).noalias() = dh_.transpose() * batch.question;
  }

  paper::Mechanism mechanism_;
  CrossShape shape_;
  Weight in_, out_;
  std::vector<Layer> layers_;
  std::vector<Activations> activations_;
  Matrix<T> h_, difference_, dh_, doutput_, dquery_, dkey_, dvalue_;
  csq::Workspace workspace_;
};

// ---------------------------------------------------------------------------------------------------------------------
// One run
// ---------------------------------------------------------------------------------------------------------------------

const std::vector<std::string> mechanism_names{"csq", "shifted", "squared", "softmax"};

paper::Mechanism mechanism_named(const std::string& name) {
  if (name == "csq") return csq::Csq{};
  if (name == "shifted") return csq::ShiftedQuadratic{};
  if (name == "squared") return csq::Squared{};
  return csq::Softmax{};
}

// Rates .001, .003 and .01 were tried on csq and squared at p = 8: .01 left the smallest error at every depth.
struct Training {
  Index steps = 3000, sequences = 32;
  double rate = 1e-2;
  std::uint64_t seed = 1;
};

struct Run {
  std::string mechanism;  // "chain": built by hand
  int power = 4;
  Index depth = 1;
};

struct Outcome {
  double first_error = 0, error = 0, seconds = 0;
  Index parameters = 0;
};

Outcome train(const Run& run, const Training& training) {
  const Teacher teacher(run.power, training.seed);
  Student<float> student(mechanism_named(run.mechanism), run.depth, training.sequences, training.seed);
  paper::AdamW<float> optimizer{.decay = 0};
  Batch<float> batch;
  Normals normals(paper::random_stream(training.seed, 2));
  Outcome outcome{.parameters = static_cast<Index>(student.parameters.size())};
  for (Index step = 0; step < training.steps; ++step) {
    draw(teacher, training.sequences, normals, batch);
    const double error = student.run(batch, true);
    if (step == 0) outcome.first_error = error;
    const double left = 1 - static_cast<double>(step) / static_cast<double>(training.steps);
    optimizer.update(student.parameters, student.gradient, training.rate * left);
  }
  Normals fresh(paper::random_stream(training.seed, 3));
  constexpr int evaluations = 16;
  for (int i = 0; i < evaluations; ++i) {
    draw(teacher, training.sequences, fresh, batch);
    outcome.error += student.run(batch, false) / evaluations;
  }
  return outcome;
}

Outcome perform(const Run& run, const Training& training) {
  const auto start = std::chrono::steady_clock::now();
  Outcome outcome;
  if (run.mechanism == "chain")
    outcome.error = chain_error(Teacher(run.power, training.seed), run.depth, 16 * training.sequences, training.seed);
  else
    outcome = train(run, training);
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

// The fewest blocks of width w with L(2w² + 3) ≥ p.
Index no_go_depth(Index p, Index block_width) {
  const Index parameters = 2 * block_width * block_width + 3;
  return (p + parameters - 1) / parameters;
}

int log2_of(int power) {
  int result = 0;
  while ((1 << result) < power) ++result;
  return result;
}

constexpr const char* csv_header =
    "program,mechanism,centering,seed,power,depth,heads,width,parameters,steps,rate,error,log2_power,no_go_depth,"
    "no_go_depth_width_1,seconds";

void print_heading() {
  std::printf("%5s  %-8s %4s %5s %5s %10s   %-10s  %6s %16s   %6s\n", "power", "stack", "seed", "depth", "heads",
              "parameters", "error", "log2 p", "no-go (width 1)", "run s");
}

void report(const Run& run, const Training& training, const Outcome& outcome, paper::CsvFile& csv) {
  const Index least = no_go_depth(run.power, width), least_narrow = no_go_depth(run.power, 1);
  const bool chain = run.mechanism == "chain";
  const Index heads = chain ? 1 : all_heads / run.depth;
  std::printf("%5d  %-8s %4lld %5lld %5lld %10lld   %-10.4g  %6d %10lld (%lld)   %8.1f\n", run.power,
              run.mechanism.c_str(), static_cast<long long>(training.seed), static_cast<long long>(run.depth),
              static_cast<long long>(heads), static_cast<long long>(outcome.parameters), outcome.error,
              log2_of(run.power), static_cast<long long>(least), static_cast<long long>(least_narrow), outcome.seconds);
  std::fflush(stdout);
  csv.row("depth", run.mechanism, run.mechanism == "csq" ? "sequence" : "none", training.seed, run.power, run.depth,
          heads, width, outcome.parameters, chain ? Index{0} : training.steps, chain ? 0.0 : training.rate,
          outcome.error, log2_of(run.power), least, least_narrow, outcome.seconds);
}

// ---------------------------------------------------------------------------------------------------------------------
// --quick
// ---------------------------------------------------------------------------------------------------------------------

bool passed(const std::string& what, double value, double largest) {
  const bool ok = value <= largest;
  std::printf("%-4s %s: %.3g, at most %.3g\n", ok ? "ok" : "FAIL", what.c_str(), value, largest);
  return ok;
}

// ∂error/∂parameters of a stack of two along 3 random directions against central differences, in double.
double gradient_error(const std::string& mechanism) {
  Student<double> student(mechanism_named(mechanism), 2, 2, 5);
  Normals normals(6);
  Batch<double> batch;
  draw(Teacher(4, 5), 2, normals, batch);
  student.run(batch, true);
  const std::vector<double> start = student.parameters, gradient = student.gradient;
  double worst = 0;
  for (std::uint64_t direction = 0; direction < 3; ++direction) {
    constexpr double step = 1e-6;
    double slope = 0;
    const auto error_at = [&](double along) {
      for (std::size_t i = 0; i < start.size(); ++i)
        student.parameters[i] = start[i] + along * paper::random_normal(direction, i);
      return student.run(batch, false);
    };
    for (std::size_t i = 0; i < start.size(); ++i) slope += gradient[i] * paper::random_normal(direction, i);
    const double difference = (error_at(step) - error_at(-step)) / (2 * step);
    worst = std::max(worst, std::abs(difference - slope) / std::abs(slope));
  }
  return worst;
}

// The teacher against a triple loop, on one sequence: the largest difference of a component.
double teacher_error(int power) {
  const Teacher teacher(power, 7);
  Normals normals(8);
  const Memory drawn = draw_sequence(normals);
  const Matrix<double> answer = teacher.answer(drawn.question, drawn.key, drawn.value);
  double worst = 0;
  for (Index i = 0; i < questions; ++i) {
    Eigen::VectorXd sum = Eigen::VectorXd::Zero(dim);
    double normalizer = 0;
    for (Index j = 0; j < slots; ++j) {
      const double score = (teacher.a * drawn.question.row(i).transpose()).dot(drawn.key.row(j).transpose());
      sum += std::pow(1 + score, power) * drawn.value.row(j).transpose();
      normalizer += std::pow(1 + score, power);
    }
    const Eigen::VectorXd expected = teacher.u * sum / normalizer;
    worst = std::max(worst, (answer.row(i).transpose() - expected).cwiseAbs().maxCoeff());
  }
  return worst;
}

bool quick(std::uint64_t seed) {
  bool ok = true;
  for (const int power : {4, 8}) {
    const std::string of = " of power " + std::to_string(power);
    ok &= passed("teacher" + of + " against a triple loop", teacher_error(power), 1e-10);
    ok &= passed("chain of log2 p shifted layers against the teacher" + of,
                 chain_error(Teacher(power, seed), log2_of(power), 32, seed), 1e-20);
  }
  for (const std::string& name : mechanism_names)
    ok &= passed("gradient of two layers against central differences, " + name, gradient_error(name), 1e-6);
  const Training training{.steps = 100, .seed = seed};
  paper::CsvFile none("", "");
  print_heading();
  for (const std::string& name : mechanism_names) {
    const Run run{name, 4, 2};
    const Outcome outcome = perform(run, training);
    report(run, training, outcome, none);
    ok &= passed("error after 100 steps, of the first", outcome.error / outcome.first_error, 0.8);
  }
  return ok;
}

}  // namespace

int main(int count, char** words) try {
  CLI::App app("A selection of degree p learned by 1 to 4 attention layers with equally many parameters");
  std::vector<std::string> mechanisms{"chain", "csq", "shifted", "squared", "softmax"};
  std::vector<int> powers{4, 8};
  std::vector<Index> depths{1, 2, 3, 4};
  std::string csv_path;
  Training training;
  bool only_quick = false;
  app.add_option("--mechanism", mechanisms, "of the student's layers; chain is built by hand")
      ->delimiter(',')
      ->check(CLI::IsMember({"chain", "csq", "shifted", "squared", "softmax"}))
      ->capture_default_str();
  app.add_option("--power", powers, "p of the teacher")
      ->delimiter(',')
      ->check(CLI::IsMember({2, 4, 8}))
      ->capture_default_str();
  app.add_option("--depth", depths, "layers of the student, 1 to 4")
      ->delimiter(',')
      ->check(CLI::Range(1, 4))
      ->capture_default_str();
  app.add_option("--seed", training.seed, "seed of teacher, student and sequences")->capture_default_str();
  app.add_option("--steps", training.steps, "training steps")->check(CLI::Range(1, 1000000))->capture_default_str();
  app.add_option("--rate", training.rate, "learning rate at the start")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--csv", csv_path, "write the table there too");
  app.add_flag("--quick", only_quick, "checks alone, under 20 s; exit 1 when one fails");
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::fprintf(stderr, "depth: %s\n", error.what());
    return 2;
  }
  if (only_quick) return quick(training.seed) ? 0 : 1;

  paper::CsvFile csv(csv_path, csv_header);
  print_heading();
  for (const int power : powers)
    for (const std::string& mechanism : mechanisms)
      for (const Index depth : depths) {
        const Run run{mechanism, power, depth};
        std::fprintf(stderr, "depth: power %d, %s, %lld layers\n", power, mechanism.c_str(),
                     static_cast<long long>(depth));
        report(run, training, perform(run, training), csv);
      }
  csv.finish();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "depth: %s\n", error.what());
  return 2;
}

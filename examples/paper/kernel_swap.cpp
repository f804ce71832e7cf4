// Softmax's exp swapped for a positive polynomial in a trained transformer, at the same depth (theorem 5.5).
//
//   teacher   the toy of retrieval_task.hpp, softmax, trained with the bound penalty until it solves the task: at least
//             `--steps` steps, then until the last 10 batches, all of fresh sequences, are answered to 99.9 %, at most
//             `--max-steps`
//   R         the largest |s| of the teacher over layers and heads, on the evaluation sequences
//   P         r² + 1e-12, r the Chebyshev series of e^{x/2} on [−R, R] cut after degree/2: degree 2; 8, 16,
//             24, 32 as in the paper; 48 so that the bound applies to a larger R too. η = max |P − exp| there
//
// Each kernel, and CSQ, replaces exp in every layer of the same teacher: accuracy, loss and the largest deviation of a
// logit from the teacher's, before and after an equal number of fine-tuning steps on the same batches; softmax itself
// is fine-tuned as a control. On the teacher's own q, k, v the largest ‖o_exp − o_P‖ of any row and layer must stay
// below 4e^R·B_V·η, which is promised where η ≤ e^{−R}/2: exit 1 when it does not. Training is in float, everything
// measured is in double. Source: "The d² Pullback Theorem" (2026), §5 and §10.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <deque>
#include <exception>
#include <string>
#include <vector>

#include "csv.hpp"
#include "retrieval_task.hpp"
#include "swap_bound.hpp"

namespace {

using paper::AttentionSettings;
using paper::Batch;
using paper::Index;
using paper::Mechanism;
using paper::Model;
using paper::ModelConfig;

constexpr int threads = 1;

struct Settings {
  paper::RetrievalTask task;
  ModelConfig config;
  Index layers = 6, batch = 128, evaluation = 256;  // sequences
  Index steps = 600, max_steps = 5000, fine_tune = 100;
  double rate = 1e-3;
  paper::Penalties penalties{.bound = 3e-2, .radius = 4};
  std::uint64_t seed = 1;
};

// Streams of the seed: parameters are the seed's own.
enum Stream : std::uint64_t { teacher_batches = 1001, fine_tune_batches, evaluation_batch };

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The same parameters, in another precision, with `mechanism` in every layer.
template <class To, class From>
Model<To> with_mechanism(const Model<From>& model, const Mechanism& mechanism) {
  ModelConfig config = model.config;
  for (AttentionSettings& layer : config.attention) layer.mechanism = mechanism;
  Model<To> result(config, 0);
  for (std::size_t i = 0; i < model.parameters.size(); ++i) result.parameters[i] = static_cast<To>(model.parameters[i]);
  return result;
}

// ---------------------------------------------------------------------------------------------------------------------
// Training
// ---------------------------------------------------------------------------------------------------------------------

struct Teacher {
  Model<float> model;
  Index steps = 0;
  bool solved = false;
  double seconds = 0;
};

Teacher train_teacher(const Settings& settings) {
  constexpr std::size_t window = 10;
  constexpr double wanted = 0.999;
  const auto start = std::chrono::steady_clock::now();
  Teacher teacher{Model<float>(settings.config, settings.seed)};
  paper::AdamW<float> optimizer;
  paper::TrainingScratch<float> scratch;
  const std::uint64_t stream = paper::random_stream(settings.seed, teacher_batches);
  std::deque<double> accuracies;
  while (teacher.steps < settings.max_steps && !(teacher.solved && teacher.steps >= settings.steps)) {
    const Batch batch =
        paper::draw_retrieval_batch(settings.task, settings.batch, stream, static_cast<std::uint64_t>(teacher.steps++));
    const auto report =
        paper::train_step(teacher.model, optimizer, batch, settings.penalties, settings.rate, scratch, threads);
    accuracies.push_back(report.accuracy());
    if (accuracies.size() > window) accuracies.pop_front();
    double mean = 0;
    for (const double accuracy : accuracies) mean += accuracy / static_cast<double>(accuracies.size());
    teacher.solved = accuracies.size() == window && mean >= wanted;
    if (teacher.steps % 25 == 0 || teacher.solved)
      std::fprintf(stderr, "kernel_swap: teacher, step %lld: loss %.4f, accuracy %.4f, bound penalty %.4f, %.0f s\n",
                   static_cast<long long>(teacher.steps), report.loss, mean, report.bound, seconds_since(start));
  }
  teacher.seconds = seconds_since(start);
  return teacher;
}

// The same batches for every kernel; returns the loss of the first and of the last.
std::pair<double, double> fine_tune(Model<float>& model, const Settings& settings) {
  paper::AdamW<float> optimizer;
  paper::TrainingScratch<float> scratch;
  const std::uint64_t stream = paper::random_stream(settings.seed, fine_tune_batches);
  std::pair<double, double> losses{};
  for (Index step = 0; step < settings.fine_tune; ++step) {
    const Batch batch =
        paper::draw_retrieval_batch(settings.task, settings.batch, stream, static_cast<std::uint64_t>(step));
    losses.second =
        paper::train_step(model, optimizer, batch, settings.penalties, settings.rate, scratch, threads).loss;
    if (step == 0) losses.first = losses.second;
  }
  return losses;
}

// ---------------------------------------------------------------------------------------------------------------------
// Measuring, in double
// ---------------------------------------------------------------------------------------------------------------------

struct Measurement {
  double loss = 0, accuracy = 0;
  double largest_score = 0;      // max |s| over layers and heads
  double largest_value = 0;      // max ‖v_j‖
  csq::Matrix<double> logits{};  // of the questions, [sequences·pairs, V]
};

// NaN wins and stays: it must not look small.
void take_larger(double& largest, double candidate) {
  if (candidate > largest || std::isnan(candidate)) largest = candidate;
}

Measurement measure(const Model<double>& model, const Batch& batch, Index pairs) {
  paper::TrainingScratch<double> scratch;
  Measurement result;
  result.logits.resize(batch.sequences * pairs, model.config.vocabulary);
  const auto report = paper::evaluate(model, batch, scratch, threads, [&](auto& shard, const paper::Chunk& chunk) {
    const paper::Activations<double>& a = shard.activations;
    result.logits.middleRows(chunk.first * pairs, a.logits.rows()) = a.logits;
    for (std::size_t layer = 0; layer < a.layers.size(); ++layer) {
      const csq::Options options = model.config.attention[layer].options(nullptr);
      const csq::Heads<double> nothing;
      take_larger(result.largest_score,
                  csq::bound_penalty(a.query(layer), a.key(layer), nothing, nothing, 1, 1, options).max_abs);
      const auto& qkv = a.layers[layer].qkv;
      for (Index head = 0; head < a.shape.heads; ++head)
        take_larger(result.largest_value,
                    qkv.middleCols((2 * a.shape.heads + head) * a.shape.head_dim, a.shape.head_dim)
                        .rowwise()
                        .norm()
                        .maxCoeff<Eigen::PropagateNaN>());
    }
  });
  result.loss = report.loss;
  result.accuracy = report.accuracy();
  return result;
}

// max ‖o_exp − o_P‖ over rows, heads and layers, for each mechanism, on the teacher's q, k, v.
std::vector<double> attention_deviations(const Model<double>& teacher, const std::vector<Mechanism>& mechanisms,
                                         const Batch& batch) {
  paper::TrainingScratch<double> scratch;
  std::vector<double> largest(mechanisms.size(), 0.0);
  paper::evaluate(teacher, batch, scratch, threads, [&](auto& shard, const paper::Chunk&) {
    paper::Activations<double>& a = shard.activations;
    csq::Matrix<double> out(a.shape.rows(), a.shape.width());
    std::vector<double> normalizer(static_cast<std::size_t>(a.shape.rows() * a.shape.heads));
    for (std::size_t layer = 0; layer < a.layers.size(); ++layer)
      for (std::size_t which = 0; which < mechanisms.size(); ++which) {
        AttentionSettings settings = teacher.config.attention[layer];
        settings.mechanism = mechanisms[which];
        paper::attention(settings, a.shape, std::as_const(a.layers[layer].qkv).data(),
                         std::as_const(a.layers[layer].log_gate).data(), out.data(), normalizer.data(), a.workspace);
        out -= a.layers[layer].attended;
        for (Index head = 0; head < a.shape.heads; ++head)
          take_larger(largest[which], out.middleCols(head * a.shape.head_dim, a.shape.head_dim)
                                          .rowwise()
                                          .norm()
                                          .maxCoeff<Eigen::PropagateNaN>());
      }
  });
  return largest;
}

double largest_deviation(const csq::Matrix<double>& logits, const csq::Matrix<double>& reference) {
  double largest = 0;
  for (Index i = 0; i < logits.size(); ++i) take_larger(largest, std::abs(logits.data()[i] - reference.data()[i]));
  return largest;
}

// ---------------------------------------------------------------------------------------------------------------------
// The experiment
// ---------------------------------------------------------------------------------------------------------------------

struct Kernel {
  std::string name;
  int degree = 0;  // 0: no polynomial
  Mechanism mechanism;
  paper::SwapBound bound{};        // polynomials
  double attention_deviation = 0;  // max ‖o_exp − o_P‖ on the teacher's q, k, v
};

// A row before and a row after fine-tuning.
struct Row {
  const Kernel* kernel = nullptr;
  bool fine_tuned = false;
  Measurement measured;
  double deviation = 0;  // of a logit from the teacher's
};

struct Result {
  Index teacher_steps = 0;
  bool solved = false, bound_holds = true, bound_applied = false;
  double teacher_seconds = 0, seconds = 0, radius = 0, largest_value = 0;
  std::vector<Kernel> kernels;
  std::vector<Row> rows{};
};

std::vector<Kernel> kernels_for(double radius, double largest_value, const std::vector<int>& degrees) {
  std::vector<Kernel> kernels{{"softmax", 0, csq::Softmax{}}};
  for (const int degree : degrees) {
    const csq::PositivePolynomial polynomial = paper::exponential_polynomial(degree, radius);
    kernels.push_back(
        {"polynomial_" + std::to_string(degree), degree, polynomial, paper::swap_bound(polynomial, largest_value)});
  }
  kernels.push_back({"csq", 0, csq::Csq{}});
  return kernels;
}

Result run_experiment(const Settings& settings, const std::vector<int>& degrees) {
  const auto start = std::chrono::steady_clock::now();
  const Teacher teacher = train_teacher(settings);
  const Batch batch = paper::draw_retrieval_batch(settings.task, settings.evaluation,
                                                  paper::random_stream(settings.seed, evaluation_batch), 0);
  const Index pairs = settings.task.pairs;
  const auto exact = with_mechanism<double>(teacher.model, csq::Softmax{});
  const Measurement reference = measure(exact, batch, pairs);

  Result result{.teacher_steps = teacher.steps,
                .solved = teacher.solved,
                .teacher_seconds = teacher.seconds,
                .radius = reference.largest_score,
                .largest_value = reference.largest_value,
                .kernels = kernels_for(reference.largest_score, reference.largest_value, degrees)};
  std::vector<Mechanism> mechanisms;
  for (const Kernel& kernel : result.kernels) mechanisms.push_back(kernel.mechanism);
  const std::vector<double> deviations = attention_deviations(exact, mechanisms, batch);
  for (std::size_t which = 0; which < result.kernels.size(); ++which) {
    Kernel& kernel = result.kernels[which];
    kernel.attention_deviation = deviations[which];
    if (!kernel.bound.applicable) continue;
    result.bound_applied = true;
    result.bound_holds = result.bound_holds && kernel.attention_deviation <= kernel.bound.bound;
  }

  const auto add_row = [&](const Kernel& kernel, bool fine_tuned, const Model<float>& model) {
    Row row{&kernel, fine_tuned, measure(with_mechanism<double>(model, kernel.mechanism), batch, pairs)};
    row.deviation = largest_deviation(row.measured.logits, reference.logits);
    row.measured.logits.resize(0, 0);
    result.rows.push_back(std::move(row));
  };
  for (const Kernel& kernel : result.kernels) {
    std::fprintf(stderr, "kernel_swap: %s, %.0f s\n", kernel.name.c_str(), seconds_since(start));
    auto student = with_mechanism<float>(teacher.model, kernel.mechanism);
    add_row(kernel, false, student);
    fine_tune(student, settings);
    add_row(kernel, true, student);
  }
  result.seconds = seconds_since(start);
  return result;
}

constexpr const char* csv_header =
    "program,mechanism,centering,seed,degree,stage,fine_tune_steps,layers,d_model,heads,pairs,batch,accuracy,loss,"
    "max_logit_deviation,max_abs_score,radius,largest_value,eta,bound_applicable,bound,attention_deviation,"
    "teacher_steps,teacher_solved,teacher_seconds,seconds";

void write_csv(const Settings& settings, const Result& result, const std::string& path) {
  paper::CsvFile csv(path, csv_header);
  for (const Row& row : result.rows) {
    const Kernel& kernel = *row.kernel;
    const bool polynomial = kernel.degree > 0;
    csv.row("kernel_swap", kernel.name, kernel.name == "csq" ? "prefix" : "none", settings.seed, kernel.degree,
            row.fine_tuned ? "after" : "before", row.fine_tuned ? settings.fine_tune : Index{0}, settings.layers,
            settings.config.d_model, settings.config.heads, settings.task.pairs, settings.batch, row.measured.accuracy,
            row.measured.loss, row.deviation, row.measured.largest_score, result.radius, result.largest_value,
            polynomial ? kernel.bound.error : 0.0, polynomial && kernel.bound.applicable ? 1 : 0,
            polynomial ? kernel.bound.bound : 0.0, kernel.attention_deviation, result.teacher_steps,
            result.solved ? 1 : 0, result.teacher_seconds, result.seconds);
  }
  csv.finish();
}

void print(const Settings& settings, const Result& result) {
  std::printf("teacher: %lld steps, %.0f s, %s; R = max |s| = %.3f, B_V = max ||v|| = %.3f\n",
              static_cast<long long>(result.teacher_steps), result.teacher_seconds,
              result.solved ? "solved the task" : "did NOT solve the task", result.radius, result.largest_value);
  std::printf("attention on the teacher's q, k, v; the bound is 4 e^R B_V eta\n");
  std::printf("  %-14s %10s %12s   %s\n", "kernel", "eta", "deviation", "bound");
  for (const Kernel& kernel : result.kernels) {
    std::printf("  %-14s ", kernel.name.c_str());
    if (kernel.degree == 0)
      std::printf("%10s %12.3g   -\n", "-", kernel.attention_deviation);
    else if (kernel.bound.applicable)
      std::printf("%10.2e %12.3g   %.3g %s\n", kernel.bound.error, kernel.attention_deviation, kernel.bound.bound,
                  kernel.attention_deviation <= kernel.bound.bound ? "holds" : "VIOLATED");
    else
      std::printf("%10.2e %12.3g   not applicable\n", kernel.bound.error, kernel.attention_deviation);
  }
  std::printf("whole model, before and after %lld steps of fine-tuning\n", static_cast<long long>(settings.fine_tune));
  std::printf("  %-14s %-6s %9s %10s %16s %9s\n", "kernel", "", "accuracy", "loss", "logit deviation", "max |s|");
  for (const Row& row : result.rows)
    std::printf("  %-14s %-6s %9.4f %10.4g %16.3g %9.2f\n", row.kernel->name.c_str(),
                row.fine_tuned ? "after" : "before", row.measured.accuracy, row.measured.loss, row.deviation,
                row.measured.largest_score);
}

// ---------------------------------------------------------------------------------------------------------------------
// --quick
// ---------------------------------------------------------------------------------------------------------------------

bool passed(const std::string& what, double value, double largest) {
  const bool ok = value <= largest;
  std::printf("%-4s %s: %.3g, at most %.3g\n", ok ? "ok" : "FAIL", what.c_str(), value, largest);
  return ok;
}

// A toy of the toy: two layers, four pairs.
Settings small_settings(std::uint64_t seed) {
  Settings settings;
  settings.task = {.pairs = 4, .keys = 8, .values = 8};
  settings.layers = 2;
  settings.config.d_model = 32;
  settings.config.heads = 2;
  settings.config.head_dim = 16;
  settings.config.ffn = 64;
  settings.batch = 32;
  settings.evaluation = 32;
  settings.steps = settings.max_steps = 120;
  settings.fine_tune = 20;
  settings.seed = seed;
  return settings;
}

// Called once all options are known.
void complete(Settings& settings) {
  settings.config.vocabulary = settings.task.vocabulary();
  settings.config.positions = settings.task.length();
  settings.config.attention.assign(static_cast<std::size_t>(settings.layers), AttentionSettings{csq::Softmax{}});
}

// ∂loss/∂parameters of a model with the polynomial in it, along 3 random directions, against central differences.
double gradient_error(const Settings& settings) {
  const Batch batch = paper::draw_retrieval_batch(settings.task, 4, settings.seed, 0);
  Model<double> model(settings.config, settings.seed);
  for (AttentionSettings& layer : model.config.attention) layer.mechanism = paper::exponential_polynomial(8, 4);
  paper::TrainingScratch<double> scratch;
  paper::loss_gradient(model, batch, {}, scratch, threads);
  const std::vector<double> gradient = scratch.gradient, start = model.parameters;
  double worst = 0;
  for (std::uint64_t direction = 0; direction < 3; ++direction) {
    constexpr double step = 1e-5;
    double slope = 0;
    const auto loss_at = [&](double along) {
      for (std::size_t i = 0; i < start.size(); ++i)
        model.parameters[i] = start[i] + along * paper::random_normal(direction, i);
      return paper::evaluate(model, batch, scratch, threads).loss;
    };
    for (std::size_t i = 0; i < start.size(); ++i) slope += gradient[i] * paper::random_normal(direction, i);
    const double difference = (loss_at(step) - loss_at(-step)) / (2 * step);
    worst = std::max(worst, std::abs(difference - slope) / std::abs(slope));
  }
  return worst;
}

bool quick(std::uint64_t seed) {
  Settings settings = small_settings(seed);
  complete(settings);
  bool ok = passed("gradient through the polynomial against central differences", gradient_error(settings), 1e-6);
  const Result result = run_experiment(settings, {2, 8, 16, 24, 32});
  print(settings, result);
  const auto row = [&](const std::string& name, bool fine_tuned) -> const Row& {
    return *std::find_if(result.rows.begin(), result.rows.end(), [&](const Row& candidate) {
      return candidate.kernel->name == name && candidate.fine_tuned == fine_tuned;
    });
  };
  ok &= passed("softmax swapped for softmax moves a logit by", row("softmax", false).deviation, 0);
  ok &= passed("attention deviations above their bound", result.bound_holds ? 0 : 1, 0);
  ok &= passed("experiments in which no bound applies", result.bound_applied ? 0 : 1, 0);
  ok &= passed("deviation of degree 32, of degree 16's",
               row("polynomial_32", false).deviation / row("polynomial_16", false).deviation, 0.1);
  ok &= passed("loss of csq after fine-tuning, of before",
               row("csq", true).measured.loss / row("csq", false).measured.loss, 1);
  return ok;
}

}  // namespace

int main(int count, char** words) try {
  CLI::App app("exp swapped for positive polynomials and for CSQ in a trained softmax transformer");
  Settings settings;
  std::vector<int> degrees{2, 8, 16, 24, 32, 48};
  std::string csv_path;
  bool only_quick = false;
  const auto count_option = [&](const char* name, Index& value, const char* what) {
    app.add_option(name, value, what)->check(CLI::Range(1, 1000000))->capture_default_str();
  };
  count_option("--layers", settings.layers, "layers of the teacher");
  count_option("--d-model", settings.config.d_model, "width of the teacher");
  count_option("--heads", settings.config.heads, "heads of a layer");
  count_option("--head-dim", settings.config.head_dim, "head size");
  count_option("--ffn", settings.config.ffn, "width of the feed-forward part");
  app.add_option("--pairs", settings.task.pairs, "pairs of a sequence")
      ->check(CLI::Range(1, 48))
      ->capture_default_str();
  count_option("--batch", settings.batch, "sequences a step");
  count_option("--evaluation", settings.evaluation, "sequences measured");
  count_option("--steps", settings.steps, "least steps of the teacher");
  count_option("--max-steps", settings.max_steps, "most steps of the teacher");
  count_option("--fine-tune", settings.fine_tune, "steps of fine-tuning for each kernel");
  app.add_option("--rate", settings.rate, "learning rate")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--bound", settings.penalties.bound, "weight of the bound penalty")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--radius", settings.penalties.radius, "its radius")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--degrees", degrees, "even degrees of P")
      ->delimiter(',')
      ->check(CLI::Range(2, 64))
      ->capture_default_str();
  app.add_option("--seed", settings.seed, "seed of parameters and sequences")->capture_default_str();
  app.add_option("--csv", csv_path, "write the table there too");
  app.add_flag("--quick", only_quick, "checks alone, on a toy of the toy, under 20 s; exit 1 when one fails");
  try {
    app.parse(count, words);
    for (const int degree : degrees)
      if (degree % 2 != 0) throw CLI::ValidationError("--degrees", std::to_string(degree) + " is odd");
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::fprintf(stderr, "kernel_swap: %s\n", error.what());
    return 2;
  }
  if (only_quick) return quick(settings.seed) ? 0 : 1;

  complete(settings);
  const Result result = run_experiment(settings, degrees);
  print(settings, result);
  write_csv(settings, result, csv_path);
  return result.bound_holds ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "kernel_swap: %s\n", error.what());
  return 2;
}

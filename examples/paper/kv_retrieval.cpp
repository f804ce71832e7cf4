// Causal key-value retrieval by a transformer of 6 layers (the paper's §10): does the mechanism solve it, how soon, and
// what do its scores look like?
//
//   task      k₁ v₁ … k₁₆ v₁₆ q₁ a₁ … q₁₆ a₁₆, n = 64, vocabulary 97 (retrieval_task.hpp)
//   model     d_model 128, 4 heads of 32, FFN 512, embeddings N(0, 1) (model.hpp)
//   training  AdamW (.9, .999, 1e-8, decay .01), rate 1e-3, 128 fresh sequences a step, 600 steps, clip 1
//   loss, accuracy, max|Z|, Pr(|Z| > R), stable ranks: on 3×256 sequences of their own, after training
//
// A run is one line of the table and one row of the CSV; the sweeps are loops over runs:
//   --table3       softmax, squared, shifted, csq, hybrid, linear
//   --bound-sweep  csq with λ·L_b, R = 4         --rank-sweep  csq with λ·L_r
//   --distill all  csq students of a softmax teacher, 200 steps each (distillation.hpp)
// --quick checks the model, its gradients, the distillation and a short training; exit 1 when one fails.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "csv.hpp"
#include "distillation.hpp"
#include "model_checks.hpp"
#include "npy.hpp"
#include "retrieval_task.hpp"
#include "score_summary.hpp"
#include "swap_bound.hpp"

namespace {

using namespace paper;

constexpr double second_radius = 8;  // overflow is reported for it too
constexpr double solved_loss = 0.1;  // "steps to loss < 0.1"
constexpr Index evaluation_batches = 3, evaluation_sequences = 256;
constexpr Index student_steps = 200;

struct Run {
  std::string mechanism = "csq", centering = "automatic", method = "auto";
  double shift = 1, embedding_scale = 1, rate = 1e-3;
  std::vector<double> coefficients{};  // of quadratic and polynomial; empty: 1 1 1, and exp's Taylor polynomial
  Index layers = 6, steps = 600, batch = 128;
  Penalties penalties{};
  std::uint64_t seed = 1;
  int threads = 0;
};

// What a seed is spent on.
enum Purpose : std::uint64_t { parameters, training_data, evaluation_data, student_parameters, checks };

csq::Centering centering_of(const std::string& name) {
  if (name == "none") return csq::Centering::none;
  if (name == "sequence") return csq::Centering::sequence;
  if (name == "prefix") return csq::Centering::prefix;
  if (name == "prefix_exclusive") return csq::Centering::prefix_exclusive;
  return csq::Centering::automatic;
}

csq::Method method_of(const std::string& name) {
  return name == "direct" ? csq::Method::direct : name == "factored" ? csq::Method::factored : csq::Method::automatic;
}

Mechanism mechanism_of(const std::string& name, double shift, std::vector<double> coefficients = {}) {
  if (name == "softmax") return csq::Softmax{};
  if (name == "squared") return csq::Squared{};
  if (name == "shifted") return csq::ShiftedQuadratic{shift};
  if (name == "taylor") return csq::Taylor{};
  if (name == "linear") return csq::Linear{};
  if (name == "quadratic") {
    if (coefficients.empty()) coefficients = {1, 1, 1};
    return csq::Quadratic{coefficients[0], coefficients[1], coefficients[2]};
  }
  if (name == "polynomial") {
    if (coefficients.empty()) coefficients = {1, 1, 1.0 / 2, 1.0 / 6, 1.0 / 24};
    return csq::Polynomial{std::move(coefficients)};
  }
  if (name == "positive_polynomial") return exponential_polynomial(8, 8);
  return csq::Csq{shift};
}

// hybrid: CSQ in the lower half of the layers, softmax above.
ModelConfig config_of(const Run& run, const RetrievalTask& task) {
  ModelConfig config{.vocabulary = task.vocabulary(),
                     .positions = task.length(),
                     .embedding_scale = run.embedding_scale,
                     .attention = {}};
  for (Index layer = 0; layer < run.layers; ++layer) {
    const bool softmax = run.mechanism == "softmax" || (run.mechanism == "hybrid" && layer >= run.layers / 2);
    AttentionSettings settings;
    settings.mechanism = mechanism_of(softmax ? "softmax" : run.mechanism, run.shift, run.coefficients);
    settings.centering = centering_of(run.centering);
    settings.method = softmax ? csq::Method::automatic : method_of(run.method);
    config.attention.push_back(settings);
  }
  return config;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// One line on standard error: overwritten on a terminal, otherwise now and then.
void show_progress(const std::string& what, Index step, Index steps, double loss, double seconds) {
  const bool terminal = isatty(STDERR_FILENO) == 1;
  if (step != steps && step % (terminal ? 5 : 50) != 0) return;
  std::fprintf(stderr, "%skv_retrieval: %s: step %lld of %lld, loss %.4f, %.0f s%s", terminal ? "\r\033[K" : "",
               what.c_str(), static_cast<long long>(step), static_cast<long long>(steps), loss, seconds,
               terminal && step != steps ? "" : "\n");
}

struct Outcome {
  double loss = 0, accuracy = 0;
  ScoreSummary scores;        // overflow: beyond the run's radius and beyond second_radius
  double gradient_norm = 0;   // of the last step, before clipping
  Index steps_to_solved = 0;  // 0: never
  double seconds = 0;         // of training
};

// The evaluation batches, one after another.
template <class Task>
void for_each_evaluation_batch(const RetrievalTask& task, std::uint64_t seed, const Task& body) {
  for (Index number = 0; number < evaluation_batches; ++number)
    body(draw_retrieval_batch(task, evaluation_sequences, random_stream(seed, evaluation_data),
                              static_cast<std::uint64_t>(number)));
}

void evaluate_into(Outcome& outcome, const Model<float>& model, const Run& run, const RetrievalTask& task,
                   TrainingScratch<float>& scratch) {
  constexpr double each = 1 / static_cast<double>(evaluation_batches);
  for_each_evaluation_batch(task, run.seed, [&](const Batch& batch) {
    std::array<ScoreSummary, TrainingScratch<float>::shard_count> scores;
    const LossReport report = evaluate(model, batch, scratch, run.threads, [&](const auto& shard, const Chunk&) {
      scores[shard.number].add(summarise_scores(model, shard.activations, {run.penalties.radius, second_radius}));
    });
    for (const ScoreSummary& part : scores) outcome.scores.add(part);
    outcome.loss += each * report.loss;
    outcome.accuracy += each * report.accuracy();
  });
}

Outcome train(Model<float>& model, const Run& run, const RetrievalTask& task, const std::string& name) {
  Outcome outcome;
  AdamW<float> optimizer;
  TrainingScratch<float> scratch;
  const auto start = std::chrono::steady_clock::now();
  for (Index step = 1; step <= run.steps; ++step) {
    const Batch batch =
        draw_retrieval_batch(task, run.batch, random_stream(run.seed, training_data), static_cast<std::uint64_t>(step));
    const StepReport report = train_step(model, optimizer, batch, run.penalties, run.rate, scratch, run.threads);
    outcome.gradient_norm = report.gradient_norm;
    if (outcome.steps_to_solved == 0 && report.loss < solved_loss) outcome.steps_to_solved = step;
    show_progress(name, step, run.steps, report.loss, seconds_since(start));
  }
  outcome.seconds = seconds_since(start);
  evaluate_into(outcome, model, run, task, scratch);
  return outcome;
}

// A number, or a dash where there is none.
std::string number_or_dash(const char* format, double value, bool exists) {
  char text[32] = "-";
  if (exists) std::snprintf(text, sizeof text, format, value);
  return text;
}

constexpr const char* run_header =
    "program,mechanism,centering,shift,layers,embedding_scale,steps,rate,batch,bound_penalty,radius,rank_penalty,"
    "method,seed,loss,accuracy,max_abs_z,overflow,overflow_8,stable_rank_q,stable_rank_k,gradient_norm,"
    "steps_to_loss_0.1,seconds";

void print_run_heading() {
  std::printf("%-8s %-16s %-7s %-7s %4s  %9s %8s %7s %8s %8s %6s %6s %9s %7s %7s\n", "", "centring", "bound", "rank",
              "seed", "loss", "accuracy", "max|Z|", "Pr>R", "Pr>8", "rankQ", "rankK", "gradient", "solved", "seconds");
}

void report_run(const Run& run, const Outcome& outcome, CsvFile& csv) {
  const ScoreSummary& scores = outcome.scores;
  const bool has_scores = scores.weight > 0, solved = outcome.steps_to_solved > 0;
  const auto score = [&](const char* format, double value) { return number_or_dash(format, value, has_scores); };
  std::printf("%-8s %-16s %-7g %-7g %4llu  %9.5f %8.4f %7s %8s %8s %6s %6s %9.3g %7s %7.0f\n", run.mechanism.c_str(),
              run.centering.c_str(), run.penalties.bound, run.penalties.rank, static_cast<unsigned long long>(run.seed),
              outcome.loss, outcome.accuracy, score("%.2f", scores.max_abs).c_str(),
              score("%.5f", scores.overflow[0]).c_str(), score("%.5f", scores.overflow[1]).c_str(),
              score("%.2f", scores.query_rank).c_str(), score("%.2f", scores.key_rank).c_str(), outcome.gradient_norm,
              number_or_dash("%.0f", static_cast<double>(outcome.steps_to_solved), solved).c_str(), outcome.seconds);
  std::fflush(stdout);
  // Empty cells where there is no number.
  const auto cell = [](double value, bool exists) { return exists ? number_or_dash("%.9g", value, true) : ""; };
  csv.row("kv_retrieval", run.mechanism, run.centering, run.shift, run.layers, run.embedding_scale, run.steps, run.rate,
          run.batch, run.penalties.bound, run.penalties.radius, run.penalties.rank, run.method, run.seed, outcome.loss,
          outcome.accuracy, cell(scores.max_abs, has_scores), cell(scores.overflow[0], has_scores),
          cell(scores.overflow[1], has_scores), cell(scores.query_rank, has_scores), cell(scores.key_rank, has_scores),
          outcome.gradient_norm, cell(static_cast<double>(outcome.steps_to_solved), solved), outcome.seconds);
}

std::string name_of(const Run& run) {
  std::string name = run.mechanism;
  const auto add = [&](const std::string& what) { name += ", " + what; };
  if (run.centering != "automatic") add("centring " + run.centering);
  if (run.penalties.bound != 0) add("bound " + number_or_dash("%g", run.penalties.bound, true));
  if (run.penalties.rank != 0) add("rank " + number_or_dash("%g", run.penalties.rank, true));
  add("seed " + std::to_string(run.seed));
  return name;
}

void write_model(const std::string& path, const Model<float>& model) {
  npy::write<float>(path, std::vector<npy::Index>{model.table.count}, model.parameters);
}

void perform_runs(const std::vector<Run>& runs, const std::string& csv_path, const std::string& save_path) {
  const RetrievalTask task;
  CsvFile csv(csv_path, run_header);
  print_run_heading();
  for (const Run& run : runs) {
    Model<float> model(config_of(run, task), random_stream(run.seed, parameters));
    report_run(run, train(model, run, task, name_of(run)), csv);
    if (!save_path.empty()) write_model(save_path, model);
  }
  csv.finish();
}

// ---------------------------------------------------------------------------------------------------------------------
// Distillation

// From a file that --save wrote, or trained here by the recipe.
Model<float> make_teacher(const Run& student, const RetrievalTask& task, const std::string& path) {
  Run run = student;
  run.mechanism = "softmax";
  run.steps = Run{}.steps;
  Model<float> teacher(config_of(run, task), random_stream(run.seed, parameters));
  if (path.empty()) {
    train(teacher, run, task, "teacher, " + name_of(run));
    return teacher;
  }
  const npy::Array<float> saved = npy::read<float>(path);
  if (saved.data.size() != teacher.parameters.size())
    npy::fail(path, "has " + std::to_string(saved.data.size()) + " numbers but the teacher has " +
                        std::to_string(teacher.parameters.size()));
  teacher.parameters = saved.data;
  return teacher;
}

constexpr const char* distill_header =
    "program,mechanism,losses,steps,rate,batch,seed,teacher_loss,teacher_accuracy,loss,accuracy,attention_error,kl,"
    "pullback,seconds";

void distill(const std::string& losses, const Run& run, const Model<float>& teacher, const RetrievalTask& task,
             const LossReport& teacher_report, CsvFile& csv) {
  constexpr double each = 1 / static_cast<double>(evaluation_batches);
  const DistillationWeights weights{losses == "kl" || losses == "both" ? 1.0 : 0.0,
                                    losses == "pullback" || losses == "both" ? 1.0 : 0.0};
  Model<float> student(config_of(run, task), random_stream(run.seed, student_parameters));
  Distillation<float> distillation(teacher, weights);
  AdamW<float> optimizer;
  TrainingScratch<float> scratch;
  const auto start = std::chrono::steady_clock::now();
  for (Index step = 1; step <= run.steps; ++step) {
    const Batch batch =
        draw_retrieval_batch(task, run.batch, random_stream(run.seed, training_data), static_cast<std::uint64_t>(step));
    const StepReport report =
        distillation_step(student, distillation, optimizer, batch, run.rate, scratch, run.threads);
    show_progress("student, " + losses, step, run.steps, report.loss, seconds_since(start));
  }
  const double seconds = seconds_since(start);

  double loss = 0, accuracy = 0, kl = 0, pullback = 0, attention_error = 0;
  for_each_evaluation_batch(task, run.seed, [&](const Batch& batch) {
    const LossReport report = distillation.evaluate(student, batch, scratch, run.threads);
    loss += each * report.loss;
    accuracy += each * report.accuracy();
    kl += each * distillation.report().kl;
    pullback += each * distillation.report().pullback;
    attention_error += each * distillation.report().attention_error;
  });
  std::printf("%-9s %4llu  %9.5f %8.4f %15.4f %9.5f %9.5f %8.0f\n", losses.c_str(),
              static_cast<unsigned long long>(run.seed), loss, accuracy, attention_error, kl, pullback, seconds);
  std::fflush(stdout);
  csv.row("kv_retrieval", run.mechanism, losses, run.steps, run.rate, run.batch, run.seed, teacher_report.loss,
          teacher_report.accuracy(), loss, accuracy, attention_error, kl, pullback, seconds);
}

void perform_distillation(const std::vector<std::string>& losses, const Run& run, const std::string& teacher_path,
                          const std::string& csv_path) {
  const RetrievalTask task;
  CsvFile csv(csv_path, distill_header);
  const Model<float> teacher = make_teacher(run, task, teacher_path);
  TrainingScratch<float> scratch;
  LossReport teacher_report;
  for_each_evaluation_batch(
      task, run.seed, [&](const Batch& batch) { teacher_report.add(evaluate(teacher, batch, scratch, run.threads)); });
  teacher_report.loss /= static_cast<double>(evaluation_batches);
  std::printf("teacher: softmax, loss %.5f, accuracy %.4f\n", teacher_report.loss, teacher_report.accuracy());
  std::printf("%-9s %4s  %9s %8s %15s %9s %9s %8s\n", "losses", "seed", "loss", "accuracy", "attention error", "KL",
              "pullback", "seconds");
  for (const std::string& which : losses) distill(which, run, teacher, task, teacher_report, csv);
  csv.finish();
}

// ---------------------------------------------------------------------------------------------------------------------
// Checks

// A task of 4 pairs and 2 layers of CSQ: the mean loss of the last 10 of 150 steps is less than half the first.
void check_training(Checks& checks_made, std::uint64_t seed) {
  const RetrievalTask task{.pairs = 4, .keys = 8, .values = 8};
  Run run;
  run.layers = 2;
  Model<float> model(config_of(run, task), random_stream(seed, parameters));
  AdamW<float> optimizer;
  TrainingScratch<float> scratch;
  double first = 0, last = 0;
  for (Index step = 1; step <= 150; ++step) {
    const Batch batch =
        draw_retrieval_batch(task, 64, random_stream(seed, training_data), static_cast<std::uint64_t>(step));
    const StepReport report = train_step(model, optimizer, batch, run.penalties, run.rate, scratch, 1);
    if (step == 1) first = report.loss;
    if (step > 140) last += report.loss / 10;
  }
  checks_made.at_most("training, 4 pairs, csq: loss after 150 steps, of the first", last / first, 0.5);
}

bool quick(std::uint64_t seed) {
  Checks checks_made;
  const std::uint64_t stream = random_stream(seed, checks);
  const Penalties penalties{.bound = 0.3, .radius = 0.2, .rank = 0.05};
  for (const std::string name :
       {"softmax", "squared", "shifted", "csq", "taylor", "linear", "quadratic", "polynomial"}) {
    const ModelConfig config = small_config(mechanism_of(name, 1));
    check_model(checks_made, name, config, {}, stream);
    if (name != "linear") check_model(checks_made, name + ", penalties", config, penalties, stream);
  }
  check_model(checks_made, "softmax, prefix", small_config(csq::Softmax{}, csq::Centering::prefix), penalties, stream);
  check_model(checks_made, "csq, prefix_exclusive, shift 0.5",
              small_config(csq::Csq{0.5}, csq::Centering::prefix_exclusive), penalties, stream);
  check_model(checks_made, "positive polynomial", small_config(csq::PositivePolynomial{{1.2, 0.4, 0.1}, 3, 1e-12}),
              penalties, stream);
  check_distillation(checks_made, stream);
  check_gelu(checks_made);
  check_threads(checks_made, stream);
  check_training(checks_made, seed);
  if (checks_made.failures() > 0) std::fprintf(stderr, "kv_retrieval: %d checks failed\n", checks_made.failures());
  return checks_made.failures() == 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Command line

struct Command {
  Run run;
  std::string csv, save, teacher, distill;
  bool table3 = false, bound_sweep = false, rank_sweep = false, quick = false;
};

std::vector<Run> runs_of(const Command& command) {
  std::vector<Run> runs;
  const auto add = [&](const auto& change) {
    runs.push_back(command.run);
    change(runs.back());
  };
  if (command.table3)
    for (const char* name : {"softmax", "squared", "shifted", "csq", "hybrid", "linear"})
      add([&](Run& run) { run.mechanism = name; });
  if (command.bound_sweep)
    for (const double weight : {0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2})
      add([&](Run& run) { run.penalties.bound = weight; });
  if (command.rank_sweep)
    for (const double weight : {0.0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3})
      add([&](Run& run) { run.penalties.rank = weight; });
  if (runs.empty()) runs.push_back(command.run);
  return runs;
}

void define_options(CLI::App& app, Command& command) {
  Run& run = command.run;
  const auto whole = CLI::Range(1, 1000000);
  const CLI::Validator positive(
      [](std::string& text) {
        double number = 0;
        const bool good = CLI::detail::lexical_cast(text, number) && std::isfinite(number) && number > 0;
        return good ? std::string() : "must be positive, not " + text;
      },
      "POSITIVE");
  app.add_option(
         "--mechanism", run.mechanism,
         "softmax, squared, shifted, csq, taylor, linear, quadratic, polynomial, positive_polynomial (degree 8, "
         "exp on [-8, 8]), or hybrid: csq in the lower half")
      ->check(CLI::IsMember({"softmax", "squared", "shifted", "csq", "taylor", "linear", "quadratic", "polynomial",
                             "positive_polynomial", "hybrid"}))
      ->capture_default_str();
  app.add_option("--centering", run.centering, "of every layer; automatic: prefix for csq, none for the others")
      ->check(CLI::IsMember({"automatic", "none", "sequence", "prefix", "prefix_exclusive"}))
      ->capture_default_str();
  app.add_option("--shift", run.shift, "of csq and shifted")->check(CLI::Number)->capture_default_str();
  app.add_option("--coefficients", run.coefficients,
                 "of quadratic (three; 1 1 1) and polynomial (exp's Taylor polynomial of degree 4), the constant first")
      ->type_name("C");
  app.add_option("--layers", run.layers, "layers")->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--embedding-scale", run.embedding_scale, "standard deviation of embeddings at the start")
      ->check(positive)
      ->capture_default_str();
  auto* const steps =
      app.add_option("--steps", run.steps, "training steps; 200 for students")->check(whole)->capture_default_str();
  app.add_option("--lr", run.rate, "learning rate")->check(positive)->capture_default_str();
  app.add_option("--batch", run.batch, "sequences a step")->check(whole)->capture_default_str();
  app.add_option("--bound-penalty", run.penalties.bound, "weight of L_b, summed over layers")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--radius", run.penalties.radius, "R of L_b and of the overflow")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--rank-penalty", run.penalties.rank, "weight of L_r, summed over layers")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--method", run.method, "auto, direct or factored")
      ->check(CLI::IsMember({"auto", "direct", "factored"}))
      ->capture_default_str();
  app.add_option("--seed", run.seed, "seed of parameters and data")
      ->check(CLI::Range(0, 1000000000))
      ->capture_default_str();
  app.add_option("--threads", run.threads, "threads, 0: all")->check(CLI::Range(0, 1024))->capture_default_str();
  app.add_option("--csv", command.csv, "write the table there too");
  app.add_option("--save", command.save, "write the trained parameters there, .npy");
  auto* const table3 = app.add_flag("--table3", command.table3, "six mechanisms by the recipe");
  auto* const bound = app.add_flag("--bound-sweep", command.bound_sweep, "csq, bound penalties from 0 to 3e-2");
  auto* const rank = app.add_flag("--rank-sweep", command.rank_sweep, "csq, rank penalties from 0 to 3e-3");
  auto* const distill =
      app.add_option("--distill", command.distill,
                     "a student of a softmax teacher, trained on labels and: none, kl, pullback, both; all: the four")
          ->check(CLI::IsMember({"none", "kl", "pullback", "both", "all"}));
  app.add_option("--teacher", command.teacher, "the teacher's parameters, as --save wrote them; else it is trained")
      ->needs(distill);
  auto* const only_quick = app.add_flag("--quick", command.quick, "checks alone, under 40 s; exit 1 when one fails");
  const std::vector<CLI::Option*> modes{table3, bound, rank, distill, only_quick};
  for (CLI::Option* a : modes)
    for (CLI::Option* b : modes)
      if (a != b) a->excludes(b);
  app.callback([&command, steps] {
    if (!command.distill.empty() && steps->count() == 0) command.run.steps = student_steps;
  });
}

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

// Combinations that mean nothing.
void check_command(const Command& command) {
  const Run& run = command.run;
  const bool penalised = run.penalties.bound != 0 || run.penalties.rank != 0;
  for (const Run& each : runs_of(command)) {
    const bool linear = each.mechanism == "linear";
    require(!linear || !penalised, "--mechanism linear: has no scores that a penalty could act on");
    require(each.shift == 1 || each.mechanism == "csq" || each.mechanism == "shifted" || each.mechanism == "hybrid",
            "--shift: " + each.mechanism + " has none");
    require(each.coefficients.empty() || each.mechanism == "quadratic" || each.mechanism == "polynomial",
            "--coefficients: " + each.mechanism + " has none");
    require(each.mechanism != "quadratic" || each.coefficients.empty() || each.coefficients.size() == 3,
            "--coefficients: quadratic has three, not " + std::to_string(each.coefficients.size()));
    const bool has_summary = std::visit([](const auto& mechanism) { return csq::has_factored_form(mechanism); },
                                        config_of(each, {}).attention[0].mechanism);
    require(each.method != "factored" || has_summary, "--method factored: " + each.mechanism + " has no factored form");
  }
  const bool single = runs_of(command).size() == 1 && command.distill.empty() && !command.quick;
  require(command.save.empty() || single, "--save: only with a single run");
  require(command.distill.empty() || !penalised, "--distill: the students have no penalties");
}

}  // namespace

int main(int count, char** words) try {
  CLI::App app("Causal key-value retrieval: loss, accuracy and scores of a small transformer, by mechanism");
  Command command;
  define_options(app, command);
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::fprintf(stderr, "kv_retrieval: %s\n", error.what());
    return 2;
  }
  check_command(command);
  if (command.quick) return quick(command.run.seed) ? 0 : 1;
  if (command.distill.empty()) {
    perform_runs(runs_of(command), command.csv, command.save);
    return 0;
  }
  const std::vector<std::string> four{"none", "kl", "pullback", "both"};
  perform_distillation(command.distill == "all" ? four : std::vector<std::string>{command.distill}, command.run,
                       command.teacher, command.csv);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "kv_retrieval: %s\n", error.what());
  return 2;
}

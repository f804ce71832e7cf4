// Associative recall: how many pairs one attention layer can hold, against D = (d+1)(d+2)/2, and what it costs.
//
//   a sequence     P pairs (key id, value id): P distinct keys of 8·D, in random order, each with a random one of 16
//                  values, drawn afresh, so that nothing can be memorised; then each key is asked for once
//   q, k, v        rows of three learned tables: Q [keys, H·d], K [keys, H·d], V [values, H·dᵥ]
//   out [P, H·dᵥ]  attention of the P questions over all pairs that are stored: 2·P tokens, up to 8·D
//   logits         out·Wᵀ + b, loss = cross-entropy of the value asked for; chance is 1/values
//
// Three experiments (recall.hpp holds the sequences and the model):
//   recall     one head of d = 4, 8, 16, dᵥ = 16, P from D/4 to 4·D: accuracy against P/D
//   head_size  a width of H·d = 64 in heads of d = dᵥ = 8, 16, 32, 64, P = 512 of 1024 keys, 64 values: accuracy beside
//              multiply-adds and measured time
//   episodes   as recall, P = D/2, after three more episodes that gave the same keys other values: what is asked for
//              was overwritten three times. A gate is told which row begins an episode. csq_alone and linear_alone
//              have but the last episode
//
// State: what a decoder keeps, in float: csq D·(dᵥ+1) numbers, squared d(d+1)/2·(dᵥ+1), linear d·(dᵥ+1) and softmax its
// cache of P·(d+dᵥ), which grows with P. `linear_equal_state` is linear with a head size of D: csq's state to the byte.
// Everything is trained alike: AdamW without decay from N(0, 1) tables, the rate falling linearly to 0. Time is that of
// the forward attention call alone on one sequence, one thread, the method that the library chooses, the fastest of 9
// rounds.
//
// It answers: does degree 2 keep what linear attention loses (the paper's §8), and do small heads extract little?
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "csv.hpp"
#include "recall.hpp"

namespace {

using paper::CrossShape;
using paper::Index;
using paper::RecallBatch;
using paper::RecallModel;
using paper::RecallSequences;
using paper::RecallTask;

// ---------------------------------------------------------------------------------------------------------------------
// One run
// ---------------------------------------------------------------------------------------------------------------------

paper::Mechanism mechanism_named(const std::string& name) {
  if (name == "softmax" || name == "gated_softmax") return csq::Softmax{};
  if (name == "csq" || name == "gated_csq" || name == "csq_alone") return csq::Csq{};
  if (name == "squared") return csq::Squared{};
  if (name == "linear" || name == "linear_equal_state" || name == "gated_linear" || name == "linear_alone")
    return csq::Linear{};
  throw std::invalid_argument("--mechanism: unknown name '" + name + "'");
}

// Rates .005 to .1 were tried at pairs/D = 1, d = 4 and 16, with 500 to 2000 steps: only from .05 on do the larger
// tables of linear_equal_state get their due, and there the accuracy of csq and squared moves by less than .02.
struct Training {
  Index steps = 1500, rows = 2048;  // questions a step
  double rate = 0.07;
  std::uint64_t seed = 1;
};

struct Run {
  std::string experiment, name;
  paper::Mechanism mechanism;
  Index head_size = 0;  // d, as named by --dim; shape.key_dim differs for linear_equal_state
  RecallTask task;
  CrossShape shape;

  bool gated() const { return name.starts_with("gated_"); }
};

std::vector<std::string> mechanisms_of(const std::string& experiment) {
  if (experiment == "recall") return {"softmax", "csq", "squared", "linear", "linear_equal_state"};
  if (experiment == "head_size") return {"softmax", "csq", "squared", "linear"};
  return {"softmax", "csq", "linear", "gated_softmax", "gated_csq", "gated_linear", "csq_alone", "linear_alone"};
}

Run recall_run(const std::string& name, Index dim, double ratio, Index rows) {
  const Index features = csq::feature_count(dim), key_dim = name == "linear_equal_state" ? features : dim;
  const Index pairs = std::max<Index>(1, std::llround(ratio * static_cast<double>(features)));
  return {"recall",
          name,
          mechanism_named(name),
          dim,
          {.key_ids = 8 * features, .value_ids = 16, .pairs = pairs},
          {.sequences = std::max<Index>(1, rows / pairs),
           .queries = pairs,
           .keys = pairs,
           .heads = 1,
           .key_dim = key_dim,
           .value_dim = 16}};
}

Run head_size_run(const std::string& name, Index dim, Index rows) {
  constexpr Index width = 64, pairs = 512;
  return {"head_size",
          name,
          mechanism_named(name),
          dim,
          {.key_ids = 2 * pairs, .value_ids = 64, .pairs = pairs},
          {.sequences = std::max<Index>(1, rows / pairs),
           .queries = pairs,
           .keys = pairs,
           .heads = width / dim,
           .key_dim = dim,
           .value_dim = dim}};
}

Run episodes_run(const std::string& name, Index dim, Index rows) {
  constexpr Index episodes = 4;
  Run run = recall_run(name, dim, 0.5, rows);
  run.experiment = "episodes";
  run.task.episodes = name.ends_with("_alone") ? 1 : episodes;
  run.shape.keys = run.task.stored() + (run.gated() ? run.task.pairs : 0);
  return run;
}

struct Outcome {
  double first_loss = 0, loss = 0, accuracy = 0;  // loss and accuracy on fresh sequences after training
  double multiply_adds = 0, microseconds = 0;     // of the attention call on one sequence
  const char* method = "";
  double state_bytes = 0, features = 0, seconds = 0;  // all heads
};

// What a decoder keeps between tokens, in float, and its features D; softmax keeps every key and value.
void count_state(const Run& run, Outcome& outcome) {
  const CrossShape& s = run.shape;
  const auto heads = static_cast<double>(s.heads);
  const auto value_dim = static_cast<double>(s.value_dim), key_dim = static_cast<double>(s.key_dim);
  if (std::visit([](const auto& chosen) { return csq::has_factored_form(chosen); }, run.mechanism)) {
    const Index features =
        std::visit([&](const auto& chosen) { return csq::feature_count(chosen, s.key_dim); }, run.mechanism);
    outcome.features = heads * static_cast<double>(features);
    outcome.state_bytes = 4 * outcome.features * (value_dim + 1);
  } else {
    outcome.state_bytes = 4 * heads * static_cast<double>(run.task.stored()) * (key_dim + value_dim);
  }
}

// The method of one sequence's call and its multiply-adds.
void count_work(const Run& run, Outcome& outcome) {
  CrossShape one = run.shape;
  one.sequences = 1;
  csq::Shape shape = one.counted();
  shape.causal = run.gated();
  std::visit(
      [&](const auto& chosen) {
        const bool factored = csq::used_method(chosen, shape) == csq::Method::factored;
        outcome.method = factored ? "factored" : "direct";
        outcome.multiply_adds =
            factored ? csq::factored_multiply_adds(chosen, shape) : csq::direct_multiply_adds(shape);
      },
      run.mechanism);
}

Outcome perform(const Run& run, const Training& training) {
  const auto start = std::chrono::steady_clock::now();
  RecallModel<float> model(run.mechanism, run.gated(), run.task, run.shape, training.seed);
  paper::AdamW<float> optimizer{.decay = 0};
  RecallSequences sequences(run.task, paper::random_stream(training.seed, 2));
  RecallBatch batch;
  Outcome outcome;
  for (Index step = 0; step < training.steps; ++step) {
    sequences.draw(run.shape.sequences, batch);
    const double loss = model.run(batch, true).loss;
    if (step == 0) outcome.first_loss = loss;
    const double left = 1 - static_cast<double>(step) / static_cast<double>(training.steps);
    optimizer.update(model.parameters, model.gradient, training.rate * left);
  }
  RecallSequences fresh(run.task, paper::random_stream(training.seed, 3));
  constexpr int evaluations = 8;
  for (int i = 0; i < evaluations; ++i) {
    fresh.draw(run.shape.sequences, batch);
    const paper::CrossEntropy result = model.run(batch, false);
    outcome.loss += result.loss / evaluations;
    outcome.accuracy += static_cast<double>(result.correct) / static_cast<double>(evaluations * batch.asked.size());
  }
  outcome.microseconds = model.attention_microseconds();
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  count_state(run, outcome);
  count_work(run, outcome);
  return outcome;
}

// ---------------------------------------------------------------------------------------------------------------------
// Tables
// ---------------------------------------------------------------------------------------------------------------------

constexpr const char* csv_header =
    "program,experiment,mechanism,seed,head_size,heads,key_dim,value_dim,csq_features,pairs,pairs_over_features,tokens,"
    "key_ids,value_ids,chance,steps,rate,accuracy,loss,features,state_bytes,method,multiply_adds,attention_us,seconds";

// D of csq in all heads of size d, the measure of `pairs` for every mechanism.
Index csq_features(const Run& run) { return run.shape.heads * csq::feature_count(run.head_size); }

void report(const Run& run, const Training& training, const Outcome& outcome, paper::CsvFile& csv) {
  const double features = static_cast<double>(csq_features(run));
  const double ratio = static_cast<double>(run.task.pairs) / features;
  std::printf("%-9s %-18s %4lld %2lld x %-3lld %5lld %7.3f   %.4f  %7.4f   %10.0f   %-8s %9.3f %9.1f   %6.1f\n",
              run.experiment.c_str(), run.name.c_str(), static_cast<long long>(training.seed),
              static_cast<long long>(run.shape.heads), static_cast<long long>(run.shape.key_dim),
              static_cast<long long>(run.task.pairs), ratio, outcome.accuracy, outcome.loss, outcome.state_bytes,
              outcome.method, outcome.multiply_adds / 1e6, outcome.microseconds, outcome.seconds);
  std::fflush(stdout);
  csv.row("capacity", run.experiment, run.name, training.seed, run.head_size, run.shape.heads, run.shape.key_dim,
          run.shape.value_dim, csq_features(run), run.task.pairs, ratio, run.task.stored() + run.task.pairs,
          run.task.key_ids, run.task.value_ids, 1 / static_cast<double>(run.task.value_ids), training.steps,
          training.rate, outcome.accuracy, outcome.loss, outcome.features, outcome.state_bytes, outcome.method,
          outcome.multiply_adds, outcome.microseconds, outcome.seconds);
}

void print_heading() {
  std::printf("%-9s %-18s %4s %8s %5s %7s   %6s  %7s   %10s   %-8s %9s %9s   %6s\n", "task", "mechanism", "seed",
              "heads", "pairs", "pairs/D", "right", "loss", "state B", "method", "M mul-add", "call us", "run s");
}

// ---------------------------------------------------------------------------------------------------------------------
// --quick
// ---------------------------------------------------------------------------------------------------------------------

bool passed(const std::string& what, double value, double largest) {
  const bool ok = value <= largest;
  std::printf("%-4s %s: %.3g, at most %.3g\n", ok ? "ok" : "FAIL", what.c_str(), value, largest);
  return ok;
}

// ∂loss/∂parameters along 4 random directions against central differences, in double: the largest relative error.
double gradient_error(const std::string& name, bool gated) {
  const RecallTask task{.key_ids = 12, .value_ids = 4, .pairs = 7, .episodes = gated ? 3 : 1};
  const CrossShape shape{
      .sequences = 3, .queries = 7, .keys = task.stored() + (gated ? 7 : 0), .heads = 2, .key_dim = 3, .value_dim = 2};
  RecallModel<double> model(mechanism_named(name), gated, task, shape, 5);
  RecallBatch batch;
  RecallSequences(task, 6).draw(shape.sequences, batch);
  model.run(batch, true);
  const std::vector<double> start = model.parameters, gradient = model.gradient;
  double worst = 0;
  for (std::uint64_t direction = 0; direction < 4; ++direction) {
    constexpr double step = 1e-5;
    double slope = 0;
    const auto loss_at = [&](double along) {
      for (std::size_t i = 0; i < start.size(); ++i)
        model.parameters[i] = start[i] + along * paper::random_normal(direction, i);
      return model.run(batch, false).loss;
    };
    for (std::size_t i = 0; i < start.size(); ++i) slope += gradient[i] * paper::random_normal(direction, i);
    const double difference = (loss_at(step) - loss_at(-step)) / (2 * step);
    worst = std::max(worst, std::abs(difference - slope) / std::abs(slope));
  }
  return worst;
}

bool quick(std::uint64_t seed) {
  bool ok = true;
  for (const char* name : {"softmax", "csq", "squared", "linear"})
    for (const bool gated : {false, true})
      ok &= passed(
          std::string("gradient of the whole model against central differences, ") + (gated ? "gated " : "") + name,
          gradient_error(name, gated), 1e-6);
  const Training training{.steps = 150, .seed = seed};
  paper::CsvFile none("", "");
  print_heading();
  for (const char* name : {"softmax", "csq", "squared", "linear", "linear_equal_state"}) {
    const Run run = recall_run(name, 4, 1, training.rows);
    const Outcome outcome = perform(run, training);
    report(run, training, outcome, none);
    ok &= passed("loss after 150 steps, of the first", outcome.loss / outcome.first_loss, 0.8);
  }
  const Training short_training{.steps = 20, .seed = seed};
  const Run gated = episodes_run("gated_csq", 4, training.rows);
  const Outcome forgotten = perform(gated, short_training);
  report(gated, short_training, forgotten, none);
  ok &= passed("loss after 20 steps, of the first", forgotten.loss / forgotten.first_loss, 1);
  const Run run = head_size_run("csq", 16, training.rows);
  const Outcome outcome = perform(run, short_training);
  report(run, short_training, outcome, none);
  ok &= passed("loss after 20 steps, of the first", outcome.loss / outcome.first_loss, 1);
  return ok;
}

}  // namespace

int main(int count, char** words) try {
  CLI::App app("Associative recall: accuracy of one attention layer against pairs/D, state and cost");
  std::string experiment = "recall", csv_path;
  std::vector<std::string> mechanisms;
  std::vector<Index> dims;
  std::vector<double> ratios{0.25, 0.5, 1, 2, 4};
  Training training;
  bool only_quick = false;
  app.add_option(
         "--experiment", experiment,
         "recall: one head, pairs from D/4 to 4 D; head_size: a width of 64 in heads of --dim; episodes: D/2 pairs "
         "that were overwritten three times")
      ->check(CLI::IsMember({"recall", "head_size", "episodes"}))
      ->capture_default_str();
  app.add_option(
         "--mechanism", mechanisms,
         "softmax, csq, squared, linear; in recall also linear_equal_state; in episodes gated_softmax, gated_csq, "
         "gated_linear, csq_alone, linear_alone and those without gates; default all")
      ->delimiter(',')
      ->check(CLI::IsMember({"softmax", "csq", "squared", "linear", "linear_equal_state", "gated_softmax", "gated_csq",
                             "gated_linear", "csq_alone", "linear_alone"}));
  app.add_option("--dim", dims, "head sizes; default 8,16,32,64 (head_size) or 4,8,16")
      ->delimiter(',')
      ->check(CLI::Range(1, 64));
  auto* const ratio_option = app.add_option("--ratio", ratios, "pairs/D (recall)")
                                 ->delimiter(',')
                                 ->check(CLI::Range(0.0, 8.0))
                                 ->capture_default_str();
  app.add_option("--seed", training.seed, "seed of tables and sequences")->capture_default_str();
  app.add_option("--steps", training.steps, "training steps")->check(CLI::Range(1, 1000000))->capture_default_str();
  app.add_option("--rate", training.rate, "learning rate at the start")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--rows", training.rows, "questions a step")->check(CLI::Range(1, 1000000))->capture_default_str();
  app.add_option("--csv", csv_path, "write the table there too");
  app.add_flag("--quick", only_quick, "checks alone, under 20 s; exit 1 when one fails");
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::fprintf(stderr, "capacity: %s\n", error.what());
    return 2;
  }
  if (only_quick) return quick(training.seed) ? 0 : 1;

  const std::vector<std::string> known = mechanisms_of(experiment);
  for (const std::string& name : mechanisms)
    if (std::find(known.begin(), known.end(), name) == known.end())
      throw std::invalid_argument("--mechanism: " + name + " does not belong to --experiment " + experiment);
  if (mechanisms.empty()) mechanisms = known;
  if (ratio_option->count() > 0 && experiment != "recall")
    throw std::invalid_argument("--ratio: belongs to --experiment recall, not " + experiment);
  const bool head_size = experiment == "head_size";
  if (dims.empty()) dims = head_size ? std::vector<Index>{8, 16, 32, 64} : std::vector<Index>{4, 8, 16};
  std::vector<Run> runs;
  for (const Index dim : dims)
    for (const std::string& name : mechanisms) {
      if (experiment == "episodes") runs.push_back(episodes_run(name, dim, training.rows));
      if (experiment == "recall")
        for (const double ratio : ratios) runs.push_back(recall_run(name, dim, ratio, training.rows));
      if (!head_size) continue;
      if (64 % dim != 0) throw std::invalid_argument("--dim: 64 is no multiple of " + std::to_string(dim));
      runs.push_back(head_size_run(name, dim, training.rows));
    }

  paper::CsvFile csv(csv_path, csv_header);
  print_heading();
  for (std::size_t i = 0; i < runs.size(); ++i) {
    std::fprintf(stderr, "capacity: run %zu of %zu: %s, d = %lld, %lld pairs\n", i + 1, runs.size(),
                 runs[i].name.c_str(), static_cast<long long>(runs[i].head_size),
                 static_cast<long long>(runs[i].task.pairs));
    report(runs[i], training, perform(runs[i], training), csv);
  }
  csv.finish();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "capacity: %s\n", error.what());
  return 2;
}

// A byte-level language model of 4 layers: what does a layer's mechanism cost in bits a byte, and what do gates mend?
//
//   text      any file (run.sh takes the King James Bible of Debian's bible-kjv-text); 5% held out (language_task.hpp)
//   model     d_model 128, 8 heads of 16 (D = 153 features), FFN 512, context 512, rotary positions (model.hpp)
//   training  AdamW (.9, .999, 1e-8, decay .01), 1500 batches of 4 windows, clip 1, the rate rising to 4e-3 over the
//             first 5% of the steps and falling to a tenth along a cosine. The same for every model, and chosen with
//             softmax alone: 1e-3 to 8e-3 and batches of 4 and 8 were tried, for 150 and 300 steps
//   score     bits a byte on 200 held-out windows, whole and by quarter of the context
//
// Models: softmax, csq, gated_softmax, gated_csq, gated_linear and mixed, gated CSQ with gated softmax in the last
// layer. A gate is one number per token and head (gates.hpp). Models of one seed start at the same parameters, gates
// aside (.5% more of them), and see the same windows. Rows are turned before they are centred or mapped (rotary.hpp).
//
// --save keeps the trained weights, 8 bits a number (weights_file.hpp), for examples/generate.cpp, and scores them as
// they are read back.
//
// --quick checks the model with gates and rotary positions, its gradients, a short training and the file of weights;
// exit 1 when one fails.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <numbers>
#include <string>
#include <vector>

#include "csv.hpp"
#include "model_checks.hpp"
#include "replace_files.hpp"
#include "weights_file.hpp"

namespace {

using namespace paper;

constexpr int quarters = 4;

struct Run {
  LanguageModel model;
  Index steps = 1500, batch = 4, windows = 200;
  double rate = 4e-3;
  std::uint64_t seed = 1;
  int threads = 0;
};

// What a seed is spent on.
enum Purpose : std::uint64_t { parameters, training_data, checks };

double rate_at(const Run& run, Index step) {
  const double done = static_cast<double>(step) / static_cast<double>(run.steps), rising = 0.05;
  if (done < rising) return run.rate * done / rising;
  return run.rate * (0.55 + 0.45 * std::cos(std::numbers::pi * (done - rising) / (1 - rising)));
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// One line on standard error: overwritten on a terminal, otherwise now and then.
void show_progress(const Run& run, Index step, double bits, double seconds) {
  const bool terminal = isatty(STDERR_FILENO) == 1;
  if (step != run.steps && step % (terminal ? 5 : 100) != 0) return;
  std::fprintf(stderr, "%slanguage: %s, seed %llu: step %lld of %lld, %.3f bits a byte, %.0f s%s",
               terminal ? "\r\033[K" : "", run.model.name.c_str(), static_cast<unsigned long long>(run.seed),
               static_cast<long long>(step), static_cast<long long>(run.steps), bits, seconds,
               terminal && step != run.steps ? "" : "\n");
}

struct Outcome {
  double bits = 0;  // a byte, of the held-out windows
  std::array<double, quarters> quarter{};
  double training_bits = 0;   // mean of the last tenth of the steps
  double seconds_a_step = 0;  // median
};

// Adds −log₂ p(target) of every position to its quarter.
void add_bits(const Activations<float>& a, const Chunk& chunk, std::array<double, quarters>& sums) {
  const Index length = chunk.batch->length;
  for (Index i = 0; i < a.logits.rows(); ++i) {
    const Index target = chunk.batch->targets[static_cast<std::size_t>(chunk.first * length + i)];
    const auto logits = a.logits.row(i).cast<double>();
    const double largest = logits.maxCoeff();
    const double nats = std::log((logits.array() - largest).exp().sum()) + largest - logits(target);
    sums[static_cast<std::size_t>(i % length * quarters / length)] += nats / std::numbers::ln2;
  }
}

void evaluate_into(Outcome& outcome, const Model<float>& model, const Run& run, const LanguageTask& task,
                   TrainingScratch<float>& scratch) {
  constexpr Index windows_at_once = 20;
  std::array<std::array<double, quarters>, TrainingScratch<float>::shard_count> sums{};
  const Index count = std::min(run.windows, task.windows());
  for (Index first = 0; first < count; first += windows_at_once) {
    const Batch batch = task.validation_batch(first, std::min(windows_at_once, count - first), count);
    evaluate(model, batch, scratch, run.threads,
             [&](const auto& shard, const Chunk& chunk) { add_bits(shard.activations, chunk, sums[shard.number]); });
  }
  const double bytes = static_cast<double>(count * run.model.context) / quarters;
  for (const auto& part : sums)
    for (std::size_t q = 0; q < quarters; ++q) outcome.quarter[q] += part[q] / bytes;
  for (const double bits : outcome.quarter) outcome.bits += bits / quarters;
}

Outcome train(Model<float>& model, const Run& run, const LanguageTask& task) {
  Outcome outcome;
  AdamW<float> optimizer;
  TrainingScratch<float> scratch;
  std::vector<double> seconds;
  const auto start = std::chrono::steady_clock::now();
  const Index last = std::max<Index>(1, run.steps / 10);
  for (Index step = 1; step <= run.steps; ++step) {
    const auto began = std::chrono::steady_clock::now();
    const Batch batch =
        task.training_batch(run.batch, random_stream(run.seed, training_data), static_cast<std::uint64_t>(step));
    const double bits =
        train_step(model, optimizer, batch, {}, rate_at(run, step), scratch, run.threads).loss / std::numbers::ln2;
    seconds.push_back(seconds_since(began));
    if (step > run.steps - last) outcome.training_bits += bits / static_cast<double>(last);
    show_progress(run, step, bits, seconds_since(start));
  }
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  outcome.seconds_a_step = *middle;
  evaluate_into(outcome, model, run, task, scratch);
  return outcome;
}

constexpr const char* run_header =
    "program,model,layers,heads,head_dim,context,steps,batch,rate,seed,text_bytes,text_checksum,windows,parameters,"
    "bits,quarter_1,quarter_2,quarter_3,quarter_4,training_bits,seconds_a_step";

void perform(const Run& run, const Bytes& text, const std::string& csv_path, const std::string& weights_path) {
  const LanguageTask task(text, run.model.context);
  CsvFile csv(csv_path, run_header);
  files::FileReplacement weights;
  files::OutputFile* const saved =
      weights_path.empty() ? nullptr : &weights.add(weights_path, "--save: " + weights_path);
  Model<float> model(config_of(run.model), random_stream(run.seed, parameters));
  const Outcome outcome = train(model, run, task);
  const auto& q = outcome.quarter;
  std::printf("%-14s %4s  %9s  %31s  %9s  %14s\n", "", "seed", "bits/byte", "by quarter of the context", "training",
              "seconds a step");
  std::printf("%-14s %4llu  %9.4f  %7.4f %7.4f %7.4f %7.4f  %9.4f  %14.3f\n", run.model.name.c_str(),
              static_cast<unsigned long long>(run.seed), outcome.bits, q[0], q[1], q[2], q[3], outcome.training_bits,
              outcome.seconds_a_step);
  csv.row("language", run.model.name, run.model.layers, run.model.heads, run.model.head_dim, run.model.context,
          run.steps, run.batch, run.rate, run.seed, text.size(), checksum(text), std::min(run.windows, task.windows()),
          model.table.count, outcome.bits, q[0], q[1], q[2], q[3], outcome.training_bits, outcome.seconds_a_step);
  csv.finish();
  if (saved == nullptr) return;
  const Bytes bytes = bytes_of(run.model, model);
  const TrainedModel read_back = trained_model(bytes, weights_path);
  saved->write(bytes.data(), bytes.size());
  weights.commit();
  Outcome as_saved;
  TrainingScratch<float> scratch;
  evaluate_into(as_saved, read_back.model, run, task, scratch);
  std::printf("%s: %zu bytes, 8 bits a number: %.4f bits/byte\n", weights_path.c_str(), bytes.size(), as_saved.bits);
}

// ---------------------------------------------------------------------------------------------------------------------
// Checks

LanguageModel small_model(const std::string& name) {
  return {.name = name, .layers = 2, .heads = 2, .head_dim = 6, .context = 12, .d_model = 16, .ffn = 20};
}

void check_gradients(Checks& checks_made, const std::string& model, std::uint64_t seed) {
  ModelConfig config = config_of(small_model(model));
  config.vocabulary = 11;
  check_model(checks_made, model, config, {}, seed);
}

// A text whose bytes say where they are from: 0 in blocks of training, their own number in those held out. A window of
// training has none of the latter, one of validation is of one block.
void check_held_out(Checks& checks_made) {
  Bytes text(LanguageTask::block * LanguageTask::period * 3);
  for (std::size_t i = 0, block = 0; i < text.size(); block = ++i / LanguageTask::block)
    text[i] = static_cast<unsigned char>(block % LanguageTask::period == LanguageTask::held_out ? block : 0);
  const LanguageTask task(text, 64);
  int wrong = 0;
  const Batch training = task.training_batch(500, 1, 1);
  const Batch validation = task.validation_batch(0, task.windows(), task.windows());
  for (std::size_t i = 0; i < training.tokens.size(); ++i)
    wrong += training.tokens[i] == 0 && training.targets[i] == 0 ? 0 : 1;
  for (std::size_t i = 0; i < validation.tokens.size(); ++i) {
    const Index block = validation.tokens[i / 64 * 64];
    wrong += block > 0 && validation.tokens[i] == block && validation.targets[i] == block ? 0 : 1;
  }
  checks_made.at_most("bytes of validation in training, or of other blocks in validation", wrong, 0);
}

// A text of one sentence: a model that looks back learns it; the byte before alone leaves .92 bits a byte.
void check_training(Checks& checks_made, const std::string& model, std::uint64_t seed) {
  Bytes text;
  while (text.size() < LanguageTask::block * LanguageTask::period)
    for (const char letter : std::string("the quick brown fox jumps over the lazy dog. ")) {
      text.push_back(static_cast<unsigned char>(letter));
    }
  Run run{.model = {.name = model, .layers = 2, .heads = 4, .context = 64},
          .steps = 60,
          .batch = 8,
          .windows = 8,
          .rate = 2e-3};
  run.threads = 1;
  Model<float> trained(config_of(run.model), random_stream(seed, parameters));
  const double bits = train(trained, run, LanguageTask(text, run.model.context)).quarter[quarters - 1];
  checks_made.at_most("training, " + model + ": bits a byte of one sentence, last quarter", bits, 0.5);
}

bool is_refused(const Bytes& bytes) {
  try {
    trained_model(bytes, "bytes");
  } catch (const std::runtime_error&) {
    return true;
  }
  return false;
}

// What is read back is within half a level of what was written, and the same bytes when written again; every part of
// the file, every file with a wrong byte and what follows the end is refused.
void check_weights_file(Checks& checks_made, const std::string& name, std::uint64_t seed) {
  const LanguageModel sizes = small_model(name);
  const Model<float> model(config_of(sizes), seed);
  const Bytes bytes = bytes_of(sizes, model);
  const TrainedModel read_back = trained_model(bytes, "bytes");
  double levels = 0;
  for (const Parameter& p : model.table.all)
    for (Index r = 0; r < p.rows; ++r) {
      const ConstRow<float> written(model.parameters.data() + p.offset + r * p.columns, p.columns);
      const ConstRow<float> read(read_back.model.parameters.data() + p.offset + r * p.columns, p.columns);
      const float level = p.rows == 1 ? 0 : written.cwiseAbs().maxCoeff() / 127;
      const float error = (written - read).cwiseAbs().maxCoeff();
      if (error > 0) levels = std::max(levels, static_cast<double>(error / level));
    }
  checks_made.at_most("weights of " + name + " read back: levels of 8 bits away", levels, 0.501);
  checks_made.at_most("weights of " + name + " written again: other bytes",
                      bytes_of(read_back.sizes, read_back.model) == bytes ? 0 : 1, 0);
  int accepted = is_refused({}) ? 0 : 1;
  for (std::size_t i = 0; i < bytes.size(); i += i < 100 ? 1 : 97) {
    Bytes damaged = bytes;
    damaged[i] ^= 4;
    accepted += is_refused(damaged) ? 0 : 1;
    accepted += is_refused(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(i))) ? 0 : 1;
  }
  Bytes longer = bytes;
  longer.push_back(0);
  accepted += is_refused(longer) ? 0 : 1;
  checks_made.at_most("weights of " + name + ": damaged files that were taken", accepted, 0);
}

bool quick(std::uint64_t seed) {
  Checks checks_made;
  const std::uint64_t stream = random_stream(seed, checks);
  for (const std::string& model : language_models) check_gradients(checks_made, model, stream);
  check_held_out(checks_made);
  for (const std::string& model : language_models) check_weights_file(checks_made, model, stream);
  for (const char* model : {"softmax", "gated_csq"}) check_training(checks_made, model, seed);
  if (checks_made.failures() > 0) std::fprintf(stderr, "language: %d checks failed\n", checks_made.failures());
  return checks_made.failures() == 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Command line

struct Command {
  Run run;
  std::string text, csv, weights;
  bool quick = false;
};

void define_options(CLI::App& app, Command& command) {
  Run& run = command.run;
  const auto whole = CLI::Range(1, 1000000);
  app.add_option("--text", command.text, "the text, any file")->check(CLI::ExistingFile)->envname("CSQ_TEXT");
  app.add_option("--model", run.model.name, "softmax, csq, gated_softmax, gated_csq, gated_linear or mixed")
      ->check(CLI::IsMember(language_models))
      ->capture_default_str();
  app.add_option("--layers", run.model.layers, "layers")->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--heads", run.model.heads, "heads of a layer")->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--head-dim", run.model.head_dim, "d of a head, even")
      ->check(CLI::Range(2, 256))
      ->capture_default_str();
  app.add_option("--context", run.model.context, "bytes of a window, a multiple of 4")
      ->check(CLI::Range(4, 8188))
      ->capture_default_str();
  app.add_option("--steps", run.steps, "training steps")->check(whole)->capture_default_str();
  app.add_option("--batch", run.batch, "windows a step")->check(whole)->capture_default_str();
  app.add_option("--lr", run.rate, "the highest learning rate")->check(CLI::Range(1e-6, 1.0))->capture_default_str();
  app.add_option("--windows", run.windows, "held-out windows that are scored")->check(whole)->capture_default_str();
  app.add_option("--seed", run.seed, "seed of parameters and windows")
      ->check(CLI::Range(0, 1000000000))
      ->capture_default_str();
  app.add_option("--threads", run.threads, "threads, 0: all")->check(CLI::Range(0, 1024))->capture_default_str();
  app.add_option("--csv", command.csv, "write the row there too");
  app.add_option("--save", command.weights, "write the trained weights there");
  app.add_flag("--quick", command.quick, "checks alone, half a minute; exit 1 when one fails");
}

}  // namespace

int main(int count, char** words) try {
  CLI::App app("A byte-level language model: bits a byte by mechanism, with and without gates");
  Command command;
  define_options(app, command);
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::fprintf(stderr, "language: %s\n", error.what());
    return 2;
  }
  if (command.quick) return quick(command.run.seed) ? 0 : 1;
  if (command.text.empty()) throw std::invalid_argument("--text: needed, a file to learn from");
  if (command.run.model.head_dim % 2 != 0)
    throw std::invalid_argument("--head-dim: even, not " + std::to_string(command.run.model.head_dim));
  perform(command.run, read_bytes(command.text), command.csv, command.weights);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "language: %s\n", error.what());
  return 2;
}

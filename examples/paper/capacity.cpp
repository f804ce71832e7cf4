// Associative recall: how many pairs one attention layer can hold, against D = (d+1)(d+2)/2, and what it costs.
//
//   a sequence     P pairs (key id, value id): P distinct keys of 8·D, in random order, each with a random one of 16
//                  values, drawn afresh, so that nothing can be memorised; then each key is asked for once
//   q, k, v        rows of three learned tables: Q [keys, H·d], K [keys, H·d], V [values, H·dᵥ]
//   out [P, H·dᵥ]  attention of the P questions over the P pairs, no mask: 2·P tokens, up to 8·D
//   logits         out·Wᵀ + b, loss = cross-entropy of the value asked for; chance is 1/values
//
// Two experiments:
//   recall     one head of d = 4, 8, 16, dᵥ = 16, P from D/4 to 4·D: accuracy against P/D
//   head_size  a width of H·d = 64 in heads of d = dᵥ = 8, 16, 32, 64, P = 512 of 1024 keys, 64 values: accuracy beside
//              multiply-adds and measured time
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
#include <numeric>
#include <string>
#include <vector>

#include "cross_attention.hpp"
#include "csv.hpp"

namespace {

using paper::ConstRow;
using paper::ConstRows;
using paper::CrossShape;
using paper::Index;
using paper::Row;
using paper::Rows;

// ---------------------------------------------------------------------------------------------------------------------
// The task
// ---------------------------------------------------------------------------------------------------------------------

struct Task {
  Index key_ids = 0, value_ids = 0, pairs = 0;
};

// Row i of a sequence: the pair's key, asked for by question i of the same sequence, and its value.
struct Batch {
  std::vector<Index> key, value;  // [sequences·pairs]
};

class Sequences {
 public:
  Sequences(const Task& task, std::uint64_t seed) : task_(task), stream_(seed), ids_(unsigned_of(task.key_ids)) {
    std::iota(ids_.begin(), ids_.end(), Index{0});
  }

  void draw(Index sequences, Batch& batch) {
    batch.key.resize(unsigned_of(sequences * task_.pairs));
    batch.value.resize(batch.key.size());
    for (std::size_t row = 0; row < batch.key.size(); ++row) {
      const auto pair = row % unsigned_of(task_.pairs);  // Fisher and Yates's shuffle, cut after `pairs`
      const Index left = task_.key_ids - static_cast<Index>(pair);
      std::swap(ids_[pair], ids_[pair + unsigned_of(paper::random_index(stream_, counter_++, left))]);
      batch.key[row] = ids_[pair];
      batch.value[row] = paper::random_index(stream_, counter_++, task_.value_ids);
    }
  }

 private:
  static std::size_t unsigned_of(Index count) { return static_cast<std::size_t>(count); }

  Task task_;
  std::uint64_t stream_, counter_ = 0;
  std::vector<Index> ids_;
};

// ---------------------------------------------------------------------------------------------------------------------
// The model
// ---------------------------------------------------------------------------------------------------------------------

template <class T>
class RecallModel {
 public:
  RecallModel(const paper::Mechanism& mechanism, const Task& task, const CrossShape& shape, std::uint64_t seed)
      : mechanism_(mechanism), task_(task), shape_(shape) {
    query_ = place(task.key_ids, shape.key_width());
    key_ = place(task.key_ids, shape.key_width());
    value_ = place(task.value_ids, shape.value_width());
    weight_ = place(task.value_ids, shape.value_width());
    bias_ = place(1, task.value_ids);
    gradient.resize(parameters.size());
    const std::uint64_t stream = paper::random_stream(seed, 1);
    const double bound = 1 / std::sqrt(static_cast<double>(shape.value_width()));
    for (std::size_t i = 0; i < parameters.size(); ++i)
      parameters[i] = static_cast<T>(static_cast<Index>(i) < weight_.offset
                                         ? paper::random_normal(stream, i)
                                         : bound * (2 * paper::random_uniform(stream, 2 * i) - 1));
    const auto rows = [](Index count, Index columns) {
      return std::vector<T>(static_cast<std::size_t>(count * columns));
    };
    q_ = dq_ = rows(shape.query_rows(), shape.key_width());
    k_ = dk_ = rows(shape.key_rows(), shape.key_width());
    v_ = dv_ = rows(shape.key_rows(), shape.value_width());
    out_ = dout_ = rows(shape.query_rows(), shape.value_width());
    normalizer_ = rows(shape.normalizer_size(), 1);
    logits_ = dlogits_ = rows(shape.query_rows(), task.value_ids);
  }

  // Mean loss of a batch; with `learn` the gradient too.
  paper::CrossEntropy run(const Batch& batch, bool learn) {
    const Index rows = shape_.query_rows();
    gather(query_, batch.key, q_);
    gather(key_, batch.key, k_);
    gather(value_, batch.value, v_);
    paper::cross_attention(mechanism_, shape_, q_.data(), k_.data(), v_.data(), out_.data(), normalizer_.data(),
                           options());
    const ConstRows<T> out(out_.data(), rows, shape_.value_width()), weight = table(weight_);
    paper::linear(out, weight, ConstRow<T>(parameters.data() + bias_.offset, task_.value_ids),
                  Rows<T>(logits_.data(), rows, task_.value_ids));
    const auto result = paper::cross_entropy(ConstRows<T>(logits_.data(), rows, task_.value_ids), batch.value,
                                             1 / static_cast<double>(rows),
                                             Rows<T>(learn ? dlogits_.data() : nullptr, rows, task_.value_ids));
    if (learn) back(batch, out, weight);
    return result;
  }

  // The attention call of one sequence of the last batch, repeated: microseconds a call, of 9 rounds the fastest.
  double attention_microseconds() {
    using Clock = std::chrono::steady_clock;
    CrossShape one = shape_;
    one.sequences = 1;
    const auto seconds = [&](int calls) {
      const auto start = Clock::now();
      for (int call = 0; call < calls; ++call)
        paper::cross_attention(mechanism_, one, q_.data(), k_.data(), v_.data(), out_.data(), normalizer_.data(),
                               options());
      return std::chrono::duration<double>(Clock::now() - start).count();
    };
    seconds(2);
    const int calls = std::max(1, static_cast<int>(0.01 / std::max(seconds(2) / 2, 1e-7)));
    double fastest = seconds(calls) / calls;
    for (int round = 1; round < 9; ++round) fastest = std::min(fastest, seconds(calls) / calls);
    return 1e6 * fastest;
  }

  std::vector<T> parameters, gradient;

 private:
  struct Table {
    Index offset = 0, rows = 0, columns = 0;
  };

  Table place(Index rows, Index columns) {
    const Table table{static_cast<Index>(parameters.size()), rows, columns};
    parameters.resize(parameters.size() + static_cast<std::size_t>(rows * columns));
    return table;
  }
  ConstRows<T> table(const Table& t) const { return {parameters.data() + t.offset, t.rows, t.columns}; }
  Rows<T> gradient_of(const Table& t) { return {gradient.data() + t.offset, t.rows, t.columns}; }
  csq::Options options() { return {.threads = 1, .workspace = &workspace_}; }

  // row i = table[ids[i]]
  void gather(const Table& t, const std::vector<Index>& ids, std::vector<T>& rows) const {
    const T* source = parameters.data() + t.offset;
    for (std::size_t i = 0; i < ids.size(); ++i)
      std::copy_n(source + ids[i] * t.columns, t.columns, rows.data() + static_cast<Index>(i) * t.columns);
  }
  // row i = table[ids[i]]:   dtable[ids[i]] += drow i
  void scatter_add(const Table& t, const std::vector<Index>& ids, const std::vector<T>& drows) {
    for (std::size_t i = 0; i < ids.size(); ++i)
      gradient_of(t).row(ids[i]) += ConstRow<T>(drows.data() + static_cast<Index>(i) * t.columns, t.columns);
  }

  void back(const Batch& batch, const ConstRows<T>& out, const ConstRows<T>& weight) {
    std::fill(gradient.begin(), gradient.end(), T(0));
    const ConstRows<T> dlogits(dlogits_.data(), shape_.query_rows(), task_.value_ids);
    paper::linear_backward_parameters(dlogits, out, gradient_of(weight_),
                                      Row<T>(gradient.data() + bias_.offset, task_.value_ids));
    paper::linear_backward_input(dlogits, weight, Rows<T>(dout_.data(), shape_.query_rows(), shape_.value_width()));
    paper::cross_attention_backward(mechanism_, shape_, q_.data(), k_.data(), v_.data(), out_.data(),
                                    normalizer_.data(), dout_.data(), dq_.data(), dk_.data(), dv_.data(), options());
    scatter_add(query_, batch.key, dq_);
    scatter_add(key_, batch.key, dk_);
    scatter_add(value_, batch.value, dv_);
  }

  paper::Mechanism mechanism_;
  Task task_;
  CrossShape shape_;
  Table query_, key_, value_, weight_, bias_;
  std::vector<T> q_, k_, v_, out_, normalizer_, logits_, dq_, dk_, dv_, dout_, dlogits_;
  csq::Workspace workspace_;
};

// ---------------------------------------------------------------------------------------------------------------------
// One run
// ---------------------------------------------------------------------------------------------------------------------

paper::Mechanism mechanism_named(const std::string& name) {
  if (name == "softmax") return csq::Softmax{};
  if (name == "csq") return csq::Csq{};
  if (name == "squared") return csq::Squared{};
  if (name == "linear" || name == "linear_equal_state") return csq::Linear{};
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
  Task task;
  CrossShape shape;
};

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
    outcome.state_bytes = 4 * heads * static_cast<double>(s.keys) * (key_dim + value_dim);
  }
}

// The method of one sequence's call and its multiply-adds.
void count_work(const Run& run, Outcome& outcome) {
  CrossShape one = run.shape;
  one.sequences = 1;
  const csq::Shape shape = one.counted();
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
  RecallModel<float> model(run.mechanism, run.task, run.shape, training.seed);
  paper::AdamW<float> optimizer{.decay = 0};
  Sequences sequences(run.task, paper::random_stream(training.seed, 2));
  Batch batch;
  Outcome outcome;
  for (Index step = 0; step < training.steps; ++step) {
    sequences.draw(run.shape.sequences, batch);
    const double loss = model.run(batch, true).loss;
    if (step == 0) outcome.first_loss = loss;
    const double left = 1 - static_cast<double>(step) / static_cast<double>(training.steps);
    optimizer.update(model.parameters, model.gradient, training.rate * left);
  }
  Sequences fresh(run.task, paper::random_stream(training.seed, 3));
  constexpr int evaluations = 8;
  for (int i = 0; i < evaluations; ++i) {
    fresh.draw(run.shape.sequences, batch);
    const paper::CrossEntropy result = model.run(batch, false);
    outcome.loss += result.loss / evaluations;
    outcome.accuracy += static_cast<double>(result.correct) / static_cast<double>(evaluations * batch.key.size());
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
          run.shape.value_dim, csq_features(run), run.task.pairs, ratio, 2 * run.task.pairs, run.task.key_ids,
          run.task.value_ids, 1 / static_cast<double>(run.task.value_ids), training.steps, training.rate,
          outcome.accuracy, outcome.loss, outcome.features, outcome.state_bytes, outcome.method, outcome.multiply_adds,
          outcome.microseconds, outcome.seconds);
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
double gradient_error(const std::string& name) {
  const Task task{.key_ids = 12, .value_ids = 4, .pairs = 7};
  const CrossShape shape{.sequences = 3, .queries = 7, .keys = 7, .heads = 2, .key_dim = 3, .value_dim = 2};
  RecallModel<double> model(mechanism_named(name), task, shape, 5);
  Batch batch;
  Sequences(task, 6).draw(shape.sequences, batch);
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
    ok &= passed(std::string("gradient of the whole model against central differences, ") + name, gradient_error(name),
                 1e-6);
  const Training training{.steps = 150, .seed = seed};
  paper::CsvFile none("", "");
  print_heading();
  for (const char* name : {"softmax", "csq", "squared", "linear", "linear_equal_state"}) {
    const Run run = recall_run(name, 4, 1, training.rows);
    const Outcome outcome = perform(run, training);
    report(run, training, outcome, none);
    ok &= passed("loss after 150 steps, of the first", outcome.loss / outcome.first_loss, 0.8);
  }
  const Run run = head_size_run("csq", 16, training.rows);
  const Training short_training{.steps = 20, .seed = seed};
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
  app.add_option("--experiment", experiment,
                 "recall: one head, pairs from D/4 to 4 D; head_size: a width of 64 in heads of --dim")
      ->check(CLI::IsMember({"recall", "head_size"}))
      ->capture_default_str();
  app.add_option("--mechanism", mechanisms,
                 "softmax, csq, squared, linear; in recall also linear_equal_state; default all")
      ->delimiter(',')
      ->check(CLI::IsMember({"softmax", "csq", "squared", "linear", "linear_equal_state"}));
  app.add_option("--dim", dims, "head sizes; default 4,8,16 (recall) or 8,16,32,64 (head_size)")
      ->delimiter(',')
      ->check(CLI::Range(1, 64));
  app.add_option("--ratio", ratios, "pairs/D (recall)")
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

  const bool recall = experiment == "recall";
  if (mechanisms.empty()) {
    mechanisms = {"softmax", "csq", "squared", "linear"};
    if (recall) mechanisms.push_back("linear_equal_state");
  }
  if (dims.empty()) dims = recall ? std::vector<Index>{4, 8, 16} : std::vector<Index>{8, 16, 32, 64};
  std::vector<Run> runs;
  for (const Index dim : dims)
    for (const std::string& name : mechanisms) {
      if (recall) {
        for (const double ratio : ratios) runs.push_back(recall_run(name, dim, ratio, training.rows));
        continue;
      }
      if (64 % dim != 0) throw std::invalid_argument("--dim: 64 is no multiple of " + std::to_string(dim));
      if (name == "linear_equal_state")
        throw std::invalid_argument("--mechanism: linear_equal_state belongs to --experiment recall");
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

// At which sequence length does O(n·d³) attention overtake O(n²·d), on this machine?
//
// For each head size and mask: checks that CSQ direct and CSQ factored agree, then times softmax, CSQ direct and CSQ
// factored at sizes around the cost model's prediction, finds where factored becomes faster by interpolation, and
// prints it beside the prediction. With --backward the same of forward and backward together, gradients checked
// likewise. Where the machine was too busy to judge, that is said instead of a number (support/disturbance.hpp).
// `crossover --help` lists the options; `sh bench/run.sh --install` builds and runs it.
//
// Exit status: 0; 1 direct and factored disagree; 2 a wrong argument, or no memory, or no file; 128 and the signal's
// number: interrupted, what was finished is kept.
#include <algorithm>
#include <cstdio>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "support/report.hpp"
#include "support/result_file.hpp"
#include "support/row_measurement.hpp"
#include "support/run_to_the_end.hpp"

namespace {

using bench::Index;
using bench::Point;
using bench::Task;

// The smallest convenient size at which the factored forward reads its summary (its backward always does).
Index size_that_reads(const bench::Row& row) {
  Index tokens = 512;
  while (bench::served_directly(row.shape(tokens))) tokens += tokens / 8;
  return tokens;
}

class Run {
 public:
  explicit Run(const bench::CrossoverSettings& settings)
      : settings_(settings), tasks_(bench::make_tasks(settings)), csv_("--csv", settings.csv) {
    if (!settings.json.empty()) json_.emplace("--json", settings.json);
    results_.backward = settings.backward;
    results_.dtype = settings.dtype;
    results_.planned_rows = tasks_.size();
    bench::Machine& machine = results_.machine;
    machine.processor = bench::processor_name();
    machine.build = csq::build_info();
    machine.threads = settings.threads;
    machine.cores = bench::usable_cores();
  }

  void measure() {
    bench::Machine& machine = results_.machine;
    progress_.show("FMA peak", "measuring");
    machine.peak_one_thread = bench::measure_fma_peak(csq::simd_name(), 1);
    machine.peak_all_threads = bench::measure_fma_peak(csq::simd_name(), machine.threads);
    if (bench::threads_do_not_help(machine)) progress_.note("the machine is busy: " + bench::speedup_text(machine));
    bench::PeakWatch watch(csq::simd_name(), machine.threads, machine.peak_all_threads);
    check_agreement();
    measure_rows(watch);
    machine.peak_one_thread = std::max(machine.peak_one_thread, bench::measure_fma_peak(csq::simd_name(), 1));
    use_peak(bench::measure_fma_peak(csq::simd_name(), machine.threads));
    if (machine.threads == 1)
      machine.peak_one_thread = machine.peak_all_threads = std::max(machine.peak_one_thread, machine.peak_all_threads);
  }

  bool has_rows() const { return !results_.rows.empty(); }

  // Files first: a table that nobody reads to its end costs no results.
  void finish() {
    results_.seconds = progress_.seconds();
    progress_.finish();
    describe_inputs();
    save();
    csv_.keep();
    if (json_) json_->keep();
    print();
  }

  // Where the rows are that a failed run had finished.
  std::string left_behind() const {
    const std::string path = csv_.left_behind();
    return path.empty() ? "" : "; the rows finished before are in " + path;
  }

 private:
  void check_agreement() {
    for (const Task& task : tasks_) {
      const Index tokens = size_that_reads(task.row);
      progress_.show("checking that direct and factored agree", task.row.name() + ", n = " + std::to_string(tokens));
      const double error = bench::Contest(task.row, task.inputs, settings_.threads).check(tokens);
      results_.largest_error = std::max(results_.largest_error, error);
    }
  }

  // Small head sizes first: what they leave of their time goes to the later ones.
  void measure_rows(bench::PeakWatch& watch) {
    const double budget = *settings_.budget, deadline = progress_.seconds() + budget;
    double weight_left = 0;
    for (const Task& task : tasks_) weight_left += task.weight();
    for (std::size_t i = 0; i < tasks_.size(); ++i) {
      const Task& task = tasks_[i];
      const double left = deadline - progress_.seconds();
      const double share = std::max(std::min(4.0, 0.05 * budget), left * task.weight() / weight_left);
      weight_left -= task.weight();
      const std::string heading = std::to_string(i + 1) + "/" + std::to_string(tasks_.size()) + " " + task.row.name();
      bench::RowMeasurement row(task, settings_, watch, progress_);
      results_.rows.push_back(row.run(share, std::max(left, share), heading));
      use_peak(watch.best());
      results_.machine.best_peak_turn = watch.best_turn();
      save();
      if (i + 1 == tasks_.size() || tasks_[i + 1].inputs != task.inputs) task.inputs->release();
    }
  }

  void use_peak(double peak) { results_.machine.peak_all_threads = std::max(results_.machine.peak_all_threads, peak); }

  void save() {
    csv_.save(bench::csv_of(results_));
    if (json_) json_->save(bench::json_of(results_));
  }

  void describe_inputs() {
    const bench::Inputs* last = nullptr;
    for (std::size_t i = 0; i < results_.rows.size(); ++i) {
      const Task& task = tasks_[i];
      for (const Point& point : results_.rows[i].points)
        results_.largest_error = std::max(results_.largest_error, point.relative_error);
      if (task.inputs.get() == last) continue;
      last = task.inputs.get();
      std::string start = "d = " + task.row.dims_name() + ": ";
      for (const std::string& line : task.inputs->description()) {
        results_.inputs.push_back(start + line);
        start.assign(start.size(), ' ');
      }
    }
  }

  void print() const {
    bench::print_heading(results_);
    bench::print_crossovers(results_);
    bench::print_sizes(results_, settings_.sizes);
    bench::print_critic(results_);
    bench::print_verdict(results_);
    std::printf("\nTook %.0f s%s. Every measured size is in %s\n", results_.seconds,
                results_.interrupted() ? ", interrupted" : "", settings_.csv.c_str());
    std::fflush(stdout);
  }

  const bench::CrossoverSettings settings_;
  const std::vector<Task> tasks_;
  bench::ResultFile csv_;
  std::optional<bench::ResultFile> json_;
  bench::Progress progress_;
  bench::Results results_;
};

constexpr const char* program = "crossover";

}  // namespace

int main(int count, char** words) {
  bench::let_waiting_threads_sleep(words);
  CLI::App app{"From which sequence length is O(n*d^3) attention faster than O(n^2*d) on this machine?", "crossover"};
  std::optional<Run> run;
  const auto left_behind = [&] { return run ? run->left_behind() : ""; };
  try {
    const bench::CrossoverSettings settings = bench::parse_crossover(app, count, words);
    bench::stop_when_asked();
    return bench::measure_and_print(run.emplace(settings), program);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const bench::Disagreement& error) {
    return bench::report_failure(program, error.what() + left_behind(), 1);
  } catch (const std::bad_alloc&) {
    return bench::report_failure(program,
                                 "not enough memory; --max-n, --sizes and --heads make it smaller" + left_behind(), 2);
  } catch (const std::exception& error) {
    return bench::report_failure(program, error.what() + left_behind(), 2);
  }
}

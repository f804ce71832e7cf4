// What does one token cost when decoding, against the context, on this machine?
//
// For each head size and number of key heads: checks that steps of a stream agree with one call, then times steps of a
// CSQ stream, a gated one, softmax over its whole cache and over a window, and reading as many bytes as each must read;
// finds the context from which CSQ's constant state is faster by interpolation, and prints it beside the one at which
// both have the same number of bytes to read. How: support/decode_row.hpp; what must be read: support/decode_bytes.hpp.
// `decode --help` lists the options; `sh bench/run.sh --decode` builds and runs it.
//
// Exit status: 0; 1 steps and calls disagree; 2 a wrong argument, or no memory, or no file; 128 and the signal's
// number: interrupted, what was finished is kept.
#include <algorithm>
#include <cstdio>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "support/decode_report.hpp"
#include "support/decode_settings.hpp"
#include "support/result_file.hpp"
#include "support/run_to_the_end.hpp"

namespace {

using bench::Index;

class Run {
 public:
  explicit Run(const bench::DecodeSettings& settings) : settings_(settings), csv_("--csv", settings.csv) {
    if (!settings.json.empty()) json_.emplace("--json", settings.json);
    for (const Index dim : sorted(settings.dims))
      for (const Index kv_heads : settings.kv_heads)
        shapes_.push_back({dim, dim, settings.heads, kv_heads, settings.dtype});
    results_.planned_rows = shapes_.size();
    results_.dtype = settings.dtype;
    results_.cache_limit = settings.cache_limit();
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
    bench::PeakWatch watch(csq::simd_name(), machine.threads, machine.peak_all_threads);
    bench::with_element(settings_.dtype,
                        [&]<class Element>(std::type_identity<Element>) { measure_rows<Element>(watch); });
    machine.peak_one_thread = std::max(machine.peak_one_thread, bench::measure_fma_peak(csq::simd_name(), 1));
  }

  bool has_rows() const { return !results_.rows.empty(); }

  // Files first: a table that nobody reads to its end costs no results.
  void finish() {
    results_.seconds = progress_.seconds();
    progress_.finish();
    save();
    csv_.keep();
    if (json_) json_->keep();
    bench::print_heading(results_);
    for (const bench::DecodeRow& row : results_.rows) bench::print_decode_row(row, results_);
    bench::print_decode_crossovers(results_);
    bench::print_verdict(results_);
    std::printf("\nTook %.0f s%s. Every measured context is in %s\n", results_.seconds,
                results_.interrupted() ? ", interrupted" : "", settings_.csv.c_str());
    std::fflush(stdout);
  }

  // Where the rows are that a failed run had finished.
  std::string left_behind() const {
    const std::string path = csv_.left_behind();
    return path.empty() ? "" : "; the rows finished before are in " + path;
  }

 private:
  static std::vector<Index> sorted(std::vector<Index> sizes) {
    std::sort(sizes.begin(), sizes.end());
    sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
    return sizes;
  }

  template <class Element>
  void measure_rows(bench::PeakWatch& watch) {
    bench::Machine& machine = results_.machine;
    bench::DecodeMemory<Element> memory;
    for (std::size_t i = 0; i < shapes_.size(); ++i) {
      const std::string heading =
          std::to_string(i + 1) + "/" + std::to_string(shapes_.size()) + " " + shapes_[i].name();
      bench::DecodeMeasurement<Element> row(shapes_[i], settings_.max_context, settings_.cache_limit(), machine.threads,
                                            heading, watch, progress_, memory);
      results_.rows.push_back(row.measure(settings_.repeats));
      machine.best_peak_turn = watch.best_turn();
      machine.peak_all_threads = std::max(machine.peak_all_threads, watch.best());
      save();
    }
  }

  void save() {
    csv_.save(bench::csv_of(results_));
    if (json_) json_->save(bench::json_of(results_));
  }

  const bench::DecodeSettings settings_;
  std::vector<bench::DecodeShape> shapes_;
  bench::ResultFile csv_;
  std::optional<bench::ResultFile> json_;
  bench::Progress progress_;
  bench::DecodeResults results_;
};

constexpr const char* program = "decode";

}  // namespace

int main(int count, char** words) {
  bench::let_waiting_threads_sleep(words);
  CLI::App app{"What does one token cost when decoding, against the context, on this machine?", "decode"};
  std::optional<Run> run;
  const auto left_behind = [&] { return run ? run->left_behind() : ""; };
  try {
    const bench::DecodeSettings settings = bench::parse_decode(app, count, words);
    bench::stop_when_asked();
    return bench::measure_and_print(run.emplace(settings), program);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const bench::Disagreement& error) {
    return bench::report_failure(program, error.what() + left_behind(), 1);
  } catch (const std::bad_alloc&) {
    return bench::report_failure(
        program, "not enough memory; --memory, --max-context and --heads make it smaller" + left_behind(), 2);
  } catch (const std::exception& error) {
    return bench::report_failure(program, error.what() + left_behind(), 2);
  }
}

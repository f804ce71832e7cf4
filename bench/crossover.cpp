// At which sequence length does O(n·d³) attention overtake O(n²·d), on this machine?
//
// For each head size and mask: checks that CSQ direct and CSQ factored agree, then times softmax, CSQ direct and CSQ
// factored at sizes around the cost model's prediction, finds where factored becomes faster by interpolation, and
// prints it beside the prediction. With --backward the same of forward and backward together, gradients checked
// likewise. `crossover --help` lists the options; `sh bench/run.sh --install` builds and runs it.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/fma_peak.hpp"
#include "support/progress.hpp"
#include "support/report.hpp"

namespace {

using bench::Contest;
using bench::Index;
using bench::Point;
using bench::Row;
using bench::RowResult;

struct Settings {
  std::vector<Index> dims;
  std::vector<Index> sizes;
  Index heads = 8, kv_heads = 0, max_tokens = 32768;
  bool causal = false, backward = false, quick = false;
  int threads = 0, repeats = 0;
  double budget = 0;
  std::string q, k, v, csv = "crossover.csv", json;
};

constexpr Index critic_dim = 128, critic_tokens = 2048;

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

void check(const Settings& settings) {
  for (const Index dim : settings.dims)
    if (dim < 1 || dim > 512) fail("--dims: " + std::to_string(dim) + " is not between 1 and 512");
  for (const Index size : settings.sizes)
    if (size < 1) fail("--sizes: " + std::to_string(size) + " is not positive");
  if (settings.heads < 1) fail("--heads: " + std::to_string(settings.heads) + " is not positive");
  if (settings.kv_heads < 0 || (settings.kv_heads > 0 && settings.heads % settings.kv_heads != 0))
    fail("--kv-heads: " + std::to_string(settings.kv_heads) + " does not divide --heads " +
         std::to_string(settings.heads));
  if (settings.max_tokens < 64) fail("--max-n: " + std::to_string(settings.max_tokens) + " is below 64");
  if (settings.threads < 0) fail("--threads: " + std::to_string(settings.threads) + " is negative");
  if (settings.repeats < 0) fail("--repeats: " + std::to_string(settings.repeats) + " is negative");
  const bool any = !settings.q.empty() || !settings.k.empty() || !settings.v.empty();
  if (any && (settings.q.empty() || settings.k.empty() || settings.v.empty())) fail("--q, --k and --v go together");
}

Settings parse(CLI::App& app, int count, char** words) {
  Settings settings;
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  const auto list = [&](const char* name, std::vector<Index>& value, const char* help) {
    app.add_option(name, value, help)
        ->delimiter(',')
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->type_name("D,D,...");
  };
  list("--dims", settings.dims, "head sizes; 16,32,64,128 unless given");
  app.add_option("--heads", settings.heads, "query heads; 8 unless given, 1 is labelled")->type_name("H");
  app.add_option("--kv-heads", settings.kv_heads,
                 "key heads of every row; unless given, as many as query heads, and a causal row with an eighth")
      ->type_name("H");
  app.add_flag("--causal", settings.causal, "causal rows only");
  app.add_flag("--backward", settings.backward, "times forward and backward together");
  app.add_option("--max-n", settings.max_tokens, "longest sequence that is tried; 32768")->type_name("N");
  list("--sizes", settings.sizes, "sizes that every row measures besides its search; 8192 unless given");
  app.add_option("--threads", settings.threads, "0 = all")->type_name("T");
  app.add_option("--q", settings.q, "your own queries, .npy, [heads, tokens, dim] or [tokens, dim]")->type_name("FILE");
  app.add_option("--k", settings.k, "your own keys")->type_name("FILE");
  app.add_option("--v", settings.v, "your own values")->type_name("FILE");
  app.add_option("--csv", settings.csv, "every measured size; crossover.csv")->type_name("FILE");
  app.add_option("--json", settings.json, "the same with the machine and the crossovers")->type_name("FILE");
  app.add_option("--repeats", settings.repeats, "per size; unless given, as the time allows")->type_name("R");
  app.add_option("--budget", settings.budget, "seconds to search for; 200 unless given, 400 with --backward")
      ->type_name("S");
  app.add_flag("--quick", settings.quick, "a rough answer in seconds: 3 repeats, head sizes 16, 32, 64");
  app.parse(count, words);
  check(settings);
  if (settings.sizes.empty() && !settings.quick && settings.max_tokens >= 8192) settings.sizes = {8192};
  if (settings.budget <= 0) settings.budget = settings.quick ? 30 : settings.backward ? 400 : 200;
  return settings;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

// The inputs of each head size: the user's own, the shipped real heads at d = 64, else random.
std::map<Index, std::shared_ptr<bench::Inputs>> choose_inputs(Settings& settings) {
  std::map<Index, std::shared_ptr<bench::Inputs>> inputs;
  if (!settings.q.empty()) {
    const auto file = [](const std::string& path) { return std::filesystem::path(path).filename().string(); };
    auto own = std::make_shared<bench::Inputs>(
        bench::read_triple(settings.q, settings.k, settings.v),
        "your own " + file(settings.q) + ", " + file(settings.k) + ", " + file(settings.v));
    if (settings.dims.empty()) settings.dims = {own->key_dim()};
    inputs[own->key_dim()] = own;
  }
  if (settings.dims.empty()) {
    settings.dims = {16, 32, 64};
    if (!settings.quick) settings.dims.push_back(critic_dim);
  }
  std::sort(settings.dims.begin(), settings.dims.end());
  settings.dims.erase(std::unique(settings.dims.begin(), settings.dims.end()), settings.dims.end());
  for (const Index dim : settings.dims) {
    if (inputs.contains(dim)) continue;
    if (dim == 64) {
      const std::string stem = bench::data_folder() + "/byte_lm_softmax_";
      inputs[dim] = std::make_shared<bench::Inputs>(
          bench::read_triple(stem + "q.npy", stem + "k.npy", stem + "v.npy"),
          "real heads of a byte-level language model trained with softmax (bench/data)");
    } else {
      inputs[dim] = std::make_shared<bench::Inputs>(dim);
    }
  }
  return inputs;
}

struct Task {
  Row row;
  std::shared_ptr<bench::Inputs> inputs;
  std::vector<Index> sizes;  // measured whatever the search does
  bool search = true;

  // Rough flops of one repeat of everything this row measures.
  double weight() const {
    const auto flops = [&](Index tokens) {
      double sum = 0;
      for (const bench::Contestant contestant : bench::contestants) sum += row.flops(contestant, tokens);
      return sum;
    };
    double sum = search ? 4 * flops(static_cast<Index>(row.model())) : 0;
    for (const Index size : sizes) sum += flops(size);
    return sum;
  }
};

std::vector<Task> make_tasks(const Settings& settings, const std::map<Index, std::shared_ptr<bench::Inputs>>& inputs) {
  std::vector<Task> tasks;
  for (const Index dim : settings.dims) {
    const auto& source = inputs.at(dim);
    const auto add = [&](bool causal, Index kv_heads) {
      Task task{
          {dim, source->value_dim(), settings.heads, kv_heads, causal, settings.backward}, source, settings.sizes};
      if (dim == critic_dim) task.sizes.push_back(critic_tokens);
      tasks.push_back(task);
    };
    const Index kv_heads = settings.kv_heads > 0 ? settings.kv_heads : settings.heads;
    if (!settings.causal) add(false, kv_heads);
    add(true, kv_heads);
    if (settings.kv_heads == 0 && settings.heads % 8 == 0) add(true, settings.heads / 8);
  }
  // The critic's case is printed whatever was asked for.
  const bool there = std::any_of(tasks.begin(), tasks.end(), [](const Task& task) {
    return task.row.key_dim == critic_dim && !task.row.causal && task.row.group() == 1;
  });
  if (!there) {
    const auto found = inputs.find(critic_dim);
    const auto source = found != inputs.end() ? found->second : std::make_shared<bench::Inputs>(critic_dim);
    tasks.push_back({{critic_dim, source->value_dim(), settings.heads, settings.heads, false, settings.backward},
                     source,
                     {critic_tokens},
                     false});
  }
  return tasks;
}

// The smallest convenient size at which the factored forward reads its summary (its backward always does).
Index size_that_reads(const Row& row) {
  Index tokens = 512;
  while (csq::detail::served_directly(row.shape(tokens))) tokens += tokens / 8;
  return tokens;
}

// Measures one row within `seconds`; at least one repeat of every size that the search needs, up to `patience` seconds.
RowResult measure_row(const Task& task, const Settings& settings, double seconds, double patience, double peak,
                      bench::Progress& progress, const std::string& heading) {
  Contest contest(task.row, task.inputs, settings.threads);
  RowResult result{.row = task.row, .points = {}, .search = task.search};
  const double start = progress.seconds();
  double reached = 0.5;  // fraction of peak, as seen so far

  const auto measure = [&](Index tokens) {
    double flops = 0;
    for (const bench::Contestant contestant : bench::contestants) flops += task.row.flops(contestant, tokens);
    const double once = flops / (reached * peak);
    const double left = seconds - (progress.seconds() - start);
    int repeats = settings.repeats;
    if (repeats == 0) {
      // Short calls are the noisy ones, and their repeats cost nothing.
      const int most = (settings.quick ? 3 : 15) * (once < 0.02 ? 3 : 1);
      repeats = static_cast<int>(std::clamp(0.3 * left / once, 1.0, static_cast<double>(most)));
      if (repeats < 3 && 3 * once < std::max(left, 0.02 * settings.budget)) repeats = 3;
    }
    progress.show(heading, "n = " + std::to_string(tokens) + ", " + std::to_string(repeats) +
                               (repeats == 1 ? " repeat" : " repeats"));
    result.points.push_back(contest.measure(tokens, repeats));
    double total = 0;
    for (const bench::Quartiles& time : result.points.back().seconds) total += time.median;
    reached = std::clamp(flops / total / peak, 0.05, 1.0);
    bench::sort_by_tokens(result.points);
  };

  std::vector<Index> sizes = task.sizes;
  const auto near = [](Index a, Index b) { return 5 * std::max(a, b) < 6 * std::min(a, b); };
  if (task.search)
    for (const Index size : bench::first_sizes(task.row))
      if (std::none_of(sizes.begin(), sizes.end(), [&](Index other) { return near(size, other); }))
        sizes.push_back(std::min(size, settings.max_tokens));
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  for (const Index size : sizes) measure(size);
  constexpr std::size_t most_sizes = 12;
  while (task.search && result.points.size() < most_sizes) {
    const Index next = bench::next_size(task.row, result.points, settings.max_tokens);
    if (next == 0) break;
    if (progress.seconds() - start > patience) {
      result.out_of_time = true;
      break;
    }
    measure(next);
  }
  return result;
}

std::ofstream open_output(const char* option, const std::string& path) {
  std::ofstream file(path);
  if (!file) fail(std::string(option) + ": " + path + " cannot be written");
  return file;
}

void run(Settings settings) {
  const auto inputs = choose_inputs(settings);
  std::ofstream csv, json;
  if (!settings.csv.empty()) csv = open_output("--csv", settings.csv);
  if (!settings.json.empty()) json = open_output("--json", settings.json);

  bench::Progress progress;
  bench::Results results;
  results.backward = settings.backward;
  bench::Machine& machine = results.machine;
  machine.processor = processor_name();
  machine.build = csq::build_info();
  machine.threads = csq::detail::usable_threads(settings.threads);
  progress.show("FMA peak", "measuring");
  machine.peak_one_thread = bench::measure_fma_peak(csq::simd_name(), 1);
  machine.peak_all_threads = bench::measure_fma_peak(csq::simd_name(), machine.threads);

  const std::vector<Task> tasks = make_tasks(settings, inputs);
  for (const Task& task : tasks) {
    const Index tokens = size_that_reads(task.row);
    progress.show("checking that direct and factored agree", task.row.name() + ", n = " + std::to_string(tokens));
    const double error = Contest(task.row, task.inputs, settings.threads).check(tokens);
    results.largest_error = std::max(results.largest_error, error);
  }

  // Small head sizes first: what they leave of their time goes to the later ones.
  const double deadline = progress.seconds() + settings.budget;
  double weight_left = 0;
  for (const Task& task : tasks) weight_left += task.weight();
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const Task& task = tasks[i];
    const double left = deadline - progress.seconds();
    const double share = std::max(std::min(4.0, 0.05 * settings.budget), left * task.weight() / weight_left);
    weight_left -= task.weight();
    const std::string heading = std::to_string(i + 1) + "/" + std::to_string(tasks.size()) + " " + task.row.name();
    results.rows.push_back(
        measure_row(task, settings, share, std::max(left, share), machine.peak_all_threads, progress, heading));
    const bool last = i + 1 == tasks.size() || tasks[i + 1].inputs != task.inputs;
    if (last) task.inputs->release();
  }
  machine.peak_one_thread = std::max(machine.peak_one_thread, bench::measure_fma_peak(csq::simd_name(), 1));
  machine.peak_all_threads =
      std::max(machine.peak_all_threads, bench::measure_fma_peak(csq::simd_name(), machine.threads));
  if (machine.threads == 1)
    machine.peak_one_thread = machine.peak_all_threads = std::max(machine.peak_one_thread, machine.peak_all_threads);
  results.seconds = progress.seconds();
  progress.finish();

  for (const auto& [dim, source] : inputs) {
    std::string start = "d = " + std::to_string(dim) + ": ";
    for (const std::string& line : source->description()) {
      results.inputs.push_back(start + line);
      start.assign(start.size(), ' ');
    }
  }
  if (!inputs.contains(critic_dim)) results.inputs.push_back("d = 128: normal random numbers, fixed seed");
  for (const RowResult& result : results.rows)
    for (const Point& point : result.points)
      results.largest_error = std::max(results.largest_error, point.relative_error);

  bench::print_heading(results, settings.heads);
  bench::print_crossovers(results);
  std::vector<Index> sizes = settings.sizes, critic_only;
  if (std::find(sizes.begin(), sizes.end(), critic_tokens) == sizes.end()) critic_only.push_back(critic_tokens);
  sizes.insert(sizes.end(), critic_only.begin(), critic_only.end());
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  bench::print_sizes(results, sizes, critic_only);
  bench::print_critic(results);
  std::printf("\nTook %.0f s.%s%s\n", results.seconds, settings.csv.empty() ? "" : " Every measured size is in ",
              settings.csv.c_str());

  if (csv.is_open()) write_csv(results, csv);
  if (json.is_open()) write_json(results, json);
  csv.close();
  json.close();
  if (csv.fail() && !settings.csv.empty()) fail("--csv: " + settings.csv + " cannot be written");
  if (json.fail() && !settings.json.empty()) fail("--json: " + settings.json + " cannot be written");
}

int report(std::string what, int code) {
  for (char& c : what)
    if (c == '\n') c = ' ';
  std::fprintf(stderr, "crossover: %s\n", what.c_str());
  return code;
}

}  // namespace

int main(int count, char** words) {
  CLI::App app{"From which sequence length is O(n*d^3) attention faster than O(n^2*d) on this machine?", "crossover"};
  try {
    run(parse(app, count, words));
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const bench::Disagreement& error) {
    return report(error.what(), 1);
  } catch (const std::bad_alloc&) {
    return report("not enough memory; --max-n and --heads make it smaller", 2);
  } catch (const std::exception& error) {
    return report(error.what(), 2);
  }
  return 0;
}

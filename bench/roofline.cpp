// How near the kernels are to this machine's limit: for each the fraction of the FMA peak that the same process
// measures, or of the read bandwidth, and everything that should follow from it (threads, short sequences, crossovers,
// decoding, scale).
//
//   build/release/bench/roofline [--json FILE] [--only SECTION,SECTION,...] [--sets]
//
// Flops are those of the formulas (support/passes.hpp). Calls of a section take turns, the FMA peak among them; a
// number is the median over the rounds of the ratio within a round, so that a slow moment of the machine cancels. Each
// number stands beside the value that it should reach, and in brackets one beyond; exit 1 when one is missed. --sets
// repeats the section `kernels` for every other instruction set of the processor, each against its own peak. `decode`
// needs 3 GB, `scale` 9.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>

#include "support/bandwidth.hpp"
#include "support/disturbance.hpp"
#include "support/eigen_softmax.hpp"
#include "support/fma_peak.hpp"
#include "support/progress.hpp"
#include "support/reach.hpp"
#include "support/reach_decode.hpp"
#include "support/timed_call.hpp"

namespace {

using bench::Index;
using bench::Pass;
using bench::Reach;
using bench::TimedCall;
using csq::Method;

struct Settings {
  std::string json;
  std::vector<std::string> only;
  bool sets = false;
  int rounds = 9;

  bool wants(const std::string& section) const {
    return only.empty() ? section != "scale" : std::find(only.begin(), only.end(), section) != only.end();
  }
};

csq::Shape square(Index tokens, Index dim, Index heads = 1, bool causal = false) {
  return {.queries = tokens,
          .keys = tokens,
          .key_dim = dim,
          .value_dim = dim,
          .heads = heads,
          .kv_heads = heads,
          .causal = causal};
}
TimedCall softmax_call(Pass pass, const csq::Shape& shape, int threads) {
  return bench::timed_call("softmax", csq::Softmax{}, Method::direct, pass, shape, threads);
}
TimedCall csq_call(Method method, Pass pass, const csq::Shape& shape, int threads) {
  return bench::timed_call("csq", csq::Csq{}, method, pass, shape, threads);
}
void time_all(std::vector<TimedCall>& calls, int rounds) {
  std::vector<TimedCall*> pointers;
  for (TimedCall& call : calls) pointers.push_back(&call);
  bench::time_in_turn(pointers, rounds);
}

// Fractions at n = 4096, one thread: what the crossovers are predicted from.
struct Fractions {
  Index dim;
  double softmax, factored;
};

std::vector<Fractions> kernels(const Settings& settings, std::vector<Reach>& rows) {
  const std::string set = csq::simd_name();
  const std::string section = "one thread, fraction of the FMA peak (" + set + ")";
  const bool widest = set == "avx512", avx2 = set == "avx2";
  struct Goals {
    Index dim;
    double factored, factored2, backward, backward2, softmax, softmax2, softmax_backward, softmax_backward2, ratio;
  };
  const std::vector<Goals> goals{{32, .72, .80, .60, .70, .66, .72, .50, .60, 1.2},
                                 {64, .78, .85, .70, .78, .76, .82, .65, .72, 1.08},
                                 {128, .78, .85, .72, .80, .78, .84, .68, .75, 1.05}};
  std::vector<Fractions> fractions;
  for (const Goals& goal : goals) {
    const csq::Shape long_shape = square(4096, goal.dim), short_shape = square(1024, goal.dim);
    std::vector<TimedCall> calls{
        csq_call(Method::factored, Pass::forward, long_shape, 1),
        csq_call(Method::factored, Pass::backward, long_shape, 1),
        softmax_call(Pass::forward, short_shape, 1),
        softmax_call(Pass::forward, long_shape, 1),
        softmax_call(Pass::backward, long_shape, 1),
        csq_call(Method::direct, Pass::forward, long_shape, 1),
        csq_call(Method::direct, Pass::backward, long_shape, 1),
        bench::peak_call(1),
    };
    const TimedCall& peak = calls.back();
    time_all(calls, settings.rounds);
    const std::string dim = "d " + std::to_string(goal.dim) + "  ";
    const double none = std::nan("");
    const auto add = [&](const char* name, const TimedCall& call, double reach, double stretch) {
      double own_reach = widest ? reach : none;
      // AVX2's bound, of its own peak: factored and softmax forward at d = 64, n = 4096.
      if (avx2 && goal.dim == 64 && (&call == &calls[0] || &call == &calls[3])) own_reach = 0.60;
      rows.push_back({section, dim + name, bench::rate_ratio(call, peak), own_reach, widest ? stretch : none});
    };
    add("factored forward, n 4096", calls[0], goal.factored, goal.factored2);
    add("factored backward, n 4096", calls[1], goal.backward, goal.backward2);
    add("softmax forward, n 1024", calls[2], goal.softmax, goal.softmax2);
    add("softmax forward, n 4096", calls[3], goal.softmax, goal.softmax2);
    add("softmax backward, n 4096", calls[4], goal.softmax_backward, goal.softmax_backward2);
    add("CSQ direct forward, n 4096", calls[5], none, none);
    add("CSQ direct backward, n 4096", calls[6], none, none);
    rows.push_back({section, dim + "CSQ direct over softmax, speed", bench::time_ratio(calls[3], calls[5]),
                    widest ? goal.ratio : none});
    fractions.push_back({goal.dim, bench::rate_ratio(calls[3], peak), bench::rate_ratio(calls[0], peak)});
  }
  return fractions;
}

// What gates cost, and what a window saves.
void gates(const Settings& settings, std::vector<Reach>& rows) {
  for (const Index dim : {32, 64, 128}) {
    const csq::Shape shape = square(4096, dim, 1, true);
    std::vector<TimedCall> calls;
    for (const bool gated : {false, true})
      for (const Pass pass : {Pass::forward, Pass::backward}) {
        const bench::CallExtras extras{.gated = gated};
        calls.push_back(bench::timed_call("csq", csq::Csq{}, Method::factored, pass, shape, 1, extras));
        calls.push_back(bench::timed_call("softmax", csq::Softmax{}, Method::direct, pass, shape, 1, extras));
        calls.push_back(bench::timed_call("csq", csq::Csq{}, Method::direct, pass, shape, 1, extras));
      }
    time_all(calls, settings.rounds);
    const std::string name = "d " + std::to_string(dim) + "  ";
    const auto add = [&](const char* what, std::size_t plain, double reach) {
      rows.push_back({"gated over plain, speed, causal n 4096, one thread", name + what,
                      bench::time_ratio(calls[plain], calls[plain + 6]), reach});
    };
    const double none = std::nan("");
    add("factored forward", 0, .95);
    add("factored backward", 3, .93);
    add("softmax forward", 1, .93);
    add("softmax backward", 4, none);
    add("CSQ direct forward", 2, none);
    add("CSQ direct backward", 5, none);
  }
  constexpr Index tokens = 16384, window = 512;
  const csq::Shape shape = square(tokens, 64, 1, true);
  std::vector<TimedCall> calls;
  for (const Index width : {Index{0}, window})
    for (const Pass pass : {Pass::forward, Pass::backward})
      calls.push_back(bench::timed_call("softmax", csq::Softmax{}, Method::direct, pass, shape, 1,
                                        bench::CallExtras{.window = width}));
  time_all(calls, 3);
  // Visible pairs: with the window, of those without.
  const double n = tokens, w = window;
  const double share = (n * w - w * (w - 1) / 2) / (n * (n + 1) / 2);
  const std::string section = "window 512, n 16384, d 64, softmax, one thread";
  for (const std::size_t pass : {0u, 1u})
    rows.push_back({section, pass == 0 ? "forward, time over its share of causal" : "backward, the same",
                    bench::time_ratio(calls[pass + 2], calls[pass]) / share, 1.25, std::nan(""), true});
}

// A mask should save half of direct, and cost factored nothing.
void causal(const Settings& settings, std::vector<Reach>& rows) {
  const std::string section = "causal against full, n 4096, one thread";
  for (const Index dim : {32, 64, 128}) {
    std::vector<TimedCall> calls;
    for (const bool masked : {false, true}) {
      calls.push_back(softmax_call(Pass::forward, square(4096, dim, 1, masked), 1));
      calls.push_back(csq_call(Method::direct, Pass::forward, square(4096, dim, 1, masked), 1));
      calls.push_back(csq_call(Method::factored, Pass::forward, square(4096, dim, 1, masked), 1));
    }
    time_all(calls, settings.rounds);
    const std::string name = "d " + std::to_string(dim);
    rows.push_back({section, name + "  softmax, times faster", bench::time_ratio(calls[0], calls[3]), 1.85});
    rows.push_back({section, name + "  CSQ direct, times faster", bench::time_ratio(calls[1], calls[4]), 1.85});
    // Below the causal crossover factored is served directly, or nearly: no reading to compare.
    rows.push_back({section, name + "  factored, time over full", bench::time_ratio(calls[5], calls[2]), 1.05,
                    std::nan(""), true});
  }
}

void threads(const Settings& settings, const bench::Machine& machine, std::vector<Reach>& rows) {
  const std::string section =
      "all " + std::to_string(machine.threads) + " threads, speed-up over the FMA peak's own, n 4096, d 64";
  const double goal = machine.threads <= 2 ? 0.90 : 0.85;
  for (const Index heads : {8, 1})
    for (const Pass pass : {Pass::forward, Pass::backward}) {
      const csq::Shape shape = square(4096, 64, heads);
      std::vector<TimedCall> calls;
      for (const int used : {1, machine.threads}) {
        calls.push_back(softmax_call(pass, shape, used));
        calls.push_back(csq_call(Method::factored, pass, shape, used));
        calls.push_back(bench::peak_call(used));
      }
      time_all(calls, settings.rounds);
      const std::string name = std::string(pass == Pass::forward ? "forward, " : "backward, ") +
                               (heads == 1 ? "one head" : std::to_string(heads) + " heads");
      for (const int i : {0, 1})
        rows.push_back({section, (i == 0 ? "softmax " : "factored ") + name,
                        bench::rate_ratio(calls[std::size_t(i + 3)], calls[5]) /
                            bench::rate_ratio(calls[std::size_t(i)], calls[2]),
                        goal});
    }
}

// Against the three Eigen products that a program would write down, built for this machine.
void short_sequences(const Settings& settings, std::vector<Reach>& rows) {
  const std::string section = "short sequences, d 64, softmax: time over plain Eigen's, one thread";
  constexpr Index dim = 64;
  std::vector<csq::Shape> shapes;
  for (const Index tokens : {4, 8, 16, 32, 64}) shapes.push_back(square(tokens, dim));
  csq::Shape decode = square(4096, dim);
  decode.queries = 1;
  shapes.push_back(decode);
  for (const csq::Shape& shape : shapes) {
    bench::Inputs inputs(dim);
    inputs.reserve(1, 1, shape.keys);
    std::vector<float> out(std::size_t(shape.queries * dim));
    const float *q = inputs.q(1, shape.queries).data, *k = inputs.k(1, shape.keys).data,
                *v = inputs.v(1, shape.keys).data;
    std::vector<TimedCall> calls{
        softmax_call(Pass::forward, shape, 1),
        {"eigen", 0, [&] { bench::eigen_softmax(q, k, v, out.data(), shape.queries, shape.keys, dim); }, {}}};
    time_all(calls, 3 * settings.rounds);
    rows.push_back({section,
                    "n " + std::to_string(shape.queries) + ", m " + std::to_string(shape.keys) + "  (" +
                        std::to_string(static_cast<int>(calls[0].seconds() * 1e9)) + " ns)",
                    bench::time_ratio(calls[0], calls[1]), 1.2, std::nan(""), true});
  }
}

// Measured crossovers of factored against softmax, one thread and head, over what the fractions at n = 4096 predict.
void crossovers(const Settings& settings, const std::vector<Fractions>& fractions, bench::Progress& progress,
                std::vector<Reach>& rows) {
  const std::string section =
      "crossover of factored CSQ against softmax, one thread, one head: measured over predicted";
  for (const Fractions& f : fractions)
    for (const bool masked : {false, true}) {
      const bench::Row row{f.dim, f.dim, 1, 1, masked, false};
      const double predicted = csq::predicted_crossover(
          f.dim, f.dim,
          {.causal = masked, .group = 1, .direct_efficiency = f.softmax, .factored_efficiency = f.factored});
      bench::Contest contest(row, std::make_shared<bench::Inputs>(f.dim), 1);
      std::vector<bench::Point> points;
      const auto measure = [&](double tokens) {
        const Index size = bench::round_tokens(tokens);
        progress.show("crossover, d " + std::to_string(f.dim) + (masked ? ", causal" : ", full"),
                      "n = " + std::to_string(size));
        points.push_back(contest.measure(size, settings.rounds));
        bench::sort_by_tokens(points);
      };
      measure(0.9 * predicted);
      measure(1.1 * predicted);
      bench::Crossover found = bench::find_crossover(points, bench::softmax);
      for (int tries = 0; tries < 6 && found.kind != bench::Crossover::Kind::measured; ++tries) {
        const bool too_short = found.kind != bench::Crossover::Kind::at_or_below;
        const double edge = static_cast<double>(too_short ? points.back().tokens : points.front().tokens);
        measure(too_short ? 1.15 * edge : edge / 1.15);
        found = bench::find_crossover(points, bench::softmax);
      }
      const double slack = masked ? 0.15 : 0.10;
      const double ratio = found.kind == bench::Crossover::Kind::measured ? found.tokens / predicted : std::nan("");
      const std::string name = "d " + std::to_string(f.dim) + (masked ? "  causal" : "  full") + "  (" +
                               std::to_string(std::lround(found.tokens)) + " of " +
                               std::to_string(std::lround(predicted)) + ")";
      rows.push_back({section, name, ratio, 1 - slack});
      rows.push_back({section, name, ratio, 1 + slack, std::nan(""), true});
    }
}

double peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

// A million tokens: linear time, constant memory.
void scale(std::vector<Reach>& rows) {
  const std::string section = "scale: causal factored forward, d 64, 8 heads, all threads";
  constexpr Index dim = 64, heads = 8, short_tokens = 65536, long_tokens = Index{1} << 20;
  double per_token[2] = {}, extra = 0;
  for (const Index tokens : {short_tokens, long_tokens}) {
    const csq::Shape shape = square(tokens, dim, heads, true);
    TimedCall call = csq_call(Method::factored, Pass::forward, shape, 0);
    bench::time_in_turn({&call}, tokens == long_tokens ? 2 : 5);
    per_token[tokens == long_tokens] = call.seconds() / static_cast<double>(tokens);
    if (tokens == long_tokens) extra = peak_memory() - 4.0 * static_cast<double>(tokens * heads * dim) * sizeof(float);
  }
  rows.push_back(
      {section, "time per token at n 1,048,576 over n 65,536", per_token[1] / per_token[0], 1.10, std::nan(""), true});
  rows.push_back({section, "peak memory beyond q, k, v, out (MB)", extra / 1e6, 64, std::nan(""), true});
}

int run(const Settings& settings, const char* program) {
  bench::Progress progress;
  std::vector<Reach> rows;
  if (settings.wants("scale") && !settings.only.empty()) {
    progress.show("scale", "");
    scale(rows);  // first: peak memory is the process's
  }
  bench::Machine machine;
  machine.threads = bench::threads_for("threads", 0);
  machine.cores = bench::usable_cores();
  progress.show("FMA peak", "");
  machine.peak_one_thread = bench::measure_fma_peak(csq::simd_name(), 1, 150);
  machine.peak_all_threads = bench::measure_fma_peak(csq::simd_name(), machine.threads, 150);
  std::printf("%s, %d threads; FMA peak, float: %.0f GF/s with one thread, %.0f with %d\n", csq::build_info().c_str(),
              machine.threads, machine.peak_one_thread / 1e9, machine.peak_all_threads / 1e9, machine.threads);
  if (bench::threads_do_not_help(machine))
    std::printf("TOO BUSY TO JUDGE with all threads: %s\n", bench::speedup_text(machine).c_str());
  std::printf("read bandwidth, one thread:");
  nlohmann::json bandwidth;
  for (const std::size_t megabytes : {std::size_t{1}, std::size_t{32}, std::size_t{256}}) {
    const double rate = bench::read_bandwidth(megabytes << 20);
    bandwidth[std::to_string(megabytes) + " MB"] = rate / 1e9;
    std::printf("  %.0f GB/s from %zu MB", rate / 1e9, megabytes);
  }
  std::printf("\n");

  std::vector<Fractions> fractions;
  const auto section = [&](const char* name, const auto& body) {
    if (!settings.wants(name)) return;
    progress.show(name, "");
    body();
  };
  if (settings.wants("kernels") || settings.wants("crossover")) {
    progress.show("kernels", "");
    fractions = kernels(settings, rows);
  }
  section("causal", [&] { causal(settings, rows); });
  section("gates", [&] { gates(settings, rows); });
  section("threads", [&] { threads(settings, machine, rows); });
  section("short", [&] { short_sequences(settings, rows); });
  section("crossover", [&] { crossovers(settings, fractions, progress, rows); });
  section("decode", [&] {
    bench::reach_of_steps(settings.rounds, rows);
    bench::reach_of_one_query(settings.rounds, rows);
    bench::reach_of_decode_crossovers(settings.rounds, rows);
    bench::reach_of_packed(std::min(settings.rounds, 3), rows);  // seconds a call
  });
  progress.finish();
  bench::print_reach(rows);

  if (!settings.json.empty()) {
    nlohmann::json result = {{"build", csq::build_info()},
                             {"threads", machine.threads},
                             {"peak_one_thread_gflops", machine.peak_one_thread / 1e9},
                             {"peak_all_threads_gflops", machine.peak_all_threads / 1e9},
                             {"read_bandwidth_gb_per_s", bandwidth},
                             {"rows", bench::json_of(rows)}};
    std::ofstream file(settings.json);
    if (!(file << result.dump(2) << '\n')) throw std::runtime_error("--json: " + settings.json + " cannot be written");
  }
  bool met = true;
  for (const Reach& row : rows) met = met && (!row.has_bound() || row.meets(row.reach));
  if (settings.sets)
    for (const std::string_view name : csq::simd_names()) {
      if (name == csq::simd_name()) continue;
      std::printf("\n");
      std::fflush(stdout);
      std::string command = "CSQ_SIMD=" + std::string(name) + " '" + program + "' --only kernels";
      if (!settings.json.empty()) command += " --json '" + settings.json + "." + std::string(name) + "'";
      met = std::system(command.c_str()) == 0 && met;
    }
  return met ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
  bench::let_waiting_threads_sleep(words);
  CLI::App app("How near csq's kernels are to this machine's limit");
  Settings settings;
  app.add_option("--json", settings.json, "the numbers, as JSON")->type_name("FILE");
  app.add_option("--only", settings.only,
                 "kernels, causal, gates, threads, short, crossover, decode, scale; all but scale unless given")
      ->delimiter(',')
      ->check(CLI::IsMember({"kernels", "causal", "gates", "threads", "short", "crossover", "decode", "scale"}));
  app.add_flag("--sets", settings.sets, "the kernels of every other instruction set too");
  app.add_option("--rounds", settings.rounds, "samples of each call")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, count, words);
  try {
    return run(settings, words[0]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "roofline: %s\n", error.what());
    return 2;
  }
}

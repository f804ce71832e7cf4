// Is Method::automatic right? Direct and factored CSQ over a grid of shapes: what the cost model chooses, and how much
// slower that is than the better of the two.
//
//   build/release/bench/choose [--threads T] [--max-n 16384] [--rounds 3]
//
// A miss is a choice more than 10% slower than the better method. Exit 1 when more than 5% of the grid are misses.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <exception>

#include "support/disturbance.hpp"
#include "support/progress.hpp"
#include "support/timed_call.hpp"

namespace {

using bench::Index;

struct Settings {
  std::vector<Index> dims{16, 32, 64, 128};
  Index max_tokens = 16384;
  int threads = 0, rounds = 3;
};

struct Cell {
  csq::Shape shape;
  double direct = 0, factored = 0;  // seconds
  bool chosen_factored = false;

  double loss() const { return (chosen_factored ? factored : direct) / std::min(direct, factored) - 1; }
};

Cell measure(const csq::Shape& shape, const Settings& settings) {
  Cell cell{.shape = shape};
  cell.chosen_factored = csq::used_method(csq::Csq{}, shape) == csq::Method::factored;
  const auto call = [&](csq::Method method) {
    return bench::timed_call("", csq::Csq{}, method, bench::Pass::forward, shape, settings.threads);
  };
  bench::TimedCall direct = call(csq::Method::direct);
  if (bench::served_directly(shape)) {  // the same path under both names
    cell.direct = cell.factored = 1;
    return cell;
  }
  bench::TimedCall factored = call(csq::Method::factored);
  bench::time_in_turn({&direct, &factored}, 1);
  // Far from a tie one sample tells; near one, many.
  if (std::abs(std::log(direct.seconds() / factored.seconds())) < std::log(1.5))
    bench::time_in_turn({&direct, &factored}, 4 * settings.rounds);
  cell.direct = direct.seconds();
  cell.factored = factored.seconds();
  return cell;
}

const char* mark(const Cell& cell) {
  if (bench::served_directly(cell.shape)) return "=";
  return cell.chosen_factored ? "F" : "D";
}

int run(const Settings& settings) {
  bench::Progress progress;
  progress.show("FMA peak", "");
  bench::Machine machine;
  machine.threads = settings.threads;
  machine.cores = bench::usable_cores();
  machine.peak_one_thread = bench::measure_fma_peak(csq::simd_name(), 1);
  machine.peak_all_threads = bench::measure_fma_peak(csq::simd_name(), machine.threads);
  std::vector<Cell> cells;
  for (const Index dim : settings.dims)
    for (const bool causal : {false, true})
      for (const Index heads : {1, 8})
        for (Index tokens = 64; tokens <= settings.max_tokens; tokens *= 2) {
          progress.show("d = " + std::to_string(dim), "n = " + std::to_string(tokens));
          cells.push_back(measure({.queries = tokens,
                                   .keys = tokens,
                                   .key_dim = dim,
                                   .value_dim = dim,
                                   .heads = heads,
                                   .kv_heads = heads,
                                   .causal = causal},
                                  settings));
        }
  progress.finish();

  std::printf("%s, %d threads. D direct, F factored, = the same path; +x%%: slower than the better method\n",
              csq::build_info().c_str(), settings.threads);
  if (bench::threads_do_not_help(machine)) std::printf("TOO BUSY TO JUDGE: %s\n", bench::speedup_text(machine).c_str());
  std::printf("%4s %6s %5s ", "d", "mask", "heads");
  for (Index tokens = 64; tokens <= settings.max_tokens; tokens *= 2)
    std::printf("%9lld", static_cast<long long>(tokens));
  int misses = 0;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const Cell& cell = cells[i];
    if (cell.shape.queries == 64)
      std::printf("\n%4lld %6s %5lld ", static_cast<long long>(cell.shape.key_dim),
                  cell.shape.causal ? "causal" : "full", static_cast<long long>(cell.shape.heads));
    const bool miss = cell.loss() > 0.10;
    misses += miss;
    if (cell.loss() > 0.005)
      std::printf("%s %s+%.0f%%%s", cell.loss() < 0.095 ? "   " : "  ", mark(cell), 100 * cell.loss(),
                  miss ? "!" : " ");
    else
      std::printf("%8s ", mark(cell));
  }
  const double share = 1 - static_cast<double>(misses) / static_cast<double>(cells.size());
  std::printf("\n%d of %zu choices within 10%% of the better method (%.1f%%, wanted 95%%); misses (!): %d\n",
              static_cast<int>(cells.size()) - misses, cells.size(), 100 * share, misses);
  for (const Cell& cell : cells)
    if (cell.loss() > 0.10)
      std::printf("  miss: d %lld, n %lld, %s, %lld heads: direct %.3f ms, factored %.3f ms\n",
                  static_cast<long long>(cell.shape.key_dim), static_cast<long long>(cell.shape.queries),
                  cell.shape.causal ? "causal" : "full", static_cast<long long>(cell.shape.heads), 1e3 * cell.direct,
                  1e3 * cell.factored);
  return share >= 0.95 ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
  bench::let_waiting_threads_sleep(words);
  CLI::App app("How often Method::automatic is within 10% of the better method");
  Settings settings;
  app.add_option("--dims", settings.dims, "head sizes")->delimiter(',')->check(CLI::Range(1, 512));
  app.add_option("--max-n", settings.max_tokens, "longest sequence")->check(CLI::Range(64, 1 << 20));
  app.add_option("--threads", settings.threads, "0 = all; at most one a processor");
  app.add_option("--rounds", settings.rounds, "samples near a tie, times four")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, count, words);
  try {
    settings.threads = bench::threads_for("--threads", settings.threads);
    return run(settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "choose: %s\n", error.what());
    return 2;
  }
}

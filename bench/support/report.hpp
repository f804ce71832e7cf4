// The results as a newcomer reads them: what was compared, where the crossovers are, what chosen sizes cost.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <string>

#include "results.hpp"

namespace bench {

__attribute__((format(printf, 1, 2))) inline std::string text(const char* format, ...) {
  char buffer[512];
  va_list values;
  va_start(values, format);
  std::vsnprintf(buffer, sizeof buffer, format, values);
  va_end(values);
  return buffer;
}

inline std::string milliseconds(double seconds) {
  const double ms = seconds * 1e3;
  return text(ms >= 100 ? "%.0f" : ms >= 10 ? "%.1f" : ms >= 1 ? "%.2f" : "%.3f", ms);
}

inline std::string mask_name(const Row& row) { return row.causal ? "causal" : "full"; }

inline std::string crossover_text(const Crossover& crossover) {
  switch (crossover.kind) {
    case Crossover::Kind::measured:
      return text("%.0f", crossover.tokens);
    case Crossover::Kind::at_or_below:
      return text("<= %.0f", crossover.tokens);
    case Crossover::Kind::none:
      return text("> %.0f", crossover.tokens);
    case Crossover::Kind::not_read:
      break;
  }
  return "served directly";
}

// "3.1x faster", "2.0x slower", "equal".
inline std::string comparison(double rival_seconds, double factored_seconds) {
  const double ratio = rival_seconds / factored_seconds;
  if (ratio >= 1.005) return text("%.2fx faster", ratio);
  if (ratio <= 0.995) return text("%.2fx slower", 1 / ratio);
  return "equal";
}

inline void print_heading(const Results& results, Index heads) {
  const Machine& machine = results.machine;
  std::printf("\ncsq crossover%s: from which sequence length is O(n·d³) attention faster than O(n²·d)?\n\n",
              results.backward ? " --backward" : "");
  if (results.backward)
    std::printf("  FORWARD AND BACKWARD together are timed: the output, then the gradients of q, k and v.\n\n");
  std::printf("  softmax        exp(score) weights, every pair, tiled with an online maximum          O(n²·d)\n");
  std::printf("  CSQ direct     (score + 1)² weights on centred queries and keys, every pair          O(n²·d)\n");
  std::printf("  CSQ factored   the same numbers as CSQ direct, through a summary of keys and values  O(n·d³)\n\n");
  std::printf("  Softmax and CSQ are different functions: this compares what they cost, not what they can learn.\n\n");
  std::printf("  processor   %s; %s\n", machine.processor.c_str(), machine.build.c_str());
  std::printf("  FMA peak    %.0f GF/s with 1 thread", machine.peak_one_thread / 1e9);
  if (machine.threads > 1) std::printf(", %.0f GF/s with %d", machine.peak_all_threads / 1e9, machine.threads);
  std::printf(" (float, measured by this process)\n");
  std::printf(
      "  timed       %sfloat, %d thread%s, %lld head%s; packing and centring included, allocation not;\n"
      "              medians of interleaved repeats\n",
      results.backward ? "forward and backward, " : "", machine.threads, machine.threads == 1 ? "" : "s",
      static_cast<long long>(heads), heads == 1 ? "" : "s");
  if (heads == 1)
    std::printf("              ONE HEAD: its data may stay in cache between repeats; 8 heads are the default\n");
  std::printf(
      "  checked     CSQ direct and factored agree%s, before anything is timed and again at every\n"
      "              size: relative error at most %.1e (%.0e would stop the run)\n",
      results.backward ? " in output and gradients" : "", results.largest_error, float_tolerance);
  for (std::size_t i = 0; i < results.inputs.size(); ++i)
    std::printf("  %-11s %s\n", i == 0 ? "inputs" : "", results.inputs[i].c_str());
}

// One row: measured crossovers beside the model's.
inline void print_crossovers(const Results& results) {
  std::printf("\nCrossover%s: tokens from which CSQ factored is faster (n = m)\n\n",
              results.backward ? ", forward and backward" : "");
  std::printf(
      "                       counting |     than softmax     |   than CSQ direct    | fraction of FMA peak there\n");
  std::printf(
      "  head          heads   flops   |              model,  |              model,  |            CSQ      CSQ\n");
  std::printf(
      "  size  mask     q/kv    alone  |   measured   fitted  |   measured   fitted  | softmax  direct  factored\n");
  Index dim = -1;
  bool stopped = false;
  for (const RowResult& result : results.rows) {
    if (!result.search) continue;
    const Row& row = result.row;
    if (row.key_dim != dim)
      std::printf(
          " -------------------------------+----------------------+----------------------+---------------------------"
          "\n");
    std::printf("  %4s  %-6s %5s %9.0f  |", row.key_dim == dim ? "" : std::to_string(row.key_dim).c_str(),
                mask_name(row).c_str(),
                text("%lld/%lld", static_cast<long long>(row.heads), static_cast<long long>(row.kv_heads)).c_str(),
                row.model());
    dim = row.key_dim;
    const double peak = results.machine.peak_all_threads;
    double fraction[3] = {};
    for (const Contestant rival : {softmax, csq_direct}) {
      const Crossover crossover = result.crossover(rival);
      const Point* point = nearest_point(result.points, crossover.tokens);
      std::string fitted = "-";
      if (point != nullptr) {
        const double factored = fraction_of_peak(row, *point, csq_factored, peak);
        fraction[rival] = fraction_of_peak(row, *point, rival, peak);
        if (rival == softmax) fraction[csq_factored] = factored;
        fitted = text("%.0f", row.model(fraction[rival], factored));
      }
      std::printf(" %10s %8s  |", crossover_text(crossover).c_str(), fitted.c_str());
    }
    if (fraction[csq_factored] > 0)
      std::printf("  %5.2f   %6.2f   %6.2f", fraction[softmax], fraction[csq_direct], fraction[csq_factored]);
    std::printf("%s\n", result.out_of_time ? "  *" : "");
    stopped = stopped || result.out_of_time;
  }
  std::printf(
      "\n"
      "  q/kv               query heads and key heads\n"
      "  flops alone        the cost model's prediction if both sides reached the same fraction of the FMA peak\n"
      "  fitted             the same with the fractions that both sides reached at the measured size nearest to it\n");
  if (results.backward)
    std::printf(
        "  fraction of peak   flops: direct 4·n²·d forward and 10·n²·d backward, half of it if causal; factored\n"
        "                     2·(n·g + m)·D·(d + 1) forward and 2·(2n·g + 3m)·D·(d + 1) backward, a key head with\n"
        "                     g query heads, D = (d + 1)(d + 2)/2; causal: the cost model's multiply-adds, times 2\n"
        "  <= n               factored is faster at every size tried; n is the smallest\n");
  else
    std::printf(
        "  fraction of peak   flops: direct 4·n²·d, half of it if causal; factored 2·(n·g + m)·D·(d + 1) a key head "
        "with\n"
        "                     g query heads, D = (d + 1)(d + 2)/2; causal: the multiply-adds of the cost model, times "
        "2\n"
        "  <= n               factored is faster wherever it reads its summary, which begins at n: a causal call "
        "shorter\n"
        "                     than that is served directly, is the direct path, and counts as no crossover\n");
  std::printf("  > n                factored is slower up to n, the longest sequence tried\n");
  if (stopped) std::printf("  *                  the time budget ended this search; --budget gives it more\n");
}

inline void print_size_line(const RowResult& result, const Point& point) {
  const Row& row = result.row;
  std::string cells;
  for (const Contestant contestant : contestants) {
    const Quartiles& seconds = point.seconds[contestant];
    cells += text(" %9s %-17s", milliseconds(seconds.median).c_str(),
                  ("(" + milliseconds(seconds.lower) + "-" + milliseconds(seconds.upper) + ")").c_str());
  }
  const std::string verdict =
      point.served_directly ? "served directly" : comparison(point.median(softmax), point.median(csq_factored));
  std::printf("  %4lld  %-6s %5s %7lld %s %s\n", static_cast<long long>(row.key_dim), mask_name(row).c_str(),
              text("%lld/%lld", static_cast<long long>(row.heads), static_cast<long long>(row.kv_heads)).c_str(),
              static_cast<long long>(point.tokens), cells.c_str(), verdict.c_str());
}

// What the chosen sizes cost, whichever side of the crossover they are on.
inline void print_sizes(const Results& results, const std::vector<Index>& sizes, const std::vector<Index>& critic) {
  std::printf("\nMilliseconds%s at chosen sizes: median (quartiles)\n\n",
              results.backward ? " of forward and backward" : "");
  std::printf(
      "  head          heads                                                                            "
      "        factored against\n"
      "  size  mask     q/kv  tokens  %9s %-17s %10s %-16s %12s %-14s softmax\n",
      "softmax", "", "CSQ direct", "", "CSQ factored", "");
  for (const Index size : sizes) {
    std::printf("\n");
    const bool critic_only = std::find(critic.begin(), critic.end(), size) != critic.end();
    for (const RowResult& result : results.rows)
      for (const Point& point : result.points)
        if (point.tokens == size && (!critic_only || result.row.key_dim == 128)) print_size_line(result, point);
  }
}

// n = 2048, d = 128: long before the crossover, where softmax must be expected to win.
inline void print_critic(const Results& results) {
  for (const RowResult& result : results.rows) {
    const Row& row = result.row;
    if (row.key_dim != 128 || row.causal || row.group() != 1) continue;
    for (const Point& point : result.points)
      if (point.tokens == 2048)
        std::printf(
            "\nThe critic's case, n = 2048, d = 128, full%s: softmax %s ms, CSQ factored %s ms: factored is %s.\n",
            results.backward ? ", forward and backward" : "", milliseconds(point.median(softmax)).c_str(),
            milliseconds(point.median(csq_factored)).c_str(),
            comparison(point.median(softmax), point.median(csq_factored)).c_str());
  }
}

}  // namespace bench

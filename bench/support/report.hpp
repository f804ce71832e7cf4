// The results as a newcomer reads them: what was compared, where the crossovers are, what chosen sizes cost.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <set>
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

inline const char* const too_busy = "too busy";

// "3.1x faster", "2.0x slower", "equal".
inline std::string comparison(double rival_seconds, double factored_seconds) {
  const double ratio = rival_seconds / factored_seconds;
  if (ratio >= 1.005) return text("%.2fx faster", ratio);
  if (ratio <= 0.995) return text("%.2fx slower", 1 / ratio);
  return "equal";
}

// Factored against softmax at one size, or why that is not told.
inline std::string point_text(const Point& point, const Machine& machine) {
  if (point.served_directly) return "served directly";
  if (disturbance_of(point, softmax, machine) != Disturbance::none) return too_busy;
  return comparison(point.median(softmax), point.median(csq_factored));
}

// "8 heads", or query heads and key heads, of all rows that are searched.
inline std::string heads_text(const std::vector<RowResult>& rows) {
  std::set<Index> heads;
  for (const RowResult& result : rows)
    if (result.search) heads.insert(result.row.heads);
  if (heads.size() != 1) return "query and key heads as in the table";
  return text("%lld head%s", static_cast<long long>(*heads.begin()), *heads.begin() == 1 ? "" : "s");
}

inline void print_heading(const Results& results) {
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
      "  timed       %s%s, %d thread%s, %s; packing and centring included, allocation not;\n"
      "              medians of interleaved repeats\n",
      results.backward ? "forward and backward, " : "", name_of(results.dtype), machine.threads,
      machine.threads == 1 ? "" : "s", heads_text(results.rows).c_str());
  if (std::any_of(results.rows.begin(), results.rows.end(), [](const RowResult& r) { return r.row.heads == 1; }))
    std::printf("              ONE HEAD: its data may stay in cache between repeats; 8 heads are the default\n");
  std::printf(
      "  checked     CSQ direct and factored agree%s, before anything is timed and again at every\n"
      "              size: relative error at most %.1e (%.0e would stop the run)\n",
      results.backward ? " in output and gradients" : "", results.largest_error, tolerance_of(results.dtype));
  if (results.dtype != Dtype::float32)
    std::printf(
        "  arrays      %s: converted where rows are packed, rounded once where they are written; fractions are of\n"
        "              the float FMA peak, which matrix units exceed\n",
        name_of(results.dtype));
  for (std::size_t i = 0; i < results.inputs.size(); ++i)
    std::printf("  %-11s %s\n", i == 0 ? "inputs" : "", results.inputs[i].c_str());
}

// One row: measured crossovers beside the model's.
inline void print_crossovers(const Results& results) {
  const auto any = [&](bool Row::*what) {
    return std::any_of(results.rows.begin(), results.rows.end(),
                       [&](const RowResult& result) { return result.row.*what; });
  };
  const char* gates = any(&Row::softmax_gated) ? ", all gated"
                      : any(&Row::csq_gated)   ? ", CSQ gated, softmax plain"
                                               : "";
  std::printf("\nCrossover%s%s: tokens from which CSQ factored is faster (n = m)\n\n",
              results.backward ? ", forward and backward" : "", gates);
  std::printf(
      "                          counting |     than softmax     |   than CSQ direct    | fraction of FMA peak "
      "there\n");
  std::printf(
      "  size             heads   flops   |              model,  |              model,  |            CSQ      CSQ\n");
  std::printf(
      "  d/dv     mask     q/kv    alone  |   measured   fitted  |   measured   fitted  | softmax  direct  factored\n");
  std::string size;
  bool stopped = false;
  for (const RowResult& result : results.rows) {
    if (!result.search) continue;
    const Row& row = result.row;
    const bool begins = row.dims_name() != size;
    size = row.dims_name();
    if (begins)
      std::printf(
          " ----------------------------------+----------------------+----------------------+--------------------------"
          "-"
          "\n");
    std::printf("  %7s  %-6s %5s %9.0f  |", begins ? size.c_str() : "", mask_name(row).c_str(),
                text("%lld/%lld", static_cast<long long>(row.heads), static_cast<long long>(row.kv_heads)).c_str(),
                row.model());
    const double peak = results.machine.peak_all_threads;
    double fraction[3] = {};
    for (const Contestant rival : {softmax, csq_direct}) {
      if (result.disturbance(rival, results.machine) != Disturbance::none) {
        std::printf(" %10s %8s  |", too_busy, "-");
        continue;
      }
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
    if (fraction[softmax] > 0 && fraction[csq_direct] > 0)
      std::printf("  %5.2f   %6.2f   %6.2f", fraction[softmax], fraction[csq_direct], fraction[csq_factored]);
    std::printf("%s\n", result.out_of_time ? "  *" : "");
    stopped = stopped || result.out_of_time;
  }
  std::printf(
      "\n"
      "  d/dv               head size of queries and keys, and of values where that is another; a summary costs\n"
      "                     n·d²·dv/2, so small keys with large values cross far earlier (--value-dim)\n"
      "  q/kv               query heads and key heads\n"
      "  flops alone        the cost model's prediction if both sides reached the same fraction of the FMA peak\n"
      "  fitted             the same with the fractions that both sides reached at the measured size nearest to it\n");
  if (results.backward)
    std::printf(
        "  fraction of peak   flops: direct 4·n²·d forward and 10·n²·d backward (dv = d), half of it if causal; "
        "factored\n"
        "                     2·(n·g + m)·D·(dv + 1) forward and 2·(2n·g + 3m)·D·(dv + 1) backward, a key head with\n"
        "                     g query heads, D = (d + 1)(d + 2)/2; causal: the cost model's multiply-adds, times 2\n"
        "  <= n               factored is faster at every size tried; n is the smallest\n");
  else
    std::printf(
        "  fraction of peak   flops: direct 2·n²·(d + dv), half of it if causal; factored 2·(n·g + m)·D·(dv + 1) a key "
        "head "
        "with\n"
        "                     g query heads, D = (d + 1)(d + 2)/2; causal: the multiply-adds of the cost model, times "
        "2\n"
        "  <= n               factored is faster wherever it reads its summary, which begins at n: a causal call "
        "shorter\n"
        "                     than that is served directly, is the direct path, and counts as no crossover\n");
  std::printf("  too busy           the machine was too busy to judge: see the end\n");
  std::printf("  > n                factored is slower up to n, the longest sequence tried\n");
  if (stopped) std::printf("  *                  the time budget ended this search; --budget gives it more\n");
}

inline void print_size_line(const RowResult& result, const Point& point, const Machine& machine) {
  const Row& row = result.row;
  std::string cells;
  for (const Contestant contestant : contestants) {
    const Quartiles& seconds = point.seconds[contestant];
    cells += text(" %9s %-17s", milliseconds(seconds.median).c_str(),
                  ("(" + milliseconds(seconds.lower) + "-" + milliseconds(seconds.upper) + ")").c_str());
  }
  std::printf("  %7s  %-6s %5s %7lld %s %s\n", row.dims_name().c_str(), mask_name(row).c_str(),
              text("%lld/%lld", static_cast<long long>(row.heads), static_cast<long long>(row.kv_heads)).c_str(),
              static_cast<long long>(point.tokens), cells.c_str(), point_text(point, machine).c_str());
}

// What the chosen sizes cost, whichever side of the crossover they are on: those of every row, and at the critic's head
// size the critic's.
inline void print_sizes(const Results& results, const std::vector<Index>& of_every_row) {
  std::vector<Index> sizes = of_every_row;
  const bool critic_only = std::find(sizes.begin(), sizes.end(), critic_tokens) == sizes.end();
  if (critic_only) sizes.push_back(critic_tokens);
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  std::printf("\nMilliseconds%s at chosen sizes: median (quartiles)\n\n",
              results.backward ? " of forward and backward" : "");
  std::printf(
      "  size             heads                                                                            "
      "        factored against\n"
      "  d/dv     mask     q/kv  tokens  %9s %-17s %10s %-16s %12s %-14s softmax\n",
      "softmax", "", "CSQ direct", "", "CSQ factored", "");
  for (const Index size : sizes) {
    std::printf("\n");
    for (const RowResult& result : results.rows)
      for (const Point& point : result.points)
        if (point.tokens == size && (size != critic_tokens || !critic_only || result.row.key_dim == critic_dim))
          print_size_line(result, point, results.machine);
  }
}

inline void print_critic(const Results& results) {
  for (const RowResult& result : results.rows) {
    if (!result.row.is_critics()) continue;
    for (const Point& point : result.points) {
      if (point.tokens != critic_tokens) continue;
      const std::string found = point_text(point, results.machine);
      std::printf("\nThe critic's case, n = %lld, d = %lld, full%s: softmax %s ms, CSQ factored %s ms: ",
                  static_cast<long long>(critic_tokens), static_cast<long long>(critic_dim),
                  results.backward ? ", forward and backward" : "", milliseconds(point.median(softmax)).c_str(),
                  milliseconds(point.median(csq_factored)).c_str());
      if (found == too_busy)
        std::printf("the machine was too busy to compare them.\n");
      else
        std::printf("factored is %s.\n", found.c_str());
    }
  }
}

// Whether the machine was quiet enough, by which rule, and what to do if not.
inline void print_verdict(const Results& results) {
  const Machine& machine = results.machine;
  int crossovers = 0, disturbed = 0, points = 0, points_disturbed = 0;
  for (const RowResult& result : results.rows) {
    for (const Point& point : result.points) {
      ++points;
      points_disturbed += disturbance_of(point, softmax, machine) != Disturbance::none;
    }
    for (const Contestant rival : {softmax, csq_direct}) {
      if (!result.search) continue;
      ++crossovers;
      disturbed += result.disturbance(rival, machine) != Disturbance::none;
    }
  }
  if (threads_do_not_help(machine)) {
    std::printf(
        "\nTOO BUSY TO JUDGE: %s.\nOther programs are running, or the processors share a core or a quota: no "
        "crossover is given. Try again when\nthe machine is quiet, or with --threads 1.\n",
        speedup_text(machine).c_str());
    return;
  }
  if (disturbed > 0 || points_disturbed > 0)
    std::printf(
        "\n%s: %d of %d crossovers and %d of %d sizes. While those were timed the FMA peak fell below %.2f\n"
        "of its best, or the quartiles of the times lay further apart than %.2f of their median: other programs were\n"
        "running, or other guests of a shared host.%s\n",
        disturbed > 0 ? "TOO BUSY TO JUDGE" : "Busy at times", disturbed, crossovers, points_disturbed, points,
        least_peak_share, most_scatter, disturbed > 0 ? " Try again when the machine is quiet." : "");
  else
    std::printf("\nQuiet enough to judge: %s%sat no size did other programs show.\n",
                machine.threads > 1 ? speedup_text(machine).c_str() : "", machine.threads > 1 ? ";\n" : "");
}

}  // namespace bench

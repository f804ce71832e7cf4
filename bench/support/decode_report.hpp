// The results of decode as a newcomer reads them: what a token costs with each kind of state, and from where on the
// constant one is faster.
#pragma once

#include <cstdio>
#include <string>

#include "decode_results.hpp"
#include "report.hpp"

namespace bench {

inline std::string microseconds(double seconds) {
  const double us = seconds * 1e6;
  return text(us >= 100 ? "%.0f" : us >= 10 ? "%.1f" : "%.2f", us);
}
inline std::string bytes_text(double bytes) {
  if (bytes >= 9.995e8) return text("%.2f GB", bytes / 1e9);
  const double mb = bytes / 1e6;
  return mb >= 99.95 ? text("%.0f MB", mb) : mb >= 0.9995 ? text("%.1f MB", mb) : text("%.0f kB", bytes / 1e3);
}
inline std::string timing_text(const Timing& timing, const Machine& machine) {
  if (!timing.measured()) return "-";
  return microseconds(timing.seconds.median) + (disturbance_of(timing, machine) == Disturbance::none ? " " : "?");
}
inline std::string fraction_text(double fraction) { return text("%.2f", fraction); }

inline void print_heading(const DecodeResults& results) {
  const Machine& machine = results.machine;
  std::printf("\ncsq decode: what does one token cost when decoding, against the context?\n\n");
  std::printf(
      "  CSQ             (score + 1)^2 weights on centred queries and keys; a summary and the last tokens, the\n");
  std::printf("                  same number of bytes from the first token on\n");
  std::printf("  gated CSQ       the same, with a gate a token and key head\n");
  std::printf("  softmax stream  a cache of all keys and values, %s\n", name_of(results.dtype));
  std::printf(
      "  softmax call    the same work as one call of attention, one query over keys that are in memory; beyond\n");
  std::printf("                  %lld tokens alone, since a stream's cache is filled by O(n^2*d) work\n",
              static_cast<long long>(most_prefilled));
  std::printf("  window          softmax over the last %lld tokens\n\n", static_cast<long long>(decode_window));
  std::printf("  Softmax and CSQ are different functions: this compares what they cost, not what they can learn.\n\n");
  std::printf("  processor   %s; %s\n", machine.processor.c_str(), machine.build.c_str());
  std::printf(
      "  timed       %s, %d thread%s, steps of one token, of one layer; medians of interleaved repeats; CSQ\n"
      "              over whole blocks, at least 288 steps in a row, so that absorbing is included\n",
      name_of(results.dtype), machine.threads, machine.threads == 1 ? "" : "s");
  std::printf("  checked     steps and one causal call agree: relative error at most %.1e (%.0e would stop the run)\n",
              results.largest_error(), tolerance_of(results.dtype));
  std::printf("  caches      up to %s; longer contexts are left out (--memory)\n",
              bytes_text(results.cache_limit).c_str());
}

inline void print_states(const DecodeRow& row, const Machine& machine) {
  std::printf("\n  %-22s %10s %10s %16s %10s %18s\n", "", "us a token", "state", "read a token", "of the", "behind");
  std::printf("  %-22s %10s %10s %16s %10s %12lld tokens\n", "", "", "", "", "bandwidth",
              static_cast<long long>(row.long_context));
  for (const FlatSeries series : flat_series) {
    const FlatResult& flat = row.flat[series];
    std::printf("  %-22s %10s %10s %16s %10s %15s us\n", flat_names[series], timing_text(flat.step, machine).c_str(),
                bytes_text(flat.state_bytes).c_str(), bytes_text(flat.read_bytes).c_str(),
                fraction_text(flat.of_bandwidth()).c_str(), timing_text(flat.step_after_long, machine).c_str());
  }
}

inline void print_contexts(const DecodeRow& row, const Machine& machine) {
  std::printf("\n  %9s %9s |         softmax, us        of bandwidth |  window |     CSQ  times   |   gated  times\n",
              "context", "cache");
  std::printf("  %9s %9s |    stream       call     stream  call   |      us |      us  faster  |      us  faster\n",
              "tokens", "");
  for (const ContextResult& context : row.contexts) {
    const bool full = context.tokens >= decode_window;
    std::printf("  %9lld %9s | %9s %10s   %8s %6s  | %7s |", static_cast<long long>(context.tokens),
                bytes_text(context.read_bytes).c_str(), timing_text(context.stream, machine).c_str(),
                timing_text(context.call, machine).c_str(),
                context.stream.measured() ? fraction_text(context.of_bandwidth(context.stream)).c_str() : "-",
                fraction_text(context.of_bandwidth(context.call)).c_str(),
                full ? timing_text(row.flat[window_stream].step, machine).c_str() : "-");
    for (const FlatSeries series : crossing_series) {
      const Timing& step = row.flat[series].step;
      std::printf(" %7s %7.2f%s", timing_text(step, machine).c_str(),
                  context.softmax().seconds.median / step.seconds.median, series == csq_stream ? "  |" : "\n");
    }
  }
}

inline void print_decode_row(const DecodeRow& row, const DecodeResults& results) {
  const DecodeShape& shape = row.shape;
  std::printf("\nd = %lld, %lld query heads on %lld key heads\n", static_cast<long long>(shape.key_dim),
              static_cast<long long>(shape.heads), static_cast<long long>(shape.kv_heads));
  print_states(row, results.machine);
  print_contexts(row, results.machine);
  if (row.left_out > 0)
    std::printf("  %9lld           left out: its cache, %s, is beyond the limit of %s (--memory)\n",
                static_cast<long long>(row.left_out), bytes_text(cache_read_bytes(shape, row.left_out)).c_str(),
                bytes_text(results.cache_limit).c_str());
}

inline void print_decode_crossovers(const DecodeResults& results) {
  std::printf(
      "\nContext from which a step is faster than with a cache of %s (by bytes: CSQ's summary of D(dv+1) floats,\n"
      "D = (d+1)(d+2)/2, and half of the W tokens that a stream absorbs at a time, over those of a token)\n\n",
      name_of(results.dtype));
  std::printf("  head  heads                 measured\n");
  std::printf("  size   q/kv    by bytes   %10s %12s   fraction of bandwidth there: softmax    CSQ    gated\n", "CSQ",
              "gated CSQ");
  for (const DecodeRow& row : results.rows) {
    std::printf("  %4lld  %5s  %10.0f  ", static_cast<long long>(row.shape.key_dim), row.shape.heads_name().c_str(),
                row.predicted());
    for (const FlatSeries series : crossing_series)
      std::printf(" %*s", series == csq_stream ? 10 : 12,
                  decode_disturbance(row, series, results.machine) != Disturbance::none
                      ? too_busy
                      : crossover_text(decode_crossover(row, series)).c_str());
    const std::vector<Point> points = crossover_points(row, csq_stream);
    const Point* nearest = nearest_point(points, decode_crossover(row, csq_stream).tokens);
    const ContextResult& context = row.contexts[static_cast<std::size_t>(nearest - points.data())];
    std::printf("   %36s %6s %8s\n", fraction_text(context.of_bandwidth(context.softmax())).c_str(),
                fraction_text(row.flat[csq_stream].of_bandwidth()).c_str(),
                fraction_text(row.flat[gated_csq_stream].of_bandwidth()).c_str());
  }
  std::printf(
      "\n"
      "  state              in memory; a CSQ stream that can take tokens back holds its summary twice\n"
      "  read a token       at least: D(dv+1) floats and W/2 tokens a key head, or the tokens of the cache or window\n"
      "  of the bandwidth   what would be needed to read these bytes, from a buffer of that size and in this process,\n"
      "                     over the time of a step\n"
      "  <= n, > n          faster at every context tried, the shortest is n; slower up to n, the longest\n"
      "  ?, too busy        other programs showed while this was timed\n");
}

// Whether the machine was quiet enough, by which rule.
inline void print_verdict(const DecodeResults& results) {
  int numbers = 0, disturbed = 0;
  const auto count = [&](const Timing& timing) {
    if (!timing.measured()) return;
    ++numbers;
    disturbed += disturbance_of(timing, results.machine) != Disturbance::none;
  };
  for (const DecodeRow& row : results.rows) {
    for (const FlatResult& flat : row.flat)
      for (const Timing* timing : {&flat.step, &flat.step_after_long, &flat.read}) count(*timing);
    for (const ContextResult& context : row.contexts)
      for (const Timing* timing : {&context.stream, &context.call, &context.read}) count(*timing);
  }
  if (threads_do_not_help(results.machine))
    std::printf("\nTOO BUSY TO JUDGE: %s.\nTry again when the machine is quiet, or with --threads 1.\n",
                speedup_text(results.machine).c_str());
  else if (disturbed > 0)
    std::printf(
        "\nBusy at times: %d of %d numbers. While those were timed the FMA peak fell below %.2f of its best, or the\n"
        "quartiles of the times lay further apart than %.2f of their median: other programs were running, or other\n"
        "guests of a shared host.\n",
        disturbed, numbers, least_peak_share, most_scatter);
  else
    std::printf("\nQuiet enough to judge: at no number did other programs show.\n");
}

}  // namespace bench

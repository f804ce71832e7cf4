// The results of machines as a newcomer reads them: what was measured, how far the model is from it, and what the model
// says of what cannot be run here.
#pragma once

#include <cstdio>
#include <string>

#include "machines_results.hpp"
#include "report.hpp"

namespace bench {

inline std::string amount_of_bytes(double bytes) {
  if (bytes >= 9.995e8) return text("%.2f GB", bytes / 1e9);
  return bytes >= 9.995e5 ? text("%.2f MB", bytes / 1e6) : text("%.1f kB", bytes / 1e3);
}
inline std::string seconds_text(double seconds) {
  if (seconds < 1) return text("%.3g ms", seconds * 1e3);
  if (seconds < 600) return text("%.1f s", seconds);
  if (seconds < 36000) return text("%.0f min", seconds / 60);
  return seconds < 172800 ? text("%.0f h", seconds / 3600) : text("%.0f days", seconds / 86400);
}
inline std::string grouped(Index number) {
  std::string digits = std::to_string(number);
  for (auto at = static_cast<Index>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(static_cast<std::size_t>(at), ",");
  return digits;
}

inline void print_heading(const MachinesResults& results, const MachinesShape& shape) {
  std::printf("\ncsq machines: what does causal attention over ranks cost, and what do they send?\n\n");
  std::printf("  CSQ           (score + 1)^2 weights; summaries of the pieces travel, whatever the number of tokens\n");
  std::printf("  gated CSQ     the same, with a gate a token and key head\n");
  std::printf("  ring softmax  keys and values travel to all ranks whose queries see them\n\n");
  std::printf("  Softmax and CSQ are different functions: this compares what they cost, not what they can learn.\n\n");
  std::printf("  processor     %s, %d core%s; %s\n", results.machine.processor.c_str(), results.machine.cores,
              results.machine.cores == 1 ? "" : "s", results.machine.build.c_str());
  std::printf("  timed         %s, float, one thread a rank; medians of %d, of the slowest rank; a rank alone by one\n",
              shape.backward ? "forward and backward" : "forward", results.repeats);
  std::printf("                call of csq::attention\n");
  std::printf("  checked       pieces and one call agree: relative error at most %.1e (%.0e would stop the run)\n",
              results.largest_error(), tolerance_of(Dtype::float32));
}

inline void print_together(const MachinesResults& results) {
  std::printf("\nWhat ranks reach at once here: the FMA peak; messages between pairs, all at once (alpha, 1/beta)\n\n");
  std::printf("  ranks      GF/s   times one     latency    bandwidth\n");
  for (const RanksTogether& each : results.together) {
    std::printf("  %5d  %8.1f  %10.2f", each.ranks, each.peak / 1e9, results.reach(each.ranks));
    if (each.ranks > 1) std::printf("  %7.1f us  %6.2f GB/s", each.link.latency * 1e6, 1e-9 / each.link.seconds_a_byte);
    std::printf("%s\n", threads_do_not_help(results.machine_with(each.ranks)) ? "   too busy to judge" : "");
  }
}

inline void print_table(const MachinesResults& results, const MachinesTable& table) {
  const MachinesShape& shape = table.model.shape;
  std::printf("\nd = %lld, %lld query heads on %lld key heads\n\n", static_cast<long long>(shape.dim),
              static_cast<long long>(shape.heads), static_cast<long long>(shape.kv_heads));
  std::printf("                                            efficiency  |       bytes sent      |    model  measured\n");
  std::printf(
      "  mechanism       tokens  ranks         ms  all  reached |    busiest        all |       ms   / model\n");
  for (const PieceMechanism mechanism : piece_mechanisms)
    for (const MachinesTime& time : table.times) {
      if (time.mechanism != mechanism) continue;
      std::printf("  %-12s %9lld %6d %10s%c %4.2f %7.2f  |", name_of(mechanism), static_cast<long long>(time.tokens),
                  time.ranks, milliseconds(time.seconds.median).c_str(),
                  results.disturbance_of(time) == Disturbance::none ? ' ' : '?', results.efficiency(table, time),
                  results.reached_efficiency(table, time));
      if (time.ranks == 1) {
        std::printf(" %10s %10s | %8s %9s\n", "-", "-", "-", "-");
        continue;
      }
      const ModelTime here = results.model_here(table, time);
      std::printf(" %10s %10s | %8s %9.2f\n", amount_of_bytes(time.busiest.bytes).c_str(),
                  amount_of_bytes(time.all_bytes).c_str(), milliseconds(here.seconds()).c_str(),
                  time.seconds.median / here.seconds());
    }
}

inline void print_crossover(const MachinesModel& model, PieceMechanism mechanism, int ranks, const Link& link) {
  const double tokens = model.crossover(mechanism, ranks, link, 1e8);
  const bool at_shortest = model.is_at_least_tokens(tokens, ranks);
  if (tokens == 0)
    std::printf("  %4d ranks: %s is not faster than ring softmax at 100,000,000 tokens\n", ranks, name_of(mechanism));
  else
    std::printf("  %4d ranks: %s is faster than ring softmax from %s tokens on%s\n", ranks, name_of(mechanism),
                grouped(std::llround(tokens)).c_str(), at_shortest ? " at the latest: pieces were no shorter" : "");
}

inline void print_extrapolation(const MachinesResults& results, const MachinesTable& table) {
  const MachinesModel& model = table.model;
  if (!model.longest_is_factored) {
    std::printf(
        "\nd = %lld: no extrapolation, as CSQ's longest piece, %s tokens, is served directly (longer --tokens).\n",
        static_cast<long long>(model.shape.dim), grouped(model.pieces[0].back().tokens).c_str());
    return;
  }
  const Link& link = results.undisturbed_link();
  std::printf("\nd = %lld, %s:\n", static_cast<long long>(model.shape.dim), extrapolated_label);
  std::printf(
      "a core of this processor a rank, and a link as between two processes here (%.1f us, %.2f GB/s), which a\n",
      link.latency * 1e6, 1e-9 / link.seconds_a_byte);
  std::printf("network between machines need not be. In brackets: the share of messages.\n\n");
  std::printf("         tokens  ranks             CSQ        gated CSQ      ring softmax   softmax / CSQ\n");
  for (const int ranks : extrapolated_ranks)
    for (const Index tokens : extrapolated_tokens) {
      std::printf("  %13s %6d", grouped(tokens).c_str(), ranks);
      for (const PieceMechanism mechanism : piece_mechanisms) {
        const ModelTime time = model.time(mechanism, tokens, ranks, link, ranks);
        std::printf("  %9s (%2.0f%%)", seconds_text(time.seconds()).c_str(), 100 * time.messages / time.seconds());
      }
      std::printf("  %14.3g\n", model.time(PieceMechanism::ring_softmax, tokens, ranks, link, ranks).seconds() /
                                    model.time(PieceMechanism::csq, tokens, ranks, link, ranks).seconds());
    }
  std::printf("\n");
  for (const int ranks : extrapolated_ranks)
    for (const PieceMechanism mechanism : {PieceMechanism::csq, PieceMechanism::gated_csq})
      print_crossover(model, mechanism, ranks, link);
}

// What the columns mean, and what speaks against either side.
inline void print_notes(const MachinesResults& results) {
  std::printf(
      "\n"
      "  efficiency         time of one rank over R times the time of R: of R cores; reached: over what these R ranks\n"
      "                     reach of the FMA peak at once here, times the time\n"
      "  bytes sent         counted in MPI's calls: of the rank that sends most, and of all\n"
      "  model              max(the busiest rank's compute, all ranks' over what they reach) + messages * alpha +\n"
      "                     bytes * beta; compute is that of one rank alone with a piece of that length\n"
      "  ?                  other programs showed while this was timed, or ranks that share cores\n"
      "\n"
      "  Losses: a rank of CSQ does half as much again as its share of one call, up to twice: its own piece, and the\n"
      "  tokens before it. In ring softmax the last rank sees all pieces and the first its own: with a core a rank, R "
      "of\n"
      "  them are at most R^2/(2R - 1) times as fast as one.\n");
  if (results.together.back().ranks > results.machine.cores)
    std::printf("  Ranks share %d core%s here: more of them bring no speed, and wait for each other.\n",
                results.machine.cores, results.machine.cores == 1 ? "" : "s");
  int disturbed = 0, numbers = 0, pieces = 0;
  for (const MachinesTable& table : results.tables) {
    pieces += table.model.disturbed_pieces();
    for (const MachinesTime& time : table.times) {
      ++numbers;
      disturbed += results.disturbance_of(time) != Disturbance::none;
    }
  }
  if (disturbed + pieces > 0)
    std::printf(
        "\nBUSY: %d of %d times, and %d pieces that the model rests on. Ranks reached less than %.2f times one's FMA\n"
        "peak for each further core, or it fell below %.2f of its best beside these calls, or the quartiles lay "
        "further\n"
        "apart than %.2f of the median.\n",
        disturbed, numbers, pieces, least_gain, least_peak_share, most_scatter);
  else
    std::printf("\nQuiet enough to judge: at no time did other programs show.\n");
}

}  // namespace bench

// What a run of machines leaves behind: every measured time, what the model says of it, and what the model says beyond;
// as CSV and as JSON.
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "disturbance.hpp"
#include "machines_model.hpp"
#include "results.hpp"

namespace bench {

// What some ranks reach at once on this machine, whatever they compute.
struct RanksTogether {
  int ranks = 1;
  double peak = 0;  // flops per second of all
  Link link;        // between two of them, all pairs at once
};

struct MachinesTime {
  PieceMechanism mechanism = PieceMechanism::csq;
  Index tokens = 0;
  int ranks = 1;
  Quartiles seconds;  // of the slowest rank
  double peak = 0;    // flops per second of these ranks, beside these calls
  Traffic busiest;    // counted: of the rank that sends most bytes
  double all_bytes = 0;
};

// One head size.
struct MachinesTable {
  MachinesModel model;
  std::vector<MachinesTime> times;
  double largest_error = 0;  // of the calls over ranks, from the single call

  const MachinesTime& alone(const MachinesTime& time) const {
    for (const MachinesTime& other : times)
      if (other.ranks == 1 && other.mechanism == time.mechanism && other.tokens == time.tokens) return other;
    return time;
  }
};

struct MachinesResults {
  Machine machine;
  std::vector<RanksTogether> together;  // by rising ranks, the first is one
  std::vector<MachinesTable> tables;
  int repeats = 0;
  double seconds = 0;

  const RanksTogether& of(int ranks) const {
    for (const RanksTogether& each : together)
      if (each.ranks == ranks) return each;
    return together.front();
  }
  // How many times one rank's speed these ranks have together.
  double reach(int ranks) const { return of(ranks).peak / together.front().peak; }
  bool has_link() const { return together.size() > 1; }
  bool can_extrapolate(const MachinesTable& table) const { return has_link() && table.model.longest_is_factored; }
  // Of the fewest ranks: where there are cores for all, nobody waits for one.
  const Link& undisturbed_link() const { return together[1].link; }

  ModelTime model_here(const MachinesTable& table, const MachinesTime& time) const {
    return table.model.time(time.mechanism, time.tokens, time.ranks, of(time.ranks).link, reach(time.ranks));
  }
  double efficiency(const MachinesTable& table, const MachinesTime& time) const {
    return table.alone(time).seconds.median / (time.ranks * time.seconds.median);
  }
  // Of what these ranks reach here.
  double reached_efficiency(const MachinesTable& table, const MachinesTime& time) const {
    return table.alone(time).seconds.median / (reach(time.ranks) * time.seconds.median);
  }

  Machine machine_with(int ranks) const {
    Machine with = machine;
    with.threads = ranks;
    with.peak_one_thread = together.front().peak;
    with.peak_all_threads = of(ranks).peak;
    return with;
  }
  // The signs of disturbance.hpp, of ranks instead of threads.
  Disturbance disturbance_of(const MachinesTime& time) const {
    if (threads_do_not_help(machine_with(time.ranks))) return Disturbance::threads;
    if (time.peak < least_peak_share * of(time.ranks).peak) return Disturbance::peak;
    return scatter(time.seconds) > most_scatter ? Disturbance::scatter : Disturbance::none;
  }
  double largest_error() const {
    double largest = 0;
    for (const MachinesTable& table : tables) largest = std::max(largest, table.largest_error);
    return largest;
  }
};

// One line a measured time, with the model's of the ranks as they share this machine; and one a time that is
// extrapolated, for ranks with a core each, whose measured columns are empty.
inline std::string csv_of(const MachinesResults& results) {
  std::ostringstream file;
  file << "kind,head_dim,heads,kv_heads,pass,mechanism,tokens,ranks,lower_quartile_ms,median_ms,upper_quartile_ms,"
          "disturbed,efficiency,efficiency_of_reach,busiest_messages,busiest_bytes,all_bytes,model_busiest_messages,"
          "model_busiest_bytes,model_all_bytes,model_ms,model_compute_ms,model_messages_ms,measured_over_model,"
          "relative_error\n";
  for (const MachinesTable& table : results.tables) {
    const MachinesShape& shape = table.model.shape;
    const auto begin = [&](const char* kind, PieceMechanism mechanism, Index tokens, int ranks) {
      file << kind << ',' << shape.dim << ',' << shape.heads << ',' << shape.kv_heads << ','
           << (shape.backward ? "forward_and_backward" : "forward") << ',' << key_of(mechanism) << ',' << tokens << ','
           << ranks;
    };
    const auto model = [&](const ModelTime& time) {
      file << ',' << time.seconds() * 1e3 << ',' << time.compute * 1e3 << ',' << time.messages * 1e3;
    };
    for (const MachinesTime& time : table.times) {
      begin("measured", time.mechanism, time.tokens, time.ranks);
      file << ',' << time.seconds.lower * 1e3 << ',' << time.seconds.median * 1e3 << ',' << time.seconds.upper * 1e3
           << ',' << name_of(results.disturbance_of(time)) << ',' << results.efficiency(table, time) << ','
           << results.reached_efficiency(table, time) << ',' << std::llround(time.busiest.messages) << ','
           << std::llround(time.busiest.bytes) << ',' << std::llround(time.all_bytes);
      if (time.ranks == 1) {  // what the model is made of
        file << ",0,0,0,,,,";
      } else {
        const PieceTraffic traffic(shape, time.mechanism, {time.tokens, time.ranks});
        const Traffic busiest = busiest_of(traffic, time.ranks);
        file << ',' << std::llround(busiest.messages) << ',' << std::llround(busiest.bytes) << ','
             << std::llround(all_bytes_of(traffic, time.ranks));
        const ModelTime here = results.model_here(table, time);
        model(here);
        file << ',' << time.seconds.median / here.seconds();
      }
      file << ',' << table.largest_error << '\n';
    }
    if (!results.can_extrapolate(table)) continue;
    for (const int ranks : extrapolated_ranks)
      for (const Index tokens : extrapolated_tokens)
        for (const PieceMechanism mechanism : piece_mechanisms) {
          begin("extrapolated", mechanism, tokens, ranks);
          file << ",,,,,,,,,,,,";
          model(table.model.time(mechanism, tokens, ranks, results.undisturbed_link(), ranks));
          file << ",,\n";
        }
  }
  return file.str();
}

inline std::string json_of(const MachinesResults& results) {
  using Json = nlohmann::ordered_json;
  Json root;
  root["timed"] = "causal attention over ranks";
  root["machine"] = machine_json(results.machine_with(1));
  root["repeats"] = results.repeats;
  root["seconds"] = results.seconds;
  root["largest_relative_error"] = results.largest_error();
  root["ranks"] = Json::array();
  for (const RanksTogether& each : results.together) {
    Json entry = {{"ranks", each.ranks},
                  {"fma_peak_gflops", each.peak / 1e9},
                  {"times_one_rank", results.reach(each.ranks)},
                  {"too_busy", threads_do_not_help(results.machine_with(each.ranks))}};
    if (each.ranks > 1) {
      entry["latency_us"] = each.link.latency * 1e6;
      entry["bandwidth_gb_per_s"] = 1e-9 / each.link.seconds_a_byte;
    }
    root["ranks"].push_back(entry);
  }
  root["tables"] = Json::array();
  for (const MachinesTable& table : results.tables) {
    const MachinesShape& shape = table.model.shape;
    Json entry = {{"head_dim", shape.dim},
                  {"heads", shape.heads},
                  {"kv_heads", shape.kv_heads},
                  {"backward", shape.backward},
                  {"relative_error", table.largest_error}};
    for (const PieceMechanism mechanism : piece_mechanisms) {
      Json pieces = Json::array();
      for (const PieceTime& piece : table.model.pieces[static_cast<int>(mechanism)])
        pieces.push_back({{"tokens", piece.tokens},
                          {"own_ms", piece.own * 1e3},
                          {"others_ms", piece.others * 1e3},
                          {"disturbed", piece.disturbed}});
      entry["pieces"][key_of(mechanism)] = pieces;
    }
    entry["times"] = Json::array();
    for (const MachinesTime& time : table.times) {
      Json measured = {{"mechanism", key_of(time.mechanism)},
                       {"tokens", time.tokens},
                       {"ranks", time.ranks},
                       {"ms", {time.seconds.lower * 1e3, time.seconds.median * 1e3, time.seconds.upper * 1e3}},
                       {"disturbed", name_of(results.disturbance_of(time))},
                       {"efficiency", results.efficiency(table, time)},
                       {"efficiency_of_reach", results.reached_efficiency(table, time)},
                       {"busiest_messages", time.busiest.messages},
                       {"busiest_bytes", time.busiest.bytes},
                       {"all_bytes", time.all_bytes}};
      if (time.ranks > 1) measured["model_ms"] = results.model_here(table, time).seconds() * 1e3;
      entry["times"].push_back(measured);
    }
    if (results.can_extrapolate(table)) {
      Json beyond = {{"note", extrapolated_label}};
      for (const int ranks : extrapolated_ranks)
        for (const PieceMechanism mechanism : {PieceMechanism::csq, PieceMechanism::gated_csq})
          beyond["faster_than_ring_softmax_from_tokens"][std::to_string(ranks)][key_of(mechanism)] =
              table.model.crossover(mechanism, ranks, results.undisturbed_link(), 1e8);
      for (const int ranks : extrapolated_ranks)
        for (const Index tokens : extrapolated_tokens)
          for (const PieceMechanism mechanism : piece_mechanisms)
            beyond["times"].push_back(
                {{"mechanism", key_of(mechanism)},
                 {"tokens", tokens},
                 {"ranks", ranks},
                 {"model_ms",
                  table.model.time(mechanism, tokens, ranks, results.undisturbed_link(), ranks).seconds() * 1e3}});
      entry["extrapolated"] = beyond;
    }
    root["tables"].push_back(entry);
  }
  return root.dump(2) + '\n';
}

}  // namespace bench

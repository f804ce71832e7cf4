// What a run of crossover leaves behind: every measured point, the crossovers, and the machine; as CSV and as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "disturbance.hpp"

namespace bench {

struct RowResult {
  Row row;
  std::vector<Point> points;  // by rising size
  bool search = true;         // false: single sizes were asked for, no crossover
  bool out_of_time = false;   // the time budget ended the search

  Crossover crossover(Contestant rival) const { return find_crossover(points, rival); }
  Disturbance disturbance(Contestant rival, const Machine& machine) const {
    return disturbance_of(crossover(rival), points, rival, machine);
  }
};

struct Results {
  bool backward = false;  // forward and backward were timed together
  Dtype dtype = Dtype::float32;
  Machine machine;
  std::vector<std::string> inputs;  // lines to print
  std::vector<RowResult> rows;
  std::size_t planned_rows = 0;  // more than there are: the run was interrupted
  double largest_error = 0;      // between CSQ direct and factored
  double seconds = 0;

  bool interrupted() const { return rows.size() < planned_rows; }
};

// One word, for CSV and JSON: what is known of a crossover, or that the machine was too busy to tell.
inline const char* verdict_word(const Crossover& crossover, Disturbance disturbance) {
  if (disturbance != Disturbance::none) return "too_busy";
  switch (crossover.kind) {
    case Crossover::Kind::measured:
      return "measured";
    case Crossover::Kind::at_or_below:
      return "at_or_below";
    case Crossover::Kind::none:
      return "none_up_to";
    case Crossover::Kind::not_read:
      break;
  }
  return "served_directly";
}

// One line a measured size; the crossovers of its row are repeated on each line, empty where there is none or the
// machine was too busy to tell (verdict_…). `disturbed` names the sign that the size itself shows (disturbance.hpp).
inline std::string csv_of(const Results& results) {
  std::ostringstream file;
  file << "dtype,head_dim,value_dim,backward,causal,heads,kv_heads,tokens,served_directly,repeats,relative_error";
  for (const char* name : {"softmax", "csq_direct", "csq_factored"})
    file << ',' << name << "_lower_quartile_ms," << name << "_median_ms," << name << "_upper_quartile_ms," << name
         << "_fraction_of_peak";
  file << ",model_crossover,crossover_softmax,crossover_csq_direct,verdict_softmax,verdict_csq_direct,peak_share,"
          "disturbed,softmax_gated,csq_gated\n";
  const double peak = results.machine.peak_all_threads;
  for (const RowResult& result : results.rows) {
    const Row& row = result.row;
    for (const Point& point : result.points) {
      file << name_of(results.dtype) << ',' << row.key_dim << ',' << row.value_dim << ',' << int{row.backward} << ','
           << int{row.causal} << ',' << row.heads << ',' << row.kv_heads << ',' << point.tokens << ','
           << int{point.served_directly} << ',' << point.repeats << ',' << point.relative_error;
      for (const Contestant contestant : contestants) {
        const Quartiles& seconds = point.seconds[contestant];
        file << ',' << seconds.lower * 1e3 << ',' << seconds.median * 1e3 << ',' << seconds.upper * 1e3 << ','
             << fraction_of_peak(row, point, contestant, peak);
      }
      file << ',' << std::llround(row.model());
      std::string verdicts;
      for (const Contestant rival : {softmax, csq_direct}) {
        file << ',';
        verdicts += ',';
        if (!result.search) continue;
        const Crossover crossover = result.crossover(rival);
        const Disturbance disturbance = result.disturbance(rival, results.machine);
        if (crossover.kind == Crossover::Kind::measured && disturbance == Disturbance::none)
          file << std::llround(crossover.tokens);
        verdicts += verdict_word(crossover, disturbance);
      }
      file << verdicts << ',' << peak_share(point, results.machine) << ','
           << name_of(disturbance_of(point, softmax, results.machine)) << ',' << int{row.softmax_gated} << ','
           << int{row.csq_gated} << '\n';
    }
  }
  return file.str();
}

inline nlohmann::ordered_json crossover_json(const RowResult& result, Contestant rival, const Machine& machine) {
  const Crossover crossover = result.crossover(rival);
  const Disturbance disturbance = result.disturbance(rival, machine);
  nlohmann::ordered_json json = {{"kind", verdict_word(crossover, disturbance)}};
  if (disturbance != Disturbance::none) {
    json["sign"] = name_of(disturbance);
  } else if (crossover.kind != Crossover::Kind::not_read) {
    json["tokens"] = crossover.tokens;
    if (crossover.kind == Crossover::Kind::measured) json["between"] = {crossover.below, crossover.above};
  }
  return json;
}

inline nlohmann::ordered_json machine_json(const Machine& machine) {
  return {{"processor", machine.processor},
          {"build", machine.build},
          {"threads", machine.threads},
          {"cores", machine.cores},
          {"fma_peak_one_thread_gflops", machine.peak_one_thread / 1e9},
          {"fma_peak_gflops", machine.peak_all_threads / 1e9},
          {"threads_do_not_help", threads_do_not_help(machine)},
          {"too_busy_when",
           {{"speedup_of_threads_below", least_speedup(machine)},
            {"peak_share_below", least_peak_share},
            {"quartile_distance_over_median_above", most_scatter}}}};
}

inline std::string json_of(const Results& results) {
  using Json = nlohmann::ordered_json;
  const Machine& machine = results.machine;
  Json root;
  root["timed"] = results.backward ? "forward and backward" : "forward";
  root["dtype"] = name_of(results.dtype);
  root["interrupted"] = results.interrupted();
  root["machine"] = machine_json(machine);
  root["largest_relative_error"] = results.largest_error;
  root["inputs"] = results.inputs;
  root["seconds"] = results.seconds;
  root["rows"] = Json::array();
  for (const RowResult& result : results.rows) {
    const Row& row = result.row;
    Json entry = {{"head_dim", row.key_dim},    {"value_dim", row.value_dim},
                  {"causal", row.causal},       {"softmax_gated", row.softmax_gated},
                  {"csq_gated", row.csq_gated}, {"heads", row.heads},
                  {"kv_heads", row.kv_heads}};
    if (result.search) {
      entry["model_crossover"] = row.model();
      entry["crossover_softmax"] = crossover_json(result, softmax, machine);
      entry["crossover_csq_direct"] = crossover_json(result, csq_direct, machine);
    }
    entry["points"] = Json::array();
    for (const Point& point : result.points) {
      Json measured = {{"tokens", point.tokens},
                       {"served_directly", point.served_directly},
                       {"repeats", point.repeats},
                       {"relative_error", point.relative_error},
                       {"peak_share", peak_share(point, machine)},
                       {"disturbed", name_of(disturbance_of(point, softmax, machine))}};
      constexpr const char* keys[] = {"softmax", "csq_direct", "csq_factored"};
      for (const Contestant contestant : contestants) {
        const Quartiles& seconds = point.seconds[contestant];
        measured[keys[contestant]] = {
            {"ms", {seconds.lower * 1e3, seconds.median * 1e3, seconds.upper * 1e3}},
            {"fraction_of_peak", fraction_of_peak(row, point, contestant, machine.peak_all_threads)}};
      }
      entry["points"].push_back(measured);
    }
    root["rows"].push_back(entry);
  }
  return root.dump(2) + '\n';
}

}  // namespace bench

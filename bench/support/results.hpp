// What a run of crossover leaves behind: every measured point, the crossovers, and the machine; as CSV and as JSON.
#pragma once

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "search.hpp"

namespace bench {

struct RowResult {
  Row row;
  std::vector<Point> points;  // by rising size
  bool search = true;         // false: single sizes were asked for, no crossover
  bool out_of_time = false;   // the time budget ended the search

  Crossover crossover(Contestant rival) const { return find_crossover(points, rival); }
};

struct Machine {
  std::string processor;
  std::string build;
  int threads = 1;
  double peak_one_thread = 0;   // flops per second
  double peak_all_threads = 0;  // with `threads` threads
};

struct Results {
  bool backward = false;  // forward and backward were timed together
  Machine machine;
  std::vector<std::string> inputs;  // lines to print
  std::vector<RowResult> rows;
  double largest_error = 0;  // between CSQ direct and factored
  double seconds = 0;
};

// One line a measured size; the crossovers of its row are repeated on each line, empty where there is none.
inline void write_csv(const Results& results, std::ofstream& file) {
  file << "head_dim,value_dim,backward,causal,heads,kv_heads,tokens,served_directly,repeats,relative_error";
  for (const char* name : {"softmax", "csq_direct", "csq_factored"})
    file << ',' << name << "_lower_quartile_ms," << name << "_median_ms," << name << "_upper_quartile_ms," << name
         << "_fraction_of_peak";
  file << ",model_crossover,crossover_softmax,crossover_csq_direct\n";
  for (const RowResult& result : results.rows) {
    const Row& row = result.row;
    for (const Point& point : result.points) {
      file << row.key_dim << ',' << row.value_dim << ',' << int{row.backward} << ',' << int{row.causal} << ','
           << row.heads << ',' << row.kv_heads << ',' << point.tokens << ',' << int{point.served_directly} << ','
           << point.repeats << ',' << point.relative_error;
      for (const Contestant contestant : contestants) {
        const Quartiles& seconds = point.seconds[contestant];
        file << ',' << seconds.lower * 1e3 << ',' << seconds.median * 1e3 << ',' << seconds.upper * 1e3 << ','
             << fraction_of_peak(row, point, contestant, results.machine.peak_all_threads);
      }
      file << ',' << std::llround(row.model());
      for (const Contestant rival : {softmax, csq_direct}) {
        file << ',';
        const Crossover crossover = result.crossover(rival);
        if (result.search && crossover.kind == Crossover::Kind::measured) file << std::llround(crossover.tokens);
      }
      file << '\n';
    }
  }
}

inline nlohmann::ordered_json crossover_json(const Crossover& crossover) {
  switch (crossover.kind) {
    case Crossover::Kind::measured:
      return {{"kind", "measured"}, {"tokens", crossover.tokens}, {"between", {crossover.below, crossover.above}}};
    case Crossover::Kind::at_or_below:
      return {{"kind", "at_or_below"}, {"tokens", crossover.tokens}};
    case Crossover::Kind::none:
      return {{"kind", "none_up_to"}, {"tokens", crossover.tokens}};
    case Crossover::Kind::not_read:
      break;
  }
  return {{"kind", "served_directly"}};
}

inline void write_json(const Results& results, std::ofstream& file) {
  using Json = nlohmann::ordered_json;
  const Machine& machine = results.machine;
  Json root;
  root["timed"] = results.backward ? "forward and backward" : "forward";
  root["machine"] = {{"processor", machine.processor},
                     {"build", machine.build},
                     {"threads", machine.threads},
                     {"fma_peak_one_thread_gflops", machine.peak_one_thread / 1e9},
                     {"fma_peak_gflops", machine.peak_all_threads / 1e9}};
  root["largest_relative_error"] = results.largest_error;
  root["inputs"] = results.inputs;
  root["seconds"] = results.seconds;
  root["rows"] = Json::array();
  for (const RowResult& result : results.rows) {
    const Row& row = result.row;
    Json entry = {{"head_dim", row.key_dim},
                  {"value_dim", row.value_dim},
                  {"causal", row.causal},
                  {"heads", row.heads},
                  {"kv_heads", row.kv_heads}};
    if (result.search) {
      entry["model_crossover"] = row.model();
      entry["crossover_softmax"] = crossover_json(result.crossover(softmax));
      entry["crossover_csq_direct"] = crossover_json(result.crossover(csq_direct));
    }
    entry["points"] = Json::array();
    for (const Point& point : result.points) {
      Json measured = {{"tokens", point.tokens},
                       {"served_directly", point.served_directly},
                       {"repeats", point.repeats},
                       {"relative_error", point.relative_error}};
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
  file << root.dump(2) << '\n';
}

}  // namespace bench

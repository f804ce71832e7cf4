// What a run of decode leaves behind: every measured context, the crossovers, and the machine; as CSV and as JSON.
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "decode_row.hpp"
#include "results.hpp"

namespace bench {

struct DecodeResults {
  Dtype dtype = Dtype::float32;
  Machine machine;
  double cache_limit = 0;  // bytes
  std::vector<DecodeRow> rows;
  std::size_t planned_rows = 0;  // more than there are: the run was interrupted
  double seconds = 0;

  bool interrupted() const { return rows.size() < planned_rows; }
  double largest_error() const {
    double largest = 0;
    for (const DecodeRow& row : rows) largest = std::max(largest, row.largest_error);
    return largest;
  }
};

// The two series that cross the cache's.
inline constexpr std::array<FlatSeries, 2> crossing_series = {csq_stream, gated_csq_stream};
inline constexpr std::array<const char*, 3> flat_keys = {"csq", "gated_csq", "softmax_window"};

// One line a context. A window's numbers stand where it is full; what was not measured is empty.
inline std::string csv_of(const DecodeResults& results) {
  std::ostringstream file;
  file << "dtype,head_dim,value_dim,heads,kv_heads,context";
  for (const char* name : {"softmax_stream", "softmax_call", "softmax_window", "csq", "gated_csq"})
    file << ',' << name << "_lower_quartile_us," << name << "_median_us," << name << "_upper_quartile_us," << name
         << "_fraction_of_bandwidth," << name << "_disturbed";
  file << ",cache_bytes,window_state_bytes,csq_state_bytes,gated_csq_state_bytes,csq_read_bytes,predicted_crossover";
  for (const FlatSeries series : crossing_series)
    file << ",crossover_" << flat_keys[series] << ",verdict_" << flat_keys[series];
  file << '\n';
  const auto put = [&](const Timing& timing, double fraction) {
    if (!timing.measured()) {
      file << ",,,,,";
      return;
    }
    const Quartiles& seconds = timing.seconds;
    file << ',' << seconds.lower * 1e6 << ',' << seconds.median * 1e6 << ',' << seconds.upper * 1e6 << ',' << fraction
         << ',' << name_of(disturbance_of(timing, results.machine));
  };
  for (const DecodeRow& row : results.rows)
    for (const ContextResult& context : row.contexts) {
      const DecodeShape& shape = row.shape;
      file << name_of(results.dtype) << ',' << shape.key_dim << ',' << shape.value_dim << ',' << shape.heads << ','
           << shape.kv_heads << ',' << context.tokens;
      put(context.stream, context.of_bandwidth(context.stream));
      put(context.call, context.of_bandwidth(context.call));
      const FlatResult& window = row.flat[window_stream];
      put(context.tokens >= decode_window ? window.step : Timing{}, window.of_bandwidth());
      for (const FlatSeries series : crossing_series) put(row.flat[series].step, row.flat[series].of_bandwidth());
      file << ',' << std::llround(context.read_bytes);
      for (const FlatSeries series : {window_stream, csq_stream, gated_csq_stream})
        file << ',' << std::llround(row.flat[series].state_bytes);
      file << ',' << std::llround(row.flat[csq_stream].read_bytes) << ',' << std::llround(row.predicted());
      for (const FlatSeries series : crossing_series) {
        const Crossover crossover = decode_crossover(row, series);
        const Disturbance disturbance = decode_disturbance(row, series, results.machine);
        file << ',';
        if (disturbance == Disturbance::none && crossover.kind == Crossover::Kind::measured)
          file << std::llround(crossover.tokens);
        file << ',' << verdict_word(crossover, disturbance);
      }
      file << '\n';
    }
  return file.str();
}

inline nlohmann::ordered_json timing_json(const Timing& timing, double fraction, const Machine& machine) {
  const Quartiles& seconds = timing.seconds;
  return {{"us", {seconds.lower * 1e6, seconds.median * 1e6, seconds.upper * 1e6}},
          {"fraction_of_bandwidth", fraction},
          {"repeats", timing.repeats},
          {"disturbed", name_of(disturbance_of(timing, machine))}};
}

inline std::string json_of(const DecodeResults& results) {
  using Json = nlohmann::ordered_json;
  const Machine& machine = results.machine;
  Json root;
  root["timed"] = "decoding, one token a step";
  root["dtype"] = name_of(results.dtype);
  root["interrupted"] = results.interrupted();
  root["machine"] = machine_json(machine);
  root["largest_cache_bytes"] = results.cache_limit;
  root["largest_relative_error"] = results.largest_error();
  root["seconds"] = results.seconds;
  root["rows"] = Json::array();
  for (const DecodeRow& row : results.rows) {
    const DecodeShape& shape = row.shape;
    Json entry = {{"head_dim", shape.key_dim},
                  {"value_dim", shape.value_dim},
                  {"heads", shape.heads},
                  {"kv_heads", shape.kv_heads},
                  {"tokens_absorbed_at_a_time", row.absorbed}};
    for (const FlatSeries series : flat_series) {
      const FlatResult& flat = row.flat[series];
      Json step = timing_json(flat.step, flat.of_bandwidth(), machine);
      step["state_bytes"] = flat.state_bytes;
      step["read_bytes"] = flat.read_bytes;
      step["read_bandwidth_gb_per_s"] = flat.bandwidth() / 1e9;
      step["behind_a_long_context"] = {{"context", row.long_context},
                                       {"us", flat.step_after_long.seconds.median * 1e6}};
      entry[flat_keys[series]] = step;
    }
    entry["predicted_crossover"] = row.predicted();
    for (const FlatSeries series : crossing_series) {
      const Crossover crossover = decode_crossover(row, series);
      const Disturbance disturbance = decode_disturbance(row, series, machine);
      Json json = {{"kind", verdict_word(crossover, disturbance)}};
      if (disturbance != Disturbance::none)
        json["sign"] = name_of(disturbance);
      else
        json["tokens"] = crossover.tokens;
      entry[std::string("crossover_") + flat_keys[series]] = json;
    }
    if (row.left_out > 0) entry["left_out_from_context"] = row.left_out;
    entry["contexts"] = Json::array();
    for (const ContextResult& context : row.contexts) {
      Json measured = {{"context", context.tokens},
                       {"cache_bytes", context.read_bytes},
                       {"read_bandwidth_gb_per_s", context.bandwidth() / 1e9}};
      if (context.stream.measured())
        measured["softmax_stream"] = timing_json(context.stream, context.of_bandwidth(context.stream), machine);
      measured["softmax_call"] = timing_json(context.call, context.of_bandwidth(context.call), machine);
      entry["contexts"].push_back(measured);
    }
    root["rows"].push_back(entry);
  }
  return root.dump(2) + '\n';
}

}  // namespace bench

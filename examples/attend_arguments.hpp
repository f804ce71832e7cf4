// What attend's command line may say, and what of it can be judged before any file is read.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <csq/csq.hpp>
#include <filesystem>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <variant>
#include <vector>

#include "same_file.hpp"

namespace attend {

using csq::Index;

using Mechanism = std::variant<csq::Softmax, csq::Squared, csq::ShiftedQuadratic, csq::Csq, csq::Taylor, csq::Quadratic,
                               csq::Linear, csq::Polynomial, csq::PositivePolynomial>;

struct Arguments {
  std::string mechanism, q, k, v, out, normalizer, coefficients, key_length, dtype = "float";
  std::string log_gate, sink, bias;
  std::string dout, dq, dk, dv, dshift, dlog_gate, dsink;
  std::optional<double> shift, scale, radius, floor, soft_cap;
  bool causal = false;
  std::optional<Index> window;
  csq::Centering centering = csq::Centering::automatic;
  csq::Method method = csq::Method::automatic;
  Index chunk = 0;
  int threads = 0;
};

[[noreturn]] inline void fail(const std::string& what) { throw std::runtime_error(what); }

inline std::vector<double> parse_coefficients(const std::string& text) {
  std::vector<double> coefficients;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    if (at != end && *at == '+') ++at;
    double value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    if (error != std::errc() || (next != end && *next != ','))
      fail("--coefficients: '" + text + "' is not a comma separated list of numbers");
    coefficients.push_back(value);
    if (next == end) return coefficients;
    at = next + 1;
  }
}

// An option that not every mechanism has.
inline void check_belongs(const char* option, bool given, const std::string& mechanism,
                          const std::vector<std::string>& mechanisms) {
  if (!given || std::find(mechanisms.begin(), mechanisms.end(), mechanism) != mechanisms.end()) return;
  std::string names;
  for (const std::string& name : mechanisms) names += (names.empty() ? "" : " or ") + name;
  fail(std::string(option) + ": only for " + names + ", not " + mechanism);
}

inline Mechanism make_mechanism(const Arguments& arguments) {
  const std::string& name = arguments.mechanism;
  check_belongs("--shift", arguments.shift.has_value(), name, {"shifted", "csq"});
  check_belongs("--dshift", !arguments.dshift.empty(), name, {"shifted", "csq"});
  check_belongs("--coefficients", !arguments.coefficients.empty(), name,
                {"quadratic", "polynomial", "positive_polynomial"});
  check_belongs("--radius", arguments.radius.has_value(), name, {"positive_polynomial"});
  check_belongs("--floor", arguments.floor.has_value(), name, {"positive_polynomial"});
  check_belongs("--sink", !arguments.sink.empty(), name, {"softmax"});
  check_belongs("--soft-cap", arguments.soft_cap.has_value(), name, {"softmax"});
  check_belongs("--bias", !arguments.bias.empty(), name, {"softmax"});
  const double shift = arguments.shift.value_or(1);
  if (name == "softmax") return csq::Softmax{};
  if (name == "squared") return csq::Squared{};
  if (name == "shifted") return csq::ShiftedQuadratic{shift};
  if (name == "csq") return csq::Csq{shift};
  if (name == "taylor") return csq::Taylor{};
  if (name == "linear") return csq::Linear{};
  if (arguments.coefficients.empty()) fail("--coefficients: " + name + " needs them: c0,c1,...");
  const std::vector<double> c = parse_coefficients(arguments.coefficients);
  if (name == "polynomial") return csq::Polynomial{c};
  if (name == "positive_polynomial")
    return csq::PositivePolynomial{c, arguments.radius.value_or(csq::PositivePolynomial{}.radius),
                                   arguments.floor.value_or(csq::PositivePolynomial{}.floor)};
  if (c.size() != 3) fail("--coefficients: quadratic needs 3, c0,c1,c2, but got " + std::to_string(c.size()));
  return csq::Quadratic{c[0], c[1], c[2]};
}

struct NamedPath {
  const char* option;
  const std::string* path;

  bool given() const { return !path->empty(); }
  // As errors begin.
  std::string text() const { return std::string(option) + ": " + *path; }
};

inline std::vector<NamedPath> input_paths(const Arguments& arguments) {
  return {{"--q", &arguments.q},
          {"--k", &arguments.k},
          {"--v", &arguments.v},
          {"--dout", &arguments.dout},
          {"--log-gate", &arguments.log_gate},
          {"--sink", &arguments.sink},
          {"--bias", &arguments.bias}};
}

inline std::vector<NamedPath> gradient_paths(const Arguments& arguments) {
  return {{"--dq", &arguments.dq},
          {"--dk", &arguments.dk},
          {"--dv", &arguments.dv},
          {"--dshift", &arguments.dshift},
          {"--dlog-gate", &arguments.dlog_gate},
          {"--dsink", &arguments.dsink}};
}

inline std::vector<NamedPath> output_paths(const Arguments& arguments) {
  std::vector<NamedPath> paths = {{"--out", &arguments.out}, {"--normalizer", &arguments.normalizer}};
  for (const NamedPath& gradient : gradient_paths(arguments)) paths.push_back(gradient);
  std::erase_if(paths, [](const NamedPath& path) { return !path.given(); });
  return paths;
}

// No output is an input or another output, whatever they are called; a device may be several.
inline void check_distinct_paths(const Arguments& arguments) {
  std::vector<NamedPath> taken = input_paths(arguments);
  for (const NamedPath& output : output_paths(arguments)) {
    std::error_code error;
    if (std::filesystem::is_character_file(*output.path, error)) continue;
    for (const NamedPath& other : taken)
      if (other.given() && files::same_file(*other.path, *output.path))
        fail(output.text() + " is also " + other.option);
    taken.push_back(output);
  }
}

inline void check_arguments(const Arguments& arguments) {
  if (arguments.chunk < 0) fail("--chunk: " + std::to_string(arguments.chunk) + " is negative");
  if (arguments.threads < 0) fail("--threads: " + std::to_string(arguments.threads) + " is negative");
  for (const NamedPath& gradient : gradient_paths(arguments))
    if (gradient.given() && arguments.dout.empty()) fail(std::string(gradient.option) + ": needs --dout");
  if (arguments.window.value_or(1) < 1) fail("--window: " + std::to_string(*arguments.window) + " is less than 1");
  if (!(arguments.soft_cap.value_or(1) > 0)) fail("--soft-cap: must be positive");
  if (!arguments.dlog_gate.empty() && arguments.log_gate.empty()) fail("--dlog-gate: needs --log-gate");
  if (!arguments.dsink.empty() && arguments.sink.empty()) fail("--dsink: needs --sink");
  check_distinct_paths(arguments);
}

template <class Value>
CLI::Option* add_choice(CLI::App& app, const std::string& name, Value& value,
                        const std::map<std::string, Value>& choices, const std::string& help) {
  std::string names;
  for (const auto& choice : choices) names += (names.empty() ? "" : "|") + choice.first;
  return app
      .add_option_function<std::string>(
          name,
          [&value, choices, names, name](const std::string& text) {
            const auto found = choices.find(text);
            if (found == choices.end()) throw CLI::ValidationError(name, "'" + text + "' must be one of " + names);
            value = found->second;
          },
          help)
      ->type_name(names);
}

inline CLI::Option* add_file(CLI::App& app, const std::string& name, std::string& path, const std::string& help) {
  const auto add = [&path, name](const std::string& text) {
    if (text.empty()) throw CLI::ValidationError(name, "the file name is empty");
    path = text;
  };
  return app.add_option_function<std::string>(name, add, help)->type_name("FILE");
}

inline std::map<std::string, std::string> same_names(const std::vector<std::string>& names) {
  std::map<std::string, std::string> choices;
  for (const std::string& name : names) choices[name] = name;
  return choices;
}

inline void declare(CLI::App& app, Arguments& arguments) {
  app.set_version_flag(
      "--version", [] { return csq::build_info(); }, "version, instruction set and threads");
  add_choice(app, "--mechanism", arguments.mechanism,
             same_names({"softmax", "squared", "shifted", "csq", "taylor", "quadratic", "linear", "polynomial",
                         "positive_polynomial"}),
             "what a weight is")
      ->required();
  add_file(app, "--q", arguments.q, "queries, [batch, heads, tokens, dim], [heads, tokens, dim] or [tokens, dim]")
      ->required();
  add_file(app, "--k", arguments.k, "keys; their heads divide the queries'")->required();
  add_file(app, "--v", arguments.v, "values")->required();
  add_file(app, "--out", arguments.out, "output, as many axes as the queries")->required();
  add_file(app, "--normalizer", arguments.normalizer,
           "sum of the weights, the output's axes but the last; softmax: log-sum-exp");
  app.add_flag("--causal", arguments.causal, "query i sees keys up to i + (keys - queries)");
  app.add_option("--shift", arguments.shift, "of shifted and csq; 1 unless given")->type_name("X");
  add_choice<csq::Centering>(app, "--centering", arguments.centering,
                             {{"automatic", csq::Centering::automatic},
                              {"none", csq::Centering::none},
                              {"sequence", csq::Centering::sequence},
                              {"prefix", csq::Centering::prefix},
                              {"prefix_exclusive", csq::Centering::prefix_exclusive}},
                             "what is subtracted from queries and keys");
  app.add_option("--scale", arguments.scale, "of the scores; 1/sqrt(dim) unless given")->type_name("X");
  app.add_option("--key-length", arguments.key_length,
                 "keys from here on are invisible: a number, or a .npy file of whole numbers, [batch]")
      ->type_name("L");
  app.add_option("--window", arguments.window,
                 "a query sees only keys less than W positions away, with --causal those before it and its own")
      ->type_name("W");
  add_file(app, "--log-gate", arguments.log_gate,
           "log of what each token leaves of those before it, [gate heads, tokens], with the batch before it or not; "
           "needs --causal");
  add_file(app, "--sink", arguments.sink, "of softmax, [heads]: exp of it is added to the normaliser");
  app.add_option("--soft-cap", arguments.soft_cap, "of softmax: scores become c*tanh(score/c)")->type_name("C");
  add_file(app, "--bias", arguments.bias,
           "of softmax, added to the scores: [heads or 1, queries or 1, keys], with the batch or 1 before it or not");
  app.add_option("--coefficients", arguments.coefficients,
                 "c0,c1,... of quadratic (three), polynomial and the root of positive_polynomial")
      ->type_name("C0,C1,...");
  app.add_option("--radius", arguments.radius, "of positive_polynomial's Chebyshev series; 1 unless given")
      ->type_name("R");
  app.add_option("--floor", arguments.floor, "of positive_polynomial; 0 unless given")->type_name("X");
  add_choice<csq::Method>(
      app, "--method", arguments.method,
      {{"auto", csq::Method::automatic}, {"direct", csq::Method::direct}, {"factored", csq::Method::factored}},
      "auto unless given: the faster by the cost model");
  app.add_option("--chunk", arguments.chunk, "tokens per block of the factored form; 0 = tuned")->type_name("C");
  // By their longer names; those of NumPy's kind are as good.
  add_choice<std::string>(app, "--dtype", arguments.dtype,
                          {{"float", "float"},
                           {"double", "double"},
                           {"bfloat16", "bfloat16"},
                           {"float16", "float16"},
                           {"f32", "float"},
                           {"f64", "double"},
                           {"bf16", "bfloat16"},
                           {"f16", "float16"}},
                          "of arrays and outputs, float unless given; files of other types are rounded to it once. "
                          "bfloat16 and float16 are computed in float, and so are their normalisers, gates, biases and "
                          "sinks, and the gradients of these; a bfloat16 file is uint16, its bit patterns");
  app.add_option("--threads", arguments.threads, "0 = all")->type_name("T");
  add_file(app, "--dout", arguments.dout, "gradient of a loss by the output, same shape: asks for the backward pass");
  add_file(app, "--dq", arguments.dq, "gradient of the queries, their shape; needs --dout, as the next five do");
  add_file(app, "--dk", arguments.dk, "gradient of the keys");
  add_file(app, "--dv", arguments.dv, "gradient of the values");
  add_file(app, "--dshift", arguments.dshift, "gradient of the shift of shifted and csq, [1], summed over heads");
  add_file(app, "--dlog-gate", arguments.dlog_gate, "gradient of the log gates, their shape");
  add_file(app, "--dsink", arguments.dsink, "gradient of the sinks, [heads], summed over the batch");
}

}  // namespace attend

// The golden cases: one folder each with meta.json and arrays [heads, tokens, dim]. Inputs are float32; results are
// float64, softmax's from PyTorch's scaled_dot_product_attention, the others from its float64 operations.
//
// CSQ_GOLDEN_DIR in the environment replaces the folder that ships with the project by the whole set.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../examples/npy.hpp"
#include "problem.hpp"
#include "reference.hpp"

namespace golden {

using reference::Index;
using reference::Tensor;

inline constexpr std::size_t shipped_cases = 116;
inline constexpr std::size_t whole_set = 130;

// Chunks of the causal scan that each case is computed with; 0 is the library's own.
#ifdef CSQ_TEST_LESS
inline constexpr Index chunks[] = {7, 0};
#else
inline constexpr Index chunks[] = {1, 7, 16, 0};
#endif

struct Case {
  std::string name, folder;
  std::string kind;  // softmax, csq, squared, taylor, poly, linear, polynomial
  Tensor q, k, v;
  Tensor output, statistic;
  bool causal = false;
  std::optional<double> scale, shift;
  std::optional<Index> key_length, query_history_count;
  std::vector<double> query_history_mean;  // [heads, dim]
  std::string centering;                   // empty: the mechanism's default
  std::vector<double> coefficients;
  std::optional<Index> window;
  std::optional<double> soft_cap;
  std::vector<double> sink;  // [heads]
  Tensor bias, log_gate;     // [1, heads or 1, queries or 1, keys] and [1, gate heads, keys, 1]; or of no batch
};

inline std::string directory() {
  const char* chosen = std::getenv("CSQ_GOLDEN_DIR");
  return chosen != nullptr ? chosen : CSQ_GOLDEN_DIR_DEFAULT;
}

// How many forward cases the directory must hold: a test that found none would pass.
inline std::size_t expected_count() { return std::getenv("CSQ_GOLDEN_DIR") != nullptr ? whole_set : shipped_cases; }

// [heads, tokens, dim], or [heads, tokens] with dim 1.
inline Tensor load_tensor(const std::string& path) {
  npy::Array<double> array = npy::read<double>(path);
  if (array.shape.size() == 2) array.shape.push_back(1);
  if (array.shape.size() != 3) throw std::runtime_error(path + ": expected two or three axes");
  Tensor tensor(1, array.shape[0], array.shape[1], array.shape[2]);
  tensor.values = std::move(array.data);
  return tensor;
}

// A key that is absent or null leaves `value` alone.
template <class T>
void load(const nlohmann::json& meta, const char* key, T& value) {
  if (const auto found = meta.find(key); found != meta.end() && !found->is_null()) value = found->get<T>();
}
template <class T>
void load(const nlohmann::json& meta, const char* key, std::optional<T>& value) {
  if (const auto found = meta.find(key); found != meta.end() && !found->is_null()) value = found->get<T>();
}

inline Case load_case(const std::filesystem::path& folder) {
  const auto file = [&](const char* name) { return (folder / name).string(); };
  const nlohmann::json meta = nlohmann::json::parse(std::ifstream(folder / "meta.json"));
  Case c;
  c.name = folder.filename().string();
  c.folder = folder.string();
  load(meta, "kind", c.kind);
  load(meta, "causal", c.causal);
  load(meta, "scale", c.scale);
  load(meta, "shift", c.shift);
  load(meta, "key_length", c.key_length);
  load(meta, "query_history_count", c.query_history_count);
  load(meta, "centering", c.centering);
  load(meta, "coefficients", c.coefficients);
  load(meta, "window", c.window);
  load(meta, "soft_cap", c.soft_cap);
  if (c.kind == "squared") c.coefficients = {0, 0, 1};
  if (c.kind == "taylor") c.coefficients = {1, 1, 0.5};
  if (std::filesystem::exists(folder / "sink.npy")) c.sink = npy::read<double>(file("sink.npy")).data;
  if (std::filesystem::exists(folder / "bias.npy")) c.bias = load_tensor(file("bias.npy"));
  if (std::filesystem::exists(folder / "log_gate.npy")) c.log_gate = load_tensor(file("log_gate.npy"));
  c.q = load_tensor(file("q.npy"));
  c.k = load_tensor(file("k.npy"));
  c.v = load_tensor(file("v.npy"));
  c.output = load_tensor(file("o.npy"));
  c.statistic = load_tensor(file(c.kind == "softmax" ? "lse.npy" : "z.npy"));
  if (c.query_history_count) c.query_history_mean = npy::read<double>(file("query_history_mean.npy")).data;
  return c;
}

// Every forward case, by name. The folders of penalties and pullbacks hold no o.npy.
inline std::vector<Case> forward_cases() {
  std::vector<std::filesystem::path> folders;
  for (const auto& entry : std::filesystem::directory_iterator(directory()))
    if (std::filesystem::exists(entry.path() / "o.npy")) folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  std::vector<Case> cases;
  for (const auto& folder : folders) cases.push_back(load_case(folder));
  return cases;
}

// ∂L/∂out of a forward case and what it must give.
struct Gradients {
  Tensor output, query, key, value;
  std::optional<double> shift;  // of Csq
  std::vector<double> log_gate, sink;
};

inline Gradients load_gradients(const Case& c) {
  const auto file = [&](const char* name) { return c.folder + "/" + name + ".npy"; };
  Gradients gradients{load_tensor(file("do")),
                      load_tensor(file("dq")),
                      load_tensor(file("dk")),
                      load_tensor(file("dv")),
                      std::nullopt,
                      {},
                      {}};
  if (c.shift) gradients.shift = npy::read<double>(file("dshift")).data.at(0);
  if (c.log_gate.batch > 0) gradients.log_gate = load_tensor(file("dlog_gate")).values;
  if (!c.sink.empty()) gradients.sink = npy::read<double>(file("dsink")).data;
  return gradients;
}

struct Penalty {
  Tensor q, k, dq, dk;  // rank: q and dq alone
  double value = 0, radius = 0, max_abs = 0, overflow = 0, ridge = 0;
  bool causal = false;
  std::optional<double> scale;
  std::string centering;
};

inline Penalty load_penalty(const std::string& name) {
  const std::filesystem::path folder = std::filesystem::path(directory()) / name;
  const auto file = [&](const char* array) { return (folder / array).string(); };
  const nlohmann::json meta = nlohmann::json::parse(std::ifstream(folder / "meta.json"));
  Penalty p;
  load(meta, "radius", p.radius);
  load(meta, "max_abs", p.max_abs);
  load(meta, "overflow", p.overflow);
  load(meta, "ridge", p.ridge);
  load(meta, "causal", p.causal);
  load(meta, "scale", p.scale);
  load(meta, "centering", p.centering);
  const bool rank = meta.at("penalty") == "rank";
  p.q = load_tensor(file(rank ? "x.npy" : "q.npy"));
  p.dq = load_tensor(file(rank ? "dx.npy" : "dq.npy"));
  if (!rank) {
    p.k = load_tensor(file("k.npy"));
    p.dk = load_tensor(file("dk.npy"));
  }
  p.value = npy::read<double>(file("value.npy")).data.at(0);
  return p;
}

inline double float_tolerance(std::string_view name) {
  const auto has = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  if (has("large_logits") || has("shift_0") || has("shift_m1p0") || name.starts_with("squared_") || has("uncentered"))
    return 5e-4;
  return name.starts_with("softmax_key_offset") ? 1e-4 : 5e-5;
}

template <class T>
double tolerance(std::string_view name) {
  return sizeof(T) == sizeof(double) ? 1e-10 : float_tolerance(name);
}

// Empty means the mechanism's own.
inline csq::Centering centering_named(const std::string& name) {
  if (name.empty()) return csq::Centering::automatic;
  if (name == "none") return csq::Centering::none;
  if (name == "sequence") return csq::Centering::sequence;
  if (name == "prefix") return csq::Centering::prefix;
  if (name == "prefix_exclusive") return csq::Centering::prefix_exclusive;
  throw std::runtime_error(name + ": not a centring");
}

// The case as the library sees it.
inline Problem library_problem(const Case& c) {
  Problem p;
  p.q = c.q;
  p.k = c.k;
  p.v = c.v;
  p.causal = c.causal;
  p.scale = c.scale;
  p.centering = centering_named(c.centering);
  p.window = c.window.value_or(0);
  p.soft_cap = c.soft_cap.value_or(0);
  p.sink = c.sink;
  p.bias = c.bias;
  p.log_gate = c.log_gate;
  if (c.key_length) p.key_length = {*c.key_length};
  if (c.query_history_count) p.query_history = {{*c.query_history_count}, c.query_history_mean};
  return p;
}

// visit(name, mechanism, whether it has a factored form) for each mechanism that means the case.
template <class Visit>
void for_each_mechanism_of(const Case& c, const Visit& visit_one) {
  const std::vector<double>& w = c.coefficients;
  const auto visit = [&](const char* name, const auto& mechanism, bool factored) {
    visit_one(name, mechanism, factored && !c.window);
  };
  if (c.kind == "softmax") {
    visit("Softmax", csq::Softmax{}, false);
  } else if (c.kind == "linear") {
    visit("Linear", csq::Linear{}, true);
  } else if (c.kind == "csq") {
    const double shift = c.shift.value();
    visit("Csq", csq::Csq{shift}, true);
    visit("ShiftedQuadratic", csq::ShiftedQuadratic{shift}, true);
    visit("Quadratic", csq::Quadratic{shift * shift, 2 * shift, 1}, true);
  } else {
    visit("Polynomial", csq::Polynomial{w}, false);
    if (w == std::vector<double>{0, 0, 1}) visit("Squared", csq::Squared{}, true);
    if (w == std::vector<double>{1, 1, 0.5}) visit("Taylor", csq::Taylor{}, true);
    if (w.size() == 3) visit("Quadratic", csq::Quadratic{w[0], w[1], w[2]}, true);
  }
}

// The case as the plain loops see it.
inline reference::Call reference_call(const Case& c) {
  using reference::Centre;
  using reference::Real;
  using reference::Weight;
  reference::Call call;
  call.q = c.q;
  call.k = c.k;
  call.v = c.v;
  call.causal = c.causal;
  if (c.scale) call.scale = *c.scale;
  if (c.key_length) call.key_length = {*c.key_length};
  call.window = c.window.value_or(0);
  call.soft_cap = c.soft_cap.value_or(0);
  call.sink = c.sink;
  call.bias = c.bias;
  call.log_gate = c.log_gate;
  if (c.query_history_count) call.query_history = {{*c.query_history_count}, c.query_history_mean};
  if (c.kind == "softmax") {
    call.weight.kind = Weight::Kind::exponential;
  } else if (c.kind == "linear") {
    call.weight.kind = Weight::Kind::feature_product;
  } else if (c.kind == "csq") {
    call.weight.of_score = [shift = Real(c.shift.value())](Real s) { return (s + shift) * (s + shift); };
  } else {
    call.weight.of_score = [coefficients = c.coefficients](Real s) {
      Real sum = 0, power = 1;
      for (const double coefficient : coefficients) {
        sum += Real(coefficient) * power;
        power *= s;
      }
      return sum;
    };
  }
  if (c.centering == "sequence") call.centre = Centre::sequence;
  if (c.centering == "prefix") call.centre = Centre::prefix;
  if (c.centering == "prefix_exclusive") call.centre = Centre::prefix_exclusive;
  return call;
}

}  // namespace golden

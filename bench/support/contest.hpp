// One row of the table and its contestants: softmax, CSQ direct and CSQ factored on the same heads.
//
// Fair means: the same dtype, threads, heads and inputs; packing and centring are timed; allocation is not (outputs are
// there before, each contestant has a workspace that is reserved and touched before).
#pragma once

#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "csq/csq.hpp"
#include "inputs.hpp"
#include "statistics.hpp"

namespace bench {

enum Contestant { softmax, csq_direct, csq_factored };
inline constexpr std::array<Contestant, 3> contestants = {softmax, csq_direct, csq_factored};
inline constexpr std::array<const char*, 3> contestant_names = {"softmax", "CSQ direct", "CSQ factored"};

// Direct and factored are the same function: they must agree to this in float.
inline constexpr double float_tolerance = 1e-3;

struct Row {
  Index key_dim = 0, value_dim = 0;
  Index heads = 0, kv_heads = 0;
  bool causal = false;

  Index group() const { return heads / kv_heads; }
  csq::Shape shape(Index tokens) const {
    return {.queries = tokens,
            .keys = tokens,
            .key_dim = key_dim,
            .value_dim = value_dim,
            .batch = 1,
            .heads = heads,
            .kv_heads = kv_heads,
            .causal = causal};
  }
  std::string name() const {
    return "d = " + std::to_string(key_dim) + (causal ? ", causal" : ", full") +
           (group() > 1 ? ", " + std::to_string(group()) + " query heads per key head" : "");
  }
  double flops(Contestant contestant, Index tokens) const {
    return 2 * (contestant == csq_factored ? csq::factored_multiply_adds(shape(tokens))
                                           : csq::direct_multiply_adds(shape(tokens)));
  }
  // From the operation counts alone, or weighed with the fractions of the FMA peak that the two sides reached.
  double model(double rival_fraction = 1, double factored_fraction = 1) const {
    return csq::predicted_crossover(key_dim, value_dim,
                                    {.causal = causal,
                                     .group = group(),
                                     .direct_efficiency = rival_fraction,
                                     .factored_efficiency = factored_fraction});
  }
};

// What was measured at one size.
struct Point {
  Index tokens = 0;
  bool served_directly = false;
  int repeats = 0;
  double relative_error = 0;
  std::array<Quartiles, 3> seconds{};

  double median(Contestant contestant) const { return seconds[contestant].median; }
};

class Disagreement : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Contest {
 public:
  Contest(Row row, std::shared_ptr<Inputs> inputs, int threads)
      : row_(row), inputs_(std::move(inputs)), threads_(threads) {}

  const Row& row() const { return row_; }

  // Runs direct and factored once each, untimed; throws Disagreement. Returns ‖factored − direct‖ / ‖direct‖.
  double check(Index tokens) {
    prepare(tokens);
    run(csq_direct, tokens);
    run(csq_factored, tokens);
    return agreement(tokens);
  }

  // Interleaved repeats, so that a slow moment of the machine meets all three; short calls are repeated within a
  // sample.
  Point measure(Index tokens, int repeats) {
    Point point{.tokens = tokens, .served_directly = csq::served_directly(row_.shape(tokens)), .repeats = repeats};
    prepare(tokens);
    std::array<int, 3> calls{};
    std::array<std::vector<double>, 3> samples;
    for (const Contestant contestant : contestants) {
      calls[contestant] = 1;
      // Small sizes warm up; large ones were warmed up by the sizes before them.
      if (row_.flops(contestant, tokens) > 2e10) continue;
      run(contestant, tokens);
      const double once = seconds(contestant, tokens, 1);
      calls[contestant] = static_cast<int>(std::clamp(0.002 / once, 1.0, 1000.0));
    }
    for (int repeat = 0; repeat < repeats; ++repeat)
      for (const Contestant contestant : contestants)
        samples[contestant].push_back(seconds(contestant, tokens, calls[contestant]));
    for (const Contestant contestant : contestants) point.seconds[contestant] = quartiles(samples[contestant]);
    point.relative_error = agreement(tokens);
    return point;
  }

 private:
  void prepare(Index tokens) {
    inputs_->reserve(row_.heads, row_.kv_heads, tokens);
    for (const Contestant contestant : contestants) {
      output_[contestant].resize(static_cast<std::size_t>(row_.heads * tokens * row_.value_dim));
      const std::size_t bytes =
          contestant == softmax ? csq::workspace_bytes<float>(csq::Softmax{}, row_.shape(tokens), options(contestant))
                                : csq::workspace_bytes<float>(csq::Csq{}, row_.shape(tokens), options(contestant));
      if (bytes > workspace_[contestant].bytes()) std::memset(workspace_[contestant].reserve(bytes), 0, bytes);
    }
  }

  csq::Options options(Contestant contestant) {
    csq::Options options;
    options.causal = row_.causal;
    options.method = contestant == csq_factored ? csq::Method::factored : csq::Method::direct;
    options.threads = threads_;
    options.workspace = &workspace_[contestant];
    return options;
  }

  void run(Contestant contestant, Index tokens) {
    const auto q = inputs_->q(row_.heads, tokens), k = inputs_->k(row_.kv_heads, tokens),
               v = inputs_->v(row_.kv_heads, tokens);
    const csq::Heads<float> out(output_[contestant].data(), {1, row_.heads, tokens, row_.value_dim});
    if (contestant == softmax)
      csq::attention(csq::Softmax{}, q, k, v, out, options(contestant));
    else
      csq::attention(csq::Csq{}, q, k, v, out, options(contestant));
  }

  double seconds(Contestant contestant, Index tokens, int calls) {
    const auto start = std::chrono::steady_clock::now();
    for (int call = 0; call < calls; ++call) run(contestant, tokens);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls;
  }

  double agreement(Index tokens) const {
    double difference = 0, size = 0;
    const std::vector<float>& direct = output_[csq_direct];
    const std::vector<float>& factored = output_[csq_factored];
    for (std::size_t i = 0; i < direct.size(); ++i) {
      const double a = direct[i], b = factored[i];
      difference += (a - b) * (a - b);
      size += a * a;
    }
    const double error = size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
    if (!(error <= float_tolerance))
      throw Disagreement("CSQ direct and factored disagree at " + row_.name() + ", n = " + std::to_string(tokens) +
                         ": relative error " + std::to_string(error));
    return error;
  }

  Row row_;
  std::shared_ptr<Inputs> inputs_;
  int threads_;
  std::array<std::vector<float>, 3> output_;
  std::array<csq::Workspace, 3> workspace_;
};

}  // namespace bench

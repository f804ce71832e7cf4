// One row of the table and its contestants: softmax, CSQ direct and CSQ factored on the same heads, forward or forward
// and backward together.
//
// Fair means: the same dtype, threads, heads and inputs; packing and centring are timed; allocation is not (outputs are
// there before, each contestant has a workspace that is reserved and touched before).
#pragma once

#include <array>
#include <chrono>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "csq/csq.hpp"
#include "dtype.hpp"
#include "inputs.hpp"
#include "interruption.hpp"
#include "passes.hpp"
#include "peak_watch.hpp"
#include "statistics.hpp"

namespace bench {

enum Contestant { softmax, csq_direct, csq_factored };
inline constexpr std::array<Contestant, 3> contestants = {softmax, csq_direct, csq_factored};
inline constexpr std::array<const char*, 3> contestant_names = {"softmax", "CSQ direct", "CSQ factored"};

// The critic's case: long before the crossover, where softmax must be expected to win.
inline constexpr Index critic_dim = 128, critic_tokens = 2048;

// What the factored call of this shape does: a causal one so short that no read of its summary would pay is served
// directly.
inline bool served_directly(const csq::Shape& shape) {
  return csq::used_method(csq::Csq{}, shape, {.causal = shape.causal, .method = csq::Method::factored}) ==
         csq::Method::direct;
}

struct Row {
  Index key_dim = 0, value_dim = 0;
  Index heads = 0, kv_heads = 0;
  bool causal = false;
  bool backward = false;       // forward and backward, instead of forward
  bool softmax_gated = false;  // with gates of the key heads
  bool csq_gated = false;

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
  bool is_critics() const { return key_dim == critic_dim && value_dim == critic_dim && group() == 1 && !causal; }
  // d, or d/dᵥ where they differ.
  std::string dims_name() const {
    return std::to_string(key_dim) + (value_dim != key_dim ? "/" + std::to_string(value_dim) : "");
  }
  std::string name() const {
    return "d = " + dims_name() + (causal ? ", causal" : ", full") +
           (group() > 1 ? ", " + std::to_string(group()) + " query heads per key head" : "");
  }
  double flops(Contestant contestant, Index tokens) const {
    const bool factored = contestant == csq_factored;
    return bench::flops(shape(tokens), factored, Pass::forward) +
           (backward ? bench::flops(shape(tokens), factored, Pass::backward) : 0);
  }
  // The factored call is the direct path. Backward takes no savings under a causal mask: it always reads.
  bool served_directly(Index tokens) const { return !backward && bench::served_directly(shape(tokens)); }
  // From the operation counts alone, or weighed with the fractions of the FMA peak that the two sides reached.
  double model(double rival_fraction = 1, double factored_fraction = 1) const {
    if (!backward)
      return csq::predicted_crossover(key_dim, value_dim,
                                      {.causal = causal,
                                       .group = group(),
                                       .direct_efficiency = rival_fraction,
                                       .factored_efficiency = factored_fraction});
    // The size from which the counts of both passes, weighed, are in favour of factored.
    const auto factored_wins = [&](Index tokens) {
      return flops(csq_factored, tokens) * rival_fraction < flops(csq_direct, tokens) * factored_fraction;
    };
    constexpr Index longest = Index{1} << 40;
    Index high = 1;
    while (high < longest && !factored_wins(high)) high *= 2;
    Index low = high / 2;
    while (high - low > 1) {
      const Index middle = low + (high - low) / 2;
      (factored_wins(middle) ? high : low) = middle;
    }
    return static_cast<double>(high);
  }
};

// What was measured at one size.
struct Point {
  Index tokens = 0;
  bool served_directly = false;
  int repeats = 0;
  double relative_error = 0;
  std::array<Quartiles, 3> seconds{};
  double peak = 0;  // flops per second of the FMA peak's turns, their median; 0: it took none

  double median(Contestant contestant) const { return seconds[contestant].median; }
};

class Disagreement : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Contest {
 public:
  Contest(Row row, std::shared_ptr<Inputs> inputs, int threads)
      : row_(row), inputs_(std::move(inputs)), threads_(threads) {
    with_element(inputs_->dtype(),
                 [&]<class Element>(std::type_identity<Element>) { passes_.emplace<ThreePasses<Element>>(); });
  }

  const Row& row() const { return row_; }

  // Runs direct and factored once each, untimed; throws Disagreement. Returns ‖factored − direct‖ / ‖direct‖ of the
  // output, and of each gradient where there is a backward pass: the largest of them.
  double check(Index tokens) {
    prepare(tokens);
    run(csq_direct, tokens);
    run(csq_factored, tokens);
    return agreement(tokens);
  }

  // Interleaved repeats, so that a slow moment of the machine meets all three; short calls are repeated within a
  // sample. `watch`, if there is one, takes its turns between them.
  Point measure(Index tokens, int repeats, PeakWatch* watch = nullptr) {
    Point point{.tokens = tokens, .served_directly = row_.served_directly(tokens), .repeats = repeats};
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
    std::vector<double> peaks;
    double since = 0;  // seconds since the peak's last turn
    const auto take_turn = [&] {
      if (watch != nullptr) peaks.push_back(watch->turn(std::min(0.05 * since, 0.1)));
      since = 0;
    };
    take_turn();
    for (int repeat = 0; repeat < repeats; ++repeat) {
      for (const Contestant contestant : contestants) {
        samples[contestant].push_back(seconds(contestant, tokens, calls[contestant]));
        since += samples[contestant].back() * calls[contestant];
      }
      if (since > 0.02 || repeat + 1 == repeats) take_turn();
    }
    point.peak = quartiles(peaks).median;
    for (const Contestant contestant : contestants) point.seconds[contestant] = quartiles(samples[contestant]);
    point.relative_error = agreement(tokens);
    return point;
  }

 private:
  template <class Element>
  using ThreePasses = std::array<Passes<Element>, 3>;

  template <class Call>
  static void with_mechanism(Contestant contestant, const Call& call) {
    if (contestant == softmax)
      call(csq::Softmax{});
    else
      call(csq::Csq{});
  }

  void prepare(Index tokens) {
    inputs_->reserve(row_.heads, row_.kv_heads, tokens);
    if (row_.csq_gated && static_cast<Index>(gates_.size()) < row_.kv_heads * tokens)
      gates_ = mild_gates(row_.kv_heads, tokens);
    if (row_.backward) inputs_->reserve_output_gradient(row_.heads, tokens);
    std::visit(
        [&](auto& passes) {
          for (const Contestant contestant : contestants)
            with_mechanism(contestant, [&](const auto& mechanism) {
              passes[contestant].reserve(mechanism, row_.shape(tokens), row_.backward, options(contestant, tokens));
            });
        },
        passes_);
  }

  csq::Options options(Contestant contestant, Index tokens) const {
    csq::Options options;
    if (contestant == softmax ? row_.softmax_gated : row_.csq_gated)
      options.log_gate = csq::Heads<const float>(gates_.data(), {1, row_.kv_heads, tokens, 1});
    options.causal = row_.causal;
    options.method = contestant == csq_factored ? csq::Method::factored : csq::Method::direct;
    options.threads = threads_;
    return options;
  }

  void run(Contestant contestant, Index tokens) {
    stop_if_asked();
    std::visit(
        [&]<class Element>(ThreePasses<Element>& passes) {
          const Operands<Element> operands{
              inputs_->q<Element>(row_.heads, tokens), inputs_->k<Element>(row_.kv_heads, tokens),
              inputs_->v<Element>(row_.kv_heads, tokens), inputs_->dout<Element>(row_.heads, tokens)};
          with_mechanism(contestant, [&](const auto& mechanism) {
            passes[contestant].forward(mechanism, operands, options(contestant, tokens));
            if (row_.backward) passes[contestant].backward(mechanism, operands, options(contestant, tokens));
          });
        },
        passes_);
  }

  double seconds(Contestant contestant, Index tokens, int calls) {
    const auto start = std::chrono::steady_clock::now();
    for (int call = 0; call < calls; ++call) run(contestant, tokens);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls;
  }

  double agreement(Index tokens) const {
    double largest = 0;
    const auto compare = [&](const char* name, const auto& values, const auto& reference) {
      const double error = relative_error(values, reference);
      if (!(error <= tolerance_of(inputs_->dtype())))
        throw Disagreement("CSQ direct and factored disagree in " + std::string(name) + " at " + row_.name() +
                           ", n = " + std::to_string(tokens) + ": relative error " + std::to_string(error));
      largest = std::max(largest, error);
    };
    std::visit(
        [&](const auto& passes) {
          const auto &direct = passes[csq_direct], &factored = passes[csq_factored];
          compare("out", factored.out, direct.out);
          if (row_.backward) {
            compare("dq", factored.dq, direct.dq);
            compare("dk", factored.dk, direct.dk);
            compare("dv", factored.dv, direct.dv);
            if (row_.csq_gated) compare("dlog_gate", factored.dlog_gate, direct.dlog_gate);
          }
        },
        passes_);
    return largest;
  }

  Row row_;
  std::shared_ptr<Inputs> inputs_;
  int threads_;
  std::vector<float> gates_;
  std::variant<ThreePasses<float>, ThreePasses<Eigen::bfloat16>, ThreePasses<Eigen::half>> passes_;
};

}  // namespace bench

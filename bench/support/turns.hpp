// Calls that take turns, round after round, so that a slow moment of the machine meets them all; after each sample the
// FMA peak takes a turn of its own, which tells how much of the machine there was (disturbance.hpp).
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "disturbance.hpp"
#include "interruption.hpp"
#include "peak_watch.hpp"
#include "statistics.hpp"

namespace bench {

// What is known of a call: seconds of one of its tokens.
struct Timing {
  Quartiles seconds{};
  double peak = 0;  // flops per second of the FMA peak beside it, the median
  int repeats = 0;

  bool measured() const { return repeats > 0; }
};

// As severity of crossover's points: above 1 where there is a sign of other programs.
inline double severity(const Timing& timing, double best_turn) {
  const double share = timing.peak > 0 && best_turn > 0 ? timing.peak / best_turn : 1;
  return std::max(least_peak_share / share, scatter(timing.seconds) / most_scatter);
}

struct Turn {
  std::string name;
  std::function<void()> run;
  double tokens = 1;  // that one run decodes
  Timing timing{};
};

class Turns {
 public:
  Turns(PeakWatch& watch, std::function<void(const std::string&)> announce)
      : watch_(watch), announce_(std::move(announce)) {}

  // `rounds` samples of each, and again up to two times of those that came out disturbed: the better result stays.
  void measure(const std::vector<Turn*>& turns, int rounds) {
    measure_once(turns, rounds);
    constexpr int most_again = 2;
    for (int again = 0; again < most_again; ++again) {
      std::vector<Turn*> disturbed;
      for (Turn* turn : turns)
        if (severity(turn->timing, watch_.best_turn()) > 1) disturbed.push_back(turn);
      if (disturbed.empty()) return;
      measure_once(disturbed, rounds);
    }
  }

 private:
  using Clock = std::chrono::steady_clock;

  static double seconds(const Turn& turn, int calls) {
    const auto start = Clock::now();
    for (int call = 0; call < calls; ++call) turn.run();
    return std::chrono::duration<double>(Clock::now() - start).count() / calls;
  }

  void measure_once(const std::vector<Turn*>& turns, int rounds) {
    constexpr double shortest = 0.008;      // seconds of a sample
    constexpr double leaves_nothing = 0.1;  // a call that long finds in cache what its own start left there
    std::vector<double> once;
    for (Turn* turn : turns) {
      announce_(turn->name);
      stop_if_asked();
      double taken = seconds(*turn, 1);
      if (taken < shortest) taken = seconds(*turn, 1);
      once.push_back(taken);
    }
    std::vector<std::vector<double>> samples(turns.size()), peaks(turns.size());
    for (int round = 0; round < rounds; ++round)
      for (std::size_t i = 0; i < turns.size(); ++i) {
        Turn& turn = *turns[i];
        announce_(turn.name + ", " + std::to_string(round + 1) + " of " + std::to_string(rounds));
        stop_if_asked();
        const int calls = static_cast<int>(std::clamp(shortest / once[i], 1.0, 10000.0));
        if (once[i] < leaves_nothing) seconds(turn, calls);  // the others had the caches
        const double taken = seconds(turn, calls);
        samples[i].push_back(taken / turn.tokens);
        peaks[i].push_back(watch_.turn(std::min(0.05 * taken * calls, 0.1)));
      }
    for (std::size_t i = 0; i < turns.size(); ++i) {
      const Timing found{quartiles(samples[i]), quartiles(peaks[i]).median, rounds};
      Timing& kept = turns[i]->timing;
      if (!kept.measured() || severity(found, watch_.best_turn()) < severity(kept, watch_.best_turn())) kept = found;
    }
  }

  PeakWatch& watch_;
  std::function<void(const std::string&)> announce_;
};

}  // namespace bench

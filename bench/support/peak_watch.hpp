// How much of the FMA peak can be had while something else is timed: the peak takes its turn beside it.
#pragma once

#include <algorithm>
#include <string_view>

#include "fma_peak.hpp"

namespace bench {

class PeakWatch {
 public:
  PeakWatch(std::string_view set, int threads, double best) : run_(set, threads, run_seconds), best_(best) {}

  // Flops per second of one run, of `seconds` or of a few milliseconds at least, each thread by its own clock: many
  // threads take their time to wake up, busy or not. In one piece: threads that have just slept are served first, so
  // that many short runs would look better than the long call beside them.
  double turn(double seconds) {
    const PeakRate rate = run_(std::max(1, static_cast<int>(seconds / run_seconds)));
    best_ = std::max(best_, rate.together);
    best_turn_ = std::max(best_turn_, rate.apart);
    return rate.apart;
  }

  // The best rate from start to end of any run, or the one that was known before.
  double best() const { return best_; }
  double best_turn() const { return best_turn_; }

 private:
  static constexpr double run_seconds = 0.004;

  PeakRun run_;
  double best_, best_turn_ = 0;
};

}  // namespace bench

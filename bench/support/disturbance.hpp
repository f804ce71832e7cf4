// When is a machine too busy to judge what was timed on it? Three signs, each with its bound:
//
//   threads   T threads on C cores reach less of the FMA peak than 1 + least_gain·(min(T, C) − 1) times one thread's
//   peak      while a size was timed, the FMA peak, which takes its turn there (peak_watch.hpp), fell below
//             least_peak_share of its best
//   scatter   the quartiles of a contestant's times are further apart than most_scatter of their median
//
// The first concerns a whole run, the others one size. A crossover is judged by the sizes that it was read from and by
// the two contestants that it compares; where any sign shows, no number is given for it.
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "machine.hpp"
#include "search.hpp"

namespace bench {

// Another core brings at least half of what one thread has: processors slow down by less when all of their cores work.
inline constexpr double least_gain = 0.5;
// Two threads beside one busy loop have .75. A stranger's hyper-thread on one of two cores of a shared host leaves .79,
// and slows all contestants alike.
inline constexpr double least_peak_share = 0.77;
inline constexpr double most_scatter = 0.25;

enum class Disturbance { none, threads, peak, scatter };

inline const char* name_of(Disturbance disturbance) {
  constexpr const char* names[] = {"", "threads", "peak", "scatter"};
  return names[static_cast<int>(disturbance)];
}

// How many times one thread's FMA peak all of them must reach, and do.
inline double least_speedup(const Machine& machine) {
  return 1 + least_gain * (std::min(machine.threads, machine.cores) - 1);
}
inline double speedup(const Machine& machine) { return machine.peak_all_threads / machine.peak_one_thread; }
inline bool threads_do_not_help(const Machine& machine) {
  return machine.threads > 1 && speedup(machine) < least_speedup(machine);
}

inline std::string speedup_text(const Machine& machine) {
  char text[160];
  std::snprintf(text, sizeof text, "%d threads reach %.2f times the FMA peak of one (%.2f at least on %d core%s)",
                machine.threads, speedup(machine), least_speedup(machine), machine.cores,
                machine.cores == 1 ? "" : "s");
  return text;
}

inline double scatter(const Quartiles& seconds) { return (seconds.upper - seconds.lower) / seconds.median; }

inline double peak_share(const Point& point, double best_turn) {
  return point.peak > 0 && best_turn > 0 ? point.peak / best_turn : 1;
}
inline double peak_share(const Point& point, const Machine& machine) {
  return peak_share(point, machine.best_peak_turn);
}

// One size, for the comparison of factored with `rival`.
inline Disturbance disturbance_of(const Point& point, Contestant rival, const Machine& machine) {
  if (threads_do_not_help(machine)) return Disturbance::threads;
  if (peak_share(point, machine) < least_peak_share) return Disturbance::peak;
  const double worst = std::max(scatter(point.seconds[rival]), scatter(point.seconds[csq_factored]));
  return worst > most_scatter ? Disturbance::scatter : Disturbance::none;
}

// The crossover with `rival` that was found in `points`.
inline Disturbance disturbance_of(const Crossover& crossover, const std::vector<Point>& points, Contestant rival,
                                  const Machine& machine) {
  if (crossover.kind == Crossover::Kind::not_read) return Disturbance::none;  // by arithmetic alone
  for (const Point* point : points_of(crossover, points))
    if (const Disturbance found = disturbance_of(*point, rival, machine); found != Disturbance::none) return found;
  return Disturbance::none;
}

// Above 1 where a size shows a sign of its own: what tells the better of two measurements.
inline double severity(const Point& point, double best_turn) {
  double worst = least_peak_share / peak_share(point, best_turn);
  for (const Quartiles& seconds : point.seconds) worst = std::max(worst, scatter(seconds) / most_scatter);
  return worst;
}

}  // namespace bench

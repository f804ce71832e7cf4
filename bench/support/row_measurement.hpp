// Measures one row of crossover: the sizes that were asked for, those that the search for its crossovers needs, and
// again those that came out disturbed.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "disturbance.hpp"
#include "progress.hpp"
#include "results.hpp"
#include "rows.hpp"

namespace bench {

// Puts a measurement among the points; of two of one size the less disturbed one stays.
inline void add_point(std::vector<Point>& points, const Point& point, double best_turn) {
  for (Point& other : points)
    if (other.tokens == point.tokens) {
      if (severity(point, best_turn) < severity(other, best_turn)) other = point;
      return;
    }
  points.push_back(point);
  sort_by_tokens(points);
}

// The most disturbed size among those that a crossover was read from or that were asked for; 0 where none is.
inline Index disturbed_size(const std::vector<Point>& points, const std::vector<Index>& sizes, bool search,
                            double best_turn) {
  const Point* worst = nullptr;
  const auto look_at = [&](const Point& point) {
    if (severity(point, best_turn) > std::max(1.0, worst != nullptr ? severity(*worst, best_turn) : 0)) worst = &point;
  };
  for (const Point& point : points)
    if (std::find(sizes.begin(), sizes.end(), point.tokens) != sizes.end()) look_at(point);
  if (search)
    for (const Contestant rival : {softmax, csq_direct})
      for (const Point* point : points_of(find_crossover(points, rival), points)) look_at(*point);
  return worst != nullptr ? worst->tokens : 0;
}

// The sizes that a row starts with, rising.
inline std::vector<Index> sizes_to_begin_with(const Task& task, Index max_tokens) {
  std::vector<Index> sizes = task.sizes;
  const auto near = [](Index a, Index b) { return 5 * std::max(a, b) < 6 * std::min(a, b); };
  if (task.search)
    for (const Index size : first_sizes(task.row))
      if (std::none_of(sizes.begin(), sizes.end(), [&](Index other) { return near(size, other); }))
        sizes.push_back(std::min(size, max_tokens));
  return sorted(sizes);
}

// Within `seconds`; up to `patience` seconds, at least one repeat of every size that the search needs, and two more
// tries at what came out disturbed.
class RowMeasurement {
 public:
  RowMeasurement(const Task& task, const CrossoverSettings& settings, PeakWatch& watch, Progress& progress)
      : task_(task),
        settings_(settings),
        watch_(watch),
        progress_(progress),
        contest_(task.row, task.inputs, settings.threads) {}

  RowResult run(double seconds, double patience, const std::string& heading) {
    constexpr int most_measurements = 12, most_again = 6, least_again = 2;
    RowResult result{.row = task_.row, .points = {}, .search = task_.search};
    const double start = progress_.seconds();
    const auto passed = [&] { return progress_.seconds() - start; };
    const auto measure = [&](Index tokens) {
      add_point(result.points, point(tokens, seconds - passed(), heading), watch_.best_turn());
    };

    const std::vector<Index> sizes = sizes_to_begin_with(task_, settings_.max_tokens);
    for (const Index size : sizes) measure(size);
    int searched = static_cast<int>(sizes.size()), again = 0;
    for (;;) {
      Index next = 0;
      if (task_.search && searched < most_measurements)
        next = next_size(task_.row, result.points, settings_.max_tokens);
      if (next != 0 && passed() > patience) {
        result.out_of_time = true;
        break;
      }
      if (next != 0) {
        ++searched;
      } else {
        next = disturbed_size(result.points, task_.sizes, task_.search, watch_.best_turn());
        ++again;
        if (next == 0 || again > most_again || passed() > (again > least_again ? seconds : patience)) break;
      }
      measure(next);
    }
    return result;
  }

 private:
  // Repeats as `left` seconds allow.
  Point point(Index tokens, double left, const std::string& heading) {
    double flops = 0;
    for (const Contestant contestant : contestants) flops += task_.row.flops(contestant, tokens);
    const double once = flops / (reached_ * watch_.best());
    int repeats = settings_.repeats;
    if (repeats == 0) {
      // Short calls are the noisy ones, and their repeats cost nothing.
      const int most = (settings_.quick ? 3 : 15) * (once < 0.02 ? 3 : 1);
      repeats = static_cast<int>(std::clamp(0.3 * left / once, 1.0, static_cast<double>(most)));
      if (repeats < 3 && 3 * once < std::max(left, 0.02 * *settings_.budget)) repeats = 3;
    }
    progress_.show(heading, "n = " + std::to_string(tokens) + ", " + std::to_string(repeats) +
                                (repeats == 1 ? " repeat" : " repeats"));
    const Point measured = contest_.measure(tokens, repeats, &watch_);
    double total = 0;
    for (const Quartiles& time : measured.seconds) total += time.median;
    reached_ = std::clamp(flops / total / watch_.best(), 0.05, 20.0);
    return measured;
  }

  const Task& task_;
  const CrossoverSettings& settings_;
  PeakWatch& watch_;
  Progress& progress_;
  Contest contest_;
  double reached_ = 0.5;  // fraction of the peak, as seen so far; above 1 on a matrix unit
};

}  // namespace bench

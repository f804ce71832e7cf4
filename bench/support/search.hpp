// Where the crossover is, from what was measured; and which size to measure next.
//
// The ratio r(n) = time of factored / time of its rival falls through 1 at the crossover. Sizes at which the factored
// call never reads its summary are the direct path under another name: they take no part.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "contest.hpp"

namespace bench {

struct Crossover {
  enum class Kind {
    measured,     // the sign changes between two measured sizes
    at_or_below,  // factored is faster at every size at which it reads
    none,         // factored is slower at the largest size
    not_read      // every size was served directly
  };

  Kind kind = Kind::not_read;
  double tokens = 0;  // measured: interpolated; at_or_below: the smallest size; none: the largest size
  Index below = 0;    // measured: the sizes around it
  Index above = 0;
};

inline void sort_by_tokens(std::vector<Point>& points) {
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.tokens < b.tokens; });
}

inline double log_ratio(const Point& point, Contestant rival) {
  return std::log(point.median(csq_factored) / point.median(rival));
}

// The last change of sign, interpolated in log n and log r. `points` by rising size.
inline Crossover find_crossover(const std::vector<Point>& points, Contestant rival) {
  std::vector<Point> read;
  for (const Point& point : points)
    if (!point.served_directly) read.push_back(point);
  if (read.empty()) return {};
  if (log_ratio(read.back(), rival) >= 0) return {Crossover::Kind::none, static_cast<double>(read.back().tokens), 0, 0};
  for (std::size_t i = read.size() - 1; i-- > 0;) {
    const double here = log_ratio(read[i], rival), next = log_ratio(read[i + 1], rival);
    if (here < 0) continue;
    const double low = std::log(static_cast<double>(read[i].tokens));
    const double high = std::log(static_cast<double>(read[i + 1].tokens));
    return {Crossover::Kind::measured, std::exp(std::lerp(low, high, here / (here - next))), read[i].tokens,
            read[i + 1].tokens};
  }
  return {Crossover::Kind::at_or_below, static_cast<double>(read.front().tokens), 0, 0};
}

// The points that a crossover was read from.
inline std::vector<const Point*> points_of(const Crossover& crossover, const std::vector<Point>& points) {
  std::vector<const Point*> found;
  for (const Point& point : points) {
    const bool around = point.tokens == crossover.below || point.tokens == crossover.above;
    if (crossover.kind == Crossover::Kind::measured ? around : static_cast<double>(point.tokens) == crossover.tokens)
      found.push_back(&point);
  }
  return found;
}

// The fraction of `peak` flops per second that a contestant reached.
inline double fraction_of_peak(const Row& row, const Point& point, Contestant contestant, double peak) {
  const Contestant counted = contestant == csq_factored && point.served_directly ? csq_direct : contestant;
  return row.flops(counted, point.tokens) / point.median(contestant) / peak;
}

// The measured size nearest to the crossover, where the fractions are taken; null when nothing was read.
inline const Point* nearest_point(const std::vector<Point>& points, double tokens) {
  const Point* nearest = nullptr;
  const auto distance = [&](const Point& p) { return std::abs(std::log(static_cast<double>(p.tokens) / tokens)); };
  for (const Point& point : points)
    if (!point.served_directly && (nearest == nullptr || distance(point) < distance(*nearest))) nearest = &point;
  return nearest;
}

inline Index round_tokens(double tokens) {
  const double step = tokens >= 1024 ? 64 : 8;
  return std::max<Index>(8, static_cast<Index>(std::round(tokens / step) * step));
}

// The sizes to begin with: below the prediction, where calls are cheap and fractions of peak show.
inline std::vector<Index> first_sizes(const Row& row) {
  const double model = row.model();
  if (row.causal) return {round_tokens(model / 4)};
  return {round_tokens(model / 4), round_tokens(model / 2)};
}

// The next size, or 0 when the crossovers are known well enough or cannot be had up to `largest`.
inline Index next_size(const Row& row, const std::vector<Point>& points, Index largest) {
  const auto measured = [&](Index tokens) {
    return std::any_of(points.begin(), points.end(), [&](const Point& point) {
      return std::abs(static_cast<double>(point.tokens - tokens)) <= 0.02 * static_cast<double>(tokens);
    });
  };
  for (const Contestant rival : {softmax, csq_direct}) {
    const Crossover crossover = find_crossover(points, rival);
    double wanted = 0;
    if (crossover.kind == Crossover::Kind::not_read) {
      wanted = row.model();
      while (row.served_directly(round_tokens(wanted))) wanted *= 1.1;
    } else if (crossover.kind == Crossover::Kind::measured) {
      const auto close = [&](Index tokens) {
        for (const Point& point : points)
          if (point.tokens == tokens) return std::abs(log_ratio(point, rival)) < 0.1;
        return false;
      };
      const double width = static_cast<double>(crossover.above) / static_cast<double>(crossover.below);
      if (width > 1.3 && !close(crossover.below) && !close(crossover.above)) wanted = crossover.tokens;
    } else {
      const Point& point = *nearest_point(points, crossover.tokens);
      const double model =
          row.model(fraction_of_peak(row, point, rival, 1), fraction_of_peak(row, point, csq_factored, 1));
      if (crossover.kind == Crossover::Kind::none) {
        wanted = std::clamp(model * 1.04, crossover.tokens * 1.15, crossover.tokens * 3);
      } else {
        wanted = std::clamp(model * 0.96, crossover.tokens / 3, crossover.tokens / 1.1);
        while (wanted < crossover.tokens && row.served_directly(round_tokens(wanted))) wanted *= 1.02;
        if (1.03 * static_cast<double>(round_tokens(wanted)) >= crossover.tokens) continue;
      }
    }
    if (wanted == 0) continue;
    const Index tokens = std::min(round_tokens(wanted), largest);
    if (!measured(tokens)) return tokens;
  }
  return 0;
}

}  // namespace bench

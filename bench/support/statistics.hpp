// Median and quartiles of repeated timings.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace bench {

struct Quartiles {
  double lower = 0;
  double median = 0;
  double upper = 0;
};

// Linear interpolation between order statistics, as NumPy's quantile does.
inline Quartiles quartiles(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  const auto quantile = [&](double fraction) {
    const double position = fraction * static_cast<double>(samples.size() - 1);
    const auto below = static_cast<std::size_t>(position);
    const std::size_t above = std::min(below + 1, samples.size() - 1);
    return std::lerp(samples[below], samples[above], position - static_cast<double>(below));
  };
  return {quantile(0.25), quantile(0.5), quantile(0.75)};
}

}  // namespace bench

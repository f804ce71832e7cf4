// Median and quartiles of repeated timings; the distance between two results.
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

// ‖values − reference‖ / ‖reference‖.
template <class T, class U>
double relative_error(const std::vector<T>& values, const std::vector<U>& reference) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const auto a = static_cast<double>(values[i]), b = static_cast<double>(reference[i]);
    difference += (a - b) * (a - b);
    size += b * b;
  }
  return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

}  // namespace bench

// The instruction set in use, and the accuracy of the exponential through softmax of two keys:
// o = eˢ/(eˢ + 1), log-sum-exp = ln(eˢ + 1).
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>

#include "catch.hpp"
#include "problem.hpp"

namespace {

bool processor_has(const std::string& set) {
  if (set == "portable") return true;
#if defined(__aarch64__)
  if (set == "neon") return true;
#endif
#if defined(__x86_64__)
  if (set == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (set == "avx512")
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
#endif
  return false;
}

// Scores s against 0, one query each.
template <class T>
Outputs<T> two_keys(const std::vector<double>& scores) {
  Problem p;
  p.q = Tensor(1, 1, Index(scores.size()), 1);
  p.q.values = scores;
  p.k = Tensor(1, 1, 2, 1);
  p.k.values = {1, 0};
  p.v = Tensor(1, 1, 2, 1);
  p.v.values = {1, 0};
  return attend<T>(csq::Softmax{}, p);
}

}  // namespace

TEST_CASE("the instruction set is one that the processor has, and the one that CSQ_SIMD names") {
  const std::string used = csq::simd_name();
  const auto names = csq::simd_names();
  CHECK(std::find(names.begin(), names.end(), used) != names.end());
  for (const std::string set : {"portable", "neon", "avx2", "avx512"})
    CHECK((std::find(names.begin(), names.end(), set) != names.end()) == processor_has(set));
  if (const char* wanted = std::getenv("CSQ_SIMD"); wanted != nullptr && processor_has(wanted)) CHECK(used == wanted);
  if (std::getenv("CSQ_SIMD") == nullptr && (processor_has("avx2") || processor_has("neon"))) CHECK(used != "portable");
}

TEST_CASE("build_info names the version and the instruction set") {
  const std::string info = csq::build_info();
  const std::string version = std::to_string(csq::version_major) + "." + std::to_string(csq::version_minor) + "." +
                              std::to_string(csq::version_patch);
  CHECK(info.find(version) != std::string::npos);
  CHECK(info.find(csq::simd_name()) != std::string::npos);
}

// A score s is itself known to |s| half units in the last place only, so eˢ can be no better than that.
TEST_CASE("the exponential is as accurate as its argument") {
  std::vector<double> scores;
  for (int i = -8000; i <= 0; ++i) scores.push_back(i / 128.0);  // exact in float, down to e^−62.5
  for_float_and_double([&]<class T>() {
    const Outputs<T> result = two_keys<T>(scores);
    double worst = 0, worst_statistic = 0;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const double exponential = std::exp(scores[i]);
      const double error = std::abs(double(result.output[i]) / (exponential / (exponential + 1)) - 1);
      worst = std::max(worst, error / (8 + std::abs(scores[i])));
      worst_statistic = std::max(worst_statistic, std::abs(double(result.statistic[i]) - std::log1p(exponential)));
    }
    INFO(8 * sizeof(T) << " bits");
    CHECK(worst <= double(std::numeric_limits<T>::epsilon()));
    CHECK(worst_statistic <= 8 * double(std::numeric_limits<T>::epsilon()));
  });
}

TEST_CASE("scores of any size neither overflow nor vanish") {
  for_float_and_double([]<class T>() {
    INFO(8 * sizeof(T) << " bits");
    const std::vector<double> scores{1e4, -1e4, 89, -89, 750, -750, 3e5, -3e5};
    const Outputs<T> result = two_keys<T>(scores);
    for (std::size_t i = 0; i < scores.size(); ++i) {
      INFO("score " << scores[i]);
      CHECK(std::abs(double(result.output[i]) - (scores[i] > 0 ? 1 : 0)) <= 1e-7);
      CHECK(std::abs(double(result.statistic[i]) - std::max(scores[i], 0.0)) <= 1e-6 * std::max(scores[i], 1.0));
    }
  });
}

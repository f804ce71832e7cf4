// Compares attend() with a plain loop in double. This unit has no flags but the language's.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "attend.hpp"

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct Case {
  const char* name;
  Weight weight;
  Sizes sizes;
  std::vector<float> query, key, value, output_gradient;
};

struct Result {
  std::vector<double> output, normalizer, query_gradient, key_gradient, value_gradient;
  double shift_gradient = 0;
};

std::size_t cells(int rows, int columns) { return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns); }

// Numbers in [−1, 1), the same everywhere.
std::vector<float> numbers(unsigned seed, std::size_t count) {
  std::vector<float> result(count);
  unsigned state = seed;
  for (float& x : result) {
    state = state * 1664525u + 1013904223u;
    x = static_cast<float>(static_cast<int>(state >> 8) - (1 << 23)) / (1 << 23);
  }
  return result;
}

Case make_case(const char* name, Weight weight, const Sizes& sizes) {
  Case c{name,
         weight,
         sizes,
         numbers(1, cells(sizes.queries, sizes.dim)),
         numbers(2, cells(sizes.keys, sizes.dim)),
         numbers(3, cells(sizes.keys, sizes.value_dim)),
         numbers(4, cells(sizes.queries, sizes.value_dim))};
  for (float& x : c.query) x *= 4;
  return c;
}

Result plain_loop(const Case& c) {
  const auto [n, m, d, dv] = c.sizes;
  const bool softmax = c.weight == Weight::softmax;
  const double scale = 1 / std::sqrt(d);
  Result r;
  r.output.resize(cells(n, dv));
  r.normalizer.resize(cells(n, 1));
  r.query_gradient.resize(cells(n, d));
  r.key_gradient.resize(cells(m, d));
  r.value_gradient.resize(cells(m, dv));
  for (int i = 0; i < n; ++i) {
    const int visible = i + 1 + m - n;
    std::vector<double> score(cells(m, 1)), weight(cells(m, 1)), slope(cells(m, 1));
    double highest = -infinity, normalizer = 0;
    for (int j = 0; j < visible; ++j) {
      for (int a = 0; a < d; ++a)
        score[cells(j, 1)] += scale * static_cast<double>(c.query[cells(i, d) + cells(a, 1)]) *
                              static_cast<double>(c.key[cells(j, d) + cells(a, 1)]);
      score[cells(j, 1)] = static_cast<double>(static_cast<float>(score[cells(j, 1)]));  // where float overflows
      highest = std::fmax(highest, score[cells(j, 1)]);
    }
    for (int j = 0; j < visible; ++j) {
      const double s = score[cells(j, 1)];
      weight[cells(j, 1)] = !softmax ? (s + 1) * (s + 1) : s == -infinity ? 0 : std::exp(s - highest);
      slope[cells(j, 1)] = softmax ? weight[cells(j, 1)] : 2 * (s + 1);
      normalizer += weight[cells(j, 1)];
    }
    r.normalizer[cells(i, 1)] = softmax ? (normalizer == 0 ? -infinity : highest + std::log(normalizer)) : normalizer;
    if (normalizer == 0) continue;
    double* output = r.output.data() + cells(i, dv);
    for (int j = 0; j < visible; ++j)
      for (int a = 0; a < dv; ++a)
        output[a] += weight[cells(j, 1)] * static_cast<double>(c.value[cells(j, dv) + cells(a, 1)]) / normalizer;
    for (int j = 0; j < visible; ++j) {
      double gradient = 0;  // of the weight
      for (int a = 0; a < dv; ++a) {
        const double g = static_cast<double>(c.output_gradient[cells(i, dv) + cells(a, 1)]) / normalizer;
        r.value_gradient[cells(j, dv) + cells(a, 1)] += weight[cells(j, 1)] * g;
        gradient += g * (static_cast<double>(c.value[cells(j, dv) + cells(a, 1)]) - output[a]);
      }
      gradient *= slope[cells(j, 1)];
      r.shift_gradient += gradient;
      for (int a = 0; a < d; ++a) {
        const double q = static_cast<double>(c.query[cells(i, d) + cells(a, 1)]);
        const double k = static_cast<double>(c.key[cells(j, d) + cells(a, 1)]);
        r.query_gradient[cells(i, d) + cells(a, 1)] += scale * gradient * k;
        r.key_gradient[cells(j, d) + cells(a, 1)] += scale * gradient * q;
      }
    }
  }
  return r;
}

bool all_right = true;

// In the norm, and NaN and infinity exactly where they should be.
void compare(const Case& c, const char* what, const std::vector<float>& found, const std::vector<double>& expected) {
  double difference = 0, size = 0;
  bool same_kind = true;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double x = static_cast<double>(found[i]), y = expected[i];
    if (std::isfinite(x) && std::isfinite(y)) {
      difference += (x - y) * (x - y);
      size += y * y;
    } else if (std::isnan(x) != std::isnan(y) || (!std::isnan(x) && x != y)) {
      same_kind = false;
    }
  }
  if (same_kind && difference <= 5e-5 * 5e-5 * size) return;
  all_right = false;
  std::printf("%s: %s is off by %.2g%s\n", c.name, what, std::sqrt(difference / size),
              same_kind ? "" : ", and NaN or infinity is not where it should be");
}

void check(const Case& c, bool with_gradients) {
  const Result expected = plain_loop(c);
  const auto floats = [](const std::vector<double>& like) { return std::vector<float>(like.size(), 77.0f); };
  std::vector<float> output = floats(expected.output), normalizer = floats(expected.normalizer);
  std::vector<float> dq = floats(expected.query_gradient), dk = floats(expected.key_gradient);
  std::vector<float> dv = floats(expected.value_gradient);
  double shift = 0;
  attend(c.weight, c.sizes, {c.query.data(), c.key.data(), c.value.data(), c.output_gradient.data()},
         {output.data(), normalizer.data(), dq.data(), dk.data(), dv.data(), &shift});
  compare(c, "the output", output, expected.output);
  compare(c, "the normaliser", normalizer, expected.normalizer);
  if (!with_gradients) return;
  compare(c, "dq", dq, expected.query_gradient);
  compare(c, "dk", dk, expected.key_gradient);
  compare(c, "dv", dv, expected.value_gradient);
  if (c.weight != Weight::softmax) compare(c, "dshift", {static_cast<float>(shift)}, {expected.shift_gradient});
}

}  // namespace

int main() {
  const Sizes many{190, 200, 20, 24}, one{1, 200, 20, 24}, few{6, 8, 20, 24};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Sizes& sizes : {many, one, few}) {
    const int d = sizes.dim, dv = sizes.value_dim, poisoned = sizes.keys - 3, hidden = sizes.keys * 3 / 4;
    for (const Weight weight : {Weight::softmax, Weight::csq_direct, Weight::csq_factored}) {
      Case c = make_case("a plain case", weight, sizes);
      check(c, true);
      c.name = "NaN in a key";
      c.key[cells(poisoned, d) + 3] = nan;
      check(c, false);
      c = make_case("NaN in a value", weight, sizes);
      for (int a = 0; a < dv; ++a) c.value[cells(poisoned, dv) + cells(a, 1)] = nan;
      check(c, false);
    }
    // The first keys, more than a block of them, score −∞: some rows see no other.
    Case c = make_case("scores of -inf", Weight::softmax, sizes);
    for (int i = 0; i < sizes.queries; ++i) c.query[cells(i, d)] = 1 + static_cast<float>(i);
    for (int j = 0; j < hidden; ++j) c.key[cells(j, d)] = -std::numeric_limits<float>::infinity();
    check(c, false);
    // The same by overflow.
    c.name = "scores that overflow to -inf";
    for (int i = 0; i < sizes.queries; ++i) c.query[cells(i, d)] = 100;
    for (int j = 0; j < hidden; ++j) c.key[cells(j, d)] = -3e38f;
    for (int j = hidden; j < sizes.keys; ++j) c.key[cells(j, d)] = 0;
    check(c, true);
    // Weights that are too small for a float, of values that are too large for anything else.
    c = make_case("weights of e^-1000", Weight::softmax, sizes);
    for (int i = 0; i < sizes.queries; ++i) c.query[cells(i, d)] = 1;
    for (int j = 0; j < sizes.keys; ++j) c.key[cells(j, d)] = j % 3 == 1 ? -5000.0f : 0;
    for (int j = 0; j < sizes.keys; ++j) c.value[cells(j, dv)] = j % 3 == 1 ? 1e38f : 1;
    check(c, false);
  }
  return all_right ? 0 : 1;
}

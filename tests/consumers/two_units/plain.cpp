// The unit built without -march: both link into one program and agree.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <random>

#include "unit.hpp"

namespace {

std::vector<float> normal_values(csq::Index count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  std::generate(values.begin(), values.end(), [&] { return normal(generator); });
  return values;
}

}  // namespace

int main() {
  Arrays arrays{.tokens = 300, .dim = 24, .queries = {}, .keys = {}, .values = {}};
  const csq::Index count = arrays.tokens * arrays.dim;
  arrays.queries = normal_values(count, 1);
  arrays.keys = normal_values(count, 2);
  arrays.values = normal_values(count, 3);

  bool agree = true;
  for (const csq::Method method : {csq::Method::direct, csq::Method::factored}) {
    for (const bool causal : {false, true}) {
      const std::vector<float> plain = attention_in_this_unit(arrays, method, causal);
      const std::vector<float> native = attention_in_native_unit(arrays, method, causal);
      float difference = 0;
      for (std::size_t i = 0; i < plain.size(); ++i) difference = std::max(difference, std::abs(plain[i] - native[i]));
      std::cout << (method == csq::Method::direct ? "direct" : "factored") << (causal ? " causal" : "")
                << ": units differ by " << difference << '\n';
      agree = agree && difference < 1e-5f;
    }
  }
  return agree ? 0 : 1;
}

// csq's own rows: softmax, direct, in float and bfloat16, as a program built with plain -O2 gets it.
//
//   build/release/bench/peers/csq_rows --threads 1 --dtypes bf16
//
// Outputs and scratch are there before anything is timed; backward is timed alone, after one forward. In bfloat16 all
// arrays are, as a model in 16 bits has them; the normaliser is float.
#include <memory>
#include <type_traits>

#include "rows.hpp"

namespace {

template <class Element>
std::shared_ptr<peers::Arrays<Element>> computed(const peers::Case& the_case) {
  const auto arrays = std::make_shared<peers::Arrays<Element>>(the_case);
  if (the_case.pass == peers::Pass::backward) arrays->backward();
  return arrays;
}

std::function<void()> prepare(const peers::Case& the_case) {
  return bench::with_element(the_case.dtype, [&]<class Element>(std::type_identity<Element>) -> std::function<void()> {
    const auto arrays = computed<Element>(the_case);
    if (the_case.pass == peers::Pass::forward) return [arrays] { arrays->forward(); };
    return [arrays] { arrays->backward(); };
  });
}

void save(const peers::Case& the_case, const std::string& folder) {
  bench::with_element(the_case.dtype,
                      [&]<class Element>(std::type_identity<Element>) { computed<Element>(the_case)->save(folder); });
}

}  // namespace

int main(int count, char** words) {
  const std::string name = "csq " + std::to_string(csq::version_major) + "." + std::to_string(csq::version_minor) +
                           "." + std::to_string(csq::version_patch) + " " + csq::simd_name();
  return peers::print_rows(count, words, {name, {bench::Dtype::float32, bench::Dtype::bfloat16}, prepare, save});
}

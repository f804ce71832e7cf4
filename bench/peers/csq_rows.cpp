// csq's own rows: softmax, direct, as a program built with plain -O2 gets it.
//
//   build/release/bench/peers/csq_rows --threads 1
//
// Outputs and scratch are there before anything is timed; backward is timed alone, after one forward.
#include <memory>

#include "rows.hpp"

namespace {

std::function<void()> prepare(const peers::Case& the_case) {
  const auto arrays = std::make_shared<peers::Arrays>(the_case);
  if (the_case.pass == peers::Pass::forward) return [arrays] { arrays->forward(); };
  arrays->backward();
  return [arrays] { arrays->backward(); };
}

}  // namespace

int main(int count, char** words) {
  const std::string name = "csq " + std::to_string(csq::version_major) + "." + std::to_string(csq::version_minor) +
                           "." + std::to_string(csq::version_patch) + " " + csq::simd_name();
  return peers::print_rows(count, words, name, prepare);
}

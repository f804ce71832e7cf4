// Finite numbers raise neither FE_INVALID nor FE_DIVBYZERO, whatever a call pads with, whatever its scratch held
// before, and whether or not every row sees a key: a program that traps them (feenableexcept) may call csq.
#include <cfenv>
#include <cstdint>
#include <cstring>

#include "catch.hpp"
#include "problem.hpp"

namespace {

struct FlagCase {
  const char* name;
  Sizes sizes;
  bool causal;
  std::vector<Index> key_length = {}, query_length = {};
};

const std::vector<FlagCase> flag_cases{
    {"one token", {1, 1, 3, 2}, true},
    {"short", {5, 6, 7, 9}, true},
    {"short, more queries than keys", {7, 3, 5, 5}, true},
    {"short, lengths", {6, 6, 5, 5, 2}, false, {0, 4}, {3, 6}},
    {"few queries", {3, 400, 9, 7}, true},
    {"few queries, no key", {8, 40, 9, 7}, true, {2}},
    {"odd tokens", {17, 35, 5, 3}, false},
    {"odd causal tokens", {53, 53, 17, 33}, true},
    {"more queries than keys", {300, 37, 9, 7}, true},
    {"more queries than keys, many", {500, 301, 6, 6}, true},
    {"lengths", {150, 160, 8, 8, 3}, false, {0, 1, 149}, {150, 0, 17}},
    {"causal lengths", {150, 160, 8, 8, 3}, true, {0, 1, 149}, {150, 0, 17}},
    {"groups", {40, 40, 8, 8, 2, 4, 2}, true},
};

constexpr int watched = FE_INVALID | FE_DIVBYZERO;

std::string raised() {
  const int flags = std::fetestexcept(watched);
  return std::string((flags & FE_INVALID) != 0 ? "FE_INVALID " : "") +
         ((flags & FE_DIVBYZERO) != 0 ? "FE_DIVBYZERO" : "");
}

// A signalling NaN in every place.
template <class T>
void poison(csq::Workspace& workspace) {
  const auto pattern = sizeof(T) == 4 ? std::uint64_t{0x7fa0'0000'7fa0'0000} : std::uint64_t{0x7ff4'0000'0000'0000};
  std::byte* memory = workspace.reserve(0);
  for (std::size_t at = 0; at + sizeof pattern <= workspace.bytes(); at += sizeof pattern)
    std::memcpy(memory + at, &pattern, sizeof pattern);
}

}  // namespace

TEST_CASE("finite numbers raise no flag, forward or backward") {
  Random random(181);
  const auto visit = [&](const auto& named) {
    for (const FlagCase& c : flag_cases) {
      Problem p = Problem::random_backward(random, c.sizes, c.causal);
      p.key_length = c.key_length;
      p.query_length = c.query_length;
      give_needed_history(random, p, named.centred);
      for_float_and_double([&]<class T>() {
        PlacedBackward<T> placed(p);
        for (const csq::Method method : methods(named.factored)) {
          INFO(named.name << ", " << c.name << ", " << name_of(method) << ", " << 8 * sizeof(T) << " bits");
          csq::Workspace workspace;
          const Run run{method, 0, 1, &workspace};
          placed.gradients(named.mechanism, run);
          poison<T>(workspace);
          std::feclearexcept(FE_ALL_EXCEPT);
          placed.attend(named.mechanism, run);
          CHECK(raised() == "");
          poison<T>(workspace);
          std::feclearexcept(FE_ALL_EXCEPT);
          placed.backward(named.mechanism, run);
          CHECK(raised() == "");
        }
      });
    }
  };
  for_typical_mechanisms(visit);
}

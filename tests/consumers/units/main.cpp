// A program of two units that were compiled differently: each computes the same, and is what its own flags say.
//
//   units [FIRST SECOND [only]]   the texts that build_info must hold in each; only: the second is linked, but not
//   called
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

double first_heads();
double second_heads();
double first_eigen();
double second_eigen();
std::string first_build();
std::string second_build();

int main(int argc, char** argv) {
  const bool only_first = argc > 3 && std::strcmp(argv[3], "only") == 0;
  const double heads = first_heads();
  const double eigen = only_first ? 0 : first_eigen();
  const double other_heads = only_first ? heads : second_heads();
  const double other_eigen = only_first ? eigen : second_eigen();
  const std::string build = first_build(), other_build = only_first ? "" : second_build();
  std::printf("%s: %.9g %.9g\n%s: %.9g %.9g\n", build.c_str(), heads, eigen, other_build.c_str(), other_heads,
              other_eigen);
  const auto differ = [](double a, double b) { return !(std::abs(a - b) <= 1e-4 * std::abs(a)); };
  if (!(heads > 0) || differ(heads, other_heads) || differ(eigen, other_eigen)) return 1;
  if (argc > 2 && build.find(argv[1]) == std::string::npos) return 2;
  if (argc > 2 && !only_first && other_build.find(argv[2]) == std::string::npos) return 3;
  return 0;
}
